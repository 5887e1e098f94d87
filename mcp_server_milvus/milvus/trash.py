"""Dropped collections: each has a name of its own in the trash, until it is restored or purged.

A drop notes in the collection's own properties what it was, then renames it, and that is the drop; its aliases come
off afterwards. A restore puts the aliases back first, and the rename is the restore. So whoever ends in between, at
whatever step, leaves the collection where it was or in the trash, with all that belongs to it; `tidied` does the rest.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_server_milvus.milvus.names import is_name
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.reach import IN_TRASH, TRASH_PREFIX

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

NOTE = "mcp_dropped"
"""The property of a collection that holds what it was when it was dropped."""

LARGEST_NOTE = 1 << 20
"""Characters of a note that is looked into: Milvus's own bound of aliases keeps it far smaller."""

LAST_SECOND = 9_999_999_999
"""The latest Unix time that a name in the trash can say, in the year 2286."""

MOST_ENTITIES = 2**63 - 1


@dataclass(frozen=True)
class Note:
    """What a dropped collection was. `loaded` names its partitions that were loaded; `dropped_at` is in Unix time."""

    collection_name: str
    dropped_at: int
    entity_count: int | None = None
    aliases: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    all_loaded: bool = False

    def as_property(self) -> str:
        """The note as the value of a property."""
        return json.dumps(self.__dict__)

    @classmethod
    def found_in(cls, properties: Mapping[str, str]) -> "Note | None":
        """The note in a collection's properties; None where there is none, or what any client may have put there."""
        text = properties.get(NOTE, "")
        try:
            kept: Any = json.loads(text) if 0 < len(text) <= LARGEST_NOTE else None
            return _parsed(kept) if kept else None
        except (ValueError, RecursionError):
            return None


def _parsed(kept: Any) -> Note:
    """The note as it was written. Raises ValueError when it was not."""
    match kept:
        case {
            "collection_name": str(name),
            "dropped_at": int(dropped_at),
            "entity_count": (int() | None) as entity_count,
            "aliases": [*aliases],
            "loaded": [*loaded],
            "all_loaded": bool(all_loaded),
        } if in_bounds(dropped_at, LAST_SECOND) and in_bounds(entity_count or 0, MOST_ENTITIES):
            names = (name, *aliases)
            if not all(isinstance(each, str) and is_name(each) for each in (*names, *loaded)):
                raise ValueError("no names")
            if any(map(IN_TRASH.fullmatch, names)):
                raise ValueError("names of the trash")
            return Note(name, dropped_at, entity_count, tuple(aliases), tuple(loaded), all_loaded=all_loaded)
        case _:
            raise ValueError("no note")


def in_bounds(number: int, most: int) -> bool:
    """Whether a number that anybody may have written can be one."""
    return 0 <= number <= most


def name_in_trash(hours: float) -> str:
    """A new name, for a collection that may be purged after so many hours."""
    return name_until(TRASH_PREFIX, hours)


def name_until(prefix: str, hours: float) -> str:
    """A new name, for what may be removed after so many hours."""
    return f"{prefix}{int(min(time.time() + 3600 * hours, LAST_SECOND)):010}_{secrets.token_hex(8)}"


def expiry(name: str) -> int:
    """The Unix time at which what has this name in the trash may be purged."""
    return int(name.removeprefix(TRASH_PREFIX)[:10])


async def noted(client: "Client", schema: CollectionSchema) -> Note:
    """What there is to say of a collection that is about to be dropped."""
    loaded = bool(await client.if_allowed(client.is_loaded(schema.name)))
    return Note(
        schema.name,
        int(time.time()),
        await client.if_allowed(client.entity_count(schema.name, loaded=loaded)),
        tuple(await client.if_allowed(client.aliases(schema.name)) or ()),
        tuple(name for name in schema.partition_names if name not in schema.unloaded_partitions)
        if schema.unloaded_partitions
        else (),
        all_loaded=loaded and not schema.unloaded_partitions,
    )


async def tidied(client: "Client", name: str) -> None:
    """A collection in the trash with no aliases, and out of memory."""
    for alias in await client.if_allowed(client.aliases(name)) or ():
        await client.drop_alias(alias)
        await client.forget_schemas(alias)
    if await client.if_allowed(client.is_loaded(name)):
        await client.release_collection(name)


async def purged(client: "Client", name: str) -> None:
    """A collection of the trash is gone. Its name was never used before and never will be: nobody restores another."""
    await tidied(client, name)
    await client.drop_collection(name)
    client.last_writes.pop(name, None)
