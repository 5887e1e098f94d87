"""What would be lost by writes: entities that are deleted or replaced, and files that are written over."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import NotFound
from mcp_server_milvus.losses.entities import Entities, OfCollection, all_entities, matching_entities, quoted, readable
from mcp_server_milvus.milvus.entities import as_entities
from mcp_server_milvus.milvus.filters import rendered
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.tool import Loss

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client
    from mcp_server_milvus.milvus.folders import Folders


class OfMatching(OfCollection, Protocol):
    """Arguments of a delete."""

    @property
    def ids(self) -> Sequence[int | str] | None: ...

    @property
    def filter(self) -> str | None: ...

    @property
    def filter_params(self) -> dict[str, Any] | None: ...

    @property
    def partition_name(self) -> str | None: ...


class OfEntities(OfCollection, Protocol):
    """Arguments of an upsert."""

    @property
    def data(self) -> list[dict[str, Any]] | dict[str, Any]: ...


class OfImport(OfCollection, Protocol):
    """Arguments of an import."""

    @property
    def path(self) -> str: ...

    @property
    def mode(self) -> str: ...

    @property
    def model_fields_set(self) -> set[str]: ...


class OfExport(Protocol):
    """Arguments of an export."""

    @property
    def path(self) -> str: ...

    @property
    def overwrite(self) -> bool: ...


async def matching_lost(app: App, args: OfMatching) -> Loss | None:
    """What a delete by filter would destroy. Who names the keys knows it."""
    if args.ids is not None or not args.filter or not args.filter.strip():
        return None
    db_name = app.database(args.db_name)
    await app.schemas.confirmed(db_name, args.collection_name)
    matching = rendered(args.filter, args.filter_params)
    partition_names = [args.partition_name] if args.partition_name else None

    async def read(client: "Client", schema: CollectionSchema) -> Entities:
        return await matching_entities(client, schema, matching, partition_names)

    entities, _ = await app.read(db_name, args.collection_name, read)
    if not entities.count:
        return None
    what = f"Deletes from the collection {quoted(entities.schema.name)} what matches {quoted(matching)}"
    undo = await entities.undo(app)
    return Loss(f"{what}: {entities.told()}.", entities.state(), entities.preview(app), undo)


async def replaced_by_upsert(app: App, args: OfEntities) -> Loss | None:
    """What an upsert of many entities may replace."""
    count = len(args.data) if isinstance(args.data, list) else len(as_entities(args.data))
    if not 0 < app.settings.confirm_upserts < count:
        return None
    db_name = app.database(args.db_name)
    entities = await all_entities(app, db_name, await app.schemas.refresh(db_name, args.collection_name))
    name = quoted(entities.schema.name)
    what = f"Upserts {count:,} entities into the collection {name}, and replaces those there that have their keys:"
    return _replaced(app, entities, f"{what} it has {entities.told()}.")


async def replaced_by_import(app: App, args: OfImport) -> Loss | None:
    """What an import of a file may replace: never more than there is."""
    if not app.settings.confirm_upserts or (args.mode == "insert" and "mode" in args.model_fields_set):
        return None
    db_name = app.database(args.db_name)
    schema = await app.schemas.refresh(db_name, args.collection_name)
    if schema.primary_key.auto_id and "mode" not in args.model_fields_set:
        return None
    file = await _facts(app, args.path)
    entities = await all_entities(app, db_name, schema)
    if entities.is_exact and entities.count is not None and entities.count <= app.settings.confirm_upserts:
        return None
    name = quoted(schema.name)
    what = f"Imports {quoted(args.path)} into the collection {name}, and replaces entities there that have its keys:"
    undo = "it cannot be taken back; with mode insert nothing would be replaced"
    return _replaced(app, entities, f"{what} it has {entities.told()}.", undo, file)


async def replaced_by_export(app: App, args: OfExport) -> Loss | None:
    """Which file an export would replace."""
    if not args.overwrite:
        return None
    try:
        file = await _facts(app, args.path)
    except NotFound:
        return None
    size = file[0]
    return Loss(f"Replaces the file {quoted(args.path)}, {readable(size)}.", file, {"bytes": size})


def _replaced(
    app: App,
    entities: Entities,
    what: str,
    undo: str = "it cannot be taken back",
    file: tuple[int, int] | tuple[()] = (),
) -> Loss | None:
    """The loss of a write that goes on being right while others write too: only another collection or file voids it."""
    if entities.count == 0 and entities.is_exact:
        return None
    return Loss(what, (entities.schema.name, entities.schema.identity, *file), entities.preview(app), undo)


async def _facts(app: App, path: str) -> tuple[int, int]:
    """What another file would not have: the size of this one, and when it was last written.

    Raises:
        Denied, NotFound: as the tools do.
    """
    from mcp_server_milvus.milvus.folders import Folders

    return await anyio.to_thread.run_sync(_size_and_time, Folders(app.settings.file_folders), path)


def _size_and_time(folders: "Folders", path: str) -> tuple[int, int]:
    with folders.open(path) as file:
        facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns
