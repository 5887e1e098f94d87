"""Taking back what destroys: collections wait in the trash, deleted entities in the data folder.

Nothing here is done at start-up. What is too old is removed when something is dropped, listed, restored or purged.
"""

import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    Error,
    InvalidArgument,
    NotFound,
    NotLoaded,
)
from mcp_server_milvus.milvus.capabilities import Backend, Feature
from mcp_server_milvus.milvus.filters import MAX_KEYS, literal
from mcp_server_milvus.milvus.kept import Kept, KeptEntities, KeptNote, NoRoomError
from mcp_server_milvus.milvus.scanning import Source, mean_size, pages_in_key_order
from mcp_server_milvus.milvus.schema import DEFAULT_PARTITION, CollectionSchema
from mcp_server_milvus.milvus.trash import NOTE, Note, expiry, name_in_trash, noted, purged, tidied
from mcp_server_milvus.milvus.waiting import load_and_wait, load_partitions_and_wait
from mcp_server_milvus.milvus.writing import Operation
from mcp_server_milvus.reach import IN_TRASH
from mcp_server_milvus.vocabulary import MilvusIdentity

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client
    from mcp_server_milvus.milvus.fitting import Fitted, Fitting

Entered = TypeVar("Entered")

LOGGER = logging.getLogger(__name__)

GRACE_SECONDS = 3_600
"""How long a dropped collection outlives its time, so that whoever restores it at the last moment can finish."""

SWEPT_AT_ONCE = 4
"""Collections that one call purges because they are too old: it has something else to do."""

LOOK_UPS_AT_ONCE = 8
FIRST_PAGE, LARGEST_PAGE = 512, 16_384
PAGE_BYTES = 2 * 1024 * 1024
MEGABYTE = 1024 * 1024


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


@dataclass(frozen=True)
class Restored:
    """What is there again. `already_there` counts entities whose keys have come back meanwhile; those were left."""

    collection_name: str
    entity_count: int | None
    loaded: bool | None = None
    already_there: int = 0
    new_keys: bool = False
    lost_aliases: tuple[str, ...] = ()


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


async def how_to_undo_deletion(app: App, schema: CollectionSchema, entity_count: int | None) -> str:
    """As `how_to_undo`, for entities that are deleted while their collection stays."""
    if not is_on(app):
        return how_to_undo(app)
    room = await anyio.to_thread.run_sync(lambda: _kept(app).room)
    least = (entity_count or 0) * sum((each.dim or 0) * 4 for each in schema.vector_fields)
    if least > room or room < MEGABYTE:
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
    async with app.clients.client(db_name) as client:
        await client.confirm(schema.name, schema)
        note = await noted(client, schema)
        if not await client.keeps_property(schema.name, NOTE, note.as_property()):
            await app.properties.keep(db_name, schema, {NOTE: note.as_property()})
    app.schemas.forget(db_name, schema.name)
    async with trash.clients.client(db_name) as client:
        await client.rename(schema.name, name)
    for each in (schema.name, *note.aliases):
        app.schemas.forget(db_name, each)
    await _tidy(trash, db_name, name)
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
    store = _kept(app)
    await anyio.to_thread.run_sync(store.remove_old)
    keeping = await anyio.to_thread.run_sync(store.begun, app.settings.undo_hours)
    try:
        async with app.clients.client(db_name) as client:
            await client.catch_up(schema)
        if app.policy.reach.masked_fields:
            await _require_permitted(app, db_name, schema, matching)
        for partition in _partitions(schema, partition_name):
            await anyio.to_thread.run_sync(keeping.begin, partition, schema, schema.output_fields(["*"]))
            async with aclosing(_pages(app.with_every_field(), db_name, schema, matching, partition)) as pages:
                async for entities in pages:
                    await anyio.to_thread.run_sync(keeping.write, entities)
                    await app.report_progress(keeping.entity_count, None, "keeping what is to be deleted")
            await anyio.to_thread.run_sync(keeping.end)
        if not keeping.entity_count:
            return Undo(found_nothing=True)
        note = KeptNote(tool, db_name, schema.name, int(time.time()), _owner(app))
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
    """As `keep`, all entities of a collection or a partition; what had to be loaded to be read is released again."""
    if not is_on(app):
        return Undo()
    async with app.clients.client(db_name) as client:
        was_loaded = await client.is_loaded(schema.name)
    try:
        return await keep(app, db_name, schema, tool, partition_name=partition_name)
    finally:
        if not was_loaded or schema.unloaded_partitions:
            await _released(app, db_name, schema, was_loaded=was_loaded)


