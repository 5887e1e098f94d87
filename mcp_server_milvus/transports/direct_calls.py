"""Calls of tools at the other end of stdio, in the modern protocol: each is a task, answered when it is done.

The SDK's loop reads a stream that it copies into another one, and makes two more tasks for each call.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    RequestId,
)

from mcp_server_milvus.transports.answering import Exchange, WayBack, answer_to

PIPE = TransportContext(kind="jsonrpc", can_send_request=False)

LOGGER = logging.getLogger(__name__)


def modern_route(request: JSONRPCRequest) -> InboundModernRoute | None:
    """What a request of the modern protocol says of its client; None for what the SDK refuses, or has another way."""
    route = classify_inbound_request({"method": request.method, "params": request.params})
    return route if isinstance(route, InboundModernRoute) else None


class DirectCalls:
    """The calls that are under way. `send` writes a message, or raises BrokenResourceError when nobody reads it."""

    def __init__(self, server: Server[Any], state: Any, send: Callable[[JSONRPCMessage], Awaitable[None]]) -> None:
        self._server = server
        self._state = state
        self._send = send
        self._client = NotifyOnlyOutbound(WayBack(self._tell))
        self._known: tuple[InboundModernRoute, ServerRunner[Any]] | None = None
        self._by_id: dict[RequestId, _Call] = {}
        self._tasks: dict[asyncio.Task[None], _Call] = {}

    def begin(self, request: JSONRPCRequest, route: InboundModernRoute) -> None:
        """Starts the call. Its answer is sent when it is there, and none when the client cancels it."""
        this = _Call(Exchange(request, PIPE, self._tell), route)
        self._by_id[this.key] = this  # the last one of several with the same id, as the SDK has it
        self._start(self._answered(this), this)

    def cancel(self, request_id: RequestId) -> bool:
        """Ends a call whose client wants no answer any more; False if it is none of these."""
        this = self._by_id.get(coerce_request_id(request_id))
        if this:
            this.exchange.cancel_requested.set()
            this.scope.cancel()
        return this is not None

    async def end(self) -> None:
        """Ends all calls, and tells their clients so."""
        with anyio.CancelScope(shield=True):
            for this in self._tasks.values():
                this.scope.cancel()
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def _answered(self, this: "_Call") -> None:
        exchange, answer = this.exchange, None
        with this.scope:
            answer = await answer_to(exchange, self._runner(this.route))
        if not exchange.cancel_requested.is_set():
            await self._tell(answer or _error(exchange, CONNECTION_CLOSED, "Connection closed"))

    def _runner(self, route: InboundModernRoute) -> ServerRunner[Any]:
        """The SDK's handlers, for a client that says this of itself: with each call, and always the same."""
        if self._known is None or self._known[0] != route:
            connection = Connection.from_envelope(
                route.protocol_version, route.client_info, route.client_capabilities, outbound=self._client
            )
            self._known = route, ServerRunner(self._server, connection, self._state)
        return self._known[1]

    def _start(self, work: Coroutine[Any, Any, None], this: "_Call") -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = this
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        this = self._tasks.pop(task)
        if self._by_id.get(this.key) is this:
            del self._by_id[this.key]
        failure = None if task.cancelled() else task.exception()
        if failure:
            LOGGER.error("a call could not be answered", exc_info=failure)
        if failure and not (this.exchange.cancel_requested.is_set() or this.has_failed):
            this.has_failed = True  # or the telling of it could fail again and again
            self._start(self._tell(_error(this.exchange, INTERNAL_ERROR, "Internal server error")), this)

    async def _tell(self, message: JSONRPCMessage) -> None:
        with contextlib.suppress(anyio.BrokenResourceError):  # the client is gone
            await self._send(message)


class _Call:
    """One call and what ends it."""

    def __init__(self, exchange: Exchange, route: InboundModernRoute) -> None:
        self.exchange = exchange
        self.route = route
        self.key = coerce_request_id(exchange.request_id)
        self.scope = anyio.CancelScope()
        self.has_failed = False


def _error(exchange: Exchange, code: int, message: str) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=exchange.request_id, error=ErrorData(code=code, message=message))
