"""A call of a tool without a session, answered where it came in.

For each request without a session the SDK makes one, with tasks and streams, that nothing else uses. In the modern
protocol it does without, and so does this in the others for the calls whose answer is plain JSON. What else comes, and
what is refused, is the SDK's.
"""

import contextlib
from collections.abc import Generator
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner
from mcp.server.streamable_http import check_accept_headers
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import DEFAULT_NEGOTIATED_VERSION, JSONRPCError, JSONRPCRequest, JSONRPCResponse, jsonrpc_message_adapter
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server_milvus.transports.answering import Exchange, answer_to
from mcp_server_milvus.transports.prompt import CONNECTION, PromptProtocol
from mcp_server_milvus.transports.replies import PROGRESS_TOKEN, again

JSON = "application/json"
NO_WAY_BACK = TransportContext(kind="streamable-http", can_send_request=False)
HEARS_OF_PROGRESS = f'"{PROGRESS_TOKEN}"'.encode()


def answer_directly(manager: StreamableHTTPSessionManager) -> None:
    """Makes a manager without sessions answer plain calls by itself, where their bodies are within its limit."""
    within_limit = manager.asgi_app
    within_limit.app = _Exchanges(within_limit.app, manager.app)


class _Exchanges:
    """ASGI application around the SDK's."""

    def __init__(self, app: ASGIApp, server: Server[Any]) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if not _is_of_a_handshake_protocol(request):
            await self._app(scope, receive, send)
            return
        body = await request.body()
        if not _is_answered_by_json(request, body):
            await self._app(scope, again(body, receive), send)
            return
        with _while_connected(scope):
            call = _tool_call(body)
            if call is None:
                await self._app(scope, again(body, receive), send)
            else:
                answer = await self._answer(call, request)
                text = answer.model_dump_json(by_alias=True, exclude_unset=True)
                await Response(text, media_type=JSON)(scope, receive, send)

    async def _answer(self, call: JSONRPCRequest, request: Request) -> JSONRPCResponse | JSONRPCError:
        version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER, DEFAULT_NEGOTIATED_VERSION)
        metadata = ServerMessageMetadata(request_context=request, can_send_request=False)
        exchange = Exchange(call, NO_WAY_BACK, message_metadata=metadata)
        return await answer_to(
            exchange, ServerRunner(self._server, Connection.from_envelope(version, None, None), None)
        )


def _is_of_a_handshake_protocol(request: Request) -> bool:
    version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER, DEFAULT_NEGOTIATED_VERSION)
    return request.method == "POST" and version in HANDSHAKE_PROTOCOL_VERSIONS


def _is_answered_by_json(request: Request, body: bytes) -> bool:
    """Whether a request comes as JSON, as the SDK sees it, and its client takes JSON and is to hear of no progress."""
    media_types = request.headers.get("content-type", "").partition(";")[0].split(",")
    takes_json, takes_events = check_accept_headers(request)
    is_json = JSON in map(str.strip, media_types)
    return is_json and takes_json and not (takes_events and HEARS_OF_PROGRESS in body)


@contextlib.contextmanager
def _while_connected(scope: Scope) -> Generator[None]:
    """The block ends with the connection: without a session a client can cancel a call only by leaving.

    An event stream looks for that itself.
    """
    connection: PromptProtocol | None = scope.get(CONNECTION)  # None where another server than ours runs this
    with (
        anyio.CancelScope() as handling,
        connection.on_end(handling.cancel) if connection else contextlib.nullcontext(),
    ):
        yield


def _tool_call(body: bytes) -> JSONRPCRequest | None:
    """The call that a body is, if it is one."""
    try:
        message = jsonrpc_message_adapter.validate_python(from_json(body), by_name=False)
    except ValueError:  # of either
        return None
    return message if isinstance(message, JSONRPCRequest) and message.method == "tools/call" else None
