"""One request, answered by the SDK's handlers, without the tasks and streams of its loop."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data, progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from pydantic import ValidationError

Tell = Callable[[JSONRPCNotification], Awaitable[None]]


async def tell_nobody(notification: JSONRPCNotification) -> None:
    """For a client to which there is no way but the answer."""


class WayBack:
    """The way back to a client, in the SDK's terms: it can be told things, and asked nothing."""

    can_send_request = False

    def __init__(self, tell: Tell = tell_nobody) -> None:
        self._tell = tell

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        del params, opts
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        del opts
        told = None if params is None else dict(params)
        await self._tell(JSONRPCNotification(jsonrpc="2.0", method=method, params=told))


class Exchange(WayBack):
    """One request and its way back."""

    def __init__(
        self,
        request: JSONRPCRequest,
        transport: TransportContext,
        tell: Tell = tell_nobody,
        message_metadata: ServerMessageMetadata | None = None,
    ) -> None:
        super().__init__(tell)
        self.request = request
        self.request_id = request.id
        self.transport = transport
        self.message_metadata = message_metadata
        self.cancel_requested = anyio.Event()

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        token = progress_token_from_params(self.request.params)
        if token is not None:
            told = {"progressToken": token, "progress": progress, "total": total, "message": message}
            known = {name: value for name, value in told.items() if value is not None}
            await self.notify("notifications/progress", known)


async def answer_to(exchange: Exchange, runner: ServerRunner[Any]) -> JSONRPCResponse | JSONRPCError:
    """What the server answers. No handler of ours leaves anything open on the runner's connection.

    Raises:
        Exception: whatever a fault outside of the tools is.
    """
    request = exchange.request
    try:
        result = await runner.on_request(exchange, request.method, request.params)
    except (MCPError, ValidationError) as refusal:
        error = handler_exception_to_error_data(refusal)
        assert error  # noqa: S101  # it is one of the two that the SDK has words for
        return JSONRPCError(jsonrpc="2.0", id=request.id, error=error)
    return JSONRPCResponse(jsonrpc="2.0", id=request.id, result=result)
