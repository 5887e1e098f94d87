"""How many calls there may be, and how much each may take."""

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp_types import CallToolResult
from pydantic import Field

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.errors import TooManyCalls
from mcp_server_milvus.limits import META, REMEMBERED_CALLERS, Gate
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset
from tests.agent import UNATTENDED

pytestmark = pytest.mark.anyio


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Leg(Input):
    limit: int | None = None


class AskInput(Input):
    legs: list[Leg] = Field(default_factory=list[Leg])
    limit: int = 50
    offset: int = 0
    ids: list[int] | None = None
    data: list[dict[str, Any]] | dict[str, Any] | None = None


class AskOutput(Output):
    limit: int
    offset: int
    max_result_bytes: int
    timeout: float
    max_scan: int


async def told(app: App, args: AskInput) -> AskOutput:
    names = ("max_result_bytes", "timeout", "max_scan")
    return AskOutput(limit=args.limit, offset=args.offset, **{name: getattr(app.settings, name) for name in names})


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def ask(app: App, args: AskInput) -> AskOutput:
    """Tells what it may."""
    return await told(app, args)


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def names(app: App, args: AskInput) -> AskOutput:
    """Tells what it may, and is about no entities."""
    return await told(app, args)


@tool(toolset=Toolset.DATA, effect=Effect.DELETE)
async def remove(app: App, args: AskInput) -> AskOutput:
    """Brings nothing out."""
    return await told(app, args)


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def forever(_: App, args: AskInput) -> AskOutput:
    """Never ends."""
    while args:
        await anyio.sleep_forever()
    raise AssertionError


def settings(**chosen: Any) -> Settings:
    return Settings.model_validate({"uri": "http://127.0.0.1:1"} | UNATTENDED | chosen)


@asynccontextmanager
async def client_of(mode: str = "auto", **chosen: Any) -> AsyncGenerator[Client]:
    async with (
        open_app(settings(**chosen)) as app,
        Client(build_server(app, [ask, names, remove, forever]), mode=mode) as client,
    ):
        yield client


def said(result: CallToolResult) -> dict[str, Any]:
    assert result.structured_content is not None
    return result.structured_content


async def test_more_calls_at_one_time_than_may_be_are_refused_at_once() -> None:
    error: dict[str, Any] = {}
    async with client_of(max_calls=2) as client, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(client.call_tool, "forever", {})
        with anyio.fail_after(10):
            while "code" not in error:
                error = said(await client.call_tool("ask", {}))
        tasks.cancel_scope.cancel()
    assert (error["code"], error["retriable"]) == ("limit_exceeded", True)
    assert "2 calls are under way" in error["message"]
    assert "max_calls" in error["message"]


async def test_a_call_that_has_ended_makes_room_however_it_ended() -> None:
    gate = Gate(settings(max_calls=1))
    for _ in range(3):
        with pytest.raises(ValueError, match="fails"), gate.entered("a"):
            raise ValueError("fails")
    with gate.entered("a"), pytest.raises(TooManyCalls), gate.entered("b"):
        pass


async def test_each_caller_has_its_calls_in_a_minute_and_gets_them_back_evenly() -> None:
    clock = Clock()
    gate = Gate(settings(max_calls_per_minute=6), clock)
    said: list[TooManyCalls] = []

    async def calls(caller: str) -> int:
        for made in range(100):
            try:
                with gate.entered(caller):
                    pass
            except TooManyCalls as refused:
                said.append(refused)
                return made
        return 100

    assert (await calls("a"), await calls("a"), await calls("b")) == (6, 0, 6)
    clock.now += 10
    assert await calls("a") == 1
    clock.now += 3600
    assert await calls("a") == 6
    assert all("6 calls" in each.message and "(max_calls_per_minute)" in each.message for each in said)
    assert all(0 < each.details["retry_after"] <= 10 for each in said)


async def test_callers_without_number_need_memory_for_some_of_them() -> None:
    gate = Gate(settings(max_calls_per_minute=1), Clock())
    for number in range(REMEMBERED_CALLERS + 50):
        with gate.entered(str(number)):
            pass
    assert len(gate._allowances) == REMEMBERED_CALLERS
    with pytest.raises(TooManyCalls), gate.entered(str(REMEMBERED_CALLERS)):
        pass