async def delete_kept(app: App, db_name: str, schema: CollectionSchema, kept: Kept) -> int:
    """Deletes the entities that are kept, by their keys, so that none is deleted that is not kept."""
    deleted, key = 0, schema.primary_key.name
    for number, part in enumerate(kept.note.parts):
        batches = kept.keys(number, key, MAX_KEYS)
        while keys := await anyio.to_thread.run_sync(next, batches, None):
            async with app.clients.client(db_name) as client:
                await client.delete_matching(schema.name, f"{key} in {literal(keys)}", schema, part.partition_name)
            deleted += len(keys)
    return deleted


async def listed(app: App, db_name: str) -> list[Dropped]:
    """What the caller could restore, the newest first. Collections whose drop was cut short are tidied."""
    trash, now = app.with_trash(), time.time()
    names = [] if app.policy.reach.mandatory_filter else await in_trash(app, db_name)
    collections: list[Dropped] = []
    at_once = anyio.CapacityLimiter(LOOK_UPS_AT_ONCE)

    async def look_up(name: str) -> None:
        async with at_once:
            if (schema := await trash.schemas.find(db_name, name)) and _sees(app, schema):
                collections.append(_dropped(schema))

    async with anyio.create_task_group() as tasks:
        for name in names:
            if expiry(name) > now:
                tasks.start_soon(look_up, name)
    entities = await anyio.to_thread.run_sync(_kept(app).listed)
    deletions = [_deleted(kept) for kept in entities if _sees_kept(app, db_name, kept) and kept.until > now]
    return sorted([*collections, *deletions], key=lambda each: (each.dropped_at or 0, each.name), reverse=True)


async def restore(app: App, db_name: str, name: str, new_name: str | None) -> Restored:
    """Takes back what is listed by this name.

    Raises:
        NotFound: there is nothing of that name, or its time is over.
        AlreadyExists: the collection's name is taken.
        Conflict: it is being restored already.
    """
    kept = await anyio.to_thread.run_sync(_kept(app).find, name)
    if kept and _sees_kept(app, db_name, kept) and kept.until > time.time():
        _require_masked(app, kept.note.collection_name, new_name or kept.note.collection_name)
        return await _restore_entities(app, db_name, kept, new_name or kept.note.collection_name)
    schema = await app.with_trash().schemas.find(db_name, name) if IN_TRASH.fullmatch(name) else None
    if schema is None or not _sees(app, schema) or expiry(name) < time.time():
        raise NotFound(f"nothing that was dropped is kept as {name!r}", hint="list_dropped shows what is")
    note = Note.found_in(schema.properties) or Note(new_name or "", 0)
    target = new_name or note.collection_name
    if not target:
        raise InvalidArgument(f"nobody knows any more how {name} was named", hint="give new_name")
    _require_masked(app, note.collection_name, target)
    return await _restore_collection(app, db_name, schema, note, target)


async def purge(app: App, db_name: str, dropped: Dropped) -> None:
    """What was kept is gone for good.

    Raises:
        Conflict: it is being restored.
    """
    if dropped.is_collection:
        async with app.with_trash().clients.client(db_name) as client:
            await purged(client, dropped.name)
        app.schemas.forget(db_name, dropped.name)
    else:
        store = _kept(app)
        if kept := await anyio.to_thread.run_sync(store.find, dropped.name):
            await anyio.to_thread.run_sync(store.remove, kept)


