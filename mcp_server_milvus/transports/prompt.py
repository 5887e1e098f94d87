"""Connections whose clients send what they have to say, and in time; and whose end can be heard of at once."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTION = "mcp_server_milvus.connection"
"""Key of a request's scope: the `PromptProtocol` over which it came."""

REQUEST_SECONDS = 20.0
"""In which a request has to come, head and body."""

SLOWEST = 16_384
"""Bytes in a second: for each so many a request has another one."""


class PromptProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but that nobody holds a connection by sending a request slowly, or without end.

    uvicorn alone waits for ever for the end of a head or a body, and reads a body that nobody wants to its end.
    """

    def __init__(self, *args: Any, largest: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._largest = largest
        self._received = 0
        self._since: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._on_end: Callable[[], None] | None = None
        self._app: Any = self.app
        self.app: Any = self._called

    async def _called(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CONNECTION] = self
        await self._app(scope, receive, send)

    @contextmanager
    def on_end(self, act: Callable[[], None]) -> Generator[None]:
        """While the block runs, `act` is called when the connection ends. In ASGI, a task would have to wait for it."""
        self._on_end = act
        try:
            if self.transport.is_closing():
                act()
            yield
        finally:
            self._on_end = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        if self._on_end:
            self._on_end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._since is None:
            self._wait_for_request()
        self._received += len(data)
        if self._received > self._largest:
            self.transport.abort()
            return
        request = self.cycle, self.conn.their_state
        super().data_received(data)
        if self._is_complete:
            self._wait_no_more()
        elif (self.cycle, self.conn.their_state) != request:
            self._wait_for_request()

    def on_response_complete(self) -> None:
        """The next request may have come in part already."""
        super().on_response_complete()
        if not self.transport.is_closing() and self._since is None:
            self._wait_for_request()
            if self._is_complete:
                self._wait_no_more()

    def _wait_for_request(self) -> None:
        self._wait_no_more()
        self._since, self._received = self.loop.time(), 0
        self._watch = self.loop.call_later(REQUEST_SECONDS, self._look)

    @property
    def _is_complete(self) -> bool:
        """Whether the request is."""
        return self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}

    def _wait_no_more(self) -> None:
        self._since = None
        if self._watch:
            self._watch.cancel()

    def _look(self) -> None:
        if self._since is None:
            return
        end = self._since + REQUEST_SECONDS + self._received / SLOWEST
        if self.loop.time() >= end:
            self.transport.abort()
        else:
            self._watch = self.loop.call_at(end, self._look)
