"""Indexes: what makes a field searchable."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import Conflict, NotFound
from mcp_server_milvus.losses.structures import index_lost
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.definition import completed_index
from mcp_server_milvus.milvus.description import described_index
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.schema import CollectionSchema, Index
from mcp_server_milvus.milvus.specs import Metric, Properties, split_properties
from mcp_server_milvus.milvus.waiting import load_and_wait, wait_for_index
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client


class BuildIndexInput(Input):
    """Which field, and how."""

    collection_name: Name
    field_name: Name
    index_type: str = Field("AUTOINDEX", description="e.g. HNSW, IVF_FLAT, INVERTED")
    metric_type: Metric | None = Field(None, description="Of a vector; default by its type")
    params: dict[str, Any] = Field(default_factory=dict, description='e.g. {"M": 16, "efConstruction": 200}')
    index_name: Name | None = None
    replace: bool = Field(default=False, description="Drop a different index first")
    db_name: Name | None = None


class BuildIndexOutput(Output):
    """The index as it is now."""

    created: bool
    field_name: str
    index_name: str
    index_type: str
    metric_type: str | None = None
    params: dict[str, Any] | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def build_index(app: App, args: BuildIndexInput) -> BuildIndexOutput:
    """Builds an index on a field and waits until it is ready."""
    db_name = app.database(args.db_name)

    async def build(client: "Client", schema: CollectionSchema) -> tuple[Index, bool]:
        indexes = await client.describe_indexes(args.collection_name)
        existing = next((index for index in indexes if index.field_name == args.field_name), None)
        # Who replaces an index and names no metric wants the scores to mean what they meant.
        metric = args.metric_type or (existing.metric_type if existing else "")
        asked = Index(args.field_name, args.index_name or args.field_name, args.index_type, metric, args.params)
        wanted = completed_index(schema, asked, client.backend)
        if existing and existing.state != "failed" and _serves(existing, args):
            return await wait_for_index(client, args.collection_name, args.field_name, app.report_progress), False
        if existing is None:
            return await _build(app, client, args.collection_name, wanted), True
        if not args.replace and existing.state != "failed":
            raise Conflict(f"{args.field_name} has another index: {_told(existing)}", hint="replace: true replaces it")
        return await _rebuild(app, client, args.collection_name, existing, wanted), True

    index, created = await app.with_schema(db_name, args.collection_name, build, seconds=app.settings.build_timeout)
    app.schemas.forget(db_name, args.collection_name)
    return BuildIndexOutput(
        created=created,
        field_name=index.field_name,
        index_name=index.index_name,
        index_type=index.index_type,
        metric_type=index.metric_type or None,
        params=dict(index.params) or None,
    )


class DropIndexInput(Input):
    """Which index."""

    collection_name: Name
    index_name: Name
    release: bool = False
    db_name: Name | None = None


class DropIndexOutput(Output):
    """What there is now."""

    dropped: bool
    dropped_index: dict[str, Any] = Field(description="build_index makes it again")
    indexes: list[str]
    loaded: bool


@tool(toolset=Toolset.SCHEMA, effect=Effect.DELETE, loses=index_lost)
async def drop_index(app: App, args: DropIndexInput) -> DropIndexOutput:
    """Drops an index of a released collection."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    async with app.clients.client(db_name, seconds=app.settings.build_timeout) as client:
        await client.confirm(args.collection_name, schema)
        indexes = await client.describe_indexes(args.collection_name)
        index = _named(indexes, args.index_name)
        if await client.is_loaded(args.collection_name) and not args.release:
            raise Conflict(
                f"{args.collection_name} is loaded, and Milvus drops no index of a loaded collection",
                hint="release: true releases it, and loads it again if all vector fields still have an index",
            )
        left = [each for each in indexes if each != index]
        whole = {field.name for field in schema.vector_fields} <= {each.field_name for each in left}
        app.schemas.forget(db_name, args.collection_name)
        loaded = await _drop(app, client, args.collection_name, index, whole=whole)
    return DropIndexOutput(
        dropped=True,
        dropped_index=described_index(index),
        indexes=[each.index_name for each in left],
        loaded=loaded,
    )


class AlterIndexInput(Input):
    """Which index, and its new properties."""

    collection_name: Name
    index_name: Name
    properties: Properties
    db_name: Name | None = None


class AlterIndexOutput(Output):
    """The index as it is now."""

    index_name: str
    field_name: str
    properties: dict[str, Any]


