"""What a client gets for a call, in both eras of the protocol."""

import json
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NoReturn

import anyio
import pytest
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.connection import Connection
from mcp.server.runner import ServerRunner
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, JSONRPCRequest, TextContent
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from mcp_server_milvus import __version__
from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.content import QUOTING, STORED
from mcp_server_milvus.errors import NotFound, Unavailable
from mcp_server_milvus.policy import offered
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings, load_settings
from mcp_server_milvus.tool import Input, Output, Tool, tool
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.transports.answering import Exchange, answer_to
from mcp_server_milvus.transports.direct_calls import PIPE
from mcp_server_milvus.vocabulary import Effect, Toolset

pytestmark = pytest.mark.anyio

ERAS = {"legacy": HANDSHAKE_PROTOCOL_VERSIONS, "auto": MODERN_PROTOCOL_VERSIONS}
SECRET = "secret /path host:19530"


class EchoInput(Input):
    text: str
    number: int = 0


class EchoOutput(Output):
    text: str
    numbers: list[int]
    nothing: str | None = None


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def echo(_: App, args: EchoInput) -> EchoOutput:
    """Says the same."""
    return EchoOutput(text=args.text, numbers=[args.number] * 2)


class NoInput(Input):
    pass


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def crash(_: App, args: NoInput) -> EchoOutput:
    """Crashes."""
    raise RuntimeError(f"{SECRET} {args}")


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def refuse(_: App, args: NoInput) -> EchoOutput:
    """Refuses."""
    raise NotFound(f"there is no collection {args}", hint="list_collections shows them", missing=["docs"])


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def fail(_: App, args: NoInput) -> EchoOutput:
    """Fails for now."""
    raise Unavailable(f"Milvus is away {args}")


@pytest.fixture(params=ERAS)
async def era(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def app() -> AsyncGenerator[App]:
    """With nothing to connect to: no call here gets that far."""
    async with open_app(Settings.model_validate({"uri": "http://127.0.0.1:1"})) as app:
        yield app


@pytest.fixture
async def client(app: App, era: str) -> AsyncGenerator[Client]:
    async with Client(build_server(app, [*TOOLS, echo, crash, refuse, fail]), mode=era) as client:
        yield client


def text_of(result: CallToolResult) -> str:
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text


def error_of(result: CallToolResult) -> dict[str, Any]:
    """The error, which is the same in both forms."""
    assert result.is_error
    assert isinstance(result.structured_content, dict)
    assert json.loads(text_of(result)) == result.structured_content
    assert {"code", "message", "hint", "retriable"} <= result.structured_content.keys()
    return result.structured_content


async def test_a_tool_that_is_called_before_it_is_listed_is_listed_with_its_schemas(app: App) -> None:
    async with Client(build_server(app, [echo])) as client:
        await client.call_tool("echo", {"text": "first"})
        (listed,) = (await client.list_tools()).tools
    assert listed.input_schema == echo.input_schema
    assert listed.output_schema == echo.output_schema


async def test_both_eras_are_served(client: Client, era: str) -> None:
    assert client.protocol_version in ERAS[era]


async def test_the_server_says_what_it_is_and_how_it_is_used(client: Client) -> None:
    assert client.server_info
    assert (client.server_info.name, client.server_info.version) == ("mcp-server-milvus", __version__)
    assert "describe_collection" in (client.instructions or "")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"create_collection", "insert"}),
        ({"read_only": True}, set[str]()),
        ({"toolsets": "search"}, set[str]()),
        ({"toolsets": "all,-insert"}, set[str]()),
    ],
)
async def test_what_the_settings_do_not_offer_is_no_part_of_the_instructions(
    settings: dict[str, Any], names: set[str], tmp_path: Path
) -> None:
    async with open_app(load_settings({"data_dir": tmp_path} | settings)) as app:
        said = build_server(app, offered(TOOLS, app.settings.toolsets)).instructions or ""
    assert {name for name in ("create_collection", "insert") if name in said} == names
    assert "Never make up a vector" in said


async def test_a_result_is_complete_as_text_and_as_structure(client: Client) -> None:
    result = await client.call_tool("echo", {"text": "Größe: 5", "number": 7})
    assert not result.is_error
    assert text_of(result) == f'{{"note":"{STORED}","text":"Größe: 5","numbers":[7,7]}}'
    assert result.structured_content == {"note": STORED, "text": "Größe: 5", "numbers": [7, 7]}


