import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.server import MCPServer

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.transports.http import Beside, http_app, serve_http

pytestmark = pytest.mark.anyio

COMMAND = [sys.executable, str(Path(__file__).with_name("echo_server.py"))]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}},
}
CLIENTS = ["mcp legacy", "mcp auto", "mcp 2026-07-28", "sse legacy", "sse auto", "sse 2026-07-28"]


def client_of(url: str, kind: str) -> Client:
    """A client of a kind like `sse legacy`: the transport and the mode."""
    transport, mode = kind.split()
    return Client(sse_client(f"{url}/sse") if transport == "sse" else f"{url}/mcp", mode=mode)


@asynccontextmanager
async def started(transport: str = "http") -> AsyncGenerator[tuple[Process, str]]:
    """A server and its URL. It is killed in the end if it did not end by itself."""
    with anyio.fail_after(30):
        async with await anyio.open_process([*COMMAND, transport]) as process:
            assert process.stdout
            try:
                url = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 100)
                yield process, url.decode().strip()
            finally:
                if process.returncode is None:
                    process.kill()


async def stderr(process: Process) -> bytes:
    assert process.stderr
    return b"".join([chunk async for chunk in process.stderr])


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    """The URL of one server for all tests that leave it running."""
    with subprocess.Popen([*COMMAND, "http"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.mark.parametrize("kind", CLIENTS)
async def test_the_sdks_client_calls_a_tool_and_hears_of_its_progress(url: str, kind: str) -> None:
    heard: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        heard.append(message)

    async with client_of(url, kind) as client:
        result = await client.call_tool("slow", {"seconds": 0}, progress_callback=on_progress)
    assert result.structured_content == {"result": "slept 0.0"}
    assert heard == ["begun"]


async def test_both_transports_are_one_server(url: str) -> None:
    results: list[Any] = []

    async def hold(client: Client) -> None:
        results.append((await client.call_tool("hold", {})).structured_content)

    async with (
        client_of(url, "sse legacy") as sse,
        client_of(url, "mcp auto") as mcp,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(hold, sse)
        tasks.start_soon(hold, mcp)
        await mcp.call_tool("release", {})
    assert results == [{"result": "released"}] * 2


async def test_sse_alone_has_no_streamable_http() -> None:
    async with started("sse") as (_, url), httpx2.AsyncClient() as http:
        assert (await http.post(f"{url}/mcp", json=INITIALIZE)).status_code == 404
        async with client_of(url, "sse legacy") as client:
            assert (await client.call_tool("echo", {"text": "x"})).structured_content == {"result": "x"}


@pytest.mark.parametrize("kind", ["mcp legacy", "mcp auto", "sse legacy"])
async def test_a_call_of_20_mb_is_taken(url: str, kind: str) -> None:
    async with client_of(url, kind) as client:
        result = await client.call_tool("length", {"text": "x" * 20_000_000})
    assert result.structured_content == {"result": 20_000_000}


async def test_health_is_ok_under_any_name(url: str) -> None:
    async with httpx2.AsyncClient() as http:
        response = await http.get(f"{url}/health", headers={"Host": "10.1.2.3:8000"})
    assert (response.status_code, response.json()) == (200, {"status": "ok", "ready": True})


@pytest.mark.parametrize(
    ("header", "status"), [({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)]
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/sse"), ("POST", "/messages/")]
)
async def test_a_page_of_another_site_is_refused(
    url: str, method: str, path: str, header: dict[str, str], status: int
) -> None:
    async with httpx2.AsyncClient() as http:
        response = await http.request(method, url + path, headers=header, json=INITIALIZE)
    assert response.status_code == status


async def test_a_refusal_leaves_no_traceback() -> None:
    async with started() as (process, url), httpx2.AsyncClient() as http:
        assert (await http.get(f"{url}/sse", headers={"Origin": "http://evil.example"})).status_code == 403
        process.terminate()
        assert await stderr(process) == b""


@pytest.mark.parametrize("part", [1.0, 0.5], ids=["once it has asked", "half-way"])
@pytest.mark.parametrize("transport", ["http", "stateless"])
async def test_a_client_that_leaves_leaves_no_traceback(transport: str, part: float) -> None:
    body = json.dumps(INITIALIZE).encode()
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    async with started(transport) as (process, url), httpx2.AsyncClient() as http:
        for number in range(30):
            async with await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as leaving:
                await leaving.send(f"{head}Accept: application/json\r\n\r\n".encode() + body[: int(len(body) * part)])
                await anyio.sleep(0.001 * (number % 3))
        assert (await http.get(f"{url}/health/live")).status_code == 200
        process.terminate()
        assert await stderr(process) == b""


@pytest.mark.parametrize(
    ("host", "header", "served"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost", True),
        ("localhost", "127.0.0.1:8000", True),
        ("::1", "[::1]:8000", True),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "localhost.evil.example:8000", False),
        ("0.0.0.0", "localhost:8000", True),  # noqa: S104
        ("0.0.0.0", f"{socket.gethostname()}:8000", True),  # noqa: S104
        ("0.0.0.0", "evil.example:8000", False),  # noqa: S104
        ("milvus.example", "milvus.example:8000", True),
        ("milvus.example", "localhost:8000", False),
        ("192.168.1.5", "192.168.1.5:8000", True),
        ("fd00::5", "[fd00::5]:8000", True),
        ("fd00::5", "evil.example:8000", False),
    ],
)
async def test_only_the_servers_own_names_are_served(host: str, header: str, *, served: bool) -> None:
    settings = Settings.model_validate({"transport": "http", "host": host})
    transport = httpx2.ASGITransport(http_app(MCPServer("names"), settings, Beside()))
    async with httpx2.AsyncClient(transport=transport) as http:
        for names in ({"Host": header}, {"Host": header, "Origin": f"https://{header}"}):
            response = await http.post("http://test/messages/", headers=names, json=INITIALIZE)
            assert response.status_code == (400 if served else 421)  # 400: which session?


async def test_without_sessions_a_legacy_call_needs_no_handshake() -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    settings = Settings.model_validate({"transport": "http", "stateless": True})
    app = http_app(MCPServer("stateless"), settings, Beside())
    headers = {"Accept": "application/json, text/event-stream"}
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http:
        response = await http.post("http://localhost/mcp", json=call, headers=headers)
    assert '"tools":[]' in response.text


@pytest.mark.skipif(sys.platform != "linux", reason="a process cannot find its own sockets elsewhere")
async def test_an_accepted_connection_sends_without_waiting_for_more() -> None:
    connected: list[int] = []
    async with anyio.create_task_group() as tasks, httpx2.AsyncClient() as http:
        url = await tasks.start(partial(serve_http, MCPServer("prompt"), Settings.model_validate({"port": 0})))
        assert (await http.get(f"{url}/health")).status_code == 200
        port = int(url.rpartition(":")[2])
        connected += [option for local, option in tcp_sockets() if local == port]
        signal.raise_signal(signal.SIGTERM)
    assert connected == [1]


def tcp_sockets() -> Generator[tuple[int, int]]:
    """The local port and TCP_NODELAY of each connection of this process."""
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue  # a duplicate of a pipe would keep it open for good
            with socket.socket(fileno=os.dup(fd)) as open_socket:
                if open_socket.family in {socket.AF_INET, socket.AF_INET6} and open_socket.getpeername():
                    option = open_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    yield open_socket.getsockname()[1], option


async def test_a_port_in_use_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings.model_validate({"port": taken.getsockname()[1]})
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{settings.port}: Address already in use$"):
            await serve_http(MCPServer("late"), settings)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_signal_lets_the_calls_in_flight_be_answered(kind: str) -> None:
    results: list[Any] = []

    async def stop(progress: float, total: float | None, message: str | None) -> None:
        del progress, total, message
        process.terminate()

    async def call(client: Client) -> None:
        result = await client.call_tool("slow", {"seconds": 0.5}, progress_callback=stop)
        results.append(result.structured_content)

    async with started() as (process, url), client_of(url, kind) as client, client_of(url, kind) as idle:
        await idle.list_tools()
        await client.list_tools()  # or it would ask for the output schema after the call
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, client)
        assert results == [{"result": "slept 0.5"}]
        assert await process.wait() == 0
        assert await stderr(process) == b""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_server_whose_clients_only_listen(number: signal.Signals) -> None:
    async with started() as (process, url), httpx2.AsyncClient() as http, http.stream("GET", f"{url}/sse") as events:
        lines = events.aiter_lines()
        assert await anext(lines) == "event: endpoint"
        process.send_signal(number)
        assert [line async for line in lines if line.startswith("event")] == []
        assert await process.wait() == 0
        assert await stderr(process) == b""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
async def test_a_second_signal_ends_the_server_at_once() -> None:
    params = {"name": "slow", "arguments": {"seconds": 60}, "_meta": {"progressToken": 1}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"Accept": "application/json, text/event-stream"}
    async with started() as (process, url), httpx2.AsyncClient(headers=headers) as http:
        opened = await http.post(f"{url}/mcp", json=INITIALIZE)
        http.headers["Mcp-Session-Id"] = opened.headers["Mcp-Session-Id"]
        async with http.stream("POST", f"{url}/mcp", json=call) as events:
            lines = events.aiter_lines()
            while "begun" not in await anext(lines):
                pass
            while process.returncode is None:  # two that are sent at once may arrive as one
                process.terminate()
                with anyio.move_on_after(0.1):
                    await process.wait()
        assert process.returncode == -signal.SIGTERM
