"""HTTP: Streamable HTTP at `/mcp` and SSE at `/sse` and `/messages/`, for many clients, with `/health` beside them.

A call is answered by plain JSON, unless it reports progress or may have a question for its user (`replies`): then by an
event stream. In the modern protocol the SDK does so by itself. Without sessions, plain calls are answered where they
come in (`exchanges`).

A request passes, from the outside in: the connection's patience (`prompt`), the Host and Origin check and CORS
(`security`), who calls, and then the SDK's routes, which refuse whoever is nobody and read the body within its limit.
"""

import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import anyio
import uvicorn
from anyio.abc import TaskStatus
from mcp.server import MCPServer
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, BearerAuthBackend
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.routes import create_protected_resource_routes
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from starlette.applications import Starlette
from starlette.authentication import AuthenticationError
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.transports.exchanges import answer_directly
from mcp_server_milvus.transports.health import Health
from mcp_server_milvus.transports.listening import in_url, listener
from mcp_server_milvus.transports.metrics import Metrics
from mcp_server_milvus.transports.naming import EchoRequestId
from mcp_server_milvus.transports.prompt import PromptProtocol
from mcp_server_milvus.transports.replies import reply_as_each_request_needs
from mcp_server_milvus.transports.security import (
    CHECKED_HERE,
    Names,
    RefuseForeign,
    cors,
    require_guarded,
    tls,
    who_calls,
)
from mcp_server_milvus.transports.signals import on_stop_signal
from mcp_server_milvus.transports.workers import Inherited
from mcp_server_milvus.vocabulary import Scope as TokenScope
from mcp_server_milvus.vocabulary import Transport

DRAIN_SECONDS = 60
FLUSH_SECONDS = 5  # for a client that is slow to read the last of its answer
WELCOME_SECONDS = 5
"""How often it is asked whether the tokens are still taken with which event streams were opened."""

MEGABYTE = 2**20
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beside:
    """What is served or asked beside the server itself."""

    verifier: TokenVerifier | None = None
    health: Health = field(default_factory=Health)
    metrics: Metrics | None = None
    inherited: Inherited | None = None
    asking: Sequence[str] = ()
    """The tools that may have a question for the user."""


