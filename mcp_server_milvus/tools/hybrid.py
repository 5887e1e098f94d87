"""Hybrid search: several searches of one collection, fused into one ranking."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
from pydantic import Field, WithJsonSchema

from mcp_server_milvus.addresses import entity_template
from mcp_server_milvus.app import App
from mcp_server_milvus.errors import InvalidArgument, NotSupported
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW, Backend, Feature
from mcp_server_milvus.milvus.entities import reads_text
from mcp_server_milvus.milvus.filter_help import near_misses
from mcp_server_milvus.milvus.filters import both, rendered
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.paging import FieldsByKey, Hit, admitted
from mcp_server_milvus.milvus.ranking import RRF_K, Ranker, Scored
from mcp_server_milvus.milvus.results import Page
from mcp_server_milvus.milvus.scanning import Source
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.schema import Field as SchemaField
from mcp_server_milvus.milvus.specs import Level
from mcp_server_milvus.milvus.targets import GROUPED_REACH, Leg, packed, target_of, vector_field
from mcp_server_milvus.planning import query_vectors
from mcp_server_milvus.tool import BoundedOutput, Input, tool
from mcp_server_milvus.vocabulary import DataType, Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

LEG_LIMIT = 50
"""Hits of a leg that says nothing: with only as many as are wanted in the end, fusing has little to work with."""

MAX_LEGS = 1_024
"""Source: Milvus's `maxSearchRequests` of hybrid search."""

LEGS_AT_ONCE = 8
MAX_GROUP_SIZE = 1_000
RANGE = frozenset({"radius", "range_filter"})


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
    entity_uri: str | None = Field(default=None, description="Address of a hit, to cite it by")
    loaded: bool | None = None


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def hybrid_search(app: App, args: HybridSearchInput) -> HybridSearchOutput:
    """Searches by several texts or vectors at once and fuses the hits into one ranking."""
    _require_within("legs", len(args.legs), 1, MAX_LEGS)
    _require_within("offset + limit", args.offset + args.limit, 1, MAX_WINDOW)
    ranker = _ranker(args)

    db_name = app.database(args.db_name)

    async def attempt(schema: CollectionSchema) -> HybridSearchOutput:
        sought = await _all_sought(app, db_name, schema, args)
        return await app.with_client(db_name, schema, partial(_fused, app, args, ranker, sought))

    output, loaded = await app.loaded_if_needed(
        db_name, args.collection_name, lambda: app.schemas.used_by(db_name, args.collection_name, attempt)
    )
    return output.model_copy(update={"loaded": True}) if loaded else output


@dataclass(frozen=True)
class _Sought:
    """What a leg searches for, in which field; `argument` is what a message calls it."""

    field: SchemaField
    what: str | list[float] | dict[str, float]
    argument: str = "vector"


async def _fused(
    app: App,
    args: HybridSearchInput,
    ranker: Ranker,
    sought: list[_Sought],
    client: "Client",
    schema: CollectionSchema,
) -> HybridSearchOutput:
    await client.confirm_indexes(args.collection_name, schema)
    legs = [_leg(schema, args, number, each, client.backend) for number, each in enumerate(sought)]
    grouping = _grouping(client.backend, schema, args)
    shown = schema.output_fields(args.output_fields)
    source = Source(args.collection_name, "", shown, args.partition_names, args.consistency_level)
    fields = FieldsByKey(client, schema, source)
    page = Page(schema, app.settings.max_result_bytes, frozenset(args.output_fields or ()))
    if client.backend.has(Feature.HYBRID_SEARCH):
        given, found = await _fused_by_milvus(page, fields, args, legs, ranker, grouping)
        output = _output(page, args, given, found, "milvus")
    else:
        hits = await _fused_here(fields, args, legs, ranker)
        output = _output(page, args, await fields.fill(page, hits), len(hits), "this server")
    return output.model_copy(update={"entity_uri": entity_template(client.database, args.collection_name)})


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


async def _all_sought(app: App, db_name: str, schema: CollectionSchema, args: HybridSearchInput) -> list[_Sought]:
    """What each leg searches for. Where an embedder is bound, it makes a text a vector before a client is borrowed."""
    bindings = app.bindings(db_name, schema)
    sought = [_sought(schema, number, leg, bindings.keys()) for number, leg in enumerate(args.legs)]
    embedded = [
        (number, (bindings[each.field.name], each.what))
        for number, each in enumerate(sought)
        if isinstance(each.what, str) and not reads_text(schema, each.field)
    ]
    vectors = await query_vectors(app.embedders, [text for _, text in embedded], app.settings.timeout)
    for (number, _), (vector, embedder) in zip(embedded, vectors, strict=True):
        sought[number] = _Sought(sought[number].field, vector, f"embedder {embedder}")
    return sought


