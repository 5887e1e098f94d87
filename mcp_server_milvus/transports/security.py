"""Whom an HTTP request comes from: a page of a foreign site, a client of this machine, a bearer, a Milvus account."""

import hashlib
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, BearerAuthBackend
from mcp.server.auth.provider import TokenVerifier
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import SecretStr
from starlette.authentication import AuthenticationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server_milvus.callers import CallerToken
from mcp_server_milvus.policy import LOCAL
from mcp_server_milvus.settings import Settings, SettingsError, is_loopback, words
from mcp_server_milvus.vocabulary import MilvusIdentity

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MILVUS_TOKEN = "X-Milvus-Token"  # noqa: S105  # a header

CHECKED_HERE = TransportSecuritySettings(enable_dns_rebinding_protection=False)
"""What the SDK is told: its own check of `/sse` ends in a traceback, and it knows no address of the machine's own."""

NEEDED = {"auth_audience": "auth_issuer", "auth_jwks": "auth_issuer", "keyfile": "certfile"}
"""Settings that do nothing without another: whoever gives them believes that more is guarded than is."""

PREFLIGHT_SECONDS = 600
LONGEST_ACCOUNT = 4_096


def require_guarded(settings: Settings, *, authenticated: bool) -> None:
    """Nothing, if whoever can reach the server has shown who they are, or is on this machine.

    Raises:
        SettingsError: anybody on the network could do everything, or a setting would do nothing.
    """
    for name, needed in NEEDED.items():
        if getattr(settings, name) and not getattr(settings, needed):
            raise SettingsError(f"{name} is of no use without {needed}")
    if settings.metrics_port and settings.metrics_port == settings.port:
        raise SettingsError("metrics_port: a port of its own is another one than port")
    if not authenticated and not is_loopback(settings.host):
        raise SettingsError(
            f"host {settings.host!r} can be reached from other machines, and nobody would be asked for a token: set"
            " auth_tokens (and make a token with mcp-server-milvus token) or auth_issuer, or listen on 127.0.0.1"
        )
    if not is_loopback(settings.host):
        _require_no_clear_text(settings)
    if settings.milvus_identity is MilvusIdentity.CALLER and settings.embedded_dir:
        raise SettingsError("milvus_identity caller: the embedded database has no accounts; set uri")


def _require_no_clear_text(settings: Settings) -> None:
    """Nothing, if nobody on the network can read along, or look at metrics without a token."""
    if settings.certfile is None and urlsplit(settings.public_url).scheme != "https":
        raise SettingsError(
            f"host {settings.host!r} can be reached from other machines, and tokens would travel in clear text: set"
            " certfile and keyfile, or public_url to the https:// address of a proxy that speaks TLS for this server"
        )
    if settings.metrics_port and not settings.metrics_token.get_secret_value():
        raise SettingsError(
            f"metrics_port: host {settings.host!r} can be reached from other machines, so anybody could read the"
            " metrics: set metrics_token"
        )


def tls(settings: Settings) -> ssl.SSLContext | None:
    """What https is spoken with, if it is.

    Raises:
        SettingsError: the certificate or its key cannot be used.
    """
    if settings.certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certfile, settings.keyfile, password="")  # or it would ask at the terminal
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "it is no pair of PEM files"
        raise SettingsError(f"certfile and keyfile cannot be used: {reason}") from None
    return context


@dataclass(frozen=True)
class Names:
    """The Host and Origin headers of requests that are meant for this server, `HOST:*` for any port."""

    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> "Names":
        """The server's own, and those of the settings."""
        public = urlsplit(settings.public_url)
        own = _own_names(settings.host)
        hosts = {*own, *(f"{name}:*" for name in own), public.netloc, *words(settings.allowed_hosts)}
        origins = {f"{scheme}://{name}" for scheme in ("http", "https") for name in own}
        origins |= {f"{origin}:*" for origin in origins}
        origins |= {f"{public.scheme}://{public.netloc}", *words(settings.allowed_origins)}
        return cls(_lower(hosts), _lower(origins))

    @property
    def origin_pattern(self) -> str:
        """The origins as a regular expression."""
        return "|".join(re.escape(origin).replace(r":\*", ":[0-9]+") for origin in sorted(self.origins))

    def refusal(self, connection: HTTPConnection) -> Response | None:
        """What a request gets that a page of another site may have made, through a name of its own or from afar."""
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
        if not _is_among(host, self.hosts) and not _is_own_address(host, connection.scope.get("server")):
            return PlainTextResponse("Invalid Host header", 421)
        if origin is not None and not _is_among(origin, self.origins):
            return PlainTextResponse("Invalid Origin header", 403)
        return None


