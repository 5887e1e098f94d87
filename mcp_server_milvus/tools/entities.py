"""Entities: written, deleted, counted, and read by key or filter."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.entities import as_entities, checked_entities
from mcp_server_milvus.milvus.filters import after_key, any_key, both, checked_key, keys_filter, portable_key, rendered
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import Page, cursor_fingerprint, decode_cursor, encode_cursor, json_size
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.writing import Operation, Outcome, Write
from mcp_server_milvus.tool import BoundedOutput, Input, Output, tool
from mcp_server_milvus.vocabulary import ConsistencyLevel, Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.quirks import Client

SHOWN_MISSING = 100
"""Keys without an entity that `get` names."""

READ_AT_ONCE = 256
"""Entities of one request while a page fills up: few requests, and little read in vain when the bytes run out."""

Key = Annotated[int | str, Field()]
Filter = Annotated[
    str, Field(description='e.g. year > 1990 and title like "a%"; {name} takes a value from filter_params')
]


class Entities(Input):
    """The arguments of insert and upsert."""

    collection_name: Name
    data: list[dict[str, Any]] | dict[str, Any] = Field(description="Entities; or one object of equally long columns")
    partition_name: Name | None = None
    db_name: Name | None = None


class InsertOutput(BoundedOutput):
    """How many entities are in, and the keys that Milvus gave them."""

    insert_count: int
    ids: list[Key] | None = None


@tool(toolset=Toolset.DATA, effect=Effect.CREATE)
async def insert(app: App, args: Entities) -> InsertOutput:
    """Inserts entities. All are checked against the schema first; a wrong one is named and nothing is written."""
    outcome, schema = await _write(app, args, "insert")
    ids, limits = _generated_keys(app, outcome) if schema.primary_key.auto_id else (None, None)
    return InsertOutput(insert_count=outcome.count, ids=ids, applied_limits=limits)


class UpsertOutput(Output):
    """How many entities are in."""

    upsert_count: int


@tool(toolset=Toolset.DATA, effect=Effect.MODIFY)
async def upsert(app: App, args: Entities) -> UpsertOutput:
    """Inserts entities, replacing those with the same primary key whole. Checked as insert does."""
    outcome, _ = await _write(app, args, "upsert")
    return UpsertOutput(upsert_count=outcome.count)


class DeleteInput(Input):
    """Which entities."""

    collection_name: Name
    ids: list[Key] | None = Field(None, description="Primary keys")
    filter: Filter | None = None
    filter_params: dict[str, Any] | None = None
    partition_name: Name | None = None
    db_name: Name | None = None


class DeleteOutput(Output):
    """How many entities were deleted."""

    delete_count: int


@tool(toolset=Toolset.DATA, effect=Effect.DELETE)
async def delete(app: App, args: DeleteInput) -> DeleteOutput:
    """Deletes entities by ids or by filter (one of the two). They cannot be brought back."""
    db_name = app.database(args.db_name)
    if (args.ids is None) == (args.filter is None) or (args.filter is not None and not args.filter.strip()):
        raise InvalidArgument(
            "delete: give either ids or a filter that is not empty", hint="drop_collection removes everything"
        )

    known = await app.schemas.confirmed(db_name, args.collection_name)

    matching = keys_filter(known, args.ids) if args.ids is not None else rendered(args.filter or "", args.filter_params)

    async def remove(client: "Client", _: CollectionSchema) -> int:
        if client.backend.is_lite and args.partition_name:
            return await _delete_in_partition(client, known, args.collection_name, matching, args.partition_name)
        partition_names = [args.partition_name] if args.partition_name else None
        there = None
        if args.ids is not None and await client.is_loaded(args.collection_name):
            # Milvus counts the keys that it was given, not the entities that had them.
            there = await _count(client, known, args.collection_name, matching, partition_names)
        deleted = await client.delete_matching(args.collection_name, matching, known, args.partition_name or "")
        return deleted if there is None else there

    count, _ = await app.read(db_name, args.collection_name, remove)
    return DeleteOutput(delete_count=count)


class GetInput(Input):
    """Which entities, and what of them."""

    collection_name: Name
    ids: list[Key] = Field(description="Primary keys")
    output_fields: list[str] | None = Field(None, description="Default: all but vectors")
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
        key_name = schema.primary_key.name
        rows = await client.read_matching(
            args.collection_name,
            keys_filter(schema, args.ids),
            schema,
            output_fields=schema.output_fields(args.output_fields),
            partition_names=args.partition_names,
        )
        found = {row[key_name]: row for row in rows}
        wanted = list(dict.fromkeys(checked_key(schema.primary_key, key) for key in args.ids))
        page = _page(app, schema, args.output_fields)
        present = [found[key] for key in wanted if key in found]
        fits = all(page.admit(entity) for entity in present)
        missing = [portable_key(key) for key in wanted if key not in found]
        limits = page.limits(stopped="" if fits else "get the other ids in another call") or []
        if len(missing) > SHOWN_MISSING:
            limits.append(f"missing_ids: the first {SHOWN_MISSING} of {len(missing)}")
        return GetOutput(
            entities=page.entities, missing_ids=missing[:SHOWN_MISSING] or None, applied_limits=limits or None
        )

    output, _ = await app.read(app.database(args.db_name), args.collection_name, read)
    return output


class QueryInput(Input):
    """Which entities, and what of them."""

    collection_name: Name
    filter: Filter = ""
    filter_params: dict[str, Any] | None = None
    output_fields: list[str] | None = Field(None, description="Default: all but vectors")
    limit: int = Field(20, ge=1, le=16_384)
    cursor: str | None = Field(None, description="next_cursor of the same call, for what follows")
    partition_names: list[Name] | None = None
    consistency_level: ConsistencyLevel | None = Field(None, strict=False)
    db_name: Name | None = None


class QueryOutput(BoundedOutput):
    """Entities in the order of their keys."""

    entities: list[dict[str, Any]]
    next_cursor: str | None = None
    loaded: bool | None = Field(default=None, description="The collection was loaded for this call")


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def query(app: App, args: QueryInput) -> QueryOutput:
    """Reads entities by filter, in the order of their primary keys. next_cursor, if there is one, continues."""
    db_name = app.database(args.db_name)
    fingerprint = cursor_fingerprint(
        db_name, args.collection_name, args.filter, args.filter_params, args.partition_names
    )

    async def read(client: "Client", schema: CollectionSchema) -> QueryOutput:
        page = _page(app, schema, args.output_fields)
        more = full = False
        async with aclosing(_in_key_order(client, schema, args, fingerprint)) as entities:
            async for entity in entities:
                more = len(page.entities) == args.limit
                full = not more and not page.admit(entity)
                if more or full:
                    break
        last = page.entities[-1][schema.primary_key.name] if page.entities else ""
        return QueryOutput(
            entities=page.entities,
            next_cursor=encode_cursor(fingerprint, last) if more or full else None,
            applied_limits=page.limits(stopped="follow next_cursor, or name fewer output_fields" if full else ""),
        )

    output, loaded = await app.read(db_name, args.collection_name, read)
    return output.model_copy(update={"loaded": True}) if loaded else output


class CountInput(Input):
    """Which entities."""

    collection_name: Name
    filter: Filter = ""
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
        return await _count(client, schema, args.collection_name, matching, args.partition_names)

    number, _ = await app.read(app.database(args.db_name), args.collection_name, read)
    return CountOutput(count=number)


async def _write(app: App, args: Entities, operation: Operation) -> tuple[Outcome, CollectionSchema]:
    db_name = app.database(args.db_name)
    entities = as_entities(args.data)
    if not entities:
        raise InvalidArgument("data: no entities", hint='data is a list of objects: [{"id": 1, …}]')

    async def write(schema: CollectionSchema) -> tuple[Outcome, CollectionSchema]:
        checked = await anyio.to_thread.run_sync(_checked(schema, entities, operation))
        job = Write(
            operation,
            app.clients,
            db_name,
            args.collection_name,
            args.partition_name or "",
            schema,
            app.report_progress,
        )
        return await job.run(checked), schema

    written, _ = await app.loaded_if_needed(
        db_name, args.collection_name, lambda: app.schemas.used_by(db_name, args.collection_name, write)
    )
    return written


def _checked(
    schema: CollectionSchema, entities: list[dict[str, Any]], operation: Operation
) -> Callable[[], list[dict[str, Any]]]:
    return lambda: checked_entities(schema, entities, keys_required=operation == "upsert")


def _generated_keys(app: App, outcome: Outcome) -> tuple[list[Key], list[str] | None]:
    keys = [portable_key(key) for key in outcome.ids]
    size = json_size(keys)
    if size <= app.settings.max_result_bytes:
        return keys, None
    kept = len(keys) * app.settings.max_result_bytes // size
    return keys[:kept], [f"ids: the first {kept} of {len(keys)}; query shows the others"]


async def _count(
    client: "Client",
    schema: CollectionSchema,
    collection_name: str,
    matching: str,
    partition_names: list[str] | None,
) -> int:
    if client.backend.is_lite and partition_names and not matching:
        matching = any_key(schema.primary_key)  # without a filter, Milvus Lite counts all partitions
    rows = await client.read_matching(
        collection_name, matching, schema, output_fields=["count(*)"], partition_names=partition_names
    )
    return int(rows[0]["count(*)"])


async def _delete_in_partition(
    client: "Client", schema: CollectionSchema, collection_name: str, matching: str, partition_name: str
) -> int:
    """Milvus Lite deletes what matches in any partition, so the keys are read from this one first."""
    key = schema.primary_key.name
    rows = await client.read_matching(
        collection_name, matching, schema, output_fields=[key], partition_names=[partition_name]
    )
    if not rows:
        return 0
    there = keys_filter(schema, [portable_key(row[key]) for row in rows])
    return await client.delete_matching(collection_name, there, schema, partition_name)


async def _in_key_order(
    client: "Client", schema: CollectionSchema, args: QueryInput, fingerprint: str
) -> AsyncGenerator[dict[str, Any]]:
    """The matching entities from the cursor on. A short answer is no end: a server drops duplicates after cutting."""
    matching = rendered(args.filter, args.filter_params)
    key = schema.primary_key
    after = checked_key(key, decode_cursor(args.cursor, fingerprint)) if args.cursor else None
    at_once = min(args.limit + 1, READ_AT_ONCE)
    while True:
        rows = await client.read_in_key_order(
            args.collection_name,
            matching if after is None else both(matching, after_key(key, after)),
            schema,
            limit=at_once,
            output_fields=schema.output_fields(args.output_fields),
            partition_names=args.partition_names,
            consistency_level=args.consistency_level,
        )
        for row in rows:
            yield row
        if not rows or (len(rows) < at_once and not client.backend.keeps_duplicate_keys):
            return
        after = rows[-1][key.name]


def _page(app: App, schema: CollectionSchema, output_fields: list[str] | None) -> Page:
    return Page(schema, app.settings.max_result_bytes, frozenset(output_fields or ()))


TOOLS = (query, get, count, insert, upsert, delete)
