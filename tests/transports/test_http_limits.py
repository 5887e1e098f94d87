"""What a client over HTTP can use up, and who is answered at all."""

import gc
import ipaddress
import json
import signal
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import ByteStream
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from mcp.server import MCPServer

from mcp_server_milvus.app import open_app
from mcp_server_milvus.auth.tokens import entry_for, new_token
from mcp_server_milvus.auth.verifier import auth_settings, open_verifier
from mcp_server_milvus.callers import current_caller
from mcp_server_milvus.settings import Settings, SettingsError
from mcp_server_milvus.transports import http as http_transport
from mcp_server_milvus.transports import prompt
from mcp_server_milvus.transports.health import Health, milvus_answers
from mcp_server_milvus.transports.http import Beside, http_app, serve_http, sessions_of
from mcp_server_milvus.transports.metrics import Metrics
from mcp_server_milvus.transports.security import MILVUS_TOKEN, tls
from tests.transports.test_http_auth import BOTH, INITIALIZE, LIST, running, write

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals"),
]

MEGABYTE = 2**20
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_collections", "arguments": {}}}
REQUEST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def chosen(**settings: Any) -> Settings:
    return Settings.model_validate({"transport": "http", "port": 0} | settings)


@asynccontextmanager
async def listening(server: MCPServer[Any], beside: Beside | None = None, **settings: Any) -> AsyncGenerator[str]:
    """The URL of the server, which is in this process."""
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(partial(serve_http, server, chosen(**settings), beside))
        try:
            yield url
        finally:
            signal.raise_signal(signal.SIGTERM)


