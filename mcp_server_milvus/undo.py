"""Taking back what destroys: collections wait in the trash, deleted entities in the data folder.

Nothing here is done at start-up. What is too old is removed when something is dropped, listed, restored or purged.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.to_thread

from mcp_server_milvus.app import App
from mcp_server_milvus.dropped import Dropped, in_trash, kept_entities, out_of_aliases, owner, sweep
from mcp_server_milvus.errors import Conflict, Error, NotLoaded
from mcp_server_milvus.milvus.filters import MAX_KEYS, any_key, both, literal
from mcp_server_milvus.milvus.kept import Kept, KeptNote, NoRoomError
from mcp_server_milvus.milvus.scanning import Source, mean_size, pages_in_key_order
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.trash import NOTE, expiry, name_in_trash, noted

FIRST_PAGE, LARGEST_PAGE = 512, 16_384
PAGE_BYTES = 2 * 1024 * 1024
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Undo:
    """How a call can be taken back: what it was kept as, or why it was not."""

    kept: Kept | None = None
    why_not: str = ""
    found_nothing: bool = False

    @property
    def told(self) -> dict[str, Any]:
        """For the result of the call."""
        if self.kept:
            return {"kept_as": self.kept.name, "kept_until": as_time(self.kept.until)}
        return {"undo": f"not kept: {self.why_not}"} if self.why_not else {}


def is_on(app: App) -> bool:
    """Whether what is destroyed is kept: unless the settings say otherwise, on the embedded engine only."""
    return app.settings.embedded_dir is not None if app.settings.undo is None else app.settings.undo


def as_time(seconds: int) -> str:
    """As people and models read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def how_to_undo(app: App) -> str:
    """How a dropped collection could be taken back, for whoever confirms the drop."""
    if not is_on(app):
        return "it cannot be taken back: this server keeps nothing (--undo)"
    return f"restore_collection takes it back for {app.settings.undo_hours:g} hours"


async def how_to_undo_deletion(app: App, schema: CollectionSchema, size: int | None, *, is_read: bool) -> str:
    """As `how_to_undo`, for entities of about so many bytes that are deleted while their collection stays.

    `is_read` says whether they can be read now.
    """
    if not is_on(app):
        return how_to_undo(app)
    if not (is_read or app.settings.auto_load):
        return "it cannot be taken back: the collection is not loaded, so its entities cannot be kept"
    if app.policy.reach.mandatory_filter:
        return f"the operator can take it back for {app.settings.undo_hours:g} hours, if there is room for it"
    room = await anyio.to_thread.run_sync(lambda: kept_entities(app).room)
    if (size or 0) > room or room < MEGABYTE:
        return (
            f"it cannot be taken back: the server's room for deleted entities has {room // MEGABYTE} MB left;"
            " purge_dropped makes room"
        )
    new_keys = ", with new keys" if schema.primary_key.auto_id and app.settings.embedded_dir is None else ""
    return f"{how_to_undo(app)}{new_keys}, if it is no larger than {room // MEGABYTE} MB"


async def drop(app: App, db_name: str, schema: CollectionSchema) -> Dropped:
    """Moves a collection into the trash; until the rename it is as it was, and after that it can be restored.

    Raises:
        StaleSchema: the name belongs to another collection now.
    """
    trash = app.with_trash()
    name = name_in_trash(app.settings.undo_hours)
    await _require_room(app, db_name)
    async with app.with_everything().clients.client(db_name) as client:
        await client.confirm(schema.name, schema)
        note = await noted(client, schema)
        if not await client.keeps_property(schema.name, NOTE, note.as_property()):
            await app.properties.keep(db_name, schema, {NOTE: note.as_property()})
    app.schemas.forget(db_name, schema.name)
    async with trash.clients.client(db_name) as client:
        await client.rename(schema.name, name)
    for each in (schema.name, *note.aliases):
        app.schemas.forget(db_name, each)
    await out_of_aliases(app, db_name, name)
    await sweep(app, db_name)
    return Dropped(name, schema.name, note.entity_count, note.dropped_at, expiry(name))


async def keep(
    app: App,
    db_name: str,
    schema: CollectionSchema,
    tool: str,
    *,
    matching: str = "",
    partition_name: str | None = None,
) -> Undo:
    """Keeps the entities that are about to be deleted: all, or those that match in a partition.

    Raises:
        MilvusFailed: they cannot be written; nothing must be deleted then.
    """
    if not is_on(app):
        return Undo()
    store, whole = kept_entities(app), replace(schema, masked=frozenset[str]())
    await anyio.to_thread.run_sync(store.remove_old)
    keeping = await anyio.to_thread.run_sync(store.begun, app.settings.undo_hours)
    try:
        async with app.clients.client(db_name) as client:
            await client.catch_up(schema)
        if app.policy.reach.masked_fields:
            await _require_permitted(app, db_name, schema, matching)
        for partition in _partitions(schema, partition_name):
            await anyio.to_thread.run_sync(keeping.begin, partition, whole, whole.output_fields(["*"]))
            async with aclosing(_pages(app.with_every_field(), db_name, whole, matching, partition)) as pages:
                async for entities in pages:
                    await anyio.to_thread.run_sync(keeping.write, entities)
                    await app.report_progress(keeping.entity_count, None, "keeping what is to be deleted")
            await anyio.to_thread.run_sync(keeping.end)
        if not keeping.entity_count:
            return Undo(found_nothing=True)
        note = KeptNote(tool, db_name, schema.name, int(time.time()), owner(app))
        return Undo(await anyio.to_thread.run_sync(keeping.finish, note))
    except NoRoomError:
        return Undo(
            why_not=f"the {app.settings.undo_megabytes} MB for deleted entities are too few; purge_dropped frees"
        )
    except NotLoaded:
        return Undo(why_not="the collection is not loaded, so its entities cannot be read")
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(keeping.abandon)