@tool(toolset=Toolset.SCHEMA, effect=Effect.MODIFY)
async def alter_index(app: App, args: AlterIndexInput) -> AlterIndexOutput:
    """Changes properties of an index."""
    db_name = app.database(args.db_name)
    wanted, dropped = split_properties(args.properties)

    async def alter(client: "Client", _: CollectionSchema) -> AlterIndexOutput:
        client.backend.require(Feature.ALTER_INDEX, where="alter_index")
        if dropped:
            client.backend.require(Feature.DROP_PROPERTY, where=f"properties: {dropped[0]}")
        index = _named(await client.describe_indexes(args.collection_name), args.index_name)
        if wanted:
            await client.alter_index_properties(args.collection_name, index.index_name, wanted)
        if dropped:
            await client.drop_index_properties(args.collection_name, index.index_name, dropped)
        properties = await client.index_properties(args.collection_name, index)
        return AlterIndexOutput(index_name=index.index_name, field_name=index.field_name, properties=properties)

    altered = await app.with_schema(db_name, args.collection_name, alter)
    app.schemas.forget(db_name, args.collection_name)
    return altered


async def _drop(app: App, client: "Client", collection_name: str, index: Index, *, whole: bool) -> bool:
    """Whether the collection is loaded afterwards: only if it was, and is `whole` without the index."""
    was_loaded = await client.is_loaded(collection_name)
    async with AsyncExitStack() as undo:
        if was_loaded:
            await client.release_collection(collection_name)
            undo.push_async_callback(_shielded_load, app, client, collection_name)
        await client.drop_one_index(collection_name, index)
        undo.pop_all()
    if was_loaded and whole:
        await load_and_wait(client, collection_name, app.report_progress)
    return was_loaded and whole


def _named(indexes: Sequence[Index], name: str) -> Index:
    """The index of that name, or on the field of that name."""
    found = [each for each in indexes if each.index_name == name] or [
        each for each in indexes if each.field_name == name
    ]
    if not found:
        names = ", ".join(each.index_name for each in indexes) or "none"
        raise NotFound(f"there is no index {name!r}; indexes: {names}")
    return found[0]


async def _build(app: App, client: "Client", collection_name: str, index: Index) -> Index:
    await client.start_index(collection_name, index)
    return await wait_for_index(client, collection_name, index.field_name, app.report_progress)


async def _rebuild(app: App, client: "Client", collection_name: str, old: Index, new: Index) -> Index:
    """Milvus drops no index of a loaded collection. When the new index cannot be built, the old one comes back."""
    was_loaded = await client.is_loaded(collection_name)
    async with AsyncExitStack() as undo:
        if was_loaded:
            await client.release_collection(collection_name)
            undo.push_async_callback(_shielded_load, app, client, collection_name)
        undo.push_async_callback(_shielded_build, app, client, collection_name, old)
        await client.drop_one_index(collection_name, old)
        built = await _build(app, client, collection_name, new)
        undo.pop_all()
    if was_loaded:
        await load_and_wait(client, collection_name, app.report_progress)
    return built


async def _shielded_build(app: App, client: "Client", collection_name: str, index: Index) -> None:
    with anyio.move_on_after(app.settings.build_timeout, shield=True):
        for there in await client.describe_indexes(collection_name):
            if there == index and there.state == "finished":
                return
            if there.field_name == index.field_name:
                await client.drop_one_index(collection_name, there)
        await _build(app, client, collection_name, index)


async def _shielded_load(app: App, client: "Client", collection_name: str) -> None:
    with anyio.move_on_after(app.settings.build_timeout, shield=True):
        await load_and_wait(client, collection_name, app.report_progress)


def _serves(existing: Index, asked: BuildIndexInput) -> bool:
    """Whether the existing index is what was asked for; AUTOINDEX without parameters asks for any."""
    any_type = asked.index_type.upper() == "AUTOINDEX" and not asked.params
    same_type = existing.index_type.upper() == asked.index_type.upper()
    same_params = all(str(existing.params.get(key)) == str(value) for key, value in asked.params.items())
    same_metric = asked.metric_type is None or existing.metric_type == asked.metric_type
    return same_metric and (any_type or (same_type and same_params))


def _told(index: Index) -> str:
    return " ".join(str(part) for part in (index.index_type, index.metric_type, dict(index.params) or "") if part)


TOOLS = (build_index, drop_index, alter_index)
