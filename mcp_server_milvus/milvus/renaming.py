"""Milvus Lite, with renames that are whole when the engine is killed in their middle.

Milvus Lite renames a collection's folder first and tells its aliases afterwards. Whoever ends in between leaves aliases
that lead nowhere, with which the collection can be neither found nor named so again. So a note of each rename is there
while it runs, and the next engine finishes what the note tells.
"""

# Milvus Lite publishes no types.
# pyright: reportMissingTypeStubs=false

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

log = logging.getLogger("engine")


def open_lite(data: Path, note: Path) -> Any:
    """Milvus Lite on the data folder, whose aliases all lead somewhere. Raises what Milvus Lite does."""
    from milvus_lite.db import DEFAULT_DATABASE_NAME, MilvusLite

    from mcp_server_milvus.milvus.durable import lose_nothing

    lose_nothing()

    class WholeRenames(MilvusLite):
        def rename_collection(self, old_name: str, new_name: str, database_name: str = DEFAULT_DATABASE_NAME) -> None:
            old = self.resolve_collection_name(old_name, database_name=database_name)
            _write(note, [database_name or DEFAULT_DATABASE_NAME, old, new_name])
            try:
                super().rename_collection(old_name, new_name, database_name=database_name)
            finally:
                note.unlink(missing_ok=True)

    database: Any = WholeRenames(str(data))
    _heal(database, _read(note))
    note.unlink(missing_ok=True)
    return database


def _heal(database: Any, renamed: list[str]) -> None:
    """Aliases of a collection whose rename was cut short are its own again; others that lead nowhere are gone."""
    from milvus_lite.exceptions import MilvusLiteError

    for db_name in database.list_databases():
        try:
            there = set(database.list_collections(db_name))
            for alias in database.list_aliases(database_name=db_name):
                target = database.describe_alias(alias, database_name=db_name)["collection"]
                if target in there:
                    continue
                log.warning("alias %s of %s leads nowhere: its engine was killed", alias, db_name)
                if renamed[:2] == [db_name, target] and renamed[2] in there:
                    database.alter_alias(renamed[2], alias, database_name=db_name)
                else:
                    database.drop_alias(alias, database_name=db_name)
        except (MilvusLiteError, OSError, ValueError) as problem:  # one that cannot be read keeps no other from it
            log.warning("the aliases of %s cannot be read: %s", db_name, problem)


def _write(note: Path, told: list[str]) -> None:
    """The whole note appears at once."""
    note.parent.mkdir(exist_ok=True)
    new = note.with_suffix(".new")
    new.write_text(json.dumps(told), "utf-8")
    new.replace(note)


def _read(note: Path) -> list[str]:
    """Database, old and new name of a rename that was cut short; nothing if none was."""
    with suppress(FileNotFoundError, ValueError):
        told: Any = json.loads(note.read_bytes())
        match told:
            case [str(), str(), str()]:
                return cast("list[str]", told)
            case _:
                pass
    return []