@pytest.mark.parametrize(
    ("name", "arguments", "setting"),
    [
        ("ask", {"limit": 11}, "max_entities_out"),
        ("ask", {"ids": [1] * 11}, "max_entities_out"),
        ("ask", {"offset": 5}, "max_offset"),
        ("ask", {"legs": [{}, {"limit": 11}]}, "max_entities_out"),
        ("ask", {"data": [{}] * 4}, "max_entities_in"),
        ("ask", {"data": {"id": [1] * 4, "n": 5}}, "max_entities_in"),
        ("remove", {"data": [{}] * 4}, "max_entities_in"),
    ],
)
async def test_what_is_above_a_limit_is_refused_by_its_name_and_value(
    name: str, arguments: dict[str, Any], setting: str
) -> None:
    limits: dict[str, Any] = {"max_entities_out": 10, "max_offset": 4, "max_entities_in": 3}
    async with client_of(**limits) as client:
        error = said(await client.call_tool(name, arguments))
    assert error["code"] == "limit_exceeded"
    assert re.match(rf"{next(iter(arguments))}(\.1\.limit)?: ", error["message"])
    assert f"allows {limits[setting]} ({setting})" in error["message"]


async def test_what_is_within_its_limits_is_let_through_and_a_default_above_one_is_lowered() -> None:
    async with client_of(max_entities_out=10, max_offset=4, max_entities_in=3) as client:
        within = {"limit": 10, "offset": 4, "legs": [{"limit": 10}, {}], "ids": [1] * 10, "data": {"id": [1] * 3}}
        assert said(await client.call_tool("ask", within))["limit"] == 10
        assert said(await client.call_tool("ask", {}))["limit"] == 10
        assert said(await client.call_tool("names", {}))["limit"] == 50  # of no entities
        assert not (await client.call_tool("remove", {"ids": [1] * 11})).is_error


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_request_lowers_its_own_limits_and_never_raises_them(mode: str) -> None:
    async with client_of(mode, timeout=20, max_result_bytes=4096, max_scan=100) as client:
        lower = {"timeout": 1.5, "max_result_bytes": 2048, "max_scan": 7}
        higher = {"timeout": 1e9, "max_result_bytes": 10**9, "max_scan": 10**9}
        metas: list[Any] = [{META + name: n for name, n in asked.items()} for asked in (lower, higher, {})]
        results = [said(await client.call_tool("ask", {}, meta=meta)) for meta in metas]
    assert lower.items() <= results[0].items()
    assert results[1] == results[2]
    assert (results[2]["timeout"], results[2]["max_result_bytes"], results[2]["max_scan"]) == (20, 4096, 100)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_request_that_gives_less_time_gets_no_more(mode: str) -> None:
    async with client_of(mode) as client:
        with anyio.fail_after(20):
            error = said(await client.call_tool("forever", {}, meta={"mcp-server-milvus/timeout": 0.05}))
        assert not (await client.call_tool("ask", {})).is_error
    assert (error["code"], error["retriable"]) == ("deadline_exceeded", True)
    assert "0.05 s" in error["message"]


@pytest.mark.parametrize("value", ["5", -1, 0, True, [1]])
async def test_a_limit_that_is_no_amount_is_refused(value: Any) -> None:
    async with client_of() as client:
        error = said(await client.call_tool("ask", {}, meta={"mcp-server-milvus/timeout": value}))
    assert error["code"] == "invalid_argument"
    assert "_meta mcp-server-milvus/timeout" in error["message"]


async def test_one_caller_of_several_leaves_room_for_the_others() -> None:
    gate = Gate(settings(max_calls=8))
    async with AsyncExitStack() as calls:
        for _ in range(2):
            calls.enter_context(gate.entered("a"))
        with gate.left(), pytest.raises(TooManyCalls, match=r"2 calls of this caller .* \(max_calls: 8 for all"):
            calls.enter_context(gate.entered("a"))
        calls.enter_context(gate.entered("b"))
    async with AsyncExitStack() as calls:
        for _ in range(8):  # the only one there is
            calls.enter_context(gate.entered("local"))
    with gate.entered("a"):
        pass


async def test_whoever_comes_back_from_its_user_needs_room_again() -> None:
    gate = Gate(settings(max_calls=1))
    async with AsyncExitStack() as calls:

        async def asking() -> None:
            with gate.entered("a"), gate.left():
                calls.enter_context(gate.entered("b"))

        with pytest.raises(TooManyCalls):
            await asking()
        with pytest.raises(TooManyCalls):
            calls.enter_context(gate.entered("a"))
    with gate.entered("a"):
        pass
