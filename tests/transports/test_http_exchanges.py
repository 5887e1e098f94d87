"""Calls without a session: answered where they come in, in the words of the SDK."""

import json
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client import Client
from mcp.server import MCPServer, streamable_http_manager
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.transports import http as served
from mcp_server_milvus.transports.http import Beside, serve_http

pytestmark = pytest.mark.anyio

JSON, EVENTS = "application/json", "text/event-stream"
VERSION = "MCP-Protocol-Version"
USUAL = {"Accept": f"{JSON}, {EVENTS}", "Content-Type": JSON}


def plain() -> MCPServer[None]:
    server = MCPServer("plain", log_level="CRITICAL")

    @server.tool()
    async def told(ctx: Context[Any], text: str = "") -> dict[str, Any]:
        await ctx.report_progress(1, 2, "half")
        await ctx.session.send_resource_updated("milvus://nobody")
        request = ctx.request_context
        return {"version": request.protocol_version, "text": text, "can_ask": ctx.session.can_send_request}

    @server.tool()
    async def refuses() -> str:
        raise MCPError(code=-32_042, message="not so", data={"why": "because"})

    return server


@asynccontextmanager
async def serving(**settings: Any) -> AsyncGenerator[str]:
    chosen = Settings.model_validate({"transport": "http", "port": 0, "stateless": True} | settings)
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(partial(serve_http, plain(), chosen, Beside()))
        try:
            yield f"{url}/mcp"
        finally:
            signal.raise_signal(signal.SIGTERM)


def body(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


CALL = body("tools/call", name="told", arguments={"text": "\u00e4\u2028"})
OPENING = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
DIRECT = {
    "a call": CALL,
    "a call without arguments": body("tools/call", name="told"),
    "a call with an id that is a text": CALL.replace(b'"id": 1', b'"id": "one"'),
    "a call of a tool that refuses": body("tools/call", name="refuses"),
    "a call of no tool": body("tools/call", name="nothing"),
    "a call without a name": body("tools/call", arguments={}),
    "a call whose arguments are none": body("tools/call", name="told", arguments=[1]),
}
LEFT_TO_THE_SDK = {
    "a list": body("tools/list"),
    "a ping": body("ping"),
    "an unknown method": body("tools/dance"),
    "a prompt that there is not": body("prompts/get", name="nothing"),
    "the handshake": body("initialize", **OPENING),
    "a handshake that is none": body("initialize"),
    "a call that hears of progress": body("tools/call", name="told", _meta={"progressToken": "p"}),
    "a notification": b'{"jsonrpc": "2.0", "method": "notifications/initialized"}',
    "an answer": b'{"jsonrpc": "2.0", "id": 1, "result": {}}',
    "an id that is none": CALL.replace(b'"id": 1', b'"id": 1.5'),
    "another version of JSON-RPC": CALL.replace(b'"2.0"', b'"1.0"'),
    "a batch": b"[" + CALL + b"]",
    "half a call": CALL[:-9],
    "half a surrogate pair": CALL.replace(b"\\u2028", b"\\ud800"),
    "nesting": b"[" * 5_000,
    "no UTF-8": CALL.replace(b"told", b"\xff\xff\xff\xff"),
    "nothing": b"",
}
HEADS: dict[str, dict[str, str]] = {
    "the usual": {},
    "JSON alone": {"Accept": JSON},
    "anything": {"Accept": "*/*"},
    "events alone": {"Accept": EVENTS},
    "nothing": {"Accept": "text/html"},
    "JSON with a charset": {"Content-Type": f"{JSON}; charset=utf-8"},
    "JSON in capitals": {"Content-Type": "Application/JSON"},
    "two media types": {"Content-Type": f"{JSON}, text/plain"},
    "no JSON": {"Content-Type": "text/plain"},
    "a session that there is not": {"Mcp-Session-Id": "nobody"},
    "no version": {VERSION: ""},
    "an unknown version": {VERSION: "2020-01-01"},
    **{version: {VERSION: version} for version in (*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS)},
}
REFUSED = [HEADS[name] for name in ("events alone", "nothing", "JSON in capitals", "no JSON")]
Answer = tuple[int, str, Any]


async def answer(client: httpx2.AsyncClient, url: str, content: bytes, head: dict[str, str]) -> Answer:
    response = await client.post(url, content=content, headers=USUAL | head)
    kind = response.headers.get("Content-Type", "")
    return response.status_code, kind, response.json() if kind == JSON and response.content else response.text


async def answers(bodies: dict[str, bytes], heads: dict[str, dict[str, str]]) -> dict[tuple[str, str], Answer]:
    async with serving(max_body_megabytes=1) as url, httpx2.AsyncClient() as client:
        return {
            (kind, name): await answer(client, url, content, head)
            for kind, content in bodies.items()
            for name, head in heads.items()
        }


async def test_what_is_answered_directly_is_answered_as_the_sdk_does(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = DIRECT | LEFT_TO_THE_SDK | {"too much": CALL + b" " * 2**20}
    ours = await answers(bodies, HEADS)
    monkeypatch.setattr(served, "answer_directly", lambda _: None)  # pyright: ignore[reportUnknownLambdaType]
    theirs = await answers(bodies, HEADS)
    assert ours == theirs
    assert ours["a call", "the usual"][2]["result"]["structuredContent"]["text"] == "\u00e4\u2028"
    assert ours["a call", "2024-11-05"][2]["result"]["structuredContent"]["version"] == "2024-11-05"
    assert ours["too much", "the usual"][0] == 413


async def test_no_session_is_made_for_a_plain_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    heads = [head for head in HEADS.values() if head.get(VERSION, "2025-06-18") in HANDSHAKE_PROTOCOL_VERSIONS]
    async with serving() as url, httpx2.AsyncClient() as client:
        monkeypatch.setattr(streamable_http_manager, "StreamableHTTPServerTransport", lambda **_: made.append(1))
        outcomes = [await answer(client, url, DIRECT[kind], {}) for kind in DIRECT]
        outcomes += [await answer(client, url, CALL, head) for head in heads if head not in REFUSED]
    assert {outcome[:2] for outcome in outcomes} == {(200, JSON)}
    assert not made


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_many_calls_of_one_client_are_answered_each_with_its_own(mode: Any) -> None:
    async with serving() as url, Client(url, mode=mode) as client:
        texts: dict[str, str] = {}

        async def call(text: str) -> None:
            texts[text] = (await client.call_tool("told", {"text": text})).structured_content["text"]  # type: ignore[index]

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(call, str(number))
    assert texts == {text: text for text in texts}
    assert len(texts) == 40
