"""Measuring: how much an index finds, and how much memory a collection takes.

What measures is imported by the first call: a handshake need not wait for it.
"""

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import Denied, InvalidArgument
from mcp_server_milvus.milvus.filters import rendered
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.scanning import Source, largest_page, pages_in_key_order
from mcp_server_milvus.milvus.schema import CollectionSchema, Index
from mcp_server_milvus.milvus.targets import Target, target_of, vector_field
from mcp_server_milvus.tool import BoundedOutput, Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client
    from mcp_server_milvus.milvus.memory import Reckoning
    from mcp_server_milvus.milvus.recall import ExactAnswers, Measured, Measuring

READ_FOR_SIZES = 256
"""Entities whose values are weighed, of the collection's first by primary key."""

OWN_BOUNDS = frozenset({"radius", "range_filter"})
"""Search parameters that change which answers are right."""


class MeasureRecallInput(Input):
    """Which field's index, for how many hits."""

    collection_name: Name
    anns_field: Name | None = Field(None, description="Needed only when there are several")
    limit: int = Field(10, ge=1, le=1_000)
    sample: int = Field(50, ge=1, le=200, description="Stored vectors to search for")
    filter: str = Field("", description="Of what is found and sampled")
    filter_params: dict[str, Any] | None = None
    params_list: list[dict[str, Any]] | None = Field(
        None, min_length=1, max_length=8, description='Search params to compare: [{"ef": 64}, …]; default by index'
    )
    db_name: Name | None = None


class Point(Output):
    """What one setting gives."""

    params: dict[str, Any]
    recall: float = Field(description="Part of the exact answers that was found, 0 to 1")
    median_ms: float
    p95_ms: float


class MeasureRecallOutput(BoundedOutput):
    """Recall against latency. A sampled entity is not counted among its own hits; of equal scores any will do."""

    anns_field: str
    index_type: str
    metric_type: str
    limit: int
    entity_count: int = Field(description="Entities searched")
    sample: int = Field(description="Vectors searched for, spread over all keys")
    measured: list[Point]
    advice: str
    loaded: bool | None = Field(default=None, description="The collection was loaded for this call")


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def measure_recall(app: App, args: MeasureRecallInput) -> MeasureRecallOutput:
    """Measures recall and latency of a vector index for several search params against exact answers, and advises."""
    from mcp_server_milvus.milvus.recall import Measuring, Progress

    db_name = app.database(args.db_name)

    async def measure(client: "Client", schema: CollectionSchema) -> MeasureRecallOutput:
        await client.confirm_indexes(args.collection_name, schema)
        targets = _targets(app, client, schema, args)
        matching = rendered(args.filter, args.filter_params)
        source = Source(args.collection_name, matching, ())
        field, scan = targets[0].field, app.settings.max_scan
        measuring = Measuring(client, schema, source, field, args.limit, scan, Progress(app.report_progress))
        return await _measured(args, measuring, targets)

    output, loaded = await app.loaded_if_needed(
        db_name,
        args.collection_name,
        lambda: app.with_schema(db_name, args.collection_name, measure, seconds=app.settings.build_timeout),
    )
    return output.model_copy(update={"loaded": True}) if loaded else output


def _targets(app: App, client: "Client", schema: CollectionSchema, args: MeasureRecallInput) -> list[Target]:
    """One search for each setting. The vectors come later."""
    from mcp_server_milvus.milvus.recall import require_measurable, settings_of

    bindings = app.bindings(app.database(args.db_name), schema)
    field = vector_field(schema, None, args.anns_field, bindings)
    if field.name in schema.masked:
        raise Denied(f"anns_field: {field.name} is masked: nothing can be measured by it", hint="name another field")
    first = target_of(schema, field, None, {}, client.backend)
    require_measurable(schema, first)
    for params in args.params_list or ():
        if bounds := OWN_BOUNDS & params.keys():
            raise InvalidArgument(f"params_list: {min(bounds)} would change which answers are right; leave it out")
    index = schema.index_of(field.name)
    chosen = args.params_list or (settings_of(first, index, args.limit) if index else [])
    return [target_of(schema, field, None, params, client.backend) for params in chosen]


