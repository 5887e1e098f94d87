"""Hybrid search: several searches of one collection, fused into one ranking."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
from pydantic import Field, WithJsonSchema

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import InvalidArgument, NotSupported
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW, Backend, Feature
from mcp_server_milvus.milvus.filter_help import near_misses
from mcp_server_milvus.milvus.filters import both, portable_key, rendered
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.ranking import RRF_K, Key, Ranker, Scored
from mcp_server_milvus.milvus.results import Page, plain_score
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.specs import Level
from mcp_server_milvus.milvus.targets import Leg, packed, target_of, vector_field
from mcp_server_milvus.tool import BoundedOutput, Input, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

LEG_LIMIT = 50
"""Hits of a leg that says nothing: with only as many as are wanted in the end, fusing has little to work with."""

MAX_LEGS = 1_024
"""Source: Milvus's `maxSearchRequests` of hybrid search."""

LEGS_AT_ONCE = 8
GROUPED_REACH = 3
"""Hits that Milvus Lite ranks for each that a group shows."""

MAX_GROUP_SIZE = 1_000
RANGE = frozenset({"radius", "range_filter"})

Found = list[tuple[Key, float, dict[str, Any]]]
"""Hits with key, fused score and fields."""


class LegInput(Input):
    """One search: a text or a vector, as `search` takes it."""

    text: str | None = None
    vector: list[float] | dict[str, float] | None = None
    anns_field: Name | None = None
    filter: str = ""
    filter_params: dict[str, Any] | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    limit: int | None = None


NamedLeg = Annotated[LegInput, WithJsonSchema({"type": "object"})]
"""Its members are those of `search`, so they are only named."""


class HybridSearchInput(Input):
    """Which searches, and how they become one."""

    collection_name: Name
    legs: list[NamedLeg] = Field(
        description="As in search: {text or vector, anns_field, filter, filter_params, params, limit}"
    )
    ranker: Literal["rrf", "weighted", "function"] = "rrf"
    k: float = RRF_K
    weights: list[float] | None = Field(None, description="0 to 1 for each leg")
    function: dict[str, Any] | None = Field(None, description="{input_field_names, params}")
    filter: str = Field("", description="For every leg")
    filter_params: dict[str, Any] | None = None
    limit: int = Field(10, ge=1)
    offset: int = Field(0, ge=0)
    output_fields: list[str] | None = None
    partition_names: list[Name] | None = None
    group_by_field: Name | None = None
    group_size: int | None = None
    consistency_level: Level | None = None
    db_name: Name | None = None


class HybridSearchOutput(BoundedOutput):
    """Hits, best first."""

    hits: list[dict[str, Any]] = Field(description="{id, score, fields}; a larger score is better")
    fused_by: str = Field(description="milvus, or this server where Milvus cannot")
    loaded: bool | None = None


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def hybrid_search(app: App, args: HybridSearchInput) -> HybridSearchOutput:
    """Searches by several texts or vectors at once and fuses the hits into one ranking."""
    _require_within("legs", len(args.legs), 1, MAX_LEGS)
    _require_within("offset + limit", args.offset + args.limit, 1, MAX_WINDOW)
    ranker = _ranker(args)

    async def read(client: "Client", schema: CollectionSchema) -> HybridSearchOutput:
        await client.confirm_indexes(args.collection_name, schema)
        legs = [_leg(schema, args, number, client.backend) for number in range(len(args.legs))]
        grouping = _grouping(client.backend, schema, args)
        if client.backend.has(Feature.HYBRID_SEARCH):
            found, fused_by = await _fused_by_milvus(client, schema, args, legs, ranker, grouping), "milvus"
        else:
            found, fused_by = await _fused_here(client, schema, args, legs, ranker), "this server"
        return _output(app, schema, args, found, fused_by)

    output, loaded = await app.read(app.database(args.db_name), args.collection_name, read)
    return output.model_copy(update={"loaded": True}) if loaded else output


def _require_within(what: str, number: float, least: float, most: float) -> None:
    if not least <= number <= most:
        raise InvalidArgument(f"{what}: {number:g} is not from {least:g} to {most:g}")


def _ranker(args: HybridSearchInput) -> Ranker:
    _require_within("k", args.k, 1, MAX_WINDOW - 1)
    for weight in args.weights or ():
        _require_within("weights", weight, 0, 1)
    if args.ranker == "weighted" and len(args.weights or ()) != len(args.legs):
        raise InvalidArgument(f"weights: {len(args.weights or ())} for {len(args.legs)} legs; give one for each")
    if args.weights is not None and args.ranker != "weighted":
        raise InvalidArgument("weights need ranker: weighted")
    if (args.function is None) != (args.ranker != "function"):
        raise InvalidArgument("ranker: function and the argument function go together")
    if args.function is not None and not args.function.keys() <= {"name", "input_field_names", "params"}:
        raise InvalidArgument("function: it has input_field_names and params, and perhaps a name")
    return Ranker(args.k, tuple(args.weights or ()), args.function)


