"""A request that its client has named gets an answer of the same name: header X-Request-Id."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server_milvus.request_ids import HEADER, valid_id


class EchoRequestId:
    """ASGI middleware. A name that is none is not repeated: it would be a header of the client's making."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = valid_id(Headers(scope=scope).get(HEADER)) if scope["type"] == "http" else ""
        if not request_id:
            await self._app(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, named)