async def keep_all(
    app: App, db_name: str, schema: CollectionSchema, tool: str, partition_name: str | None = None
) -> Undo:
    """As `keep`, all entities of a collection or a partition; what had to be loaded to be read is released again.

    Raises:
        Conflict: others are writing, and what they have written would be lost.
    """
    if not is_on(app):
        return Undo()
    async with app.clients.client(db_name) as client:
        was_loaded = await client.is_loaded(schema.name)
    try:
        kept = await keep(app, db_name, schema, tool, partition_name=partition_name)
        if kept.kept or kept.found_nothing:
            await _require_complete(app, db_name, schema, kept, partition_name)
        return kept
    finally:
        if not was_loaded or schema.unloaded_partitions:
            await _released(app, db_name, schema, was_loaded=was_loaded)


async def delete_kept(app: App, db_name: str, schema: CollectionSchema, kept: Kept, matching: str) -> int:
    """Deletes the entities that are kept and still match, so that none is deleted that is not kept; how many."""
    deleted, key = 0, schema.primary_key.name
    for number, part in enumerate(kept.note.parts):
        batches = kept.keys(number, key, MAX_KEYS)
        while keys := await anyio.to_thread.run_sync(next, batches, None):
            async with app.clients.client(db_name) as client:
                those = both(matching, f"{key} in {literal(keys)}")
                deleted += await client.delete_matching(schema.name, those, schema, part.partition_name)
    return deleted


async def _pages(
    app: App, db_name: str, schema: CollectionSchema, matching: str, partition: str
) -> AsyncGenerator[list[dict[str, Any]]]:
    """Every field of the matching entities in the order of their keys, each page within a deadline of its own."""
    source = Source(schema.name, matching, schema.output_fields(["*"]), [partition] if partition else None)
    at_once, after = FIRST_PAGE, None

    async def read() -> list[dict[str, Any]]:
        async with (
            app.clients.client(db_name) as client,
            aclosing(pages_in_key_order(client, schema, source, first=at_once, most=at_once, after=after)) as pages,
        ):
            return await anext(pages, list[dict[str, Any]]())

    while True:
        entities, _ = await app.loaded_if_needed(db_name, schema.name, read)
        if not entities:
            return
        yield entities
        after = entities[-1][schema.primary_key.name]
        at_once = max(1, min(4 * at_once, LARGEST_PAGE, PAGE_BYTES // mean_size(entities)))


async def _require_room(app: App, db_name: str) -> None:
    """Nothing, if another collection may wait in the trash. None makes room for another by itself."""
    most = app.settings.undo_collections
    if len(await in_trash(app, db_name)) >= most:
        raise Conflict(
            f"{most} dropped collections of this database are kept already, which is all that undo_collections allows",
            hint="purge_dropped makes room, or the operator does",
        )


async def _require_complete(
    app: App, db_name: str, schema: CollectionSchema, kept: Undo, partition_name: str | None
) -> None:
    """Nothing, if no other entities are there now than those that are kept."""

    async def count() -> int:
        async with app.with_every_field().clients.client(db_name) as client:
            await client.catch_up(schema)
            names = [partition_name] if partition_name else None
            return await client.count_matching(schema.name, any_key(schema.primary_key), schema, names)

    there, _ = await app.loaded_if_needed(db_name, schema.name, count)
    if there > (kept.kept.note.entity_count if kept.kept else 0) and not await _has_doubles(app, db_name):
        if kept.kept:
            await anyio.to_thread.run_sync(kept_entities(app).remove, kept.kept)
        raise Conflict(
            f"{schema.name} is being written to: what came last would be lost",
            hint="call again when nothing writes to it",
        )


async def _has_doubles(app: App, db_name: str) -> bool:
    """Whether there can be more entities than keys, of which only one each is kept."""
    return (await app.clients.backend(db_name)).keeps_duplicate_keys


def _partitions(schema: CollectionSchema, partition_name: str | None) -> Sequence[str]:
    """The partitions whose entities are kept apart; one without a name where there is nothing to tell apart."""
    if partition_name:
        return [partition_name]
    return [""] if schema.has_partition_key or len(schema.partition_names) <= 1 else schema.partition_names


async def _released(app: App, db_name: str, schema: CollectionSchema, *, was_loaded: bool) -> None:
    """As much of the collection is loaded as was before."""
    with suppress(Error), anyio.CancelScope(shield=True):
        async with app.clients.client(db_name) as client:
            if not was_loaded:
                await client.release_collection(schema.name)
            else:
                await client.release_partitions(schema.name, list(schema.unloaded_partitions))
    app.schemas.forget(db_name, schema.name)


async def _require_permitted(app: App, db_name: str, schema: CollectionSchema, matching: str) -> None:
    """Nothing, if the caller may use the filter: one by a masked field would tell what is in it."""

    async def look() -> None:
        async with app.clients.client(db_name) as client:
            await client.read_matching(schema.name, matching, schema, output_fields=[schema.primary_key.name], limit=1)

    await app.loaded_if_needed(db_name, schema.name, look)