def _sought(schema: CollectionSchema, number: int, leg: LegInput, bound: Collection[str]) -> _Sought:
    sought = leg.text if leg.text is not None else leg.vector
    if sought is None or (leg.text is not None and leg.vector is not None):
        raise InvalidArgument(f"legs.{number}: give text or vector")
    if leg.text is not None and not leg.text.strip():
        raise InvalidArgument(f"legs.{number}.text: it is blank")
    return _Sought(vector_field(schema, sought, leg.anns_field, bound), sought)


def _leg(schema: CollectionSchema, args: HybridSearchInput, number: int, sought: _Sought, backend: Backend) -> Leg:
    asked = args.legs[number]
    if backend.is_lite and RANGE & asked.params.keys():
        raise NotSupported(
            f"legs.{number}: {backend} ignores radius and range_filter in a hybrid search", hint="search has them"
        )
    data = packed(sought.field, sought.what, sought.argument)
    target = target_of(schema, sought.field, data, asked.params, backend)
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
    by = schema.require(args.group_by_field)
    if by.type.is_vector or by.type in {DataType.ARRAY, DataType.STRUCT}:
        raise InvalidArgument(
            f"group_by_field: {by.name} is {by.type}, which groups nothing; name a field of one value"
        )
    backend.require(Feature.GROUP_BY, where="group_by_field")
    if args.group_size is None:
        return {"group_by_field": args.group_by_field}
    _require_within("group_size", args.group_size, 1, MAX_GROUP_SIZE)
    backend.require(Feature.GROUP_SIZE, where="group_size")
    return {"group_by_field": args.group_by_field, "group_size": args.group_size}


async def _fused_by_milvus(
    page: Page, fields: FieldsByKey, args: HybridSearchInput, legs: list[Leg], ranker: Ranker, grouping: dict[str, Any]
) -> tuple[int, int]:
    """Fills the page. Returns how many hits are on it, of how many. Where they may be large, it asks for their keys."""
    is_small = args.limit * (args.group_size or 1) <= fields.at_once
    found = await fields.client.search_hybrid(
        args.collection_name,
        legs,
        ranker,
        fields.schema,
        limit=args.limit,
        output_fields=list(fields.source.output_fields) if is_small else [fields.schema.primary_key.name],
        partition_names=args.partition_names,
        consistency_level=args.consistency_level,
        **({"offset": args.offset} if args.offset else {}),
        **grouping,
    )
    hits = [Hit(hit.key, hit.score, by_score=False) for hit in found]
    if is_small:
        return await admitted(page, hits, {hit.key: hit.entity for hit in found}), len(hits)
    return await fields.fill(page, hits), len(hits)


async def _fused_here(fields: FieldsByKey, args: HybridSearchInput, legs: list[Leg], ranker: Ranker) -> list[Hit]:
    scores: list[list[Scored]] = [[] for _ in legs]

    at_once = anyio.CapacityLimiter(LEGS_AT_ONCE)

    async def run(number: int, leg: Leg) -> None:
        async with at_once:
            hits = await fields.client.search_nearest(
                args.collection_name,
                leg.target.data,
                fields.schema,
                anns_field=leg.target.field.name,
                matching=leg.matching,
                limit=leg.limit,
                output_fields=[fields.schema.primary_key.name],
                search_params=leg.target.search_params(leg.reach),
                partition_names=args.partition_names,
                consistency_level=args.consistency_level,
            )
        found = ((hit.key, leg.target.sign * hit.score) for hit in hits)
        scores[number] = [each for each in found if math.isfinite(each[1])]

    async with anyio.create_task_group() as tasks:
        for number, leg in enumerate(legs):
            tasks.start_soon(partial(run, number, leg))
    fused = ranker.fused(scores, [leg.target.metric_type for leg in legs])
    return [Hit(*each, by_score=True) for each in fused[args.offset : args.offset + args.limit]]


def _output(page: Page, args: HybridSearchInput, given: int, found: int, fused_by: str) -> HybridSearchOutput:
    """The page, which has so many of the hits that were found."""
    again = f"search again with offset: {args.offset + given}, or name fewer output_fields"
    notes = page.limits(stopped=again if given < found else "") or []
    filters = " and ".join(each for each in (args.filter, *(leg.filter for leg in args.legs)) if each)
    notes += near_misses(page.schema, filters, args.output_fields)
    return HybridSearchOutput(hits=page.entities, fused_by=fused_by, applied_limits=notes or None)


TOOLS = (hybrid_search,)
