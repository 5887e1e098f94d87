"""Plain JSON where the answer is all there is, and an event stream where more comes with it."""

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
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp_types import ElicitResult

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.transports.http import Beside, serve_http
from mcp_server_milvus.transports.replies import Replies

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),  # of what comes beside an answer
]

JSON, EVENTS = "application/json", "text/event-stream"
BOTH = {"Accept": f"{JSON}, {EVENTS}"}
CAPABLE: list[dict[str, Any]] = [{}, {"elicitation": {}}]


def talkative() -> MCPServer[None]:
    server = MCPServer("talkative", log_level="ERROR")

    @server.tool()
    async def report(ctx: Context[Any]) -> str:
        await ctx.report_progress(1, 2, "half")
        await ctx.session.send_log_message("info", "beside", related_request_id=ctx.request_id)  # pyright: ignore[reportDeprecated]
        return "reported"

    @server.tool()
    async def ask(ctx: Context[Any]) -> str:
        if not ctx.session.can_send_request:
            return "nobody"
        answer = await ctx.session.elicit_form("Well?", {"type": "object", "properties": {}}, ctx.request_id)
        return answer.action

    return server


@asynccontextmanager
async def serving(**settings: Any) -> AsyncGenerator[str]:
    chosen = Settings.model_validate({"transport": "http", "port": 0} | settings)
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(partial(serve_http, talkative(), chosen, Beside(asking=["ask"])))
        try:
            yield url
        finally:
            signal.raise_signal(signal.SIGTERM)


def request(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def opened(http: httpx2.AsyncClient, url: str, capabilities: dict[str, Any]) -> httpx2.Response:
    info = {"name": "test", "version": "0"}
    opening = request("initialize", protocolVersion="2025-06-18", capabilities=capabilities, clientInfo=info)
    response = await http.post(f"{url}/mcp", json=opening)
    if "Mcp-Session-Id" in response.headers:
        http.headers["Mcp-Session-Id"] = response.headers["Mcp-Session-Id"]
    return response


@pytest.mark.parametrize("stateless", [False, True])
async def test_an_answer_is_an_event_stream_only_where_more_comes_with_it(*, stateless: bool) -> None:
    call = partial(request, "tools/call", arguments={})
    watched = {"_meta": {"progressToken": "p"}}
    async with serving(stateless=stateless) as url:
        for capabilities in CAPABLE:
            kinds = dict[str, str]()
            async with httpx2.AsyncClient(headers=BOTH) as http:
                kinds["opening"] = (await opened(http, url, capabilities)).headers["Content-Type"]
                for name, body in {
                    "list": request("tools/list"),
                    "alone": call(name="report"),
                    "watched": call(name="report", **watched),
                }.items():
                    response = await http.post(f"{url}/mcp", json=body)
                    kinds[name] = response.headers["Content-Type"].partition(";")[0]
                    if name == "alone":
                        assert json.loads(response.text)["result"]["structuredContent"] == {"result": "reported"}
                    if name == "watched":
                        assert [part in response.text for part in ("half", "beside", "reported")] == [True] * 3
            assert kinds == {"opening": JSON, "list": JSON, "alone": JSON, "watched": EVENTS}


@pytest.mark.parametrize("stateless", [False, True])
async def test_whoever_takes_no_events_has_the_answer_alone(*, stateless: bool) -> None:
    body = request("tools/call", name="report", arguments={}, _meta={"progressToken": 1})
    async with serving(stateless=stateless) as url, httpx2.AsyncClient(headers={"Accept": JSON}) as http:
        await opened(http, url, {})
        response = await http.post(f"{url}/mcp", json=body)
    assert response.json()["result"]["structuredContent"] == {"result": "reported"}


async def test_a_session_with_a_user_is_asked_in_between_and_one_without_is_not() -> None:
    async def agreeing(context: Any, params: Any) -> ElicitResult:
        del context, params
        return ElicitResult(action="accept", content={})

    async with serving() as url:
        for callback, said in ((agreeing, "accept"), (None, "nobody")):
            async with Client(f"{url}/mcp", mode="legacy", elicitation_callback=callback) as client:
                assert (await client.call_tool("ask", {})).structured_content == {"result": said}


async def test_answers_of_both_kinds_come_at_one_time_in_one_session() -> None:
    async with serving() as url, Client(f"{url}/mcp", mode="legacy") as client:
        heard: list[str | None] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            del progress, total
            heard.append(message)

        async def call(*, watched: bool) -> None:
            result = await client.call_tool("report", {}, progress_callback=on_progress if watched else None)
            assert result.structured_content == {"result": "reported"}

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(partial(call, watched=number % 2 == 0))
    assert heard == ["half"] * 10


async def test_the_sdk_takes_its_transports_from_where_they_are_replaced() -> None:
    """Fails when the SDK moves the name, or when it decides for each request itself: then ours can go."""
    assert "is_json_response_enabled" in vars(StreamableHTTPServerTransport(None))
    async with serving() as url, Client(f"{url}/mcp", mode="legacy"):
        made = vars(streamable_http_manager)["StreamableHTTPServerTransport"]
        assert issubclass(made, Replies)