@tool(toolset=Toolset.DATA, effect=Effect.DELETE)
async def burn(_: App, args: NoInput) -> EchoOutput:
    """Burns."""
    return EchoOutput(text=str(args), numbers=[])


MODERN_CALLS: dict[str, dict[str, Any]] = {
    "a result": {"name": "echo", "arguments": {"text": "Gr\u00f6\u00dfe \u2028", "number": 2**60}},
    "an error": {"name": "refuse"},
    "a fault": {"name": "crash", "_meta": {"mcp-server-milvus/request_id": "same"}},
    "a question": {"name": "burn", "_meta": {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}},
    "no such tool": {"name": "nothing"},
    "no such argument": {"name": "echo", "arguments": {"texts": ""}},
    "no arguments": {"name": "echo", "arguments": None},
    "arguments that are none": {"name": "echo", "arguments": [1]},
    "a name that is none": {"name": 7},
    "no name": {"arguments": {}},
    "an answer that is none": {"name": "burn", "inputResponses": {"confirm": 7}},
    "a state that is none": {"name": "burn", "requestState": 7},
    "a state that nobody signed": {"name": "burn", "requestState": "x"},
    "progress": {"name": "echo", "arguments": {"text": ""}, "_meta": {"progressToken": "p"}},
}


async def answers(server: MCPServer[Any]) -> dict[str, Any]:
    """What goes out to a client, but for what differs from one call to the next."""
    told: dict[str, Any] = {}
    for name, params in MODERN_CALLS.items():
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"} | params.get("_meta", {})
        capabilities = meta.setdefault("io.modelcontextprotocol/clientCapabilities", {})
        request = JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/call", params=params | {"_meta": meta})
        connection = Connection.from_envelope("2026-07-28", None, capabilities)
        answer = await answer_to(Exchange(request, PIPE), ServerRunner(server._lowlevel_server, connection, None))
        told[name] = json.loads(answer.model_dump_json(by_alias=True, exclude_unset=True))
        told[name].get("result", {}).pop("requestState", None)
    return told


