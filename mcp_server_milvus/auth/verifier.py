"""The SDK's question whose a bearer token is, answered from the tokens file and the OAuth issuer."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings

from mcp_server_milvus.auth.tokens import Tokens, TokensFile
from mcp_server_milvus.callers import CallerToken
from mcp_server_milvus.policy import Caller
from mcp_server_milvus.settings import Settings, SettingsError, is_loopback
from mcp_server_milvus.vocabulary import Scope

if TYPE_CHECKING:
    from mcp_server_milvus.auth.oauth import Issuer

OF_JWTS = "oauth:"
"""Begins the names of callers with a JWT: no name of the tokens file has a colon."""

LONGEST_SUBJECT = 255


class Verifier(TokenVerifier):
    """Takes the tokens of the file, and the issuer's. What it returns does not have the token itself any more."""

    def __init__(self, file: TokensFile | None, issuer: "Issuer | None") -> None:
        self._file = file
        self._issuer = issuer

    async def verify_token(self, token: str) -> CallerToken | None:
        tokens = await self._file.current() if self._file else Tokens()
        entry = tokens.entry_of(token)
        if entry:
            return _verified(entry.caller, entry.caller.name)
        claims = await self._issuer.claims(token) if self._issuer else None
        return _bearer(claims, tokens) if claims else None


def _bearer(claims: Mapping[str, Any], tokens: Tokens) -> CallerToken | None:
    subject = str(claims["sub"])
    if not (0 < len(subject) <= LONGEST_SUBJECT and subject.isprintable()):
        return None
    caller = tokens.subject(OF_JWTS + subject, subject, _scopes(claims))
    client = str(claims.get("client_id") or claims.get("azp") or subject)
    if caller is None:
        return None
    return _verified(caller, client, subject=subject, claims={"iss": claims["iss"]})


def _scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    """Ours among the token's: `scope` is a text with blanks, `scp` that or a list."""
    given: Any = claims.get("scope", claims.get("scp", ""))
    named = given.split() if isinstance(given, str) else given
    return frozenset(scope for scope in Scope if isinstance(named, list) and scope in named)


def _verified(caller: Caller, client_id: str, **more: Any) -> CallerToken:
    return CallerToken(token="", client_id=client_id, scopes=sorted(caller.scopes), caller=caller, **more)


@asynccontextmanager
async def open_verifier(settings: Settings) -> AsyncGenerator[Verifier | None]:
    """The verifier of the settings, or None where they ask for no tokens.

    Raises:
        SettingsError: the tokens file makes no sense, or it is unknown by which URL this server is reached.
    """
    file = await TokensFile.opened(settings.auth_tokens) if settings.auth_tokens else None
    if not settings.auth_issuer:
        yield Verifier(file, None) if file else None
        return
    from mcp_server_milvus.auth.oauth import open_issuer

    async with open_issuer(settings, settings.auth_audience or resource_url(settings)) as issuer:
        yield Verifier(file, issuer)


def auth_settings(settings: Settings) -> AuthSettings:
    """What the SDK is told. The audience is checked with the rest of the token, and so not once more by it."""
    if not settings.auth_issuer:
        nobody = "http://localhost"  # the SDK asks for one, and tells nobody
        return AuthSettings.model_validate({"issuer_url": nobody, "resource_server_url": None})
    return AuthSettings.model_validate(  # from texts: a URL object has a slash that a client may not expect
        {
            "issuer_url": settings.auth_issuer,
            "resource_server_url": resource_url(settings),
            "validate_token_resource": False,
        }
    )


def resource_url(settings: Settings) -> str:
    """The URL by which clients reach /mcp.

    Raises:
        SettingsError: the settings do not tell it.
    """
    if settings.public_url:
        return settings.public_url
    if not settings.port or settings.host in {"", "0.0.0.0", "::"}:  # noqa: S104  # not listened on, but told
        raise SettingsError("auth_issuer: set public_url, by which clients reach this server")
    scheme = "https" if settings.certfile else "http"
    if scheme == "http" and not is_loopback(settings.host):
        raise SettingsError("auth_issuer: set certfile and keyfile, or public_url if another server speaks https")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{settings.port}/mcp"
