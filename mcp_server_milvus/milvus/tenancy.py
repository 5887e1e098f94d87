"""What a caller with a mandatory filter reads, deletes and writes: entities that match it, and nothing else.

Its filter is AND-ed to every other. It writes only entities that match it, and only under keys that are its own: such
as Milvus makes, such as begin with its prefix, and those of entities that it sees. Whether there is an entity with
another key makes no difference to any answer.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# protobuf has no types.

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from mcp_server_milvus.errors import Denied, InvalidFilter
from mcp_server_milvus.milvus.answers import COUNT, counted
from mcp_server_milvus.milvus.filters import (
    CONNECTIVES,
    Token,
    both,
    canonical,
    equalities,
    literal,
    names_in,
    understood,
)
from mcp_server_milvus.milvus.functions import BOOST, RANKERS, ranker_of, rankers

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.guard import Guard

KEYS_AT_ONCE = 10_000
FLOATS = frozenset({schema_pb2.DataType.Float, schema_pb2.DataType.Double})


async def judge(guard: "Guard", rpc: str, request: Any) -> None:
    """Makes a request one about the caller's own entities.

    Raises:
        InvalidFilter: its filter is not understood.
        Denied: it would write what is not the caller's, or delete what others have under the same key.
    """
    match rpc:
        case "Query":
            request.expr = await _narrowed(guard, request, request.expr)
        case "Delete":
            request.expr = await _narrowed(guard, request, request.expr)
            await _require_unshared(guard, request)
        case "Search":
            _require_plain(request)
            _require_unaided(request)
            for each in (request, *request.sub_reqs):
                each.dsl = await _narrowed(guard, request, each.dsl)
        case "HybridSearch":
            _require_unaided(request)
            for each in request.requests:
                _require_plain(each)
                each.dsl = await _narrowed(guard, request, each.dsl)
        case "Insert" | "Upsert":
            await _judge_write(guard, rpc, request)
        case _:
            pass


def has_tenants(schema: Any, mandatory_filter: str) -> bool:
    """Whether a collection has what the filter asks about: of another, the caller owns no entity."""
    asked = names_in(understood(mandatory_filter))
    return schema.enable_dynamic_field or asked <= {each.name for each in schema.fields}


def hide_counts(answer: Any) -> None:
    """Takes out of the descriptions of indexes what depends on how many entities all callers have."""
    for each in answer.index_descriptions:
        each.indexed_rows = each.total_rows = each.pending_index_rows = 0
        if each.state != common_pb2.IndexState.Failed:
            each.state = common_pb2.IndexState.Finished


async def _narrowed(guard: "Guard", request: Any, text: str) -> str:
    """The filter AND the caller's, which comes first: what does not match it is not looked at any further."""
    if getattr(request, "expr_template_values", None):
        raise InvalidFilter("filter: values apart from the filter are not understood here")
    tokens = understood(text)
    if guard.is_lite and tokens:
        described = await guard.described(request.collection_name)
        _require_exact(tokens, described.schema.fields if described else ())
    return both(guard.reach.mandatory_filter, canonical(tokens))


def _require_exact(tokens: Sequence[Token], fields: Sequence[Any]) -> None:
    """Nothing, if no comparison makes Milvus Lite turn an INT64 field into fractions.

    It then fails if any entity of anybody has a number beyond 2^53 there, and so would tell.
    """
    whole = {each.name for each in fields if each.data_type == schema_pb2.DataType.Int64}
    fractions = {each.name for each in fields if each.data_type in FLOATS}
    words: set[str] = set()
    for token in (*tokens, Token("mark", "and")):
        if token.kind != "string" and token.text.lower() in CONNECTIVES:
            if (found := sorted(words & whole)) and "/" in words:
                raise InvalidFilter(
                    f"filter: {found[0]} is INT64; compare it with whole numbers and INT64 fields only",
                    hint="write 3 in place of 3.0, and do without /",
                )
            words = set()
        elif token.kind == "number" and not token.text.isdigit():
            words.add("/")
        elif token.kind != "string":
            words.add("/" if token.text in fractions else token.text)


def _require_plain(request: Any) -> None:
    """Nothing, if it searches with what it brings, not with what some entity has."""
    by_keys = getattr(request, "search_by_primary_keys", False)
    if by_keys or ("ids" in request.DESCRIPTOR.fields_by_name and request.HasField("ids")):
        raise Denied("search by key is not possible here", hint="get the entity, then search with its vector")


def _require_unaided(request: Any) -> None:
    """Nothing, if no ranker brings a filter of its own, which Milvus would put to the entities of others too."""
    if any(ranker_of(function) == BOOST for function in rankers(request)):
        others = ", ".join(sorted(RANKERS - {BOOST}))
        raise Denied("function: the reranker boost is not possible here", hint=f"use one of {others}")