def _leg(schema: CollectionSchema, args: HybridSearchInput, number: int, backend: Backend) -> Leg:
    asked = args.legs[number]
    sought = asked.text if asked.text is not None else asked.vector
    if sought is None or (asked.text is not None and asked.vector is not None):
        raise InvalidArgument(f"legs.{number}: give text or vector")
    if backend.is_lite and RANGE & asked.params.keys():
        raise NotSupported(
            f"legs.{number}: {backend} ignores radius and range_filter in a hybrid search", hint="search has them"
        )
    field = vector_field(schema, sought, asked.anns_field)
    target = target_of(schema, field, packed(field, sought), asked.params, backend)
    matching = both(rendered(args.filter, args.filter_params), rendered(asked.filter, asked.filter_params))
    limit = max(LEG_LIMIT, args.offset + args.limit) if asked.limit is None else asked.limit
    _require_within(f"legs.{number}.limit", limit, 1, MAX_WINDOW)
    grouped = 0 if args.group_by_field is None else args.limit * (args.group_size or 1) * GROUPED_REACH
    return Leg(target, matching, limit, max(limit, grouped))


def _grouping(backend: Backend, schema: CollectionSchema, args: HybridSearchInput) -> dict[str, Any]:
    if args.function is not None:
        backend.require(Feature.FUNCTION_RERANKER, where="ranker")
    if args.group_by_field is None:
        if args.group_size is not None:
            raise InvalidArgument("group_size needs group_by_field")
        return {}
    schema.require(args.group_by_field)
    backend.require(Feature.GROUP_BY, where="group_by_field")
    if args.group_size is None:
        return {"group_by_field": args.group_by_field}
    _require_within("group_size", args.group_size, 1, MAX_GROUP_SIZE)
    backend.require(Feature.GROUP_SIZE, where="group_size")
    return {"group_by_field": args.group_by_field, "group_size": args.group_size}


async def _fused_by_milvus(
    client: "Client",
    schema: CollectionSchema,
    args: HybridSearchInput,
    legs: list[Leg],
    ranker: Ranker,
    grouping: dict[str, Any],
) -> Found:
    hits = await client.search_hybrid(
        args.collection_name,
        legs,
        ranker,
        schema,
        limit=args.limit,
        output_fields=schema.output_fields(args.output_fields),
        partition_names=args.partition_names,
        consistency_level=args.consistency_level,
        **({"offset": args.offset} if args.offset else {}),
        **grouping,
    )
    return [(hit.id, hit.distance, hit["entity"]) for hit in hits]


async def _fused_here(
    client: "Client", schema: CollectionSchema, args: HybridSearchInput, legs: list[Leg], ranker: Ranker
) -> Found:
    entities: dict[Key, dict[str, Any]] = {}
    scores: list[list[Scored]] = [[] for _ in legs]

    at_once = anyio.CapacityLimiter(LEGS_AT_ONCE)

    async def run(number: int, leg: Leg) -> None:
        async with at_once:
            hits = await client.search_nearest(
                args.collection_name,
                leg.target.data,
                schema,
                anns_field=leg.target.field.name,
                filter=leg.matching,
                limit=leg.limit,
                output_fields=schema.output_fields(args.output_fields),
                search_params=leg.target.search_params(leg.reach),
                partition_names=args.partition_names,
                consistency_level=args.consistency_level,
            )
        scores[number] = [(hit.id, leg.target.sign * hit.distance) for hit in hits]
        entities.update({hit.id: hit["entity"] for hit in hits})

    async with anyio.create_task_group() as tasks:
        for number, leg in enumerate(legs):
            tasks.start_soon(partial(run, number, leg))
    fused = ranker.fused(scores, [leg.target.metric_type for leg in legs])
    return [(key, score, entities[key]) for key, score in fused[args.offset : args.offset + args.limit]]


def _output(
    app: App, schema: CollectionSchema, args: HybridSearchInput, found: Found, fused_by: str
) -> HybridSearchOutput:
    page = Page(schema, app.settings.max_result_bytes, frozenset(args.output_fields or ()))
    admitted = 0
    for key, score, entity in found:
        fields = {name: value for name, value in entity.items() if name != schema.primary_key.name}
        if not page.admit(fields, id=portable_key(key), score=plain_score(score)):
            break
        admitted += 1
    again = f"search again with offset: {args.offset + admitted}, or name fewer output_fields"
    notes = page.limits(stopped=again if admitted < len(found) else "") or []
    filters = " and ".join(each for each in (args.filter, *(leg.filter for leg in args.legs)) if each)
    notes += near_misses(schema, filters, args.output_fields)
    return HybridSearchOutput(hits=page.entities, fused_by=fused_by, applied_limits=notes or None)


TOOLS = (hybrid_search,)
