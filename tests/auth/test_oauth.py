"""JWTs of an OAuth issuer: which are taken, and for whom."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from mcp_server_milvus.auth import oauth
from mcp_server_milvus.auth.verifier import Verifier, auth_settings, open_verifier, resource_url
from mcp_server_milvus.callers import CallerToken
from mcp_server_milvus.policy import Caller
from mcp_server_milvus.settings import Settings, SettingsError
from mcp_server_milvus.vocabulary import Scope
from tests.auth.issuer import AUDIENCE, EC_KEY, FOREIGN_KEY, METADATA, RSA_KEY, Issuer, issuing

pytestmark = pytest.mark.anyio


@pytest.fixture
def issuer() -> Generator[Issuer]:
    with issuing() as issuer:
        yield issuer


@asynccontextmanager
async def verifying(issuer: Issuer, **more: Any) -> AsyncGenerator[Verifier]:
    chosen = {"transport": "http", "auth_issuer": issuer.url, "auth_audience": AUDIENCE, "public_url": AUDIENCE} | more
    async with open_verifier(Settings.model_validate(chosen)) as verifier:
        assert verifier is not None
        yield verifier


async def caller_of(verifier: Verifier, token: str) -> Caller | None:
    verified = await verifier.verify_token(token)
    assert verified is None or isinstance(verified, CallerToken)
    return verified.caller if verified else None


def unsigned(issuer: Issuer) -> str:
    return f"{encoded({'alg': 'none', 'kid': 'one'})}.{encoded(issuer.claims())}."


def signed_with_the_public_key(issuer: Issuer, public: bytes) -> str:
    """As a library believes that lets the token choose: HS256, and the key that everybody has as its secret."""
    signed = f"{encoded({'alg': 'HS256', 'kid': 'one'})}.{encoded(issuer.claims())}"
    return f"{signed}.{base64url(hmac.new(public, signed.encode(), hashlib.sha256).digest())}"


def encoded(value: dict[str, Any]) -> str:
    return base64url(json.dumps(value).encode())


def base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


async def test_a_token_of_the_issuers_is_its_subjects(issuer: Issuer) -> None:
    async with verifying(issuer) as verifier:
        read = Caller("oauth:ann", scopes=frozenset({Scope.READ}))
        assert await caller_of(verifier, issuer.token()) == read
        assert await caller_of(verifier, issuer.token(key=EC_KEY, algorithm="ES256", kid="two")) == read
        assert await caller_of(verifier, issuer.token(aud=["https://other.example", AUDIENCE])) == read
        assert await caller_of(verifier, issuer.token(algorithm="PS384")) == read
        assert await caller_of(verifier, issuer.token(exp=int(time.time()) - 5)) == read  # clocks differ
        both = await caller_of(verifier, issuer.token(scope=None, scp=["read", "write", "sudo"]))
        assert both == Caller("oauth:ann", scopes=frozenset({Scope.READ, Scope.WRITE}))
        assert await caller_of(verifier, issuer.token(scope="reader")) == Caller("oauth:ann", scopes=frozenset())
    assert issuer.asked == [METADATA, "/keys"]


async def test_a_token_that_is_wrong_in_any_way_is_nobodys(issuer: Issuer) -> None:
    now = int(time.time())
    public = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    right = issuer.token()
    header, claims, signature = right.split(".")
    wrong = {
        "expired": issuer.token(exp=now - 120),
        "not yet": issuer.token(nbf=now + 120),
        "never expires": issuer.token(exp=None),
        "other audience": issuer.token(aud="https://other.example/mcp"),
        "part of the audience": issuer.token(aud=AUDIENCE + "/"),
        "no audience": issuer.token(aud=None),
        "other issuer": issuer.token(iss=issuer.url + "/"),
        "no issuer": issuer.token(iss=None),
        "no subject": issuer.token(sub=None),
        "empty subject": issuer.token(sub=""),
        "subject with a line end": issuer.token(sub="ann\nbob"),
        "no signature": unsigned(issuer),
        "signature cut off": f"{header}.{claims}.",
        "signed with the public key": signed_with_the_public_key(issuer, public),
        "signed with the public key of the list": signed_with_the_public_key(
            issuer, json.dumps(issuer.answers["/keys"]["keys"][0]).encode()
        ),
        "foreign key": issuer.token(key=FOREIGN_KEY),
        "other key of the issuer's": issuer.token(kid="two"),
        "no name of a key": issuer.token(kid=None),
        "claims changed": f"{header}.{encoded(issuer.claims(scope='admin'))}.{signature}",
        "bound to a key": issuer.token(cnf={"jkt": "0"}),
        "critical": f"{encoded({'alg': 'RS256', 'kid': 'one', 'crit': ['x'], 'x': 1})}.{claims}.{signature}",
        "deep": f"{base64url(b'[' * 5_000)}.{claims}.{signature}",
        "long": right + "A" * 20_000,
        "no token": "a.b.c",
        "empty": "..",
    }
    async with verifying(issuer) as verifier:
        for what, token in wrong.items():
            assert (what, await caller_of(verifier, token)) == (what, None)
        assert await caller_of(verifier, right)


async def test_subjects_have_the_limits_of_the_file_and_those_it_does_not_name_are_nobody(
    issuer: Issuer, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    path.touch(0o600)
    path.write_text("[subjects.ann]\nscopes = ['read']\ncollections = ['docs']\nfilter = 't == 1'\nkey_prefix = 'a-'")
    async with verifying(issuer, auth_tokens=path) as verifier:
        limited = await caller_of(verifier, issuer.token(scope="read write admin"))
        assert limited == Caller(
            "oauth:ann", frozenset({Scope.READ}), collections=("docs",), mandatory_filter="t == 1", key_prefix="a-"
        )
        assert await caller_of(verifier, issuer.token(scope="write")) == Caller(
            "oauth:ann", frozenset(), collections=("docs",), mandatory_filter="t == 1", key_prefix="a-"
        )
        assert await caller_of(verifier, issuer.token(sub="bob")) is None
    path.write_text("[subjects.'*']\ndatabases = ['prod']")
    async with verifying(issuer, auth_tokens=path) as verifier:
        anybody = await caller_of(verifier, issuer.token(sub="bob"))
        assert anybody == Caller("oauth:bob", frozenset({Scope.READ}), databases=("prod",))


async def test_a_new_key_is_fetched_once_however_many_wait(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "RETRY_SECONDS", 0.0)
    async with verifying(issuer, auth_jwks=f"{issuer.url}/keys") as verifier:
        assert await caller_of(verifier, issuer.token())
        issuer.publish("three")
        monkeypatch.setattr(oauth, "RETRY_SECONDS", 30.0)
        found: list[Caller | None] = []

        async def check() -> None:
            found.append(await caller_of(verifier, issuer.token(kid="three")))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(check)
        assert None not in found
        assert issuer.asked == ["/keys"] * 2
        for number in range(20):
            assert await caller_of(verifier, issuer.token(kid=f"made up {number}")) is None
        assert await caller_of(verifier, issuer.token()) is None  # withdrawn
        assert issuer.asked == ["/keys"] * 2


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"keys": []}, {"keys": [{"kty": "oct", "k": "AA", "kid": "one"}]}, "x"]
)
async def test_without_keys_nobody_says_that_a_token_is_wrong(
    issuer: Issuer, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.answers["/keys"] = answer
    async with verifying(issuer) as verifier:
        with pytest.raises(oauth.KeysUnavailable):
            await verifier.verify_token(issuer.token())
        assert await caller_of(verifier, unsigned(issuer)) is None  # that is wrong with any keys
    assert caplog.text.count("the keys of the OAuth issuer cannot be had") == 1


async def test_known_keys_outlive_an_issuer_that_does_not_answer_for_a_while(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with verifying(issuer) as verifier:
        assert await caller_of(verifier, issuer.token())
        issuer.answers.clear()
        monkeypatch.setattr(oauth, "KEYS_SECONDS", 0.0)
        assert await caller_of(verifier, issuer.token())
        monkeypatch.setattr(oauth, "STALE_SECONDS", 0.0)
        with pytest.raises(oauth.KeysUnavailable):
            await verifier.verify_token(issuer.token())


@pytest.mark.parametrize(
    "change",
    [{"issuer": "https://other.example"}, {"issuer": None}, {"jwks_uri": "http://keys.example"}, {"jwks_uri": None}],
)
async def test_metadata_that_are_not_the_issuers_are_not_believed(issuer: Issuer, change: dict[str, Any]) -> None:
    issuer.answers[METADATA] |= change
    async with verifying(issuer) as verifier:
        with pytest.raises(oauth.KeysUnavailable):
            await verifier.verify_token(issuer.token())
    assert "/keys" not in issuer.asked


async def test_a_short_rsa_key_is_no_key(issuer: Issuer) -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
    issuer.answers["/keys"] = {"keys": [RSAAlgorithm.to_jwk(short.public_key(), as_dict=True)]}
    with pytest.warns(match="below the minimum"):
        token = issuer.token(key=short, kid=None)
    async with verifying(issuer) as verifier:
        assert await caller_of(verifier, token) is None


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"public_url": "https://milvus.example/a/mcp"}, "https://milvus.example/a/mcp"),
        ({"port": 8000}, "http://127.0.0.1:8000/mcp"),
        ({"port": 8443, "host": "milvus.example", "certfile": "c.pem"}, "https://milvus.example:8443/mcp"),
        ({"port": 8443, "host": "fd00::5", "certfile": "c.pem"}, "https://[fd00::5]:8443/mcp"),
    ],
)
def test_the_audience_is_the_url_of_the_server_unless_it_is_another(settings: dict[str, Any], url: str) -> None:
    chosen = Settings.model_validate({"auth_issuer": "https://login.example"} | settings)
    assert resource_url(chosen) == url
    told = auth_settings(chosen)
    assert (str(told.issuer_url), str(told.resource_server_url)) == ("https://login.example", url)


@pytest.mark.parametrize(
    "settings",
    [{"port": 0}, {"host": "0.0.0.0"}, {"host": "::"}, {"host": "milvus.example"}],  # noqa: S104
)
def test_a_server_that_does_not_know_its_url_says_so(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="public_url"):
        resource_url(Settings.model_validate({"auth_issuer": "https://login.example"} | settings))