async def _require_unshared(guard: "Guard", request: Any) -> None:
    """Nothing, if nobody else has an entity with the key of one that would be deleted.

    A server finds what matches the filter and then deletes by key, duplicates included. Milvus Lite has none.
    """
    described = await guard.described(request.collection_name)
    if guard.is_lite or described is None:
        return
    key, after = _primary_key(described.schema), ""
    while keys := await _keys(guard, request, key.name, both(request.expr, after)):
        await _require_nobody_elses(guard, request, key.name, keys)
        after = f"{key.name} > {literal(keys[-1])}"


async def _require_nobody_elses(guard: "Guard", request: Any, key: str, keys: Sequence[int | str]) -> None:
    among = f"{key} in {literal(list(keys))}"
    mine = await _count(guard, request, both(guard.reach.mandatory_filter, among))
    if await _count(guard, request, among) != mine:
        raise _not_own(guard, key)


async def _judge_write(guard: "Guard", rpc: str, request: Any) -> None:
    described = await guard.described(request.collection_name)
    if described is None:
        return  # Milvus will say so
    columns = {each.field_name: each for each in request.fields_data}
    _require_match(guard, described.schema, columns)
    key = _primary_key(described.schema)
    if key.name not in columns:
        if rpc == "Insert" and key.autoID:
            return
        raise _not_own(guard, key.name)
    keys = cast("list[int | str]", _values(columns[key.name]))
    prefix = guard.reach.key_prefix
    others = [each for each in keys if not (prefix and isinstance(each, str) and each.startswith(prefix))]
    if others and rpc == "Insert":
        raise _not_own(guard, key.name)
    if others:
        among = f"{key.name} in {literal(others)}"
        seen = await _keys(guard, request, key.name, both(guard.reach.mandatory_filter, among))
        if not set(others) <= set(seen):
            raise _not_own(guard, key.name)
    await _require_nobody_elses(guard, request, key.name, keys)


def _require_match(guard: "Guard", schema: Any, columns: dict[str, Any]) -> None:
    """Raises Denied if an entity would not match the caller's filter, or that cannot be told beforehand."""
    asked = equalities(guard.reach.mandatory_filter)
    if asked is None:
        raise Denied("this caller can only read", hint="its filter does not say what an entity of its own has to have")
    declared = {each.name for each in schema.fields}
    for name, value in asked.items():
        given = _values(columns[name]) if name in columns else []
        if name not in declared:
            given = [entity.get(name) for entity in _dynamic(columns)]
        if not given or any(type(each) is not type(value) or each != value for each in given):
            raise Denied(
                f"{name}: entities of this caller have {literal(value)} there",
                hint=f"leave {name} out: it is filled in",
            )


def _dynamic(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """What the entities have in the dynamic field."""
    column = next((each for each in columns.values() if each.is_dynamic), None)
    return [json.loads(text) for text in column.scalars.json_data.data] if column else []


def _values(column: Any) -> list[Any]:
    """The values of a column, None for each that is null."""
    kind = column.scalars.WhichOneof("data")
    given = list(getattr(column.scalars, kind).data) if kind else []
    return [*given, None] if not all(column.valid_data) else given


def _primary_key(schema: Any) -> Any:
    return next(each for each in schema.fields if each.is_primary_key)


def _not_own(guard: "Guard", key: str) -> Denied:
    """The one refusal for every key that may be somebody else's, whether it is there or not."""
    prefix = guard.reach.key_prefix
    own = f"begins with {prefix!r}, or is that" if prefix else "is that"
    return Denied(
        f"{key}: a key that may belong to others; a key of this caller {own} of an entity that it sees",
        hint="insert without keys where Milvus makes them"
        + (f", or with keys that begin with {prefix}" * bool(prefix)),
    )


async def _count(guard: "Guard", request: Any, matching: str) -> int:
    answer = await _queried(guard, request, matching, COUNT)
    return counted([{COUNT: each} for field in answer.fields_data[:1] for each in field.scalars.long_data.data])


async def _keys(guard: "Guard", request: Any, key: str, matching: str) -> list[int | str]:
    """The first keys, in their order, of the entities that match."""
    paged = {"limit": str(KEYS_AT_ONCE), "reduce_stop_for_best": "True", "iterator": "True"}
    answer = await _queried(guard, request, matching, key, **paged)
    found = [each for each in answer.fields_data if each.field_name == key]
    return _values(found[0]) if found else []


async def _queried(guard: "Guard", request: Any, matching: str, *fields: str, **params: str) -> Any:
    """Milvus's answer, which sees every write. It is not the caller's to see."""
    asked = milvus_pb2.QueryRequest(
        collection_name=request.collection_name,
        expr=matching,
        output_fields=fields,
        query_params=[common_pb2.KeyValuePair(key=name, value=value) for name, value in params.items()],
        consistency_level=common_pb2.ConsistencyLevel.Strong,
    )
    answer = await guard.sent("Query", asked)
    check_status(answer.status)
    return answer
