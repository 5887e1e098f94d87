"""A call that is cancelled, or is over its time, stops what Milvus does for it and leaves its place to the next one."""

import json
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from pymilvus.grpc_gen import milvus_pb2

from mcp_server_milvus.app import open_app
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.transports.http import serve_http
from tests.fake_milvus import fake_milvus

pytestmark = pytest.mark.anyio

ONE_AT_A_TIME = {"max_concurrency": 1, "max_calls": 1}
EVENTUALLY = 30
LEGACY, MODERN = "2025-06-18", "2026-07-28"


@dataclass
class Held:
    """A Milvus whose first listing of collections never ends by itself."""

    uri: str = ""
    begun: anyio.Event = field(default_factory=anyio.Event)
    stopped: anyio.Event = field(default_factory=anyio.Event)
    released: anyio.Event = field(default_factory=anyio.Event)

    async def list_collections(self, _: Any) -> milvus_pb2.ShowCollectionsResponse:
        if not self.begun.is_set():
            self.begun.set()
            try:
                await self.released.wait()
            finally:
                self.stopped.set()
        return milvus_pb2.ShowCollectionsResponse()


@asynccontextmanager
async def held() -> AsyncGenerator[Held]:
    async with fake_milvus("2.6.4") as fake:
        milvus = Held(fake.uri)
        fake.answers["ShowCollections"] = milvus.list_collections
        try:
            with anyio.fail_after(2 * EVENTUALLY):
                yield milvus
        finally:
            milvus.released.set()


@asynccontextmanager
async def serving(milvus: Held, **settings: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a server on that Milvus, with room for one call."""
    chosen = Settings.model_validate({"uri": milvus.uri, "transport": "http", "port": 0} | ONE_AT_A_TIME | settings)
    async with open_app(chosen) as app, anyio.create_task_group() as tasks:
        url = await tasks.start(partial(serve_http, build_server(app, TOOLS), chosen))
        try:
            headers = {"Accept": "application/json, text/event-stream"}
            async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=EVENTUALLY) as http:
                yield http
        finally:
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # a second one would end this process
                signal.raise_signal(signal.SIGTERM)


def request(method: str, number: int, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def listing(number: int, **meta: Any) -> dict[str, Any]:
    return request("tools/call", number, name="list_collections", arguments={}, _meta=meta)


def modern(http: httpx2.AsyncClient) -> dict[str, Any]:
    """What each request of the modern protocol has in its `_meta`; the rest is in headers from now on."""
    http.headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "list_collections"}
    prefix = "io.modelcontextprotocol"
    return {
        f"{prefix}/protocolVersion": MODERN,
        f"{prefix}/clientCapabilities": {},
        f"{prefix}/clientInfo": {"name": "test", "version": "0"},
    }


def opening(number: int = 0) -> dict[str, Any]:
    info = {"name": "test", "version": "0"}
    return request("initialize", number, protocolVersion=LEGACY, capabilities={}, clientInfo=info)


def told(response: httpx2.Response) -> dict[str, Any]:
    text = next((line[6:] for line in response.text.splitlines() if line.startswith("data: ")), response.text)
    return json.loads(text)["result"]["structuredContent"]


async def gets_through(http: httpx2.AsyncClient, **meta: Any) -> None:
    """The next call finds room. What a cancelled one leaves behind may take a moment."""
    with anyio.fail_after(EVENTUALLY):
        while "collections" not in told(await http.post("/mcp", json=listing(9, **meta))):
            await anyio.sleep(0.05)


@pytest.mark.parametrize("meta", [{}, {"progressToken": 1}], ids=["json", "events"])
@pytest.mark.parametrize("kind", ["modern", "stateless"])
async def test_a_client_that_leaves_stops_its_call(kind: str, meta: dict[str, Any]) -> None:
    """It has no other way to cancel one without a session."""
    async with held() as milvus, serving(milvus, stateless=kind == "stateless") as http:
        always = modern(http) if kind == "modern" else {}
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(partial(http.post, "/mcp", json=listing(1, **always, **meta)))
            await milvus.begun.wait()
            leaving.cancel_scope.cancel()
        await milvus.stopped.wait()
        await gets_through(http, **always)


@pytest.mark.parametrize("meta", [{}, {"progressToken": 1}], ids=["json", "events"])
async def test_a_cancelled_call_of_a_session_stops(meta: dict[str, Any]) -> None:
    answers: list[httpx2.Response] = []
    async with held() as milvus, serving(milvus) as http:
        opened = await http.post("/mcp", json=opening())
        http.headers["Mcp-Session-Id"] = opened.headers["Mcp-Session-Id"]

        async def call() -> None:
            answers.append(await http.post("/mcp", json=listing(1, **meta)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await milvus.begun.wait()
            cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
            assert (await http.post("/mcp", json=cancelled)).status_code == 202
            await milvus.stopped.wait()
        await gets_through(http)
    assert "Request cancelled" in answers[0].text


@pytest.mark.parametrize("stateless", [False, True])
async def test_a_call_that_is_over_its_time_stops(*, stateless: bool) -> None:
    async with held() as milvus, serving(milvus, stateless=stateless, timeout=1.0) as http:
        opened = await http.post("/mcp", json=opening())
        http.headers |= {name: value for name, value in opened.headers.items() if name == "mcp-session-id"}
        assert told(await http.post("/mcp", json=listing(1)))["code"] == "deadline_exceeded"
        await milvus.stopped.wait()
        await gets_through(http)


async def test_a_server_that_ends_is_alive_and_not_ready_until_its_calls_are_answered() -> None:
    async with held() as milvus, serving(milvus, stateless=True) as http:
        assert (await http.get("/health/ready")).status_code == 200  # on the connection that is kept
        answers: list[httpx2.Response] = []

        async def call() -> None:
            answers.append(await http.post("/mcp", json=listing(1)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await milvus.begun.wait()
            signal.raise_signal(signal.SIGTERM)
            while (await http.get("/health/ready")).status_code == 200:
                await anyio.sleep(0.01)
            assert (await http.get("/health/live")).status_code == 200
            milvus.released.set()
        assert "collections" in told(answers[0])


@pytest.mark.parametrize("protocol", [LEGACY, MODERN])
async def test_a_cancelled_call_over_stdio_stops(protocol: str) -> None:
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in ONE_AT_A_TIME.items()]
    meta = modern(httpx2.AsyncClient()) if protocol == MODERN else {}
    async with held() as milvus:
        command = [sys.executable, "-m", "mcp_server_milvus", "--uri", milvus.uri, *settings]
        async with await anyio.open_process(command, stderr=None) as process:
            assert process.stdin
            assert process.stdout
            lines = BufferedByteReceiveStream(process.stdout)

            async def send(*messages: dict[str, Any]) -> None:
                assert process.stdin
                await process.stdin.send(b"".join(json.dumps(each).encode() + b"\n" for each in messages))

            if protocol == LEGACY:
                await send(opening())
                await lines.receive_until(b"\n", 100_000)
                await send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            await send(listing(1, **meta))
            await milvus.begun.wait()
            await send(
                {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "_meta": meta}}
            )
            await milvus.stopped.wait()
            await send(listing(2, **meta))
            answer = json.loads(await lines.receive_until(b"\n", 100_000))
            await process.stdin.aclose()
            assert await process.wait() == 0
    assert answer["id"] == 2
    assert "collections" in answer["result"]["structuredContent"]