async def test_a_call_in_the_modern_protocol_is_answered_as_the_sdk_would(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = build_server(app, [echo, crash, refuse, burn])
    call_tool, by_the_sdk = server.call_tool, list[str]()

    async def noted(name: str, *given: Any) -> Any:
        by_the_sdk.append(name)
        return await call_tool(name, *given)

    monkeypatch.setattr(server, "call_tool", noted)
    ours = await answers(server)
    assert by_the_sdk == []
    server.middleware.pop()
    assert ours == await answers(server)
    assert by_the_sdk
    assert ours["a result"]["result"]["structuredContent"]["numbers"] == [2**60] * 2
    assert ours["a question"]["result"]["resultType"] == "input_required"
    assert ours["an error"]["result"]["isError"] is True
    assert ours["no name"]["error"]["code"] == INVALID_PARAMS


async def test_a_result_that_is_far_too_large_is_refused_in_words(app: App) -> None:
    @tool(toolset=Toolset.DATA, effect=Effect.READ)
    async def recite(_: App, args: EchoInput) -> EchoOutput:
        """Recites."""
        return EchoOutput(text=args.text * args.number, numbers=[])

    async with Client(build_server(app, [recite])) as client:
        fits = await client.call_tool("recite", {"text": "x", "number": app.settings.max_result_bytes})
        result = await client.call_tool("recite", {"text": "x", "number": 2 * app.settings.max_result_bytes})
    assert not fits.is_error
    assert result.structured_content is not None
    assert result.structured_content["code"] == "limit_exceeded"
    assert "max-result-bytes" in result.structured_content["hint"]


async def test_an_error_is_complete_as_text_and_as_structure(client: Client) -> None:
    error = error_of(await client.call_tool("refuse", {}))
    assert error == {
        "note": QUOTING,
        "code": "not_found",
        "message": "there is no collection ",
        "hint": "list_collections shows them",
        "retriable": False,
        "missing": ["docs"],
    }


async def test_an_error_that_may_pass_is_said_to_be_retriable(client: Client) -> None:
    error = error_of(await client.call_tool("fail", {}))
    assert (error["code"], error["retriable"]) == ("milvus_unavailable", True)


async def test_an_unknown_argument_is_refused_and_the_nearest_named(client: Client) -> None:
    error = error_of(await client.call_tool("count", {"colection_name": "docs"}))
    assert error["code"] == "invalid_argument"
    assert "unknown argument 'colection_name' (did you mean 'collection_name'?)" in error["message"]
    assert "argument 'collection_name' is missing" in error["message"]


async def test_an_argument_of_the_wrong_type_is_pointed_at(client: Client) -> None:
    error = error_of(await client.call_tool("insert", {"collection_name": "docs", "data": "text"}))
    assert error["code"] == "invalid_argument"
    assert "data" in error["message"]
    assert "pydantic" not in json.dumps(error)


async def test_a_number_is_not_made_of_a_text(client: Client) -> None:
    error = error_of(await client.call_tool("echo", {"text": "a", "number": "7"}))
    assert "number" in error["message"]
    assert "'7'" in error["message"]


async def test_an_unknown_tool_is_an_error_that_names_the_nearest(client: Client) -> None:
    error = error_of(await client.call_tool("serch", {"collection_name": "docs"}))
    assert error["code"] == "invalid_argument"
    assert "there is no tool 'serch' (did you mean search?)" in error["message"]
    assert "build_index" in error["hint"]


async def test_a_prompt_that_there_is_not_is_the_clients_mistake(client: Client) -> None:
    with pytest.raises(MCPError, match="no prompt 'nope'") as refusal:
        await client.get_prompt("nope")
    assert refusal.value.error.code == INVALID_PARAMS


async def test_a_crash_says_nothing_of_itself_to_the_caller_and_all_to_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    result = await client.call_tool("crash", {})
    error = error_of(result)
    assert (error["code"], error["message"]) == ("internal", "crash: a fault of this server")
    for word in (*SECRET.split(), "RuntimeError", "Traceback"):
        assert word not in result.model_dump_json()
    assert SECRET in caplog.text
    assert "RuntimeError" in caplog.text


async def test_a_call_is_logged_with_its_outcome_and_time(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mcp_server_milvus"):
        await client.call_tool("echo", {"text": "not for the log"})
        await client.call_tool("refuse", {})
    first, second = (record.getMessage() for record in caplog.records if record.name == "mcp_server_milvus")
    assert first.startswith("echo ok ")
    assert second.startswith("refuse not_found ")
    assert first.endswith(" ms")
    assert "not for the log" not in caplog.text


async def test_one_calls_crash_leaves_the_server_serving(client: Client) -> None:
    await client.call_tool("crash", {})
    assert not (await client.call_tool("echo", {"text": "still here"})).is_error


async def test_a_cancelled_call_is_cancelled_in_the_tool(app: App, era: str) -> None:
    began, cancelled = anyio.Event(), anyio.Event()
    async with Client(build_server(app, [waiting(began, cancelled), echo]), mode=era) as client:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "wait", {})
                await began.wait()
                tasks.cancel_scope.cancel()
            await cancelled.wait()
            assert not (await client.call_tool("echo", {"text": "next"})).is_error


def waiting(began: anyio.Event, cancelled: anyio.Event) -> Tool[NoInput, EchoOutput]:
    """A tool that ends only by being cancelled."""

    @tool(toolset=Toolset.DATA, effect=Effect.READ)
    async def wait(_: App, args: NoInput) -> EchoOutput:
        """Waits."""
        return await forever(args)

    async def forever(_: NoInput) -> NoReturn:
        began.set()
        try:
            while True:
                await anyio.sleep_forever()
        finally:
            cancelled.set()

    return wait


async def test_progress_reaches_the_caller_that_asked_for_it(app: App, era: str) -> None:
    @tool(toolset=Toolset.DATA, effect=Effect.READ)
    async def build(app: App, args: EchoInput) -> EchoOutput:
        """Builds something."""
        await app.report_progress(1, 2, args.text)
        return EchoOutput(text=args.text, numbers=[])

    reported: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total, message))

    async with Client(build_server(app, [build]), mode=era) as client:
        await client.call_tool("build", {"text": "half"}, progress_callback=note)
        with anyio.fail_after(5):
            while not reported:
                await anyio.sleep(0.01)
    assert reported == [(1, 2, "half")]
