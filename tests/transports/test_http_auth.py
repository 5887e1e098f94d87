"""Who may do what over HTTP: the server as its operator starts it, on the embedded database."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from mcp_server_milvus.auth.tokens import entry_for, new_token
from mcp_server_milvus.cli import main
from tests.auth.issuer import Issuer, issuing

pytestmark = pytest.mark.anyio

BOTH = {"Accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}},
}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
SCOPES = {"reader": ["read"], "writer": ["read", "write"], "boss": ["admin"], "goner": ["read"]}
METRICS_TOKEN = "scrape-me"
KINDS = ["mcp legacy", "mcp 2026-07-28", "sse legacy"]


@dataclass(frozen=True)
class Served:
    url: str
    tokens: dict[str, str]
    path: Path
    audit: Path
    log: Path


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def tokens_text(tokens: dict[str, str]) -> str:
    entries = (entry_for(name, token).replace('["read"]', json.dumps(SCOPES[name])) for name, token in tokens.items())
    return "\n".join(entries)


def write(path: Path, text: str) -> None:
    """As if it had been written a while ago: no editor is in the middle of it."""
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_text(text)
    os.utime(new, (time.time() - 60, time.time() - 60))
    new.replace(path)


@contextmanager
def running(folder: Path, *flags: str) -> Generator[str]:
    """A server in a process of its own; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    command = [sys.executable, "-m", "mcp_server_milvus", "--transport", "http", "--port", str(port), *flags]
    with (folder / "log").open("w") as log, subprocess.Popen([*command, "--data-dir", folder / "d"], stderr=log) as it:
        try:
            until_listening(port, it)
            yield f"http://127.0.0.1:{port}"
        finally:
            it.terminate()


def until_listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the server does not listen")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    folder = tmp_path_factory.mktemp("served")
    tokens = {name: new_token() for name in SCOPES}
    path, audit = folder / "tokens.toml", folder / "audit.jsonl"
    write(path, tokens_text(tokens))
    flags = ["--auth-tokens", str(path), "--metrics-token", METRICS_TOKEN, "--audit", str(audit), "--toolsets", "all"]
    with running(folder, *flags, "--log-level", "DEBUG") as url:
        yield Served(url, tokens, path, audit, folder / "log")


@asynccontextmanager
async def client_of(served: Served, name: str, kind: str = "mcp legacy") -> AsyncGenerator[Client]:
    transport, mode = kind.split()
    headers = bearer(served.tokens[name])
    if transport == "sse":
        async with Client(sse_client(f"{served.url}/sse", headers), mode=mode) as client:
            yield client
    else:
        async with httpx2.AsyncClient(headers=headers) as http:
            connection = streamable_http_client(f"{served.url}/mcp", http_client=http)
            async with Client(connection, mode=mode) as client:
                yield client


async def tools_of(served: Served, name: str, kind: str = "mcp legacy") -> set[str]:
    async with client_of(served, name, kind) as client:
        return {tool.name for tool in (await client.list_tools()).tools}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/sse"), ("POST", "/messages/")]
)
async def test_without_a_token_that_is_right_there_is_nothing_to_see(served: Served, method: str, path: str) -> None:
    token = served.tokens["boss"]
    wrong: list[dict[str, str]] = [
        {},
        bearer("mmcp_wrong"),
        bearer(token[:-1]),
        bearer('""'),
        {"Authorization": token},
        {"Authorization": f"Basic {token}"},
        bearer("a.b.c"),
    ]
    async with httpx2.AsyncClient() as http:
        for headers in wrong:
            response = await http.request(method, served.url + path, headers=BOTH | headers, json=INITIALIZE)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer ")
            assert response.json() == {"error": "invalid_token", "error_description": "Authentication required"}
            assert "milvus" not in response.text.lower() + str(response.headers).lower()
            assert "server" not in response.headers


@pytest.mark.parametrize("kind", KINDS)
async def test_each_bearer_lists_and_calls_its_own_tools(served: Served, kind: str) -> None:
    reader, writer, boss = [await tools_of(served, name, kind) for name in ("reader", "writer", "boss")]
    assert {"search", "list_collections"} <= reader < writer < boss
    assert not reader & {"insert", "drop_collection", "create_collection"}
    assert {"insert", "create_collection"} <= writer
    assert {"drop_collection", "create_user"} <= boss - writer
    async with client_of(served, "reader", kind) as client:
        made_up = (await client.call_tool("create_colection", {})).structured_content or {}
        refused = await client.call_tool("create_collection", {"collection_name": "mine", "dimension": 2})
        listed = await client.call_tool("list_collections", {})
    said = refused.structured_content or {}
    assert (said["code"], made_up["code"]) == ("invalid_argument", "invalid_argument")
    assert said["message"].startswith("there is no tool 'create_collection'")
    assert said["hint"] == made_up["hint"]
    assert not listed.is_error
    assert (listed.structured_content or {})["collections"] == []