async def sweep(app: App, db_name: str) -> None:
    """Removes what is too old, a few things at a time. What cannot be removed now is left to the next call."""
    if not _keeps_house(app):
        return
    with suppress(Error):
        await anyio.to_thread.run_sync(_kept(app).remove_old)
        old = [name for name in await in_trash(app, db_name) if expiry(name) + GRACE_SECONDS < time.time()]
        for name in sorted(old)[:SWEPT_AT_ONCE]:
            async with app.with_trash().clients.client(db_name) as client:
                await purged(client, name)


async def tidy(app: App, db_name: str, names: Sequence[str]) -> None:
    """Finishes drops that were cut short, unless somebody is restoring a collection at this moment."""
    if not names or not _keeps_house(app):
        return
    with suppress(Error):
        async with _in_threads(_kept(app).restoring()) as alone:
            for name in names if alone else ():
                await _tidy(app.with_trash(), db_name, name)


@asynccontextmanager
async def _in_threads(context: AbstractContextManager[Entered]) -> AsyncGenerator[Entered]:
    """A context of files, entered and left in threads, when the block is cancelled too."""
    entered = await anyio.to_thread.run_sync(context.__enter__)
    try:
        yield entered
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(context.__exit__, None, None, None)


async def _tidy(trash: App, db_name: str, name: str) -> None:
    """The collection is dropped already: what fails here is done by another call."""
    with suppress(Error), anyio.CancelScope(shield=True):
        async with trash.clients.client(db_name) as client:
            await tidied(client, name)


async def _restore_collection(app: App, db_name: str, schema: CollectionSchema, note: Note, target: str) -> Restored:
    aliases = [alias for alias in note.aliases if alias != target]
    async with app.schemas.creating(db_name, target):
        await _require_free(app, db_name, target)
        async with _in_threads(_kept(app).restoring()) as alone:
            if not alone:
                raise Conflict("another collection is being restored at this moment", hint="call again in a moment")
            await _rename_back(app, db_name, schema.name, target, aliases)
    for each in (schema.name, target, *aliases):
        app.schemas.forget(db_name, each)
    lost = await _pointed(app, db_name, target, aliases)
    loaded = await _finished(app, db_name, target, note)
    for each in (target, *aliases):
        app.schemas.forget(db_name, each)
    unnamed = set(note.aliases) - set(aliases)
    return Restored(target, note.entity_count, loaded, lost_aliases=(*unnamed, *lost))


async def _require_free(app: App, db_name: str, target: str) -> None:
    if there := await app.schemas.find(db_name, target):
        kind = "a collection" if there.name == target else f"an alias of {there.name!r}"
        raise AlreadyExists(f"{target!r} is {kind} now", hint="give new_name, or drop or rename that one first")


async def _rename_back(app: App, db_name: str, name: str, target: str, aliases: Sequence[str]) -> None:
    trash = app.with_trash()
    done = False
    try:
        await _pointed(trash, db_name, name, aliases)
        async with trash.clients.client(db_name) as client:
            await client.rename(name, target)
        done = True
    finally:
        if not done:  # an alias that leads into the trash is in the way of another
            await _tidy(trash, db_name, name)


async def _pointed(app: App, db_name: str, collection_name: str, aliases: Sequence[str]) -> tuple[str, ...]:
    """Makes these the collection's aliases again; which of them are something else's by now."""
    taken: list[str] = []
    for alias in aliases:
        try:
            async with app.clients.client(db_name) as client:
                there = await client.alias_target(alias)
                if there is None:
                    await client.create_alias(collection_name, alias)
                    await client.forget_schemas(alias)
                elif there != collection_name:
                    taken.append(alias)
        except (AlreadyExists, Conflict, Denied, InvalidArgument):
            taken.append(alias)
    return tuple(taken)


