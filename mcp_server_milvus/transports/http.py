"""HTTP: Streamable HTTP at `/mcp` and SSE at `/sse` and `/messages/`, for many clients, with `/health` beside them.

A call of a handshake protocol is answered by an event stream, so that its progress reaches the client; a call of the
modern one by plain JSON unless it has progress to report. The SDK does so by itself when it is not told otherwise.
"""

import contextlib
import functools
import ipaddress
import logging
import socket
from collections.abc import Generator
from typing import Any

import anyio
import uvicorn
from anyio.abc import TaskStatus
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.transports.signals import on_stop_signal
from mcp_server_milvus.vocabulary import Transport

BODY_LIMIT = 64 * 1024 * 1024
DRAIN_SECONDS = 60
FLUSH_SECONDS = 5  # for a client that is slow to read the last of its answer
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


async def serve_http(
    server: MCPServer[Any], settings: Settings, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve both transports, or SSE alone where the settings say so, until SIGTERM or SIGINT.

    Calls in flight are then answered, for at most 60 s. `task_status` is told the URL once the server listens.

    Raises:
        OSError: nothing can listen at the host and port of the settings; the text says why.
    """
    listener = _listener(settings.host, settings.port)
    logging.getLogger("mcp.server.sse").setLevel(logging.CRITICAL)  # it logs whole requests, passwords and all
    if settings.transport is Transport.SSE:
        app = sse_app(server, host=settings.host)
    else:
        app = http_app(server, host=settings.host, stateless=settings.stateless)
    calls, responses = _Calls(), _Responses(app)
    server.middleware.append(calls)
    config = uvicorn.Config(
        responses,
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    task_status.started(f"http://{_in_url(settings.host)}:{listener.getsockname()[1]}")
    await _Uvicorn(config, calls, responses).serve([listener])


def http_app(server: MCPServer[Any], *, host: str, stateless: bool = False) -> Starlette:
    """Streamable HTTP and SSE. Only requests that name `host`, or come from a page of it, are served."""
    security = _security(host)
    streamable = server.streamable_http_app(
        stateless_http=stateless, max_request_body_size=BODY_LIMIT, transport_security=security
    )
    sse = server.sse_app(max_request_body_size=BODY_LIMIT, transport_security=security)
    return Starlette(
        routes=[Route("/health", _health), *streamable.routes, *sse.routes],
        middleware=[Middleware(_RefuseForeign, security)],
        lifespan=streamable.router.lifespan_context,
    )


def sse_app(server: MCPServer[Any], *, host: str) -> Starlette:
    """SSE alone. Only requests that name `host`, or come from a page of it, are served."""
    security = _security(host)
    sse = server.sse_app(max_request_body_size=BODY_LIMIT, transport_security=security)
    return Starlette(routes=[Route("/health", _health), *sse.routes], middleware=[Middleware(_RefuseForeign, security)])


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _security(host: str) -> TransportSecuritySettings:
    """Keeps a web page from reaching this server through a name of its own (DNS rebinding)."""
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        names = LOOPBACK
    elif address and address.is_unspecified:
        names = (*LOOPBACK, socket.gethostname())
    else:
        names = (_in_url(host),)
    origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in names]
    return TransportSecuritySettings(
        allowed_hosts=[*names, *(f"{name}:*" for name in names)],
        allowed_origins=[*origins, *(f"{origin}:*" for origin in origins)],
    )


class _RefuseForeign:
    """ASGI middleware: what `_security` forbids gets 421 or 403. The SDK's own check of `/sse` ends in a traceback."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings) -> None:
        self._app = app
        self._security = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            refusal = await self._security.validate_request(Request(scope))
            if refusal:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Calls:
    """Middleware of the server: counts the requests in flight, of whichever transport."""

    def __init__(self) -> None:
        self._count = 0
        self._answered = anyio.Event()

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None or ctx.method == "subscriptions/listen":  # has no answer before the client ends it
            return await call_next(ctx)
        self._count += 1
        try:
            return await call_next(ctx)
        finally:
            self._count -= 1
            self._answered.set()

    async def all_answered(self) -> None:
        """Once no call is in flight, and the last answer has gone all the way to its socket."""
        while self._count:
            self._answered = anyio.Event()
            await self._answered.wait()
        await anyio.wait_all_tasks_blocked()


class _Responses:
    """ASGI middleware: the responses that are not complete, event streams mostly, so that they can be ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = set[anyio.CancelScope]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = complete = False

        async def watched(message: Message) -> None:
            nonlocal started, complete
            started, complete = True, message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        with anyio.CancelScope() as open_response:
            self._open.add(open_response)
            try:
                await self._app(scope, receive, watched)
            finally:
                self._open.discard(open_response)
        if not open_response.cancelled_caught or complete:
            return
        if started:
            await send({"type": "http.response.body", "body": b""})
        else:
            await Response("The server is shutting down", status_code=503)(scope, receive, send)

    def end(self) -> None:
        for open_response in list(self._open):
            open_response.cancel()


class _Uvicorn(uvicorn.Server):
    """Answers what is in flight before it shuts down, and ends event streams, which never end by themselves."""

    def __init__(self, config: uvicorn.Config, calls: _Calls, responses: _Responses) -> None:
        super().__init__(config)
        self._calls = calls
        self._responses = responses

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Not by uvicorn, which raises the signal again when all is done: the exit code would not be 0."""
        with on_stop_signal(functools.partial(setattr, self, "should_exit", True)):  # noqa: FBT003
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in self.servers:
            listening.close()
        with anyio.move_on_after(DRAIN_SECONDS):
            await self._calls.all_answered()
        self._responses.end()
        await super().shutdown(sockets)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]  # not the address a second time
        raise OSError(f"cannot listen on {_in_url(host)}:{port}: {reason}") from None
    # Named as TCP, or asyncio leaves Nagle's algorithm on: each answer in two writes would take 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=made.detach())


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