async def _measured(args: MeasureRecallInput, measuring: "Measuring", targets: list[Target]) -> MeasureRecallOutput:
    from mcp_server_milvus.milvus.recall import ExactAnswers, advice

    count = await measuring.count()
    measuring.progress.total = 2 * count + len(targets) * min(args.sample, count)
    sampled = await measuring.sampled(count, args.sample) if count > 1 else []
    await measuring.warm_up(targets[0], sampled)
    found = await measuring.measured(targets, sampled) if sampled else []
    key_name = measuring.schema.primary_key.name
    exact = ExactAnswers(targets[0], key_name, sampled, [each.found for each in found], args.limit)
    if sampled:
        await measuring.compare(exact)
    points = await anyio.to_thread.run_sync(_points, exact, found, limiter=measuring.client.computing)
    limits = await _unbuilt(measuring)
    if 0 < len(sampled) < min(args.sample, count):
        limits.append(f"sample: {len(sampled)} vectors; a smaller limit allows more")
    return MeasureRecallOutput(
        anns_field=targets[0].field.name,
        index_type=targets[0].index_type,
        metric_type=targets[0].metric_type,
        limit=args.limit,
        entity_count=count,
        sample=len(sampled),
        measured=points,
        advice=advice(
            targets[0],
            [(point.params, point.recall, point.median_ms) for point in points],
            own=args.params_list is not None,
        ),
        applied_limits=limits or None,
    )


async def _unbuilt(measuring: "Measuring") -> list[str]:
    """What is to be said of an index that is not finished: what it lacks is searched otherwise."""
    for index in await measuring.client.describe_indexes(measuring.source.collection_name):
        if index.field_name == measuring.field.name and index.state not in {"", "finished"}:
            told = f"{index.indexed_entities} of {index.total_entities} entities are in the index, which is"
            return [f"{told} {index.state}: measure again when it is finished"]
    return []


def _points(exact: "ExactAnswers", found: "list[Measured]") -> list[Point]:
    recalls = [(each, exact.recall(each)) for each in found]
    return [
        Point(
            params=dict(each.params),
            recall=round(recall, 4),
            median_ms=round(each.median, 2),
            p95_ms=round(each.p95, 2),
        )
        for each, recall in recalls
        if recall is not None
    ]


class EstimateMemoryInput(Input):
    """Which collection, as it is or as it might be."""

    collection_name: Name
    entity_count: int | None = Field(None, ge=0, le=10**13, description="What if it had so many; default: as it has")
    index_type: str | None = Field(None, max_length=64, description="What if field_name had this index")
    params: dict[str, Any] = Field(default_factory=dict, description='Of that index: {"M": 16}, {"nlist": 1024}, …')
    field_name: Name | None = Field(None, description="Needed only when there are several vector fields")
    replica_number: int = Field(1, ge=1, le=1_000)
    db_name: Name | None = None


class FieldSize(Output):
    """One field."""

    field_name: str
    type: str
    index_type: str | None = None
    bytes: int = Field(description="In memory, of one replica")
    disk_bytes: int | None = Field(None, description="On the disk of a query node instead")
    formula: str