def _lower(names: set[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names if name.strip(":/"))


def _is_among(name: str, names: frozenset[str]) -> bool:
    base, _, port = name.lower().rpartition(":")
    return name.lower() in names or (port.isdecimal() and f"{base}:*" in names)


def _is_own_address(host: str, server: Any) -> bool:
    """Whether the host is the address that was connected to: only a name could lead somebody else's page here."""
    try:
        address = urlsplit(f"//{host}").hostname
        return bool(server) and ipaddress.ip_address(address or "") == ipaddress.ip_address(server[0])
    except ValueError:
        return False


def _own_names(host: str) -> tuple[str, ...]:
    if is_loopback(host):
        return LOOPBACK
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # not listened on here
        return (*LOOPBACK, socket.gethostname())
    return (f"[{host}]" if ":" in host else host,)


class RefuseForeign:
    """ASGI middleware: what the names forbid gets 421 or 403. `/health` is for anybody, under any name."""

    def __init__(self, app: ASGIApp, names: Names) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/health"):
            refusal = self._names.refusal(HTTPConnection(scope))
            if refusal:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def cors(names: Names) -> Middleware:
    """Lets the pages of the allowed origins, and no others, read what is answered."""
    return Middleware(
        CORSMiddleware,
        allow_origin_regex=names.origin_pattern,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["Mcp-Session-Id", "WWW-Authenticate", "X-Request-Id"],
        max_age=PREFLIGHT_SECONDS,
    )


def who_calls(settings: Settings, verifier: TokenVerifier | None) -> list[Middleware]:
    """Finds out who makes a request. That somebody is known at all is required by the SDK's routes."""
    found: list[Middleware] = []
    if verifier:
        found += [Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(verifier), on_error=_undecided)]
    if settings.milvus_identity is MilvusIdentity.CALLER:
        found += [Middleware(_WithMilvusAccount, authenticated=verifier is not None)]
    return [*found, Middleware(AuthContextMiddleware)] if found else []


def _undecided(_: HTTPConnection, __: AuthenticationError) -> Response:
    """Not 401, which would make a client throw away a token that may be right."""
    return PlainTextResponse("Tokens cannot be checked at the moment", 503, headers={"Retry-After": "10"})


class _WithMilvusAccount:
    """ASGI middleware: the caller has the Milvus account of its header, which goes no further than this.

    A session belongs to that account too: who shows another one finds no such session.
    """

    def __init__(self, app: ASGIApp, *, authenticated: bool) -> None:
        self._app = app
        self._authenticated = authenticated

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _needs_account(scope["path"]):
            token = self._token(scope)
            account = _taken_out(scope) if token else ""
            if token and not account:
                await _no_account(scope, receive, send)
                return
            if token:
                scope["user"] = AuthenticatedUser(_with(token, account))
        await self._app(scope, receive, send)

    def _token(self, scope: Scope) -> CallerToken | None:
        """The caller's; of one that has shown none, and should have, nothing is asked here."""
        user = scope.get("user")
        if isinstance(user, AuthenticatedUser) and isinstance(user.access_token, CallerToken):
            return user.access_token
        return None if self._authenticated else CallerToken(token="", client_id=LOCAL.name, scopes=[], caller=LOCAL)


def _needs_account(path: str) -> bool:
    return not path.startswith(("/health", "/metrics", "/.well-known/"))


def _taken_out(scope: Scope) -> str:
    """The header's value, once it is there and could be one; the request has it no more."""
    given = Headers(scope=scope).getlist(MILVUS_TOKEN)
    scope["headers"] = list(scope["headers"])
    del MutableHeaders(scope=scope)[MILVUS_TOKEN]
    account = given[0].strip() if len(given) == 1 else ""
    return account if account.isascii() and account.isprintable() and len(account) <= LONGEST_ACCOUNT else ""


def _with(token: CallerToken, account: str) -> CallerToken:
    digest = hashlib.sha256(account.encode()).hexdigest()
    return token.model_copy(
        update={
            "client_id": f"{token.client_id} {digest}",
            "caller": replace(token.caller, credentials=SecretStr(account)),
        }
    )


async def _no_account(scope: Scope, receive: Receive, send: Send) -> None:
    said = {"error": "invalid_request", "error_description": f"{MILVUS_TOKEN} required"}
    await JSONResponse(said, 401, headers={"WWW-Authenticate": MILVUS_TOKEN})(scope, receive, send)
