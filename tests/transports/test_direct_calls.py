"""Calls over stdio in the modern protocol: answered without the SDK's loop, in its words."""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

pytestmark = pytest.mark.anyio

Message = dict[str, Any]

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
CLIENT = "io.modelcontextprotocol/clientInfo"
MODERN = {VERSION: "2026-07-28", CAPABILITIES: {}}
OPENING = {"jsonrpc": "2.0", "id": "first", "method": "tools/list", "params": {"_meta": MODERN}}


def call(name: Any, arguments: Any = None, *, meta: Any = MODERN, **params: Any) -> Message:
    given = {"name": name, "arguments": arguments or {}, "_meta": meta} | params
    return {"jsonrpc": "2.0", "method": "tools/call", "params": given}


CALLS: dict[str, Message] = {
    "a call": call("echo", {"text": "\u00e4\u2028"}),
    "a call without arguments": call("release"),
    "a client that says who it is": call("echo", {"text": ""}, meta=MODERN | {CLIENT: {"name": "c", "version": "1"}}),
    "a client that says so badly": call("echo", {"text": ""}, meta=MODERN | {CLIENT: [1]}),
    "progress": call("slow", {"seconds": 0}, meta=MODERN | {"progressToken": "p"}),
    "progress by a number": call("slow", {"seconds": 0}, meta=MODERN | {"progressToken": 7}),
    "progress by no token": call("slow", {"seconds": 0}, meta=MODERN | {"progressToken": True}),
    "a tool that refuses": call("refuse"),
    "a tool that fails": call("fail"),
    "a tool that asks": call("asks"),
    "a tool that tells": call("knows"),
    "a client that can be asked": call("knows", meta=MODERN | {CAPABILITIES: {"elicitation": {}}}),
    "a client that cannot any more": call("knows"),
    "no tool": call("nothing"),
    "a fault outside of the tools": call("broken"),
    "no arguments that fit": call("echo", {"text": 1}),
    "arguments that are none": call("echo", [1]),
    "a name that is none": call(7),
    "an answer to no question": call("echo", {"text": ""}, inputResponses={"x": 1}),
    "a state that is none": call("echo", {"text": ""}, requestState=7),
    "no envelope": call("echo", {"text": ""}, meta={}),
    "an envelope that is none": call("echo", {"text": ""}, meta=[1]),
    "no capabilities": call("echo", {"text": ""}, meta={VERSION: "2026-07-28"}),
    "capabilities that are none": call("echo", {"text": ""}, meta=MODERN | {CAPABILITIES: 7}),
    "an older version": call("echo", {"text": ""}, meta=MODERN | {VERSION: "2025-06-18"}),
    "a version that is none": call("echo", {"text": ""}, meta=MODERN | {VERSION: 7}),
    "no parameters": {"jsonrpc": "2.0", "method": "tools/call"},
}


