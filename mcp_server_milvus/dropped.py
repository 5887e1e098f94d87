"""What was dropped or deleted and can be restored: who sees it, and how it is removed for good."""

import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import Error
from mcp_server_milvus.milvus.kept import Kept, KeptEntities
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.trash import Note, expiry, purged, tidied
from mcp_server_milvus.reach import IN_TRASH
from mcp_server_milvus.vocabulary import MilvusIdentity

Entered = TypeVar("Entered")

GRACE_SECONDS = 3_600
"""How long a dropped collection outlives its time, so that whoever restores it at the last moment can finish."""

SWEPT_AT_ONCE = 4
"""Collections that one call purges because they are too old: it has something else to do."""

LOOK_UPS_AT_ONCE = 8


@dataclass(frozen=True)
class Dropped:
    """Something that can be restored. Times are in Unix time; a collection whose note is lost has no name."""

    name: str
    collection_name: str | None
    entity_count: int | None
    dropped_at: int | None
    until: int
    tool: str = "drop_collection"

    @property
    def is_collection(self) -> bool:
        """Whether it is a whole collection, not only entities of one."""
        return IN_TRASH.fullmatch(self.name) is not None


async def listed(app: App, db_name: str) -> list[Dropped]:
    """What the caller could restore, the newest first. Collections whose drop was cut short are tidied."""
    trash, now = app.with_trash(), time.time()
    names = [] if app.policy.reach.mandatory_filter else await in_trash(app, db_name)
    collections: list[Dropped] = []
    at_once = anyio.CapacityLimiter(LOOK_UPS_AT_ONCE)

    async def look_up(name: str) -> None:
        async with at_once:
            if (schema := await trash.schemas.find(db_name, name)) and sees(app, schema):
                collections.append(_dropped(schema))

    async with anyio.create_task_group() as tasks:
        for name in names:
            if expiry(name) > now:
                tasks.start_soon(look_up, name)
    entities = await anyio.to_thread.run_sync(kept_entities(app).listed)
    deletions = [_deleted(kept) for kept in entities if sees_kept(app, db_name, kept) and kept.until > now]
    return sorted([*collections, *deletions], key=lambda each: (each.dropped_at or 0, each.name), reverse=True)


async def purge(app: App, db_name: str, dropped: Dropped) -> None:
    """What was kept is gone for good.

    Raises:
        Conflict: it is being restored.
    """
    if dropped.is_collection:
        async with app.with_everything().clients.client(db_name) as client:
            await purged(client, dropped.name)
        app.schemas.forget(db_name, dropped.name)
    else:
        store = kept_entities(app)
        if kept := await anyio.to_thread.run_sync(store.find, dropped.name):
            await anyio.to_thread.run_sync(store.remove, kept)


async def sweep(app: App, db_name: str) -> None:
    """Removes what is too old, a few things at a time. What cannot be removed now is left to the next call."""
    if not app.policy.keeps_house:
        return
    with suppress(Error):
        await anyio.to_thread.run_sync(kept_entities(app).remove_old)
        old = [name for name in await in_trash(app, db_name) if expiry(name) + GRACE_SECONDS < time.time()]
        for name in sorted(old)[:SWEPT_AT_ONCE]:
            async with app.with_everything().clients.client(db_name) as client:
                await purged(client, name)


async def tidy(app: App, db_name: str, names: Sequence[str]) -> None:
    """Finishes drops that were cut short, unless somebody is restoring a collection at this moment."""
    if not names or not app.policy.keeps_house:
        return
    with suppress(Error):
        async with in_threads(kept_entities(app).restoring()) as alone:
            for name in names if alone else ():
                await out_of_aliases(app, db_name, name)


@asynccontextmanager
async def in_threads(context: AbstractContextManager[Entered]) -> AsyncGenerator[Entered]:
    """A context of files, entered and left in threads, when the block is cancelled too."""
    entered = await anyio.to_thread.run_sync(context.__enter__)
    try:
        yield entered
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(context.__exit__, None, None, None)


async def out_of_aliases(app: App, db_name: str, name: str) -> None:
    """Aliases that the caller cannot see come off, too. What fails here is done by another call."""
    with suppress(Error), anyio.CancelScope(shield=True):
        async with app.with_everything().clients.client(db_name) as client:
            await tidied(client, name)


async def in_trash(app: App, db_name: str) -> list[str]:
    """The names of the dropped collections of a database."""
    async with app.with_trash().clients.client(db_name) as client:
        return [name for name in await client.list_collections() if IN_TRASH.fullmatch(name)]


def kept_entities(app: App) -> KeptEntities:
    settings = app.settings
    return KeptEntities(settings.data_dir, str(settings.embedded_dir or settings.uri), settings.undo_megabytes)


def owner(app: App) -> str:
    """A digest of who calls, with which Milvus account."""
    caller = app.policy.caller
    account = caller.credentials.get_secret_value() if caller.credentials else ""
    return hashlib.sha256(f"{caller.name}\0{account}".encode()).hexdigest()


def sees(app: App, schema: CollectionSchema) -> bool:
    """Whether the caller could have seen a collection of the trash. A tenant sees no collection that was dropped."""
    reach, note = app.policy.reach, Note.found_in(schema.properties)
    if reach.mandatory_filter:
        return False
    return reach.sees(note.collection_name) if note else not reach.is_restricted


def sees_kept(app: App, db_name: str, kept: Kept) -> bool:
    """Whether the caller could have seen these entities: a tenant, or one with an account of its own, those it had."""
    reach, note = app.policy.reach, kept.note
    if reach.mandatory_filter or app.settings.milvus_identity is MilvusIdentity.CALLER:
        return note.db_name == db_name and note.owner == owner(app)
    return note.db_name == db_name and reach.sees_database(db_name) and reach.sees(note.collection_name)


def _dropped(schema: CollectionSchema) -> Dropped:
    note = Note.found_in(schema.properties)
    if note is None:
        return Dropped(schema.name, None, None, None, expiry(schema.name))
    return Dropped(schema.name, note.collection_name, note.entity_count, note.dropped_at, expiry(schema.name))


def _deleted(kept: Kept) -> Dropped:
    note = kept.note
    return Dropped(kept.name, note.collection_name, note.entity_count, note.removed_at, kept.until, note.tool)
