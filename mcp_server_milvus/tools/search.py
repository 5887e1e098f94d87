"""Search: the entities whose vectors are nearest."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import Conflict, InvalidArgument, NotFound, NotSupported
from mcp_server_milvus.milvus import schema as schemas
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW, Feature
from mcp_server_milvus.milvus.entities import checked_vector, reads_text
from mcp_server_milvus.milvus.filters import both, checked_key, keys_filter, literal, portable_key, rendered
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import Page, plain_score
from mcp_server_milvus.tool import BoundedOutput, Input, tool
from mcp_server_milvus.vocabulary import ConsistencyLevel, DataType, Effect, MetricType, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.quirks import Client
    from mcp_server_milvus.milvus.schema import CollectionSchema


BYTE_VECTORS = frozenset({DataType.BINARY_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR})
"""Types whose stored vectors pymilvus returns as a list of one piece of bytes."""


class SearchInput(Input):
    """What is near to what."""

    collection_name: Name
    text: str | None = Field(None, description="Plain words, for a field that a function computes from text")
    vector: list[float] | dict[str, float] | None = Field(
        None, description='Dense: [0.1, …]; sparse: {"index": weight}'
    )
    id: Annotated[int | str | None, Field(description="Primary key: more like this entity")] = None
    anns_field: Name | None = Field(None, description="The vector field; needed only when several fit")
    limit: int = Field(10, ge=1, le=16_384)
    offset: int = Field(0, ge=0)
    filter: str = Field("", description='e.g. year > 1990 and title like "a%"; {name} takes a value from filter_params')
    filter_params: dict[str, Any] | None = None
    output_fields: list[str] | None = Field(None, description="Default: all but vectors")
    partition_names: list[Name] | None = None
    radius: float | None = Field(None, description="Worst score that is still a hit")
    range_filter: float | None = Field(None, description="Best score that is still a hit, with radius")
    group_by_field: Name | None = Field(None, description="Only the best of each group")
    group_size: int | None = Field(None, ge=1, le=1_000, description="Or so many of each group")
    params: dict[str, Any] = Field(default_factory=dict, description='Of the index: {"ef": 100}, {"nprobe": 32}, …')
    consistency_level: ConsistencyLevel | None = Field(
        None, strict=False, description="Default: sees all that this server wrote"
    )
    db_name: Name | None = None


class SearchOutput(BoundedOutput):
    """Hits, best first."""

    hits: list[dict[str, Any]] = Field(description="{id, score, fields}")
    metric_type: str = Field(description="Of the scores: for L2, HAMMING and JACCARD smaller is better")
    anns_field: str
    loaded: bool | None = Field(default=None, description="The collection was loaded for this call")


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def search(app: App, args: SearchInput) -> SearchOutput:
    """Finds the entities nearest to a text, a vector, or another entity (exactly one of text, vector, id)."""
    if sum(given is not None for given in (args.text, args.vector, args.id)) != 1:
        raise InvalidArgument("search: give exactly one of text, vector, id")
    if args.offset + args.limit > MAX_WINDOW:
        raise InvalidArgument(f"offset + limit is {args.offset + args.limit}; at most {MAX_WINDOW} are possible")
    matching = rendered(args.filter, args.filter_params)

    async def read(client: "Client", schema: "CollectionSchema") -> SearchOutput:
        await client.confirm_indexes(args.collection_name, schema)
        target = await _target(client, schema, args)
        found = await client.search_nearest(
            args.collection_name,
            target.data,
            schema,
            anns_field=target.field.name,
            filter=both(matching, target.filter),
            limit=args.limit,
            offset=args.offset or None,
            output_fields=schema.output_fields(args.output_fields),
            search_params={"metric_type": target.metric_type, "params": _params(client, args, target)},
            partition_names=args.partition_names,
            consistency_level=args.consistency_level,
            **_grouping(client, schema, args),
        )
        return _output(app, schema, args, target, found)

    output, loaded = await app.read(app.database(args.db_name), args.collection_name, read)
    return output.model_copy(update={"loaded": True}) if loaded else output


@dataclass(frozen=True)
class _Target:
    """What is searched for, where, and by which metric. `sign` is -1 where the backend's scores have the wrong one."""

    field: schemas.Field
    data: Any
    metric_type: str
    filter: str = ""
    sign: int = 1


async def _target(client: "Client", schema: "CollectionSchema", args: SearchInput) -> _Target:
    field = _vector_field(schema, args)
    index = schema.index_of(field.name)
    if index is None:
        raise Conflict(f"{field} has no index", hint="call build_index first")
    excluded = ""
    data = args.text
    if args.vector is not None:
        data = checked_vector(field, args.vector, argument="vector")
    elif args.id is not None:
        key = checked_key(schema.primary_key, args.id)
        data = await _stored(client, schema, args, field)
        excluded = f"{schema.primary_key.name} != {literal(key)}"
    sign = -1 if client.backend.is_lite and index.metric_type == MetricType.BM25 else 1
    return _Target(field, data, index.metric_type, excluded, sign)


