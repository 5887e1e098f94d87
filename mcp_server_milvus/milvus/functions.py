"""What Milvus itself computes with: functions of a collection and rankers of a search. None calls out where it is told.

A function may send stored texts to a model elsewhere. To where is for the operator to say, in Milvus's own settings:
an address among the arguments of a call would let whoever writes them have the texts, or reach Milvus's network.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# protobuf has no types.

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pymilvus.grpc_gen import schema_pb2

from mcp_server_milvus.errors import Denied

BOOST = "boost"
RANKERS = frozenset({BOOST, "decay", "rrf", "weighted"})
"""Rankers that compute inside Milvus."""

ADDRESSES = frozenset({"url", "base_url", "uri", "endpoint", "host", "resource_name"})
"""Parameters that say where a model is."""

FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "CreateCollection": lambda request: schema_pb2.CollectionSchema.FromString(request.schema).functions,
    "AddCollectionFunction": lambda request: [request.functionSchema],
    "AlterCollectionFunction": lambda request: [request.functionSchema],
    "AlterCollectionSchema": lambda request: request.action.add_request.func_schema,
}
"""The functions that a request gives a collection."""


def require_inside(rpc: str, request: Any) -> None:
    """Nothing, unless a ranker is none that computes inside Milvus, or a function brings the address of a model.

    Raises:
        Denied: it is so.
    """
    for kind in map(ranker_of, rankers(request)):
        if kind not in RANKERS:
            raise Denied(
                "function: a ranker that asks a model elsewhere, or an unknown one, is not possible",
                hint=f"params.reranker is one of {', '.join(sorted(RANKERS))}; params has no provider, and no address",
            )
    if getattr(request, "function_chains", ()):
        raise Denied("function_chains are not possible", hint=f"use one of {', '.join(sorted(RANKERS))}")
    for function in FUNCTIONS[rpc](request) if rpc in FUNCTIONS else ():
        if told := sorted(ADDRESSES & {key for key, _ in params_of(function)}):
            raise Denied(
                f"function {function.name}: {told[0]}: where a model is cannot be said in a call",
                hint="leave it out; the operator says so in the settings of Milvus itself",
            )


def rankers(request: Any) -> Any:
    """The functions by which a search ranks its hits."""
    return request.function_score.functions if "function_score" in request.DESCRIPTOR.fields_by_name else ()


def ranker_of(function: Any) -> str:
    """What kind of ranker it is; nothing, if it brings no kind, an address, or a provider that has one."""
    given = list(params_of(function))
    kinds = {value.strip().lower() for key, value in given if key == "reranker"}
    calls_out = any(key == "provider" or key in ADDRESSES for key, _ in given)
    return kinds.pop() if len(kinds) == 1 and not calls_out else ""


def params_of(function: Any) -> Iterator[tuple[str, str]]:
    """Its parameters. Milvus does not tell capital from small letters in their names."""
    return ((pair.key.strip().lower(), pair.value) for pair in function.params)