async def _finished(app: App, db_name: str, target: str, note: Note) -> bool:
    """Takes the note off and loads what was loaded; whether it is. The collection is back, whatever fails here."""
    try:
        async with app.clients.client(db_name, seconds=app.settings.build_timeout) as client:
            await client.forget_property(target, NOTE)
            if note.all_loaded:
                await load_and_wait(client, target, app.report_progress)
            elif note.loaded:
                await load_partitions_and_wait(client, target, list(note.loaded), app.report_progress)
            return await client.is_loaded(target)
    except Error as failure:
        LOGGER.warning("%s is restored, but not as it was: %s", target, failure.message)
        return False


async def _restore_entities(app: App, db_name: str, kept: Kept, target: str) -> Restored:
    async def attempt() -> Restored:
        schema = await app.schemas.refresh(db_name, target)
        job = _Writing(app, db_name, schema, await app.clients.backend(db_name), kept)
        async with _in_threads(kept.held()):
            return await job.run()

    restored, _ = await app.loaded_if_needed(db_name, target, attempt)
    app.schemas.forget(db_name, target)
    return restored


@dataclass
class _Writing:
    """Kept entities on their way back. None of them replaces an entity that has come since."""

    app: App
    db_name: str
    schema: CollectionSchema
    backend: Backend
    kept: Kept
    written: int = 0
    already_there: int = 0

    @property
    def makes_keys(self) -> bool:
        """Whether Milvus gives the entities new keys: a server does, where keys are generated."""
        return self.schema.primary_key.auto_id and not self.backend.is_lite

    @property
    def operation(self) -> Operation:
        """Milvus Lite keeps generated keys that are upserted."""
        return "upsert" if self.schema.primary_key.auto_id and not self.makes_keys else "insert"

    async def run(self) -> Restored:
        done = await anyio.to_thread.run_sync(self.kept.progress)
        for number, part in enumerate(self.kept.note.parts):
            partition = "" if self.schema.has_partition_key else part.partition_name
            await self._make_partition(partition)
            batches = _batches(self.kept, number, self._fitting(), done.get(str(number), 0))
            with closing(batches):
                while fitted := await anyio.to_thread.run_sync(next, batches, None):
                    await self._write(fitted, partition)
                    if self.makes_keys:  # nothing would tell which of them are in
                        done[str(number)] = fitted.end
                        await anyio.to_thread.run_sync(self.kept.note_progress, done)
        await anyio.to_thread.run_sync(self.kept.remove)
        return Restored(self.schema.name, self.written, None, self.already_there, self.makes_keys)

    def _fitting(self) -> "Fitting":
        from mcp_server_milvus.milvus.fitting import Fitting
        from mcp_server_milvus.milvus.reading import Format

        return Fitting(
            self.schema,
            {self.schema.primary_key.name: ""} if self.makes_keys else {},
            keys_required=self.operation == "upsert",
            kind=Format.PARQUET,
            json_values=self.backend.json_values,
        )

    async def _make_partition(self, name: str) -> None:
        if not name or name == DEFAULT_PARTITION or name in self.schema.partition_names:
            return
        async with self.app.clients.client(self.db_name, seconds=self.app.settings.build_timeout) as client:
            await client.create_partition(self.schema.name, name)
            loaded = await client.is_loaded(self.schema.name)
            if loaded and self.backend.has(Feature.LOAD_PARTITIONS):
                await load_partitions_and_wait(client, self.schema.name, [name], self.app.report_progress)
        self.schema = await self.app.schemas.refresh(self.db_name, self.schema.name)

    async def _write(self, fitted: "Fitted", partition: str) -> None:
        from mcp_server_milvus.milvus.packing import write_request

        if fitted.wrong:
            raise InvalidArgument(
                f"{self.schema.name} is not as it was: {next(iter(fitted.wrong.values()))}",
                hint="create a collection as it was, and restore into it with new_name",
            )
        async with self.app.clients.client(self.db_name) as client:
            left = await self._without_those_there(client, fitted)
            entities = [fitted.entities[index] for index in left]
            if not entities:
                return
            vectors = {name: matrix[left] for name, matrix in fitted.matrices.items()}
            request = await anyio.to_thread.run_sync(
                write_request, self.operation, self.schema.name, entities, vectors, self.schema, partition
            )
            await client.send_write(request, self.schema)
        self.written += len(entities)
        await self.app.report_progress(self.written, self.kept.note.entity_count, "restoring entities")

    async def _without_those_there(self, client: "Client", fitted: "Fitted") -> list[int]:
        if self.makes_keys:
            return list(range(len(fitted.entities)))
        keys = [entity[self.schema.primary_key.name] for entity in fitted.entities]
        there = await client.keys_there(self.schema.name, keys, self.schema, await client.moment())
        self.already_there += len(there)
        return [index for index, key in enumerate(keys) if key not in there]