def _vector_field(schema: "CollectionSchema", args: SearchInput) -> schemas.Field:
    """The field to search: the one that is named, or the only one that fits what is searched for."""
    if args.anns_field:
        field = schema.require(args.anns_field)
        if not field.type.is_vector or not _fits(schema, field, args):
            raise InvalidArgument(f"anns_field: {field} cannot be searched with {_given(args)}; {_choices(schema)}")
        return field
    fitting = [field for field in schema.vector_fields if _fits(schema, field, args)]
    if isinstance(args.vector, list) and len(fitting) > 1:
        fitting = [field for field in fitting if field.dim == len(args.vector)] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        problem, hint = "more than one field", "name one of them in anns_field"
    else:
        problem, hint = "no field", "search with what one of the fields takes"
    raise InvalidArgument(
        f"{problem} of {schema.name} can be searched with {_given(args)}; {_choices(schema)}", hint=hint
    )


def _fits(schema: "CollectionSchema", field: schemas.Field, args: SearchInput) -> bool:
    if args.text is not None:
        return reads_text(schema, field)
    if args.vector is not None:
        sparse = field.type is DataType.SPARSE_FLOAT_VECTOR
        return sparse == isinstance(args.vector, dict) and not (sparse and reads_text(schema, field))
    return True


def _given(args: SearchInput) -> str:
    if args.text is not None:
        return "text"
    if args.id is not None:
        return "an id"
    return "a sparse vector" if isinstance(args.vector, dict) else "a dense vector"


def _choices(schema: "CollectionSchema") -> str:
    told = [f"{field} ({'text' if reads_text(schema, field) else 'vector'})" for field in schema.vector_fields]
    return f"vector fields: {', '.join(told)}"


async def _stored(client: "Client", schema: "CollectionSchema", args: SearchInput, field: schemas.Field) -> Any:
    """What the entity of that id has in the field, or in the text that the field is computed from."""
    source = schema.text_source_of(field.name)
    name = source.inputs[0] if source else field.name
    rows = await client.read_matching(
        args.collection_name,
        keys_filter(schema, [args.id if args.id is not None else ""]),
        schema,
        output_fields=[name],
        consistency_level=args.consistency_level,
    )
    value = rows[0].get(name) if rows else None
    if value is None:
        raise NotFound(f"id: {schema.name} has no entity {args.id!r} with a value in {name}")
    return cast("list[Any]", value)[0] if field.type in BYTE_VECTORS and isinstance(value, list) else value


def _params(client: "Client", args: SearchInput, target: _Target) -> dict[str, Any]:
    params = dict(args.params)
    client.backend.check_params(params)
    if params.pop("metric_type", target.metric_type) != target.metric_type:
        raise InvalidArgument(f"params: metric_type must be that of the index, {target.metric_type}; leave it out")
    if args.range_filter is not None and args.radius is None:
        raise InvalidArgument("range_filter needs radius")
    bounds = {"radius": args.radius, "range_filter": args.range_filter}
    return params | {name: target.sign * bound for name, bound in bounds.items() if bound is not None}


def _grouping(client: "Client", schema: "CollectionSchema", args: SearchInput) -> dict[str, Any]:
    if args.group_by_field is None:
        if args.group_size is not None:
            raise InvalidArgument("group_size needs group_by_field")
        return {}
    if args.group_by_field not in schema.by_name and schema.enable_dynamic_field:
        raise NotSupported(
            f"group_by_field: {args.group_by_field} is not in the schema; only its fields can group hits"
        )
    schema.require(args.group_by_field)
    client.backend.require(Feature.GROUP_BY, where="group_by_field")
    if args.group_size is None:
        return {"group_by_field": args.group_by_field}
    client.backend.require(Feature.GROUP_SIZE, where="group_size")
    return {"group_by_field": args.group_by_field, "group_size": args.group_size}


def _output(app: App, schema: "CollectionSchema", args: SearchInput, target: _Target, found: Any) -> SearchOutput:
    page = Page(schema, app.settings.max_result_bytes, frozenset(args.output_fields or ()))
    key_name = schema.primary_key.name
    admitted = 0
    for hit in found:
        fields = {name: value for name, value in hit["entity"].items() if name != key_name}
        if not page.admit(fields, id=portable_key(hit.id), score=plain_score(target.sign * hit.distance)):
            break
        admitted += 1
    stopped = (
        f"search again with offset: {args.offset + admitted}, or name fewer output_fields"
        if admitted < len(found)
        else ""
    )
    return SearchOutput(
        hits=page.entities,
        metric_type=target.metric_type,
        anns_field=target.field.name,
        applied_limits=page.limits(stopped=stopped),
    )


TOOLS = (search,)