async def test_what_a_reader_was_refused_is_in_the_audit_log(served: Served) -> None:
    async with client_of(served, "reader") as client:
        await client.call_tool("drop_collection", {"collection_name": "audited"})
    logged = [json.loads(line) for line in served.audit.read_text().splitlines()]
    assert any(
        line["caller"] == "reader" and line["tool"] == "drop_collection" and line["outcome"] == "invalid_argument"
        for line in logged
    )


async def test_calls_in_the_same_moment_are_their_own_bearers(served: Served) -> None:
    found: list[tuple[str, bool]] = []
    async with (
        client_of(served, "reader", "sse legacy") as one,
        client_of(served, "writer", "sse legacy") as two,
        client_of(served, "boss", "mcp legacy") as three,
        client_of(served, "reader", "mcp 2026-07-28") as four,
    ):

        async def look(name: str, client: Client) -> None:
            for _ in range(5):
                tools = {tool.name for tool in (await client.list_tools()).tools}
                found.append((name, "insert" in tools))

        async with anyio.create_task_group() as tasks:
            for name, client in (("reader", one), ("writer", two), ("boss", three), ("reader", four)):
                tasks.start_soon(look, name, client)
    assert len(found) == 20
    assert set(found) == {("reader", False), ("writer", True), ("boss", True)}


async def test_nobody_uses_the_session_of_another(served: Served) -> None:
    async with httpx2.AsyncClient(headers=BOTH) as http:
        boss, reader = bearer(served.tokens["boss"]), bearer(served.tokens["reader"])
        opened = await http.post(f"{served.url}/mcp", json=INITIALIZE, headers=boss)
        session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
        for method in ("POST", "GET", "DELETE"):
            taken = await http.request(method, f"{served.url}/mcp", json=LIST, headers=reader | session)
            unknown = await http.request(
                method, f"{served.url}/mcp", json=LIST, headers=reader | {"Mcp-Session-Id": "0" * 32}
            )
            assert (taken.status_code, taken.content) == (unknown.status_code, unknown.content)
            assert taken.status_code == 404
        assert (await http.post(f"{served.url}/mcp", json=LIST, headers=boss | session)).status_code == 200
        async with http.stream("GET", f"{served.url}/sse", headers=boss) as events:
            lines = events.aiter_lines()
            assert await anext(lines) == "event: endpoint"
            address = served.url + (await anext(lines)).removeprefix("data: ")
            assert (await http.post(address, json=INITIALIZE, headers=reader)).status_code == 404
            assert (await http.post(address, json=INITIALIZE)).status_code == 401
            assert (await http.post(address, json=INITIALIZE, headers=boss)).status_code == 202


async def test_a_removed_token_is_refused_in_its_open_session_too(served: Served) -> None:
    async with httpx2.AsyncClient(headers=BOTH | bearer(served.tokens["goner"])) as http:
        opened = await http.post(f"{served.url}/mcp", json=INITIALIZE)
        http.headers["Mcp-Session-Id"] = opened.headers["Mcp-Session-Id"]
        assert (await http.post(f"{served.url}/mcp", json=LIST)).status_code == 200
        write(served.path, tokens_text({name: token for name, token in served.tokens.items() if name != "goner"}))
        with anyio.fail_after(10):
            while (await http.post(f"{served.url}/mcp", json=LIST)).status_code != 401:
                await anyio.sleep(0.05)


async def test_metrics_ask_for_their_own_token_and_tell_of_calls(served: Served) -> None:
    async with client_of(served, "reader") as client:
        await client.call_tool("list_collections", {})
        await client.call_tool("no such tool\n{}", {})
        async with httpx2.AsyncClient() as http:
            for headers in ({}, bearer("x"), bearer(served.tokens["boss"]), {"Authorization": METRICS_TOKEN}):
                refused = await http.get(f"{served.url}/metrics", headers=headers)
                assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
            told = (await http.get(f"{served.url}/metrics", headers=bearer(METRICS_TOKEN))).text
    samples = dict(line.rsplit(" ", 1) for line in told.splitlines() if not line.startswith("#"))
    assert float(samples['milvus_mcp_calls_total{code="ok",tool="list_collections"}']) >= 1
    assert float(samples['milvus_mcp_calls_total{code="invalid_argument",tool="unknown"}']) >= 1
    assert float(samples['milvus_mcp_call_seconds_count{tool="list_collections"}']) >= 1
    assert float(samples["milvus_mcp_calls_in_flight"]) == 0
    assert float(samples["milvus_mcp_sessions"]) >= 1
    assert float(samples["milvus_mcp_pool_connections"]) >= 1
    assert float(samples["milvus_mcp_pool_borrowed"]) == 0
    assert (samples["milvus_mcp_engine_up"], samples["milvus_mcp_engine_restarts_total"]) == ("1.0", "0.0")
    assert "milvus_mcp_schema_cache_hits_total" in samples
    assert "no such" not in told