def _batches(kept: Kept, number: int, fitting: "Fitting", resume_from: int) -> Generator["Fitted"]:
    """The entities of a part, made to fit. Runs in a thread."""
    from mcp_server_milvus.milvus.reading import Format, read

    with kept.file_of(number).open("rb") as file:
        for batch in read(file, Format.PARQUET, resume_from=resume_from, unnamed="").batches:
            yield fitting.fit(batch)


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


def _keeps_house(app: App) -> bool:
    """Whether a call of this caller may remove what is too old: where nothing may be changed, nothing is."""
    return not (app.settings.read_only or app.settings.no_drop or app.policy.reach.mandatory_filter)


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


def _require_masked(app: App, collection_name: str, target: str) -> None:
    """Nothing, unless fields are masked by the collection's name, which another one would unmask."""
    globs = [glob.partition(".")[0] for glob in app.policy.reach.masked_fields if "." in glob]
    if target != collection_name and any(fnmatchcase(collection_name, glob) for glob in globs):
        raise Denied(f"fields of {collection_name!r} are masked by its name", hint="restore it without new_name")


async def in_trash(app: App, db_name: str) -> list[str]:
    """The names of the dropped collections of a database."""
    async with app.with_trash().clients.client(db_name) as client:
        return [name for name in await client.list_collections() if IN_TRASH.fullmatch(name)]


def _kept(app: App) -> KeptEntities:
    settings = app.settings
    return KeptEntities(settings.data_dir, str(settings.embedded_dir or settings.uri), settings.undo_megabytes)


def _owner(app: App) -> str:
    """A digest of who calls, with which Milvus account."""
    caller = app.policy.caller
    account = caller.credentials.get_secret_value() if caller.credentials else ""
    return hashlib.sha256(f"{caller.name}\0{account}".encode()).hexdigest()


def _sees(app: App, schema: CollectionSchema) -> bool:
    """Whether the caller could have seen a collection of the trash. A tenant sees no collection that was dropped."""
    reach, note = app.policy.reach, Note.found_in(schema.properties)
    if reach.mandatory_filter:
        return False
    return reach.sees(note.collection_name) if note else not reach.is_restricted


def _sees_kept(app: App, db_name: str, kept: Kept) -> bool:
    """Whether the caller could have seen these entities: a tenant, or one with an account of its own, those it had."""
    reach, note = app.policy.reach, kept.note
    if reach.mandatory_filter or app.settings.milvus_identity is MilvusIdentity.CALLER:
        return note.db_name == db_name and note.owner == _owner(app)
    return note.db_name == db_name and reach.sees_database(db_name) and reach.sees(note.collection_name)


def _dropped(schema: CollectionSchema) -> Dropped:
    note = Note.found_in(schema.properties)
    if note is None:
        return Dropped(schema.name, None, None, None, expiry(schema.name))
    return Dropped(schema.name, note.collection_name, note.entity_count, note.dropped_at, expiry(schema.name))


def _deleted(kept: Kept) -> Dropped:
    note = kept.note
    return Dropped(kept.name, note.collection_name, note.entity_count, note.removed_at, kept.until, note.tool)
