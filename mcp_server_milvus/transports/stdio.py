"""stdio: one client over the process's standard input and output.

The SDK's own transport parks a thread on each stream, and drops the calls in flight at end of input. This one reads and
writes pipes in the event loop, answers every line before it ends, and says what is wrong with one that is no message.
It is the only file that uses a private name of the SDK: `MCPServer._lowlevel_server`.
"""

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any, cast

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.server import MCPServer
from mcp.server.lowlevel import NotificationOptions
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import from_json

from mcp_server_milvus.notices import Subscribed
from mcp_server_milvus.transports.signals import on_stop_signal
from mcp_server_milvus.transports.streams import Writer, standard_streams

MESSAGE_LIMIT = 256 * 1024 * 1024


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
    lines, calls = _Lines(reader), _Calls()

    def hang_up() -> None:
        lines.end()
        calls.abandon()

    async with standard_streams(reader, hang_up) as writer, lowlevel.lifespan(lowlevel) as state:
        wire = _Wire(lines, writer, calls, drain_seconds)
        with on_stop_signal(lines.end):
            while not lines.ended:
                await serve_dual_era_loop(lowlevel, wire, wire, lifespan_state=state, init_options=options)


class _Wire(ObjectReceiveStream[SessionMessage | Exception], ObjectSendStream[SessionMessage]):
    """The client, as the two streams that the SDK's loop takes. A loop that ends does not close it.

    The SDK's loop is for one era, the one of its first request, and refuses the other. But a client may ask
    `server/discover` and then `initialize` all the same, so what comes before the era is known makes a loop of its own.
    """

    def __init__(self, lines: "_Lines", writer: Writer, calls: "_Calls", drain_seconds: float) -> None:
        self._lines = lines
        self._writer = writer
        self._calls = calls
        self._drain_seconds = drain_seconds
        self._era_known = False
        self._probed = False

    async def receive(self) -> SessionMessage:
        """The next message. The end of the stream, which cancels what is in flight, comes after the last answer."""
        message = None if self._probed else await self._next_message()
        self._probed = False
        if message is None:
            with anyio.move_on_after(self._drain_seconds):
                await self._calls.all_settled()
            raise anyio.EndOfStream
        self._calls.received(message)
        if isinstance(message, JSONRPCRequest) and not self._era_known:
            self._probed = message.method == "server/discover"
            self._era_known = not self._probed
        return SessionMessage(message)

    async def send(self, item: SessionMessage) -> None:
        if self._calls.abandoned:
            raise anyio.BrokenResourceError
        self._writer.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
        self._calls.sent(item.message)
        try:
            await self._writer.drain()
        except OSError:
            raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        """Nothing: `serve_stdio` opened the streams and closes them."""

    async def _next_message(self) -> JSONRPCMessage | None:
        while not self._lines.ended:
            try:
                line = await self._lines.next()
                if line and not line.isspace():
                    return _message(line)
            except _Refused as refused:
                with contextlib.suppress(anyio.BrokenResourceError):
                    await self.send(SessionMessage(refused.answer))
        return None


class _Refused(Exception):
    """A line is no JSON-RPC message. Carries the answer."""

    def __init__(self, code: int, message: str, request_id: RequestId | None = None) -> None:
        super().__init__(message)
        self.answer = JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))


def _message(line: bytes) -> JSONRPCMessage:
    try:
        frame = from_json(line)
    except ValueError as error:
        raise _Refused(PARSE_ERROR, f"Parse error: {error}", _unparsed_id(line)) from None
    try:
        message = jsonrpc_message_adapter.validate_python(frame, by_name=False)
    except ValidationError:
        raise _Refused(INVALID_REQUEST, "This is no JSON-RPC 2.0 message", _request_id(frame)) from None
    if isinstance(message, JSONRPCNotification) and "id" in frame:
        raise _Refused(INVALID_REQUEST, "The id of a request is a string or an integer")
    return message


def _unparsed_id(line: bytes) -> RequestId | None:
    """The id of a line that the SDK's parser does not take and Python's does: half a surrogate pair, deep nesting."""
    try:
        request_id = _request_id(json.loads(line))
        str(request_id).encode()  # half a surrogate pair as the id itself could not be sent back
    except (ValueError, RecursionError):
        return None
    return request_id


def _request_id(frame: Any) -> RequestId | None:
    """The id that the client waits for, if any. Not that of a malformed response: it is one of our own."""
    if not isinstance(frame, dict) or frame.keys() & {"result", "error"}:
        return None
    request_id = cast("dict[str, Any]", frame).get("id")
    return request_id if type(request_id) in (int, str) else None


class _Calls:
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


class _Lines:
    """The lines of the input, until it ends or is ended."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.ended = False
        self._reader = reader
        self._waiting = anyio.CancelScope()
        self._end_asked = False

    def end(self) -> None:
        """End after the lines that are here already."""
        self._end_asked = True
        self._waiting.cancel()

    async def next(self) -> bytes:
        """A line, or nothing at the end.

        Raises:
            _Refused: the line is longer than `MESSAGE_LIMIT`.
        """
        line = b""
        with anyio.CancelScope() as self._waiting:
            if self._end_asked:
                self._waiting.cancel()  # felt only where `readline` has to wait
            try:
                line = await self._reader.readline()
            except ValueError:
                raise _Refused(INVALID_REQUEST, f"A message may have at most {MESSAGE_LIMIT} bytes") from None
            except OSError:
                pass  # a socket was reset: the client is gone
        self.ended = not line
        return line