class EstimateMemoryOutput(Output):
    """What a loaded collection takes, reckoned and not measured."""

    entity_count: int
    replica_number: int
    total_bytes: int = Field(description="In memory, of all replicas")
    total: str
    disk_bytes: int | None = None
    fields: list[FieldSize]
    assumed: list[str]


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def estimate_memory(app: App, args: EstimateMemoryInput) -> EstimateMemoryOutput:
    """Estimates the memory that a collection takes when loaded: as it is, with more entities, or with another index."""
    from mcp_server_milvus.milvus.memory import Reckoning

    db_name = app.database(args.db_name)

    async def estimate(client: "Client", schema: CollectionSchema) -> EstimateMemoryOutput:
        indexes = _indexes(schema, args, is_lite=client.backend.is_lite)
        loaded = await client.is_loaded(args.collection_name)
        count = args.entity_count
        if count is None:
            count = await client.entity_count(args.collection_name, loaded=loaded)
        means = await _means(client, schema, args.collection_name) if loaded else {}
        reckoning = Reckoning(schema, count, indexes, means, _mapped(schema, indexes))
        return _estimated(reckoning, args.replica_number, loaded=loaded)

    return await app.with_schema(db_name, args.collection_name, estimate)


def _indexes(schema: CollectionSchema, args: EstimateMemoryInput, *, is_lite: bool) -> dict[str, Index]:
    """The indexes of the vector fields by field, with the one that is asked about in its place."""
    from mcp_server_milvus.milvus.index_sizes import meant

    indexes = {each.name: index for each in schema.vector_fields if (index := schema.index_of(each.name))}
    if args.index_type is None and (args.params or args.field_name):
        raise InvalidArgument("params and field_name say which index_type is meant: name it too")
    if args.index_type is not None:
        field = vector_field(schema, None, args.field_name)
        indexes[field.name] = Index(field.name, field.name, args.index_type, "", args.params)
    return {name: meant(schema.by_name[name], index, is_lite=is_lite) for name, index in indexes.items()}


async def _means(client: "Client", schema: CollectionSchema, collection_name: str) -> dict[str, float]:
    """The mean sizes of values that differ in size, in a few entities."""
    from mcp_server_milvus.milvus.memory import mean_sizes, varying

    names = varying(schema)
    if not names:
        return {}
    at_once = min(READ_FOR_SIZES, largest_page(schema, client.backend, names))
    source = Source(collection_name, "", [schema.primary_key.name, *names])
    async with aclosing(pages_in_key_order(client, schema, source, first=at_once, most=at_once)) as pages:
        async for entities in pages:
            return await anyio.to_thread.run_sync(mean_sizes, schema, entities, limiter=client.computing)
    return {}


def _mapped(schema: CollectionSchema, indexes: dict[str, Index]) -> set[str]:
    """The fields that are memory-mapped: by a property of the collection, of the field, or of its index."""
    whole = str(schema.properties.get("mmap.enabled", "")).lower() == "true"
    mapped = {each.name for each in schema.fields if (whole if each.mmap_enabled is None else each.mmap_enabled)}
    for index in indexes.values():
        if "mmap.enabled" in index.params:
            is_mapped = str(index.params["mmap.enabled"]).lower() == "true"
            (mapped.add if is_mapped else mapped.discard)(index.field_name)
    return mapped


def _estimated(reckoning: "Reckoning", replicas: int, *, loaded: bool) -> EstimateMemoryOutput:
    from mcp_server_milvus.milvus.memory import readable

    fields = reckoning.fields()
    memory, disk = (replicas * sum(each.memory for each in fields), replicas * sum(each.disk for each in fields))
    assumed = [
        *reckoning.assumed(),
        *([] if loaded or not reckoning.assumed() else ["it is not loaded: load it, and values are weighed"]),
        "an index holds what searches need: raw vectors beside it are not in memory",
        "not counted: indexes of scalar fields, deleted entities, room to load (queryNode.loadMemoryUsageFactor)",
    ]
    return EstimateMemoryOutput(
        entity_count=reckoning.entity_count,
        replica_number=replicas,
        total_bytes=memory,
        total=readable(memory),
        disk_bytes=disk or None,
        fields=[
            FieldSize(
                field_name=each.name,
                type=each.type,
                index_type=each.index_type or None,
                bytes=each.memory,
                disk_bytes=each.disk or None,
                formula=each.formula,
            )
            for each in fields
        ],
        assumed=assumed,
    )


TOOLS = (measure_recall, estimate_memory)
