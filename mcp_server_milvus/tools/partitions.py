"""Partitions: parts of a collection that are searched, loaded and dropped by themselves."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
from pydantic import Field

from mcp_server_milvus import undo
from mcp_server_milvus.app import App
from mcp_server_milvus.errors import InvalidArgument, NotFound
from mcp_server_milvus.losses.structures import partition_lost
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import cursor_fingerprint, decode_cursor, encode_cursor, fitting
from mcp_server_milvus.milvus.schema import DEFAULT_PARTITION, CollectionSchema
from mcp_server_milvus.milvus.specs import Names
from mcp_server_milvus.milvus.waiting import load_partitions_and_wait
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

LOOK_UPS_AT_ONCE = 8
PAGE = 200
"""Partitions that one answer lists."""


class ListPartitionsInput(Input):
    """Which page of the list."""

    collection_name: Name
    cursor: str | None = None
    db_name: Name | None = None


class PartitionLine(Output):
    """One partition in a list."""

    partition_name: str
    entity_count: int | None = None
    loaded: bool


class ListPartitionsOutput(Output):
    """Partitions by name."""

    partitions: list[PartitionLine]
    next_cursor: str | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def list_partitions(app: App, args: ListPartitionsInput) -> ListPartitionsOutput:
    """Lists partitions with entity count and load state."""
    db_name = app.database(args.db_name)
    fingerprint = cursor_fingerprint("list_partitions", db_name, args.collection_name)
    after = str(decode_cursor(args.cursor, fingerprint)) if args.cursor else ""

    async def read(client: "Client", schema: CollectionSchema) -> ListPartitionsOutput:
        names = await client.list_partitions(args.collection_name)
        following = sorted(name for name in names if name > after)
        longest = [{"partition_name": name, "entity_count": 10**12, "loaded": False} for name in following[:PAGE]]
        shown = following[: fitting(longest, app.settings.max_result_bytes)]
        lines = await _lines(client, schema, shown)
        return ListPartitionsOutput(
            partitions=[lines[name] for name in shown if name in lines],
            next_cursor=encode_cursor(fingerprint, shown[-1]) if len(following) > len(shown) else None,
        )

    return await app.with_schema(db_name, args.collection_name, read)


class PartitionInput(Input):
    """Which partition."""

    collection_name: Name
    partition_name: Name
    db_name: Name | None = None


class CreatePartitionOutput(Output):
    """The partition as it is now."""

    created: bool = Field(description="False: it was there already")
    partition_name: str
    loaded: bool


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def create_partition(app: App, args: PartitionInput) -> CreatePartitionOutput:
    """Creates a partition."""
    db_name = app.database(args.db_name)

    async def create(client: "Client", schema: CollectionSchema) -> CreatePartitionOutput:
        _require_manual(schema)
        created = args.partition_name not in await client.list_partitions(args.collection_name)
        if created:
            await client.create_partition(args.collection_name, args.partition_name)
        loaded = await client.is_loaded(args.collection_name, [args.partition_name])
        return CreatePartitionOutput(created=created, partition_name=args.partition_name, loaded=loaded)

    async with app.schemas.creating(db_name, args.collection_name):
        output = await app.with_schema(db_name, args.collection_name, create)
    app.schemas.forget(db_name, args.collection_name)
    return output


class DropPartitionOutput(Output):
    """That it is gone, and how its entities can be restored."""

    dropped: bool
    kept_as: str | None = Field(default=None, description="The id for restore_collection")
    kept_until: str | None = None
    undo: str | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.DELETE, loses=partition_lost)
async def drop_partition(app: App, args: PartitionInput) -> DropPartitionOutput:
    """Drops a partition with its entities."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    _require_manual(schema)
    if args.partition_name == DEFAULT_PARTITION:
        raise InvalidArgument(f"{DEFAULT_PARTITION} cannot be dropped", hint="delete removes its entities")
    async with app.clients.client(db_name) as client:
        await _require_partitions(client, schema.name, [args.partition_name])
    kept = await undo.keep_all(app, db_name, schema, "drop_partition", args.partition_name)
    async with app.clients.client(db_name, seconds=app.settings.build_timeout) as client:
        await client.confirm(schema.name, schema)
        await _drop(app, client, schema.name, args.partition_name)
    app.schemas.forget(db_name, schema.name)
    return DropPartitionOutput(dropped=True, **kept.told)


