"""JWTs of one OAuth issuer, checked with the keys that it publishes."""

import json
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt
from pydantic import TypeAdapter, ValidationError
from starlette.authentication import AuthenticationError

from mcp_server_milvus.settings import Settings, TrustedUrl

LOGGER = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that only the issuer can make: with none anybody could, with HMAC whoever has the public key."""

KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The type of key, by the first letters of the algorithm."""

LEEWAY = 30
"""Seconds by which the issuer's clock may differ from ours."""

LONGEST = 16_384
"""Characters of a token."""

KEYS_SECONDS = 600.0
"""After which the keys are fetched again: one that the issuer has withdrawn is then not taken any more."""

RETRY_SECONDS = 30.0
"""Between two requests to the issuer, however many tokens with unknown keys come."""

STALE_SECONDS = 3_600.0
"""For which the keys are good when the issuer cannot be reached."""

FETCH_SECONDS = 10.0
LARGEST = 2**20
"""Bytes of an answer of the issuer's."""

Jwk = dict[str, Any]


class KeysUnavailable(AuthenticationError):
    """The issuer's keys cannot be had, so nobody knows whether the token is right."""


class Issuer:
    """Who gives out JWTs, and for which audience they must be."""

    def __init__(self, settings: Settings, audience: str, http: httpx2.AsyncClient) -> None:
        self._issuer = settings.auth_issuer
        self._audience = audience
        self._keys = _Keys(settings.auth_issuer, settings.auth_jwks, http)

    async def claims(self, token: str) -> Mapping[str, Any] | None:
        """What the token says, or None if it is not one of the issuer's that is right for us, now.

        Raises:
            KeysUnavailable: the issuer's keys cannot be had.
        """
        if len(token) > LONGEST or token.count(".") != 2:  # noqa: PLR2004  # header, claims and signature
            return None
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                return None
            key = await self._keys.key(header.get("kid"), header["alg"])
            return self._checked(token, key) if key else None
        except (jwt.PyJWTError, RecursionError):
            return None

    def _checked(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any] | None:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )
        return None if "cnf" in claims else claims  # that one is bound to a key of its bearer's, which we do not see


@asynccontextmanager
async def open_issuer(settings: Settings, audience: str) -> AsyncGenerator[Issuer]:
    """The issuer of the settings. It is asked for nothing before the first token."""
    async with httpx2.AsyncClient(timeout=FETCH_SECONDS, follow_redirects=False) as http:
        yield Issuer(settings, audience, http)


class _Keys:
    """The issuer's keys, fetched when they are needed, and again when they are old or lack one."""

    def __init__(self, issuer: str, url: str, http: httpx2.AsyncClient) -> None:
        self._issuer = issuer
        self._url = url
        self._http = http
        self._keys: dict[str, Jwk] = {}
        self._fetched = -STALE_SECONDS
        self._next_try = 0.0
        self._fetching = anyio.Lock()

    async def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of that name, if it is one for that algorithm. The name may be missing where there is only one."""
        if self._has(kid, KEYS_SECONDS) or (self._fetching.locked() and self._has(kid, STALE_SECONDS)):
            return _usable(self._named(kid), algorithm)
        async with self._fetching:
            if time.monotonic() >= self._next_try:
                await self._fetch()
        if not self._is_younger(STALE_SECONDS):
            raise KeysUnavailable
        return _usable(self._named(kid), algorithm)

    def _has(self, kid: str | None, seconds: float) -> bool:
        return self._is_younger(seconds) and self._named(kid) is not None

    def _is_younger(self, seconds: float) -> bool:
        return bool(self._keys) and time.monotonic() - self._fetched < seconds

    def _named(self, kid: str | None) -> Jwk | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid or "")

    async def _fetch(self) -> None:
        self._next_try = time.monotonic() + RETRY_SECONDS
        try:
            with anyio.fail_after(FETCH_SECONDS):
                self._keys = _of_signatures(await self._json(self._url or await self._discovered()))
                self._fetched = time.monotonic()
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, TimeoutError) as error:
            LOGGER.error("the keys of the OAuth issuer cannot be had: %s %s", type(error).__name__, error)  # noqa: TRY400

    async def _discovered(self) -> str:
        """Where the issuer's metadata says that its keys are."""
        for url in _metadata_urls(self._issuer):
            try:
                metadata = await self._json(url)
            except httpx2.HTTPStatusError:
                continue
            if metadata.get("issuer") != self._issuer:
                raise ValueError("its metadata is that of another issuer")
            try:
                return TypeAdapter[str](TrustedUrl).validate_python(metadata.get("jwks_uri"))
            except ValidationError:
                break
        raise ValueError("its metadata names none: set auth_jwks")

    async def _json(self, url: str) -> dict[str, Any]:
        async with self._http.stream("GET", url) as response:
            if response.status_code != 200:  # noqa: PLR2004  # a redirection could lead anywhere
                raise httpx2.HTTPStatusError(
                    f"HTTP {response.status_code}", request=response.request, response=response
                )
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > LARGEST:
                    raise ValueError("the answer is too long")
        answer = json.loads(content)
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")  # noqa: TRY004  # of another program
        return cast("dict[str, Any]", answer)


def _metadata_urls(issuer: str) -> Iterator[str]:
    """RFC 8414, and OpenID Connect Discovery."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}{path}/.well-known/openid-configuration"


def _of_signatures(answer: Mapping[str, Any]) -> dict[str, Jwk]:
    """The keys by their names; one that has none is named by the empty string."""
    listed = answer.get("keys")
    if not isinstance(listed, list):
        raise ValueError("the answer lists no keys")  # noqa: TRY004  # of another program
    each = [cast("Jwk", key) for key in cast("list[Any]", listed) if isinstance(key, dict)]
    kinds = set(KINDS.values())
    keys = {str(key.get("kid", "")): key for key in each if key.get("use", "sig") == "sig" and key.get("kty") in kinds}
    if not keys:
        raise ValueError("the answer lists no key that could check a signature")
    return keys


def _usable(key: Jwk | None, algorithm: str) -> jwt.PyJWK | None:
    """The key, if it is for that algorithm; PyJWT compares once more, and the curve too."""
    if key is None or key["kty"] != KINDS[algorithm[:2]] or key.get("alg", algorithm) != algorithm:
        return None
    return jwt.PyJWK(key, algorithm)
