"""Entities: written, deleted, counted, and read by key or filter."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import anyio.to_thread
from pydantic import Field

from mcp_server_milvus import undo
from mcp_server_milvus.app import App
from mcp_server_milvus.compact import json_size
from mcp_server_milvus.errors import AlreadyExists, InvalidArgument, PartialWrite
from mcp_server_milvus.filling import Filling
from mcp_server_milvus.losses.writes import matching_lost, replaced_by_upsert
from mcp_server_milvus.milvus.entities import as_entities
from mcp_server_milvus.milvus.filter_help import near_misses
from mcp_server_milvus.milvus.filters import (
    MAX_KEYS,
    any_key,
    checked_key,
    keys_filter,
    literal,
    portable_key,
    rendered,
    require_few,
)
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.ordering import FirstEntities, Order, Ranked, Reference
from mcp_server_milvus.milvus.pushdown import is_ordered_by_milvus, pages_in_order
from mcp_server_milvus.milvus.results import (
    Page,
    cursor_fingerprint,
    decode_cursor,
    encode_cursor,
    shown_key,
)
from mcp_server_milvus.milvus.scanning import Scan, Source, pages_in_key_order
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.specs import Level
from mcp_server_milvus.milvus.writing import Operation, Outcome, Write
from mcp_server_milvus.pieces import SOURCE_ID, Given, GivenInPieces
from mcp_server_milvus.tool import BoundedOutput, Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

SHOWN_MISSING = 100
"""Keys without an entity that `get` names."""

DELETE_ROUNDS = 5
"""How often a delete by filter looks whether anything is left."""

READ_AT_ONCE = 256
"""Entities of one request while a page fills up: few requests, and little read in vain when the bytes run out."""

Key = Annotated[int | str, Field()]
Filter = Annotated[
    str, Field(description='e.g. year > 1990 and title like "a%"; {name} takes a value from filter_params')
]


class Entities(Input):
    """The arguments of insert and upsert."""

    collection_name: Name
    data: list[dict[str, Any]] | dict[str, Any] = Field(description="Entities; or an object of columns")
    partition_name: Name | None = None
    db_name: Name | None = None


class InsertInput(Entities):
    """Which entities, and whether long texts become several. Sizes are in characters."""

    chunk_size: int | None = Field(None, ge=100, le=60_000, description="Characters; splits longer texts")
    chunk_overlap: int | None = Field(None, ge=0)


class InsertOutput(BoundedOutput):
    """How many entities are in, and the keys that Milvus gave them, or what the pieces of each text have in common."""

    insert_count: int
    ids: list[Key] | None = None
    source_ids: list[Key] | None = Field(default=None, description="Of each entity given; its pieces have it")
    notes: list[str] | None = None


@tool(toolset=Toolset.DATA, effect=Effect.CREATE)
async def insert(app: App, args: InsertInput) -> InsertOutput:
    """Inserts entities: none if one does not fit the schema."""
    if args.chunk_size is not None:
        return await _insert_pieces(app, args, args.chunk_size)
    if args.chunk_overlap is not None:
        raise InvalidArgument("chunk_overlap: give chunk_size too")
    written = await _write(app, args, Given(_entities(args)), "insert")
    ids, limits = _first(app, "ids", written.outcome.ids) if written.schema.primary_key.auto_id else (None, [])
    return InsertOutput(
        insert_count=written.outcome.count, ids=ids, notes=written.notes or None, applied_limits=limits or None
    )


class UpsertOutput(Output):
    """How many entities are in."""

    upsert_count: int
    notes: list[str] | None = None


@tool(toolset=Toolset.DATA, effect=Effect.MODIFY, loses=replaced_by_upsert)
async def upsert(app: App, args: Entities) -> UpsertOutput:
    """Inserts entities, replacing those with the same primary key whole."""
    written = await _write(app, args, Given(_entities(args)), "upsert")
    return UpsertOutput(upsert_count=written.outcome.count, notes=written.notes or None)


class DeleteInput(Input):
    """Which entities."""

    collection_name: Name
    ids: list[Key] | None = None
    filter: str | None = None
    filter_params: dict[str, Any] | None = None
    partition_name: Name | None = None
    db_name: Name | None = None


class DeleteOutput(Output):
    """How many entities were deleted, and how they can be restored."""

    delete_count: int
    kept_as: str | None = Field(default=None, description="The id for restore_collection")
    kept_until: str | None = None
    undo: str | None = None


@tool(toolset=Toolset.DATA, effect=Effect.DELETE, loses=matching_lost)
async def delete(app: App, args: DeleteInput) -> DeleteOutput:
    """Deletes entities by ids or by filter."""
    db_name = app.database(args.db_name)
    if (args.ids is None) == (args.filter is None) or (args.filter is not None and not args.filter.strip()):
        raise InvalidArgument(
            "delete: give either ids or a filter that is not empty", hint="truncate_collection removes every entity"
        )

    known = await app.schemas.confirmed(db_name, args.collection_name)

    matching = keys_filter(known, args.ids) if args.ids is not None else rendered(args.filter or "", args.filter_params)
    kept = await undo.keep(app, db_name, known, "delete", matching=matching, partition_name=args.partition_name)
    if kept.kept:
        return DeleteOutput(delete_count=await undo.delete_kept(app, db_name, known, kept.kept, matching), **kept.told)
    if kept.found_nothing:
        return DeleteOutput(delete_count=0)

    async def remove(client: "Client", schema: CollectionSchema) -> int:
        if client.backend.is_lite and args.partition_name:
            return await _delete_in_partition(client, known, args.collection_name, matching, args.partition_name)
        partition_names = [args.partition_name] if args.partition_name else None
        # The collection that was confirmed, and what of it is loaded by now.
        current = replace(known, unloaded_partitions=schema.unloaded_partitions)
        client.require_loaded(current, partition_names)
        there = None
        if args.ids is not None and await client.is_loaded(args.collection_name):
            # Milvus counts the keys that it was given, not the entities that had them.
            there = await _count(client, current, args.collection_name, matching, partition_names)
        deleted = await client.delete_matching(args.collection_name, matching, current, args.partition_name or "")
        if args.ids is None and client.backend.keeps_duplicate_keys:
            deleted += await _delete_doubles(client, current, args, matching)
        return deleted if there is None else there

    count, _ = await app.read(db_name, args.collection_name, remove)
    return DeleteOutput(delete_count=count, **kept.told)


class GetInput(Input):
    """Which entities, and what of them."""

    collection_name: Name
    ids: list[Key]
    output_fields: list[str] | None = None
    partition_names: list[Name] | None = None
    db_name: Name | None = None


class GetOutput(BoundedOutput):
    """The entities in the order of the ids, and the ids that there are none for."""

    entities: list[dict[str, Any]]
    missing_ids: list[Key] | None = None


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def get(app: App, args: GetInput) -> GetOutput:
    """Reads entities by primary key."""

    async def read(client: "Client", schema: CollectionSchema) -> GetOutput:
        require_few(args.ids)
        wanted = list(dict.fromkeys(checked_key(schema.primary_key, key) for key in args.ids))
        page = _page(app, schema, args.output_fields)
        missing: list[Key] = []
        fits = True
        for start in range(0, len(wanted), READ_AT_ONCE):
            found = await _by_key(client, schema, args, wanted[start : start + READ_AT_ONCE])
            missing += [shown_key(key) for key, entity in found if entity is None]
            fits = all(page.admit(entity) for _, entity in found if entity is not None)
            if not fits:
                break
        limits = page.limits(stopped="" if fits else "get the other ids in another call") or []
        if len(missing) > SHOWN_MISSING:
            limits.append(f"missing_ids: the first {SHOWN_MISSING} of {len(missing)}")
        return GetOutput(
            entities=page.entities, missing_ids=missing[:SHOWN_MISSING] or None, applied_limits=limits or None
        )

    output, _ = await app.read(app.database(args.db_name), args.collection_name, read)
    return output


async def _by_key(
    client: "Client", schema: CollectionSchema, args: GetInput, keys: list[Key]
) -> list[tuple[Key, Mapping[str, Any] | None]]:
    """Each key with its entity, or with None."""
    found = await client.read_by_keys(
        args.collection_name,
        keys,
        schema,
        output_fields=schema.output_fields(args.output_fields),
        partition_names=args.partition_names,
    )
    return [(key, found.get(key)) for key in keys]


class QueryInput(Input):
    """Which entities, what of them, and in which order."""

    collection_name: Name
    filter: Filter = ""
    filter_params: dict[str, Any] | None = None
    output_fields: list[str] | None = Field(None, description="Default: all but vectors")
    order_by: list[str] = Field(
        default_factory=list[str], max_length=8, description='e.g. ["year desc", "title"]; nulls last'
    )
    limit: int = Field(20, ge=1, le=16_384)
    cursor: str | None = None
    partition_names: list[Name] | None = None
    consistency_level: Level | None = None
    db_name: Name | None = None


class QueryOutput(BoundedOutput):
    """Entities in the order that was asked for."""

    entities: list[dict[str, Any]]
    next_cursor: str | None = None
    loaded: bool | None = Field(default=None, description="The collection was loaded for this call")


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def query(app: App, args: QueryInput) -> QueryOutput:
    """Reads entities by filter, ordered by primary key or order_by. next_cursor, if there is one, continues."""
    db_name = app.database(args.db_name)
    fingerprint = cursor_fingerprint(
        db_name, args.collection_name, args.filter, args.filter_params, args.partition_names, *args.order_by
    )

    async def read(client: "Client", schema: CollectionSchema) -> QueryOutput:
        source = Source(
            args.collection_name,
            rendered(args.filter, args.filter_params),
            schema.output_fields(args.output_fields),
            args.partition_names,
            args.consistency_level,
        )
        order = Order.parsed(schema, args.order_by)
        position = decode_cursor(args.cursor, fingerprint) if args.cursor else None
        ranking = replace(source, output_fields=order.fields)
        scan = Scan(client, schema, ranking, app.settings.max_scan, app.report_progress)
        page = _page(app, schema, args.output_fields)
        found = await _found(scan, source, order, position, args.limit)
        last, full = await _filled(page, found, args.limit)
        stopped = "follow next_cursor, or name fewer output_fields" if full else ""
        return QueryOutput(
            entities=page.entities,
            next_cursor=None if last is None else encode_cursor(fingerprint, last),
            applied_limits=[
                *scan.limits("ordered"),
                *(page.limits(stopped=stopped) or []),
                *near_misses(schema, args.filter, args.output_fields),
            ]
            or None,
        )

    seconds = app.settings.build_timeout if args.order_by else None
    output, loaded = await app.loaded_if_needed(
        db_name, args.collection_name, lambda: app.with_schema(db_name, args.collection_name, read, seconds=seconds)
    )
    return output.model_copy(update={"loaded": True}) if loaded else output


class CountInput(Input):
    """Which entities."""

    collection_name: Name
    filter: str = ""
    filter_params: dict[str, Any] | None = None
    partition_names: list[Name] | None = None
    db_name: Name | None = None


class CountOutput(Output):
    """How many."""

    count: int


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def count(app: App, args: CountInput) -> CountOutput:
    """Counts entities, all or those that a filter matches."""
    matching = rendered(args.filter, args.filter_params)

    async def read(client: "Client", schema: CollectionSchema) -> int:
        await client.catch_up(schema)
        return await _count(client, schema, args.collection_name, matching, args.partition_names)

    number, _ = await app.read(app.database(args.db_name), args.collection_name, read)
    return CountOutput(count=number)


async def _insert_pieces(app: App, args: InsertInput, size: int) -> InsertOutput:
    overlap = size // 10 if args.chunk_overlap is None else args.chunk_overlap
    given = GivenInPieces(_entities(args), size, overlap)
    await _require_new_sources(app, args, given)
    try:
        written = await _write(app, args, given, "insert")
    except PartialWrite as failure:
        failure.details["source_ids"], _ = _first(app, "source_ids", given.source_ids)
        failure.hint = "ranges are of pieces: delete those with these source_ids by filter, then insert anew"
        raise
    source_ids, limits = _first(app, "source_ids", given.source_ids)
    return InsertOutput(
        insert_count=written.outcome.count,
        source_ids=source_ids,
        notes=written.notes or None,
        applied_limits=limits or None,
    )


async def _require_new_sources(app: App, args: InsertInput, given: GivenInPieces) -> None:
    """Nothing, if no piece of these sources is there: old and new pieces would be found together.

    Raises:
        AlreadyExists: one is; nothing was done.
    """

    async def look(client: "Client", schema: CollectionSchema) -> None:
        if not (source_ids := given.named_sources(schema)):
            return
        matching = rendered(f"{SOURCE_ID} in {{source_ids}}", {"source_ids": source_ids})
        if there := await client.read_matching(
            args.collection_name, matching, schema, output_fields=[SOURCE_ID], limit=1
        ):
            source_id = there[0][SOURCE_ID]
            raise AlreadyExists(
                f"{schema.name} has pieces of {SOURCE_ID} {source_id!r}",
                hint=f"to replace them, delete with filter {SOURCE_ID} == {literal(source_id)}, then insert",
            )

    await app.read(app.database(args.db_name), args.collection_name, look)


def _entities(args: Entities) -> list[dict[str, Any]]:
    entities = as_entities(args.data)
    if not entities:
        raise InvalidArgument("data: no entities", hint='data is a list of objects: [{"id": 1, …}]')
    return entities


@dataclass(frozen=True)
class _Written:
    """What became of a write, and what is to be said of its texts."""

    outcome: Outcome
    schema: CollectionSchema
    notes: list[str]


async def _write(app: App, args: Entities, given: Given, operation: Operation) -> _Written:
    db_name = app.database(args.db_name)
    filling = Filling(app, db_name, app.report_progress)

    async def write(schema: CollectionSchema) -> _Written:
        checked = await filling.checked(schema, given, keys_required=operation == "upsert")
        await filling.require_still_bound(schema)
        job = Write(
            operation,
            app.clients,
            db_name,
            args.collection_name,
            args.partition_name or "",
            schema,
            filling.report_progress,
        )
        return _Written(await job.run(checked), schema, filling.notes)

    written, _ = await app.loaded_if_needed(
        db_name, args.collection_name, lambda: app.schemas.used_by(db_name, args.collection_name, write)
    )
    return written


def _first(app: App, name: str, found: Sequence[Key]) -> tuple[list[Key], list[str]]:
    """As many as a result has room for, and what is said of the others."""
    keys = [portable_key(key) for key in found]
    size = json_size(keys)
    if size <= app.settings.max_result_bytes:
        return keys, []
    kept = len(keys) * app.settings.max_result_bytes // size
    return keys[:kept], [f"{name}: the first {kept} of {len(keys)}; query shows the others"]


async def _count(
    client: "Client",
    schema: CollectionSchema,
    collection_name: str,
    matching: str,
    partition_names: list[str] | None,
) -> int:
    if client.backend.is_lite and partition_names and not matching:
        matching = any_key(schema.primary_key)  # without a filter, Milvus Lite counts all partitions
    return await client.count_matching(collection_name, matching, schema, partition_names)


async def _delete_doubles(client: "Client", schema: CollectionSchema, args: DeleteInput, matching: str) -> int:
    """Of entities with the same key, Milvus deletes by filter only some at a time."""
    partition_names = [args.partition_name] if args.partition_name else None
    deleted = 0
    for _ in range(DELETE_ROUNDS):
        if not await _count(client, schema, args.collection_name, matching, partition_names):
            break
        deleted += await client.delete_matching(args.collection_name, matching, schema, args.partition_name or "")
    return deleted


async def _delete_in_partition(
    client: "Client", schema: CollectionSchema, collection_name: str, matching: str, partition_name: str
) -> int:
    """Milvus Lite deletes what matches in any partition, so the keys are read from this one first."""
    key = schema.primary_key.name
    source = Source(collection_name, matching, (key,), [partition_name])
    deleted = 0
    async with aclosing(pages_in_key_order(client, schema, source, first=MAX_KEYS, most=MAX_KEYS)) as pages:
        async for entities in pages:
            there = keys_filter(schema, [portable_key(entity[key]) for entity in entities])
            deleted += await client.delete_matching(collection_name, there, schema, partition_name)
    return deleted


Found = AsyncGenerator[tuple[dict[str, Any] | None, int | str]]
"""Entities, or nothing in place of one that has gone meanwhile, each with the position of a cursor that follows it."""


async def _filled(page: Page, found: Found, limit: int) -> tuple[int | str | None, bool]:
    """Fills the page. Returns the position of what follows, if anything does, and whether the bytes were too few."""
    taken = 0
    last: int | str | None = None
    async with aclosing(found):
        async for entity, position in found:
            full = taken < limit and entity is not None and not page.admit(entity)
            if taken == limit or full:
                return last, full
            taken, last = taken + 1, position
    return None, False


async def _found(scan: Scan, source: Source, order: Order, position: int | str | None, limit: int) -> Found:
    if order.is_by_key:
        return _in_key_order(scan.client, scan.schema, source, position, limit)
    after = None if position is None else await _place(scan, order, position)
    if is_ordered_by_milvus(scan.client.backend, order):
        return _ordered_by_milvus(scan.client, scan.schema, source, order, after, limit)
    return _ordered_here(scan, source, FirstEntities(order, limit + 1, after))


async def _place(scan: Scan, order: Order, position: int | str) -> Ranked:
    """Where in the order the page before this one has ended."""
    place = order.ranked_position(position)
    if not isinstance(place, Reference):
        return place
    entities = await scan.client.read_matching(
        scan.source.collection_name,
        keys_filter(scan.schema, [portable_key(place.key)]),
        scan.schema,
        output_fields=order.fields,
        partition_names=scan.source.partition_names,
        consistency_level=scan.source.consistency_level,
    )
    return order.ranked_reference(place, entities)


async def _in_key_order(
    client: "Client", schema: CollectionSchema, source: Source, position: int | str | None, limit: int
) -> Found:
    key = schema.primary_key
    after = None if position is None else checked_key(key, position)
    at_once = min(limit + 1, READ_AT_ONCE)
    pages = pages_in_key_order(client, schema, source, first=at_once, most=at_once, after=after)
    async with aclosing(pages):
        async for entities in pages:
            for entity in entities:
                yield entity, portable_key(entity[key.name])


async def _ordered_by_milvus(
    client: "Client", schema: CollectionSchema, source: Source, order: Order, after: Ranked | None, limit: int
) -> Found:
    unasked = set(order.fields) - set(source.output_fields)
    pages = pages_in_order(client, schema, source, order, after, at_once=min(limit + 1, READ_AT_ONCE))
    async with aclosing(pages):
        async for entities in pages:
            for entity, (_, values) in zip(entities, order.ranked(entities), strict=True):
                asked = {name: value for name, value in entity.items() if name not in unasked}
                yield asked, order.position(values)


async def _ordered_here(scan: Scan, source: Source, first: FirstEntities) -> Found:
    """Keys and what decides their order are read of every entity, the rest only of those that come first."""
    async with aclosing(scan.pages()) as pages:
        async for entities in pages:
            await anyio.to_thread.run_sync(first.add, entities)
    key_name = scan.schema.primary_key.name
    for start in range(0, len(first.found), READ_AT_ONCE):
        part = first.found[start : start + READ_AT_ONCE]
        entities = await scan.client.read_matching(
            source.collection_name,
            keys_filter(scan.schema, [portable_key(cast("int | str", values[-1])) for _, values in part]),
            scan.schema,
            output_fields=list(source.output_fields),
            partition_names=source.partition_names,
            consistency_level=source.consistency_level,
        )
        by_key = {entity[key_name]: entity for entity in entities}
        for _, values in part:
            yield by_key.get(values[-1]), first.order.position(values)


def _page(app: App, schema: CollectionSchema, output_fields: list[str] | None) -> Page:
    return Page(schema, app.settings.max_result_bytes, frozenset(output_fields or ()))


TOOLS = (query, get, count, insert, upsert, delete)