class Spoken:
    """A server, and what it has said so far."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self._heard = BufferedByteReceiveStream(process.stdout)

    async def send(self, *messages: Message) -> None:
        await self.process.stdin.send(b"".join(json.dumps(each).encode() + b"\n" for each in messages))

    async def hear(self) -> Message:
        return json.loads(await self._heard.receive_until(b"\n", 2**20))

    async def until(self, request_id: Any) -> list[Message]:
        """All that comes until the answer to this request, the answer too."""
        heard = [await self.hear()]
        while heard[-1].get("id") != request_id:
            heard.append(await self.hear())
        return heard

    async def rest(self) -> list[Message]:
        """All that still comes once its input has ended, and it has ended too."""
        await self.process.stdin.aclose()
        said = b"".join([self._heard.buffer, *[chunk async for chunk in self.process.stdout]])
        assert await self.process.wait() == 0
        return [json.loads(line) for line in said.splitlines()]


@asynccontextmanager
async def speaking(*arguments: str, opening: Message | None = OPENING) -> AsyncGenerator[Spoken]:
    command = [sys.executable, str(Path(__file__).with_name("echo_server.py")), *arguments]
    with anyio.fail_after(30):
        async with await anyio.open_process(command) as process:
            try:
                server = Spoken(process)
                if opening:
                    await server.send(opening)
                    assert (await server.hear())["id"] == opening["id"]
                yield server
            finally:
                if process.returncode is None:
                    process.kill()


async def said(transport: str) -> dict[str, list[Message]]:
    async with speaking(transport) as server:
        heard: dict[str, list[Message]] = {}
        for name, each in CALLS.items():
            await server.send(each | {"id": name})
            heard[name] = await server.until(name)
        return heard


async def test_what_is_answered_directly_is_answered_as_the_sdk_does() -> None:
    ours, theirs = await said("stdio"), await said("sdk")
    assert ours == theirs
    assert ours["a call"][0]["result"]["structuredContent"] == {"result": "\u00e4\u2028"}
    assert ours["progress"][0]["params"] == {"progressToken": "p", "progress": 1, "total": 2, "message": "begun"}
    assert ours["a fault outside of the tools"][0]["error"] == {"code": -32603, "message": "Internal server error"}
    assert "error" in ours["no envelope"][0]


@pytest.mark.parametrize("opening", [OPENING, call("echo", {"text": ""}) | {"id": 0}], ids=["a list", "a call"])
async def test_a_call_is_a_task_of_ours_once_the_client_has_shown_its_protocol(opening: Message) -> None:
    async with speaking("stdio", opening=opening) as server:
        await server.send(call("taken_by") | {"id": 1})
        assert "DirectCalls" in (await server.hear())["result"]["structuredContent"]["result"]


async def test_a_cancelled_call_ends_and_is_never_answered() -> None:
    async with speaking("stdio") as server:
        await server.send(call("slow", {"seconds": 60}, meta=MODERN | {"progressToken": 1}) | {"id": "7"})
        assert (await server.hear())["method"] == "notifications/progress"
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        await server.send(cancelled, call("echo", {"text": "next"}) | {"id": 8})
        assert (await server.hear())["id"] == 8
        assert await server.rest() == []  # at once: the call of a minute is not waited for


async def test_a_call_that_is_cancelled_before_it_begins_is_never_answered() -> None:
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    async with speaking("stdio") as server:
        await server.send(call("slow", {"seconds": 60}) | {"id": 1}, cancelled)
        assert await server.rest() == []


async def test_a_cancelled_call_that_fails_is_not_answered_either() -> None:
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    async with speaking("stdio") as server:
        await server.send(call("stubborn") | {"id": 1}, cancelled)
        assert await server.rest() == []


async def test_a_cancellation_ends_the_last_call_of_its_id_alone_though_another_is_in_the_sdks_loop() -> None:
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    async with speaking("stdio", opening=None) as server:
        await server.send(call("hold") | {"id": 1})
        await server.send(call("slow", {"seconds": 60}, meta=MODERN | {"progressToken": 1}) | {"id": 1})
        assert (await server.hear())["method"] == "notifications/progress"
        await server.send(cancelled, call("release") | {"id": 2})
        assert {(await server.hear())["id"] for _ in range(2)} == {1, 2}
        assert await server.rest() == []


async def test_a_call_ends_with_the_server_and_is_told_so() -> None:
    async with speaking("stopped") as server:
        await server.send(call("hold") | {"id": 1})
        assert (await server.hear())["error"] == {"code": -32000, "message": "Connection closed"}
        assert await server.rest() == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_what_a_call_was_given_is_not_held_until_the_next_one_comes() -> None:
    async with speaking("stdio") as server:
        before = resident(server.process.pid)
        await server.send(call("length", {"text": "x" * 100_000_000}) | {"id": 1})
        assert (await server.hear())["result"]["structuredContent"] == {"result": 100_000_000}
        while resident(server.process.pid) > before + 50_000_000:  # until it ends or the test does
            await anyio.lowlevel.checkpoint()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return 4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[1])


async def test_an_id_that_is_used_twice_is_answered_twice_and_its_last_call_can_be_cancelled() -> None:
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    async with speaking("stdio") as server:
        await server.send(call("hold") | {"id": 1}, call("slow", {"seconds": 60}) | {"id": 1}, cancelled)
        await server.send(call("release") | {"id": 2})
        assert {(await server.hear())["id"] for _ in range(2)} == {1, 2}
        assert await server.rest() == []


async def test_calls_in_flight_are_answered_after_the_end_of_input() -> None:
    async with speaking("stdio") as server:
        await server.send(*(call("slow", {"seconds": 0.2}) | {"id": n} for n in range(5)))
        assert {each["id"] for each in await server.rest()} == set(range(5))


async def test_calls_that_outlast_the_drain_are_told_so_even_with_one_id() -> None:
    async with speaking("stdio", "0.2") as server:
        await server.send(*(call("slow", {"seconds": 60}) | {"id": number} for number in (1, 1, 2)))
        error = {"code": -32000, "message": "Connection closed"}
        assert await server.rest() == [{"jsonrpc": "2.0", "id": number, "error": error} for number in (1, 1, 2)]


async def test_a_client_of_the_older_protocol_cannot_call_in_the_modern_one() -> None:
    handshake = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    opening = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": handshake}
    async with speaking("stdio", opening=opening) as server:
        await server.send({"jsonrpc": "2.0", "method": "notifications/initialized"}, call("taken_by") | {"id": 1})
        assert (await server.hear())["error"]["code"] == -32600
        await server.send(call("taken_by", meta={}) | {"id": 2})
        assert "DirectCalls" not in (await server.hear())["result"]["structuredContent"]["result"]
