"""How a request of a handshake protocol is answered: by plain JSON, or by an event stream if more is to come with it.

A JSON reply costs half of the CPU, but can bring neither progress nor a question for the user. The SDK decides once
for a transport; here each request decides. In the modern protocol the SDK does so by itself.

The one name of the SDK's that is not public is here: where its session manager looks up the class of its transports.
"""

import contextlib
import re
from collections.abc import AsyncGenerator, Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ClassVar, Self

from mcp.server import streamable_http_manager
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, StreamableHTTPServerTransport, check_accept_headers
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

PROGRESS_TOKEN = "progressToken"  # noqa: S105


def reply_as_each_request_needs(asking: Iterable[str]) -> None:
    """Makes session managers of this process use transports that decide for each request.

    `asking` names the tools that may have a question for the user.
    """

    class Asking(Replies):
        told_in_between = _any_of([PROGRESS_TOKEN])
        told_or_asked_in_between = _any_of([PROGRESS_TOKEN, *asking])

    streamable_http_manager.StreamableHTTPServerTransport = Asking  # pyright: ignore[reportPrivateImportUsage]


def _any_of(names: Iterable[str]) -> re.Pattern[bytes]:
    """Finds one of the names as a whole JSON string. What only looks like one costs an event stream, and no more."""
    return re.compile(b'"(?:%s)"' % b"|".join(re.escape(name).encode() for name in names))


class Replies(StreamableHTTPServerTransport):
    """The SDK's transport, which asks about each request whether its answer is plain JSON."""

    told_in_between: re.Pattern[bytes]
    told_or_asked_in_between: re.Pattern[bytes]

    plain: ClassVar = ContextVar("plain", default=False)
    """Whether the request of this context is answered by plain JSON."""

    _is_always_plain = False
    _has_a_user = False

    @property
    def is_json_response_enabled(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._is_always_plain or self.plain.get()

    @is_json_response_enabled.setter
    def is_json_response_enabled(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._is_always_plain = value

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await super().handle_request(scope, receive, send)
            return
        request = Request(scope, receive)
        body = await request.body()
        if self.mcp_session_id and MCP_SESSION_ID_HEADER not in request.headers:  # it opens the session
            self._has_a_user = b'"elicitation"' in body
        is_plain = self._is_plain(request, body)
        token = self.plain.set(is_plain)
        try:
            await super().handle_request(scope, again(body, receive), send)
        finally:
            self.plain.reset(token)

    def _is_plain(self, request: Request, body: bytes) -> bool:
        more = self.told_or_asked_in_between if self._has_a_user else self.told_in_between
        return not more.search(body) or not check_accept_headers(request)[1]

    @contextlib.asynccontextmanager
    async def connect(
        self,
    ) -> AsyncGenerator[tuple[Any, Any]]:
        async with super().connect() as (incoming, outgoing):
            yield incoming, _AnswersAlone(outgoing)


def again(body: bytes, receive: Receive) -> Receive:
    """What is received by whoever comes after the body was read."""
    is_told = False

    async def received() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


class _AnswersAlone:
    """The way out, on which nothing goes beside the answer that a plain reply has no room for.

    The transport would take it for the answer.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send(self, item: SessionMessage, /) -> None:
        metadata = item.metadata
        is_beside = isinstance(metadata, ServerMessageMetadata) and metadata.related_request_id is not None
        if not (is_beside and Replies.plain.get()):
            await self._stream.send(item)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None:
        await self.aclose()
        return None