class PartitionsInput(Input):
    """Which partitions."""

    collection_name: Name
    partition_names: Names
    db_name: Name | None = None


class PartitionsLoadedOutput(Output):
    """Whether these partitions are in memory now, and whether any of the collection is."""

    loaded: bool
    collection_loaded: bool


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def load_partitions(app: App, args: PartitionsInput) -> PartitionsLoadedOutput:
    """Loads only some partitions of a collection."""

    async def load(client: "Client", _: CollectionSchema) -> None:
        client.backend.require(Feature.LOAD_PARTITIONS, where="load_partitions")
        await _require_partitions(client, args.collection_name, args.partition_names)
        await load_partitions_and_wait(client, args.collection_name, args.partition_names, app.report_progress)

    db_name = app.database(args.db_name)
    await app.with_schema(db_name, args.collection_name, load, seconds=app.settings.build_timeout)
    app.schemas.forget(db_name, args.collection_name)
    return PartitionsLoadedOutput(loaded=True, collection_loaded=True)


@tool(toolset=Toolset.SCHEMA, effect=Effect.MODIFY)
async def release_partitions(app: App, args: PartitionsInput) -> PartitionsLoadedOutput:
    """Takes partitions out of memory."""

    async def release(client: "Client", _: CollectionSchema) -> bool:
        client.backend.require(Feature.LOAD_PARTITIONS, where="release_partitions")
        await _require_partitions(client, args.collection_name, args.partition_names)
        await client.release_partitions(args.collection_name, args.partition_names)
        return await client.is_loaded(args.collection_name)

    db_name = app.database(args.db_name)
    still = await app.with_schema(db_name, args.collection_name, release)
    app.schemas.forget(db_name, args.collection_name)
    return PartitionsLoadedOutput(loaded=False, collection_loaded=still)


async def _lines(client: "Client", schema: CollectionSchema, names: list[str]) -> dict[str, PartitionLine]:
    """A line for each partition that is still there."""
    lines: dict[str, PartitionLine] = {}
    at_once = anyio.CapacityLimiter(LOOK_UPS_AT_ONCE)

    async def look_up(name: str) -> None:
        async with at_once:
            found = await client.partition_summary(schema, name)
        if found:
            lines[name] = PartitionLine(partition_name=name, loaded=found[0], entity_count=found[1])

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(look_up, name)
    return lines


def _require_manual(schema: CollectionSchema) -> None:
    """Nothing, if the partitions are the caller's to make and to drop."""
    key = next((field.name for field in schema.fields if field.is_partition_key), None)
    if key:
        raise InvalidArgument(f"{schema.name} has the partition key {key}: Milvus itself keeps its partitions")


async def _require_partitions(client: "Client", collection_name: str, names: list[str]) -> None:
    """Nothing, if all of them are there. Milvus 2.3.5 drops a partition that is not there without a word."""
    there = await client.list_partitions(collection_name)
    if missing := [name for name in names if name not in there]:
        raise NotFound(f"{collection_name} has no partition {missing[0]!r}", hint="list_partitions shows what there is")


async def _drop(app: App, client: "Client", collection_name: str, partition_name: str) -> None:
    """A server drops no loaded partition: it is released first, and loaded again if it then cannot be dropped."""
    async with AsyncExitStack() as failing:
        if client.backend.has(Feature.LOAD_PARTITIONS) and await client.is_loaded(collection_name, [partition_name]):
            await client.release_partitions(collection_name, [partition_name])
            failing.push_async_callback(_shielded_load, app, client, collection_name, partition_name)
        await client.drop_partition(collection_name, partition_name)
        failing.pop_all()


async def _shielded_load(app: App, client: "Client", collection_name: str, partition_name: str) -> None:
    with anyio.move_on_after(app.settings.build_timeout, shield=True):
        await load_partitions_and_wait(client, collection_name, [partition_name], app.report_progress)


TOOLS = (list_partitions, create_partition, drop_partition, load_partitions, release_partitions)