async def serve_http(
    server: MCPServer[Any],
    settings: Settings,
    beside: Beside | None = None,
    *,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve both transports, or SSE alone where the settings say so, until SIGTERM or SIGINT.

    Calls in flight are then answered, for at most 60 s. `task_status` is told the URL once the server listens.

    Raises:
        SettingsError: anybody on the network could do everything, or the certificate cannot be used.
        OSError: nothing can listen at the host and port of the settings; the text says why.
    """
    beside = beside or Beside()
    require_guarded(settings, authenticated=beside.verifier is not None)
    context = tls(settings)
    door = beside.inherited.listener if beside.inherited else listener(settings.host, settings.port)
    logging.getLogger("mcp.server.sse").setLevel(logging.CRITICAL)  # it logs whole requests, passwords and all
    calls, responses = _Calls(), _Responses(http_app(server, settings, beside))
    server.middleware.insert(0, calls)
    main = _Uvicorn(_config(responses, settings, context, lifespan="on"), calls, responses, beside.health)
    async with (
        _metrics_apart(settings, beside, context),
        _unwelcome_ended(responses, beside.verifier),
        _ended_with_parent(main, beside.inherited),
    ):
        scheme = "https" if context else "http"
        task_status.started(f"{scheme}://{in_url(settings.host)}:{door.getsockname()[1]}")
        await main.serve([door])


def _always(context: ssl.SSLContext) -> Callable[..., ssl.SSLContext]:
    return lambda *_: context  # pyright: ignore[reportUnknownLambdaType]


def _config(
    app: ASGIApp, settings: Settings, context: ssl.SSLContext | None, *, lifespan: Literal["on", "off"]
) -> uvicorn.Config:
    largest = 2 * settings.max_body_megabytes * MEGABYTE + MEGABYTE  # what is more than refused is not even read
    return uvicorn.Config(
        app,
        http=cast("Any", functools.partial(PromptProtocol, largest=largest)),
        ws="none",
        lifespan=lifespan,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_context_factory=_always(context) if context else None,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )


def http_app(server: MCPServer[Any], settings: Settings, beside: Beside) -> Starlette:
    """The transports of the settings, with what is beside them, for those who may come in."""
    names = Names.of(settings)
    body = settings.max_body_megabytes * MEGABYTE
    routes: list[BaseRoute] = [*beside.health.routes, *_metadata(server)]
    if settings.workers == 1:  # each stream is a session, which only one of them would know
        routes += server.sse_app(max_request_body_size=body, transport_security=CHECKED_HERE).routes
    lifespan = None
    if settings.transport is not Transport.SSE:
        reply_as_each_request_needs(beside.asking)
        streamable = server.streamable_http_app(
            stateless_http=settings.stateless,
            max_request_body_size=body,
            session_idle_timeout=settings.session_seconds,
            max_sessions=settings.max_sessions,
            transport_security=CHECKED_HERE,
        )
        if settings.stateless:
            answer_directly(server.session_manager)
        routes += streamable.routes
        lifespan = streamable.router.lifespan_context
    if beside.metrics and settings.workers == 1 and _is_public(settings, beside):
        routes.append(beside.metrics.route)
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(EchoRequestId),
            Middleware(RefuseForeign, names),
            *([cors(names)] if settings.cors else []),
            *who_calls(settings, beside.verifier),
            Middleware(_FewStreams, settings.max_sessions),
        ],
        lifespan=lifespan,
    )


def _metadata(server: MCPServer[Any]) -> list[Route]:
    """Where a client learns whom to ask for a token, and for what. The SDK's own tells no scopes."""
    auth = server.settings.auth
    if auth is None or auth.resource_server_url is None:
        return []
    return create_protected_resource_routes(auth.resource_server_url, [auth.issuer_url], [*TokenScope])


def _is_public(settings: Settings, beside: Beside) -> bool:
    """Whether /metrics is served on the port of the clients. Not without a token where they need one."""
    if settings.metrics_port:
        return False
    if settings.metrics_token.get_secret_value() or beside.verifier is None:
        return True
    LOGGER.info("there is no /metrics: set metrics_token or metrics_port")
    return False


@contextlib.asynccontextmanager
async def _metrics_apart(settings: Settings, beside: Beside, context: ssl.SSLContext | None) -> AsyncGenerator[None]:
    """While the block runs, health and metrics are served on their own port, if they have one."""
    if not settings.metrics_port:
        yield
        return
    door = listener(settings.host, settings.metrics_port)
    routes = [*beside.health.routes, *([beside.metrics.route] if beside.metrics else [])]
    app = Starlette(routes=routes, middleware=[Middleware(RefuseForeign, Names.of(settings))])
    aside = _Aside(_config(app, settings, context, lifespan="off"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(aside.serve, [door])
        yield
        aside.should_exit = True


@contextlib.asynccontextmanager
async def _unwelcome_ended(responses: "_Responses", verifier: TokenVerifier | None) -> AsyncGenerator[None]:
    """While the block runs, event streams end some seconds after the tokens with which they were opened."""
    async with anyio.create_task_group() as tasks:
        if verifier:
            tasks.start_soon(responses.end_unwelcome, BearerAuthBackend(verifier))
        yield
        tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _ended_with_parent(main: uvicorn.Server, parent: Inherited | None) -> AsyncGenerator[None]:
    """While the block runs, a worker that is about to serve says so to its parent, and ends with it."""
    if parent is None:
        yield
        return

    async def end() -> None:
        await parent.parent_ended()
        main.should_exit = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        parent.tell_that_it_serves()
        yield
        tasks.cancel_scope.cancel()


def sessions_of(server: MCPServer[Any]) -> Callable[[], int]:
    """How many sessions of Streamable HTTP there are. The SDK tells nobody."""

    def count() -> int:
        try:
            return len(server.session_manager._server_instances)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        except RuntimeError:  # it is not served
            return 0

    return count


class _FewStreams:
    """ASGI middleware: event streams of `/sse`, each a session, and only so many. The SDK bounds its others."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/sse":
            await self._app(scope, receive, send)
        elif self._open >= self._most:
            await PlainTextResponse("Too many open sessions", 503)(scope, receive, send)
        else:
            self._open += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._open -= 1


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
        self._open = dict[anyio.CancelScope, Scope]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = complete = heard = False

        async def listened() -> Message:
            nonlocal heard
            message = await receive()
            heard = heard or (message["type"] == "http.request" and not message.get("more_body"))
            if message["type"] == "http.disconnect" and not heard:
                open_response.cancel()  # nobody waits for an answer to half a request
                await anyio.lowlevel.checkpoint()  # where that is felt: whoever is told raises, and it would be logged
            return message

        async def watched(message: Message) -> None:
            nonlocal started, complete
            started, complete = True, message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        with anyio.CancelScope() as open_response:
            self._open[open_response] = scope
            try:
                await self._app(scope, listened, watched)
            finally:
                del self._open[open_response]
        if not open_response.cancelled_caught or complete:
            return
        if started:
            await send({"type": "http.response.body", "body": b""})
        else:
            await Response("The server is shutting down", status_code=503)(scope, receive, send)

    async def end_unwelcome(self, backend: BearerAuthBackend) -> None:
        """Ends the streams that are nobody's answer, once their tokens are taken no more; looks every few seconds."""
        while True:
            await anyio.sleep(WELCOME_SECONDS)
            for open_response, scope in list(self._open.items()):
                if scope["method"] == "GET" and not await _is_welcome(scope, backend):
                    open_response.cancel()

    def end(self) -> None:
        for open_response in list(self._open):
            open_response.cancel()


async def _is_welcome(scope: Scope, backend: BearerAuthBackend) -> bool:
    """Whether a request that was let in with a token would be so now; it is while nobody can tell."""
    if not isinstance(scope.get("user"), AuthenticatedUser):
        return True
    try:
        return await backend.authenticate(HTTPConnection(scope)) is not None
    except AuthenticationError:
        return True


class _Uvicorn(uvicorn.Server):
    """Answers what is in flight before it shuts down, and ends event streams, which never end by themselves."""

    def __init__(self, config: uvicorn.Config, calls: _Calls, responses: _Responses, health: Health) -> None:
        super().__init__(config)
        self._health = health
        self._calls = calls
        self._responses = responses

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Not by uvicorn, which raises the signal again when all is done: the exit code would not be 0."""
        with on_stop_signal(functools.partial(setattr, self, "should_exit", True)):  # noqa: FBT003
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._health.ending = True
        for listening in self.servers:
            listening.close()
        with anyio.move_on_after(DRAIN_SECONDS):
            await self._calls.all_answered()
        self._responses.end()
        await super().shutdown(sockets)


class _Aside(uvicorn.Server):
    """One beside the main one, which hears of signals for it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