@asynccontextmanager
async def asked(
    server: MCPServer[Any], beside: Beside | None = None, base: str = "http://localhost", **settings: Any
) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of the server, without a network in between."""
    app = http_app(server, chosen(**settings), beside or Beside())
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url=base, headers=BOTH) as http,
    ):
        yield http


async def until_closed(connection: ByteStream) -> bytes:
    """What was answered before."""
    answer = b""
    try:
        while True:
            answer += await connection.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return answer


async def drip(connection: ByteStream, data: bytes) -> None:
    try:
        for byte in data:
            await connection.send(bytes([byte]))
            await anyio.sleep(0.02)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass


async def test_a_client_that_sends_too_slowly_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "REQUEST_SECONDS", 0.5)
    server = MCPServer("slow")
    whole = REQUEST + b"Content-Length: 2\r\n\r\n{}"
    begun = {
        "nothing": b"",
        "half a head": REQUEST,
        "half a body": REQUEST + b"Content-Length: 1000\r\n\r\n{",
        "half a chunk": REQUEST + b"Transfer-Encoding: chunked\r\n\r\n400\r\n{",
        "half a second request": whole + REQUEST,
        "half of what nobody reads": b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
    }
    ended: list[str] = []
    with anyio.fail_after(30):
        async with listening(server) as url, httpx2.AsyncClient() as http:
            port = int(url.rpartition(":")[2])

            async def attack(what: str, data: bytes) -> None:
                async with await anyio.connect_tcp("127.0.0.1", port) as connection, anyio.create_task_group() as tasks:
                    await connection.send(data)
                    tasks.start_soon(drip, connection, b"x" * 5_000)
                    await until_closed(connection)
                    ended.append(what)
                    tasks.cancel_scope.cancel()

            async with http.stream("GET", f"{url}/sse") as events:
                async with anyio.create_task_group() as tasks:
                    for what, data in begun.items():
                        tasks.start_soon(attack, what, data)
                    assert (await http.get(f"{url}/health/live")).status_code == 200
                lines = events.aiter_lines()
                assert await anext(lines) == "event: endpoint"
                posted = url + (await anext(lines)).removeprefix("data: ")
                assert (await http.post(posted, json=INITIALIZE)).status_code == 202  # who listens is not slow
            assert sessions_of(server)() == 0
    assert sorted(ended) == sorted(begun)


async def test_a_body_of_100_mb_is_refused_and_not_kept(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * MEGABYTE

    path, token = tmp_path / "tokens.toml", new_token()
    path.touch(0o600)
    path.write_text(entry_for("one", token))
    shown = {"Authorization": f"Bearer {token}"}
    json_text = BOTH | {"Content-Type": "application/json"}
    with running(tmp_path, "--auth-tokens", str(path)) as url:
        async with httpx2.AsyncClient(headers=json_text, timeout=60) as http:
            before = peak_memory(url)
            for body in (b"x" * 100 * MEGABYTE, chunks()):
                assert (await http.post(f"{url}/mcp", content=body)).status_code == 401
            of_strangers = peak_memory(url)
            for body in (b"x" * 100 * MEGABYTE, chunks()):
                assert (await http.post(f"{url}/messages/", content=body, headers=shown)).status_code == 413
            assert (await http.post(f"{url}/mcp", json=INITIALIZE, headers=shown)).status_code == 200
            assert of_strangers - before <= 20 * MEGABYTE
            assert peak_memory(url) - before <= 300 * MEGABYTE


def peak_memory(url: str) -> int:
    """Bytes, of the process that listens there; 0 where it cannot be known."""
    port = f"{int(url.rpartition(':')[2]):04X}"
    if sys.platform != "linux":
        return 0
    (inode,) = (
        columns[9]
        for columns in map(str.split, Path("/proc/net/tcp").read_text().splitlines())
        if columns[1].endswith(f":{port}") and columns[3] == "0A"
    )
    for links in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) == f"socket:[{inode}]" for link in links.iterdir()):
                status = (links.parent / "status").read_text()
                return int(status.partition("VmHWM:")[2].split()[0]) * 1024
        except OSError:
            continue
    raise AssertionError("nobody listens")


async def test_the_body_limit_is_the_settings() -> None:
    async with asked(MCPServer("small"), max_body_megabytes=1) as http:
        most = json.dumps(INITIALIZE).encode().ljust(MEGABYTE)
        headers = {"Content-Type": "application/json"}
        assert (await http.post("/mcp", content=most, headers=headers)).status_code == 200
        assert (await http.post("/mcp", content=most + b" ", headers=headers)).status_code == 413


async def test_1000_idle_sessions_cost_little_and_one_more_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, "--max-sessions", "1000") as url:
        async with httpx2.AsyncClient(headers=BOTH, timeout=30) as http:
            opened = await http.post(f"{url}/mcp", json=INITIALIZE)
            session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
            await http.post(f"{url}/mcp", json=CALL, headers=session)  # imports all that a call needs
            before = peak_memory(url)

            async def open_some(number: int) -> None:
                for _ in range(number):
                    assert (await http.post(f"{url}/mcp", json=INITIALIZE)).status_code == 200

            async with anyio.create_task_group() as tasks:
                for _ in range(9):
                    tasks.start_soon(open_some, 111)
            assert "milvus_mcp_sessions 1000.0" in (await http.get(f"{url}/metrics")).text
            assert (await http.post(f"{url}/mcp", json=INITIALIZE)).status_code == 503
            assert (await http.get(f"{url}/health/live")).status_code == 200
            assert peak_memory(url) - before < 1000 * 100_000


async def test_an_idle_session_ends() -> None:
    for seconds, status in ((60, 200), (0.2, 404)):
        server = MCPServer("idle")
        async with asked(server, session_seconds=seconds) as http:
            opened = await http.post("/mcp", json=INITIALIZE)
            session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
            with anyio.fail_after(30):
                while status == 404 and sessions_of(server)():
                    await anyio.sleep(0.02)
            assert (await http.post("/mcp", json=LIST, headers=session)).status_code == status


async def test_event_streams_are_sessions_too_and_only_so_many() -> None:
    with anyio.fail_after(30):
        async with listening(MCPServer("sse"), max_sessions=2) as url, httpx2.AsyncClient() as http:
            async with http.stream("GET", f"{url}/sse") as one, http.stream("GET", f"{url}/sse") as two:
                assert (one.status_code, two.status_code) == (200, 200)
                assert (await http.get(f"{url}/sse")).status_code == 503
            while True:
                async with http.stream("GET", f"{url}/sse") as again:
                    if again.status_code == 200:
                        break


@pytest.mark.parametrize(
    ("settings", "header", "status"),
    [
        ({"host": "0.0.0.0"}, {"Host": "10.1.2.3:8000"}, 200),  # noqa: S104  # what was connected to
        ({}, {"Host": "10.1.2.4:8000"}, 421),
        ({}, {"Host": "[::1"}, 421),
        ({}, {"Host": ""}, 421),
        ({"allowed_hosts": "mcp.example,a.example:8443,b.example:*"}, {"Host": "mcp.example"}, 200),
        ({"allowed_hosts": "mcp.example,a.example:8443,b.example:*"}, {"Host": "MCP.example"}, 200),
        ({"allowed_hosts": "mcp.example,a.example:8443,b.example:*"}, {"Host": "mcp.example:8000"}, 421),
        ({"allowed_hosts": "mcp.example,a.example:8443,b.example:*"}, {"Host": "a.example:8443"}, 200),
        ({"allowed_hosts": "mcp.example,a.example:8443,b.example:*"}, {"Host": "b.example:1"}, 200),
        ({"allowed_hosts": "mcp.example,a.example:8443,b.example:*"}, {"Host": "b.example:1.evil.example"}, 421),
        ({"public_url": "https://mcp.example/a/mcp"}, {"Host": "mcp.example"}, 200),
        ({"public_url": "https://mcp.example/mcp"}, {"Host": "localhost", "Origin": "https://mcp.example"}, 200),
        ({"public_url": "https://mcp.example/mcp"}, {"Host": "localhost", "Origin": "http://mcp.example"}, 403),
        ({"allowed_origins": "https://app.example"}, {"Host": "localhost", "Origin": "https://app.example"}, 200),
        ({"allowed_origins": "https://app.example"}, {"Host": "localhost", "Origin": "https://app.example:1"}, 403),
        ({}, {"Host": "localhost", "Origin": "null"}, 403),
        ({}, {"Host": "localhost", "Origin": ""}, 403),
    ],
)
async def test_hosts_and_origins_are_those_of_the_settings(
    settings: dict[str, Any], header: dict[str, str], status: int
) -> None:
    async with asked(MCPServer("names"), base="http://10.1.2.3:8000", **settings) as http:
        assert (await http.post("/mcp", json=INITIALIZE, headers=header)).status_code == status


async def test_preflights_are_answered_when_they_are_wanted_and_for_allowed_origins() -> None:
    wish = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,mcp-session-id"}
    ours, evil = {"Origin": "https://app.example"}, {"Origin": "https://app.example.evil.example"}
    async with asked(MCPServer("off"), allowed_origins="https://app.example") as http:
        answer = await http.options("/mcp", headers=wish | ours)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        answer = await http.post("/mcp", json=INITIALIZE, headers=ours)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    async with asked(MCPServer("on"), allowed_origins="https://app.example", cors=True) as http:
        answer = await http.options("/mcp", headers=wish | ours)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        answer = await http.post("/mcp", json=INITIALIZE, headers=ours)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "Mcp-Session-Id" in answer.headers["Access-Control-Expose-Headers"]
        answer = await http.options("/mcp", headers=wish | evil)
        assert answer.status_code == 403
        assert "Access-Control-Allow-Origin" not in answer.headers


def certificate(folder: Path) -> dict[str, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    files = {"certfile": folder / "cert.pem", "keyfile": folder / "key.pem"}
    files["certfile"].write_bytes(signed.public_bytes(Encoding.PEM))
    files["keyfile"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


async def test_with_a_certificate_https_is_spoken_and_nothing_else(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=files["certfile"])
    async with (
        listening(MCPServer("tls"), None, **files) as url,
        httpx2.AsyncClient(verify=trusting, headers=BOTH) as http,
    ):
        assert url.startswith("https://127.0.0.1:")
        assert (await http.post(f"{url}/mcp", json=INITIALIZE)).status_code == 200
        with pytest.raises(httpx2.HTTPError):
            await http.get(url.replace("https", "http"))


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    for wrong in ({"certfile": files["keyfile"]}, {"certfile": files["certfile"]}):
        with pytest.raises(SettingsError, match="certfile and keyfile cannot be used: "):
            tls(chosen(**wrong))


@pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")  # the SDK leaves them to the collector
async def test_an_event_stream_ends_soon_after_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_transport, "WELCOME_SECONDS", 0.05)
    path, tokens = tmp_path / "tokens.toml", {name: new_token() for name in ("goner", "stays")}
    write(path, "\n".join(entry_for(name, token) for name, token in tokens.items()))
    shown = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
    settings = chosen(auth_tokens=str(path), port=8000)
    async with (
        open_verifier(settings) as verifier,
        listening(
            MCPServer("streams", auth=auth_settings(settings), token_verifier=verifier), Beside(verifier=verifier)
        ) as url,
        httpx2.AsyncClient(timeout=30) as http,
        http.stream("GET", f"{url}/sse", headers=shown["stays"]) as stays,
        http.stream("GET", f"{url}/sse", headers=shown["goner"]) as goner,
    ):
        lines = stays.aiter_lines()
        assert await anext(lines) == "event: endpoint"
        address = url + (await anext(lines)).removeprefix("data: ")
        write(path, entry_for("stays", tokens["stays"]))
        with anyio.fail_after(20):
            assert "event: endpoint" in [line async for line in goner.aiter_lines()]
            assert (await http.post(address, json=INITIALIZE, headers=shown["stays"])).status_code == 202
            while not (await anext(lines)).startswith("data: {"):
                pass
    gc.collect()


async def test_metrics_have_a_port_of_their_own_when_one_is_set(free_tcp_port: int) -> None:
    metrics = Metrics(chosen(), ["search"])
    beside = Beside(health=Health(), metrics=metrics)
    metrics.begun()
    async with listening(MCPServer("apart"), beside, metrics_port=free_tcp_port) as url, httpx2.AsyncClient() as http:
        assert (await http.get(f"{url}/metrics")).status_code == 404
        apart = f"http://127.0.0.1:{free_tcp_port}"
        assert "milvus_mcp_calls_in_flight 1.0" in (await http.get(f"{apart}/metrics")).text
        assert (await http.get(f"{apart}/metrics", headers={"Host": "evil.example"})).status_code == 421
        assert (await http.post(f"{apart}/mcp", json=INITIALIZE)).status_code == 404
        for each in (url, apart):
            assert (await http.get(f"{each}/health/ready")).status_code == 200


async def test_a_server_that_ends_or_has_no_milvus_lives_and_is_not_ready(free_tcp_port: int) -> None:
    asked_for = 0

    async def silent() -> bool:
        nonlocal asked_for
        asked_for += 1
        return False

    async with asked(MCPServer("alone"), Beside(health=Health(silent))) as http:
        for _ in range(10):
            assert (await http.get("/health/ready")).status_code == 503
        assert asked_for < 10
        assert (await http.get("/health")).json() == {"status": "ok", "ready": False}
        assert (await http.get("/health/live")).status_code == 200
    ending = Health()
    async with asked(MCPServer("ending"), Beside(health=ending)) as http:
        assert (await http.get("/health/ready")).status_code == 200
        ending.ending = True
        assert (await http.get("/health/ready")).json() == {"status": "ending"}
    for identity in ("service", "caller"):
        settings = chosen(uri=f"http://127.0.0.1:{free_tcp_port}", milvus_identity=identity)
        async with open_app(settings) as app:
            assert not await milvus_answers(app)


async def test_a_caller_brings_its_own_milvus_account_and_keeps_its_session_to_it() -> None:
    server = MCPServer("accounts")
    seen: list[tuple[str, bool]] = []

    @server.tool()
    async def look(ctx: Any = None) -> str:
        del ctx
        caller = current_caller(authenticated=False)
        assert caller.credentials is not None
        seen.append((caller.credentials.get_secret_value(), "secret" in repr(caller)))
        return "seen"

    def account(token: str) -> dict[str, str]:
        return {MILVUS_TOKEN: token}

    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "look", "arguments": {}}}
    async with asked(server, milvus_identity="caller", uri="http://127.0.0.1:1") as http:
        for headers in (
            [],
            [(MILVUS_TOKEN, "")],
            [(MILVUS_TOKEN, "a"), (MILVUS_TOKEN, "b")],
            [(MILVUS_TOKEN, "x" * 5000)],
        ):
            refused = await http.post("/mcp", json=INITIALIZE, headers=headers)
            assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, MILVUS_TOKEN)
        opened = await http.post("/mcp", json=INITIALIZE, headers=account("ann:secret"))
        session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
        assert (await http.post("/mcp", json=call, headers=session | account("ann:secret"))).status_code == 200
        assert (await http.post("/mcp", json=call, headers=session | account("bob:secret"))).status_code == 404
        assert (await http.get("/health")).status_code == 200
    assert seen == [("ann:secret", False)]