async def test_health_is_for_everybody_and_says_little(served: Served) -> None:
    async with httpx2.AsyncClient() as http:
        with anyio.fail_after(60):  # its engine may be starting
            while (await http.get(f"{served.url}/health/ready")).status_code != 200:
                await anyio.sleep(0.1)
        answers = [await http.get(f"{served.url}/health{path}") for path in ("", "/live", "/ready")]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.json() for answer in answers] == [
        {"status": "ok", "ready": True},
        {"status": "ok"},
        {"status": "ok"},
    ]


async def test_no_token_is_in_the_log(served: Served) -> None:
    """The last test of this server."""
    log = served.log.read_text()
    assert "DEBUG" in log
    assert [name for name, token in served.tokens.items() if token in log] == []
    assert METRICS_TOKEN not in log


@pytest.fixture
def issuer() -> Generator[Issuer]:
    with issuing() as issuer:
        yield issuer


async def test_a_jwt_opens_the_server_and_who_has_none_learns_where_to_get_one(issuer: Issuer, tmp_path: Path) -> None:
    with running(tmp_path, "--auth-issuer", issuer.url) as url:
        audience = f"{url}/mcp"
        async with httpx2.AsyncClient(headers=BOTH) as http:
            refused = await http.post(audience, json=INITIALIZE, headers=bearer(issuer.token()))  # of another audience
            assert refused.status_code == 401
            where = refused.headers["WWW-Authenticate"].split('resource_metadata="')[1].rstrip('"')
            assert where == f"{url}/.well-known/oauth-protected-resource/mcp"
            told = (await http.get(where)).json()
            assert told["resource"] == audience
            assert told["authorization_servers"] == [issuer.url]
            assert told["scopes_supported"] == ["read", "write", "admin"]
            assert (await http.get(f"{url}/metrics")).status_code == 404  # no token for it, so it is not public
            ann, bob = (bearer(issuer.token(aud=audience, sub=name)) for name in ("ann", "bob"))
            opened = await http.post(audience, json=INITIALIZE, headers=ann)
            session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
            assert (await http.post(audience, json=LIST, headers=bob | session)).status_code == 404
            listed = await http.post(audience, json=LIST, headers=ann | session)
            assert '"search"' in listed.text
            assert '"insert"' not in listed.text
            renewed = bearer(issuer.token(aud=audience, sub="ann", scope="read write"))
            assert '"insert"' in (await http.post(audience, json=LIST, headers=renewed | session)).text
            issuer.answers.clear()
            issuer.publish("never")
            unknown = await http.post(audience, json=INITIALIZE, headers=bearer(issuer.token(kid="x", aud=audience)))
            assert unknown.status_code == 401


async def test_while_the_issuers_keys_cannot_be_had_no_token_is_called_wrong(issuer: Issuer, tmp_path: Path) -> None:
    issuer.answers.clear()
    with running(tmp_path, "--auth-issuer", issuer.url) as url:
        async with httpx2.AsyncClient(headers=BOTH) as http:
            response = await http.post(f"{url}/mcp", json=INITIALIZE, headers=bearer(issuer.token()))
            assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
            assert (await http.post(f"{url}/mcp", json=INITIALIZE)).status_code == 401


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "set auth_tokens"),  # noqa: S104
        (["--host", "192.0.2.1", "--transport", "sse"], "can be reached from other machines"),
        (["--host", "0.0.0.0", "--auth-tokens", "{tokens}"], "tokens would travel in clear text"),  # noqa: S104
        (
            ["--host", "::", "--auth-tokens", "{tokens}", "--public-url", "http://milvus.example"],
            "set certfile and keyfile, or public_url to the https:// address",
        ),
        (
            [
                "--host",
                "::",
                "--auth-tokens",
                "{tokens}",
                "--public-url",
                "https://m.example",
                "--metrics-port",
                "9091",
            ],
            "set metrics_token",
        ),
        (["--auth-tokens", "/nowhere/tokens.toml"], "cannot be read: No such file"),
        (["--certfile", "/nowhere/c.pem"], "certfile and keyfile cannot be used: No such file"),
        (["--keyfile", "/nowhere/k.pem"], "keyfile is of no use without certfile"),
        (["--auth-audience", "x"], "auth_audience is of no use without auth_issuer"),
        (["--auth-issuer", "http://login.example"], "auth_issuer: must begin with https://"),
        (["--auth-issuer", "https://login.example", "--port", "0"], "set public_url"),
        (["--milvus-identity", "caller"], "the embedded database has no accounts"),
        (["--milvus-identity", "caller", "--transport", "stdio"], "its accounts come in headers"),
        (["--allowed-origins", "*"], "allowed_origins: '*' is not"),
        (["--allowed-hosts", "a b"], "allowed_hosts: 'a b' is not"),
    ],
)
def test_settings_that_would_leave_the_door_open_end_the_start(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "tokens.toml", entry_for("reader", new_token()))
    flags = [flag.format(tokens=tmp_path / "tokens.toml") for flag in flags]
    assert main(["--transport", "http", "--data-dir", str(tmp_path / "d"), *flags]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert said in output.err
