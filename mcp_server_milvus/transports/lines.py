"""The lines of the input as JSON-RPC messages, and what is wrong with one that is none."""

import asyncio
import json
from typing import Any, cast

import anyio
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import from_json

MESSAGE_LIMIT = 256 * 1024 * 1024


class NoMessage(Exception):
    """A line is no JSON-RPC message. Carries the answer."""

    def __init__(self, code: int, message: str, request_id: RequestId | None = None) -> None:
        super().__init__(message)
        self.answer = JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))


class Lines:
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
            NoMessage: the line is longer than `MESSAGE_LIMIT`.
        """
        line = b""
        with anyio.CancelScope() as self._waiting:
            if self._end_asked:
                self._waiting.cancel()  # felt only where `readline` has to wait
            try:
                line = await self._reader.readline()
            except ValueError:
                raise NoMessage(INVALID_REQUEST, f"A message may have at most {MESSAGE_LIMIT} bytes") from None
            except OSError:
                pass  # a socket was reset: the client is gone
        self.ended = not line
        return line


def message_in(line: bytes) -> JSONRPCMessage:
    """The message that a line is.

    Raises:
        NoMessage: it is none.
    """
    try:
        frame = from_json(line)
    except ValueError as error:
        raise NoMessage(PARSE_ERROR, f"Parse error: {error}", _unparsed_id(line)) from None
    try:
        message = jsonrpc_message_adapter.validate_python(frame, by_name=False)
    except ValidationError:
        raise NoMessage(INVALID_REQUEST, "This is no JSON-RPC 2.0 message", _request_id(frame)) from None
    if isinstance(message, JSONRPCNotification) and "id" in frame:
        raise NoMessage(INVALID_REQUEST, "The id of a request is a string or an integer")
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
