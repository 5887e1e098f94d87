"""stdio: one client over the process's standard input and output.

The SDK's own transport parks a thread on each stream, and drops the calls in flight at end of input. This one reads and
writes pipes in the event loop, answers every line before it ends, and says what is wrong with one that is no message.
It is the only file that uses a private name of the SDK: `MCPServer._lowlevel_server`.
"""

import asyncio
import contextlib
from collections import Counter
from typing import Any

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.server import MCPServer
from mcp.server.lowlevel import NotificationOptions
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp.shared.message import SessionMessage
from mcp_types import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)

from mcp_server_milvus.notices import Subscribed
from mcp_server_milvus.transports.direct_calls import DirectCalls, modern_route
from mcp_server_milvus.transports.lines import MESSAGE_LIMIT, Lines, NoMessage, message_in
from mcp_server_milvus.transports.signals import on_stop_signal
from mcp_server_milvus.transports.streams import Writer, standard_streams


async def serve_stdio(
    server: MCPServer[Any], *, drain_seconds: float = 60, subscribed: Subscribed | None = None
) -> None:
    """Serve the client at standard input and output until its input ends, or SIGTERM or SIGINT, or it reads no more.

    Calls in flight are then answered, for at most `drain_seconds`, and everything is written out before this returns.
    With `subscribed`, a client of the older protocol can subscribe to resources.
    """
    lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if subscribed:
        lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribed.subscribe)
        lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, subscribed.unsubscribe)
    options = lowlevel.create_initialization_options(NotificationOptions(resources_changed=True))
    reader = asyncio.StreamReader(limit=MESSAGE_LIMIT)
    lines, in_flight = Lines(reader), _InFlight()

    def hang_up() -> None:
        lines.end()
        in_flight.abandon()

    async with standard_streams(reader, hang_up) as writer, lowlevel.lifespan(lowlevel) as state:
        output = _Output(writer, in_flight)
        direct = DirectCalls(lowlevel, state, output.send)
        wire = _Wire(lines, output, in_flight, direct, drain_seconds)
        with on_stop_signal(lines.end):
            try:
                while not lines.ended:
                    await serve_dual_era_loop(lowlevel, wire, wire, lifespan_state=state, init_options=options)
            finally:
                await direct.end()


class _Output:
    """The way to the client."""

    def __init__(self, writer: Writer, in_flight: "_InFlight") -> None:
        self._writer = writer
        self._in_flight = in_flight

    async def send(self, message: JSONRPCMessage) -> None:
        """Writes a message.

        Raises:
            BrokenResourceError: the client reads no more.
        """
        if self._in_flight.abandoned:
            raise anyio.BrokenResourceError
        self._writer.write(message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
        self._in_flight.sent(message)
        try:
            await self._writer.drain()
        except OSError:
            raise anyio.BrokenResourceError from None


class _Wire(ObjectReceiveStream[SessionMessage | Exception], ObjectSendStream[SessionMessage]):
    """The client, as the two streams that the SDK's loop takes. A loop that ends does not close it.

    The SDK's loop is for one era, the one of its first request, and refuses the other. But a client may ask
    `server/discover` and then `initialize` all the same, so what comes before the era is known makes a loop of its own.
    Of the modern era, calls of tools do not get there: they are answered directly.
    """

    def __init__(
        self, lines: Lines, output: _Output, in_flight: "_InFlight", direct: DirectCalls, drain_seconds: float
    ) -> None:
        self._lines = lines
        self._output = output
        self._in_flight = in_flight
        self._direct = direct
        self._drain_seconds = drain_seconds
        self._era_known = False
        self._is_modern = False
        self._probed = False

    async def receive(self) -> SessionMessage:
        """The next message. The end of the stream, which ends what is in flight, comes after the last answer."""
        message = None
        while message is None and not (self._probed or self._lines.ended):
            message = await self._read()
        self._probed = False
        if message is None:
            with anyio.move_on_after(self._drain_seconds):
                await self._in_flight.all_settled()
            raise anyio.EndOfStream
        if isinstance(message, JSONRPCRequest) and not self._era_known:
            self._probed = message.method == "server/discover"
            self._era_known = not self._probed
            self._is_modern = self._era_known and message.method != "initialize" and modern_route(message) is not None
        return SessionMessage(message)

    async def send(self, item: SessionMessage) -> None:
        await self._output.send(item.message)

    async def aclose(self) -> None:
        """Nothing: `serve_stdio` opened the streams and closes them."""

    async def _read(self) -> JSONRPCMessage | None:
        """Reads a line: a message for the SDK's loop, or None. What is answered here is not held any longer."""
        try:
            line = await self._lines.next()
            if not line or line.isspace():
                return None
            message = message_in(line)
        except NoMessage as refused:
            with contextlib.suppress(anyio.BrokenResourceError):
                await self._output.send(refused.answer)
            return None
        self._in_flight.received(message)
        if not self._is_taken(message):
            return message
        await asyncio.sleep(0)  # or the event loop would wait for all lines that are there to be parsed
        return None

    def _is_taken(self, message: JSONRPCMessage) -> bool:
        """Whether it is a call that is answered directly, or cancels one."""
        match message:
            case JSONRPCRequest(method="tools/call") if self._is_modern and (route := modern_route(message)):
                self._direct.begin(message, route)
                return True
            case JSONRPCNotification(method="notifications/cancelled"):
                request_id = cancelled_request_id_from_params(message.params)
                return request_id is not None and self._direct.cancel(request_id)
            case _:
                return False


class _InFlight:
    """The requests that came and are not yet answered. An id may be there more than once."""

    def __init__(self) -> None:
        self.abandoned = False
        self._ids = Counter[str]()
        self._settled = anyio.Event()

    def received(self, message: JSONRPCMessage) -> None:
        if self.abandoned:
            return
        match message:
            case JSONRPCRequest(method="subscriptions/listen"):
                pass  # answered only when the client ends it
            case JSONRPCRequest():
                self._ids[str(message.id)] += 1
            case JSONRPCNotification(method="notifications/cancelled", params={"requestId": request_id}):
                self._settle(request_id)
            case _:
                pass

    def sent(self, message: JSONRPCMessage) -> None:
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._settle(message.id)

    def abandon(self) -> None:
        """The client reads no more: nobody waits for an answer."""
        self.abandoned = True
        self._ids.clear()
        self._settled.set()

    async def all_settled(self) -> None:
        while self._ids:
            self._settled = anyio.Event()
            await self._settled.wait()

    def _settle(self, request_id: RequestId | None) -> None:
        key = str(request_id)
        if self._ids[key] <= 1:
            del self._ids[key]
        else:
            self._ids[key] -= 1
        self._settled.set()
