"""Restoring: a dropped collection gets its name back, deleted entities are written again. Nothing is replaced."""

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio.to_thread

from mcp_server_milvus.app import App
from mcp_server_milvus.dropped import in_threads, kept_entities, out_of_aliases, sees, sees_kept
from mcp_server_milvus.errors import AlreadyExists, Conflict, Denied, Error, InvalidArgument, NotFound
from mcp_server_milvus.milvus.capabilities import Backend, Feature
from mcp_server_milvus.milvus.kept import Kept
from mcp_server_milvus.milvus.schema import DEFAULT_PARTITION, CollectionSchema
from mcp_server_milvus.milvus.trash import NOTE, Note, expiry
from mcp_server_milvus.milvus.waiting import load_and_wait, load_partitions_and_wait
from mcp_server_milvus.milvus.writing import Operation
from mcp_server_milvus.reach import IN_TRASH, TRASH_PREFIX

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client
    from mcp_server_milvus.milvus.fitting import Fitted, Fitting

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """What is there again. `already_there` counts entities whose keys have come back meanwhile; those were left."""

    collection_name: str
    entity_count: int | None
    loaded: bool | None = None
    already_there: int = 0
    new_keys: bool = False
    lost_aliases: tuple[str, ...] = ()


async def restore(app: App, db_name: str, name: str, new_name: str | None) -> Restored:
    """Takes back what is listed by this name.

    Raises:
        InvalidArgument: the new name is one of the trash, or nobody knows the old one.
        NotFound: there is nothing of that name, or its time is over.
        AlreadyExists: the collection's name is taken.
        Conflict: it is being restored already.
    """
    if new_name and new_name.startswith(TRASH_PREFIX):
        raise InvalidArgument(
            f"new_name: names that begin with {TRASH_PREFIX} are kept for dropped collections", hint="choose another"
        )
    kept = await anyio.to_thread.run_sync(kept_entities(app).find, name)
    if kept and sees_kept(app, db_name, kept) and kept.until > time.time():
        _require_masked(app, kept.note.collection_name, new_name or kept.note.collection_name)
        return await _restore_entities(app, db_name, kept, new_name or kept.note.collection_name)
    schema = await app.with_trash().schemas.find(db_name, name) if IN_TRASH.fullmatch(name) else None
    if schema is None or not sees(app, schema) or expiry(name) < time.time():
        raise NotFound(f"nothing that was dropped is kept as {name!r}", hint="list_dropped shows what is")
    note = Note.found_in(schema.properties)
    target = new_name or (note.collection_name if note else "")
    if not target:
        raise InvalidArgument(f"nobody knows any more how {name} was named", hint="give new_name")
    _require_masked(app, note.collection_name if note else None, target)
    return await _restore_collection(app, db_name, schema, note or Note(target, 0), target)


def _require_masked(app: App, collection_name: str | None, target: str) -> None:
    """Nothing, unless fields are masked by the collection's name, which another one would unmask.

    Where nobody knows the name any more, nobody knows what was masked by it.
    """
    reach = app.policy.reach
    if collection_name is None:
        if any("." in glob for glob in reach.masked_fields):
            raise Denied(
                "fields are masked by the names of collections, and nobody knows any more how this one was named",
                hint="its operator restores it",
            )
    elif reach.would_unmask(collection_name, target):
        raise Denied(f"fields of {collection_name!r} are masked by its name", hint="restore it without new_name")


async def _restore_collection(app: App, db_name: str, schema: CollectionSchema, note: Note, target: str) -> Restored:
    aliases = [alias for alias in note.aliases if alias != target]
    async with app.schemas.creating(db_name, target):
        await _require_free(app, db_name, target)
        async with in_threads(kept_entities(app).restoring()) as alone:
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
    told = tuple(alias for alias in (*unnamed, *lost) if app.policy.reach.sees(alias))
    return Restored(target, note.entity_count, loaded, lost_aliases=told)


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
            await out_of_aliases(trash, db_name, name)


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
        async with in_threads(kept.held()):
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
        from mcp_server_milvus.milvus.formats import Format

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
    from mcp_server_milvus.milvus.formats import Format
    from mcp_server_milvus.milvus.reading import read

    with kept.file_of(number).open("rb") as file:
        for batch in read(file, Format.PARQUET, resume_from=resume_from, unnamed="").batches:
            yield fitting.fit(batch)
