"""Spans of the requests to Milvus, each under the span of its call, where those are recorded (`tracing`).

A span tells the request's name, database and collection, and how it ended: nothing of what was asked or answered.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# protobuf and grpc have no types.

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span, get_tracer

TRACER = get_tracer("mcp_server_milvus")
"""Of whichever provider there is when a span begins."""

LONGEST_NAME = 255


def is_traced() -> bool:
    """Whether the call that is under way is recorded. Without a provider, or a sampler's favour, none is."""
    return get_current_span().is_recording()


async def traced(rpc: str, db_name: str, request: Any, send: Callable[[], Awaitable[Any]]) -> Any:
    """The answer to a request, which has a span of its own."""
    with TRACER.start_as_current_span(
        f"milvus.{rpc}",
        kind=SpanKind.CLIENT,
        attributes=_attributes(rpc, db_name, request),
        record_exception=False,  # its text repeats filters and values
        set_status_on_exception=False,
    ) as span:
        try:
            answer = await send()
        except grpc.aio.AioRpcError as failure:
            code = failure.code()
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            _tell_failure(span, code.name)
            raise
        except CancelledError:
            _tell_failure(span, "cancelled")
            raise
        span.set_attribute("rpc.grpc.status_code", 0)
        if code := _milvus_code(answer):
            span.set_attribute("db.response.status_code", str(code))
            _tell_failure(span, str(code))
        return answer


def _attributes(rpc: str, db_name: str, request: Any) -> dict[str, str]:
    """By the semantic conventions for databases."""
    told = {"db.system.name": "milvus", "db.namespace": db_name, "db.operation.name": rpc}
    collection_name = _collection_name(request)
    return told | {"db.collection.name": collection_name[:LONGEST_NAME]} if collection_name else told


def _collection_name(request: Any) -> str:
    """That of a request about one collection. In some messages it has another name, or is one of a list."""
    one = getattr(request, "collection_name", "") or getattr(request, "collectionName", "")
    several = getattr(request, "collection_names", ())
    return one or (several[0] if len(several) == 1 else "")


def _milvus_code(answer: Any) -> int:
    """Milvus's own code of a failure, which gRPC takes for a success; of older servers, the kind of it."""
    status = getattr(answer, "status", answer)
    return getattr(status, "code", 0) or getattr(status, "error_code", 0)


def _tell_failure(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
