import json
import os
import pty
import shlex
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.runner import serve_dual_era_loop
from mcp_types import TextContent

pytestmark = pytest.mark.anyio

COMMAND = [sys.executable, str(Path(__file__).with_name("echo_server.py")), "stdio"]
ENVELOPE = {
    "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def request(request_id: Any, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method} | ({"params": params} if params else {})


def call(request_id: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    meta = {"_meta": {"progressToken": request_id}}
    return request(request_id, "tools/call", name=tool, arguments=arguments, **meta)


INITIALIZE = request(
    0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "test", "version": "0"}
)


def piped(*messages: dict[str, Any] | str) -> bytes:
    return "".join(m + "\n" if isinstance(m, str) else json.dumps(m) + "\n" for m in messages).encode()


def answered(output: bytes) -> list[dict[str, Any]]:
    """All answers, in the order of their arrival, without notifications."""
    return [frame for line in output.splitlines() if "id" in (frame := json.loads(line))]


async def run(*messages: dict[str, Any] | str, drain_seconds: float = 60) -> list[dict[str, Any]]:
    """The answers to a handshake and `messages`, piped in at once, from a server that exits 0 and says nothing else."""
    with anyio.fail_after(30):
        result = await anyio.run_process(
            [*COMMAND, str(drain_seconds)], input=piped(INITIALIZE, INITIALIZED, *messages), check=False
        )
    assert (result.returncode, result.stderr) == (0, b"")
    return answered(result.stdout)[1:]


class Server:
    """A running server, spoken to line by line."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self.process = process
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)

    async def send(self, *messages: dict[str, Any] | str) -> None:
        await self._stdin.send(piped(*messages))

    async def receive(self) -> dict[str, Any]:
        return json.loads(await self._stdout.receive_until(b"\n", 2**28))

    async def close_stdin(self) -> None:
        await self._stdin.aclose()

    async def stderr(self) -> bytes:
        assert self.process.stderr
        return b"".join([chunk async for chunk in self.process.stderr])


@asynccontextmanager
async def started(*messages: dict[str, Any]) -> AsyncGenerator[Server]:
    """A server that answered the handshake and got `messages`. It is killed in the end if it did not end by itself."""
    with anyio.fail_after(30):
        async with await anyio.open_process(COMMAND) as process:
            try:
                server = Server(process)
                await server.send(INITIALIZE)
                assert (await server.receive())["id"] == 0
                await server.send(INITIALIZED, *messages)
                yield server
            finally:
                if process.returncode is None:
                    process.kill()


def test_the_sdk_still_has_the_private_name_that_stdio_uses() -> None:
    lowlevel = MCPServer("private")._lowlevel_server
    assert callable(lowlevel.lifespan)
    assert callable(lowlevel.create_initialization_options)
    assert callable(serve_dual_era_loop)


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
async def test_the_sdks_client_calls_a_tool_and_hears_of_its_progress(mode: str) -> None:
    heard: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        heard.append(message)

    server = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=dict(os.environ))
    with anyio.fail_after(30):
        async with Client(server, mode=mode) as client:
            result = await client.call_tool("slow", {"seconds": 0}, progress_callback=on_progress)
    assert result.content == [TextContent(text="slept 0.0")]
    assert heard == ["begun"]


async def test_every_piped_line_is_answered_although_input_ends_while_a_call_is_slow() -> None:
    answers = await run(call(1, "slow", seconds=0.5), call(2, "echo", text="quick"))
    assert [(a["id"], a["result"]["structuredContent"]["result"]) for a in answers] == [(2, "quick"), (1, "slept 0.5")]


async def test_the_last_line_needs_no_newline() -> None:
    with anyio.fail_after(30):
        result = await anyio.run_process(COMMAND, input=piped(INITIALIZE, INITIALIZED, request(1, "ping")).strip())
    assert [a["id"] for a in answered(result.stdout)] == [0, 1]


async def test_399_piped_pings_get_399_answers() -> None:
    answers = await run(*(request(n, "ping") for n in range(1, 400)))
    assert [a["id"] for a in answers if a.get("result") == {}] == list(range(1, 400))


async def test_an_id_that_is_used_twice_is_answered_twice() -> None:
    answers = await run(call(7, "slow", seconds=0.5), call(7, "slow", seconds=0), call(7, "slow", seconds=0.2))
    results = sorted(a["result"]["structuredContent"]["result"] for a in answers)
    assert results == ["slept 0.0", "slept 0.2", "slept 0.5"]


async def test_no_input_at_all_is_a_clean_end() -> None:
    with anyio.fail_after(30):
        result = await anyio.run_process(COMMAND, input=b"")
    assert (result.stdout, result.stderr) == (b"", b"")


async def test_a_slow_reader_gets_everything() -> None:
    calls = [call(n, "repeat", text="x", times=1_000_000) for n in range(1, 6)]
    async with started(*calls) as server:
        await server.close_stdin()
        assert server.process.returncode is None  # 5 MB do not fit into a pipe
        assert [len((await server.receive())["result"]["content"][0]["text"]) for _ in calls] == [1_000_000] * 5
        assert await server.process.wait() == 0


async def test_a_message_of_64_mb_passes_both_ways() -> None:
    text = "x" * 2**26
    async with started(call(1, "echo", text=text)) as server:
        assert (await server.receive())["result"]["content"][0]["text"] == text


async def test_calls_that_outlast_the_drain_are_told_so() -> None:
    answers = await run(call(1, "slow", seconds=60), drain_seconds=0.2)
    assert [(a["id"], a["error"]["message"]) for a in answers] == [(1, "Connection closed")]


async def test_a_cancelled_call_is_not_waited_for() -> None:
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    assert await run(call(1, "slow", seconds=60), cancelled) == []


async def test_a_subscription_is_not_waited_for() -> None:
    listen = request(1, "subscriptions/listen", notifications={"toolsListChanged": True}, **ENVELOPE)
    with anyio.fail_after(30):
        result = await anyio.run_process(COMMAND, input=piped(listen, request(2, "tools/list", **ENVELOPE)))
    assert {a["id"] for a in answered(result.stdout)} >= {2}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_calls_in_flight_be_answered(number: signal.Signals) -> None:
    async with started(call(1, "slow", seconds=0.5)) as server:
        assert (await server.receive())["params"]["message"] == "begun"
        server.process.send_signal(number)
        assert (await server.receive())["result"]["structuredContent"] == {"result": "slept 0.5"}
        assert await server.process.wait() == 0
        assert await server.stderr() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
async def test_a_second_signal_ends_the_server_at_once() -> None:
    async with started(call(1, "slow", seconds=60)) as server:
        assert (await server.receive())["params"]["message"] == "begun"
        while server.process.returncode is None:  # two that are sent at once may arrive as one
            server.process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(0.1):
                await server.process.wait()
        assert server.process.returncode == -signal.SIGTERM


async def test_a_client_that_reads_no_more_ends_the_server_quietly() -> None:
    ours, theirs = os.pipe()
    with anyio.fail_after(30):
        async with await anyio.open_process(COMMAND, stdout=theirs) as process:
            os.close(theirs)
            assert process.stdin
            assert process.stderr
            await process.stdin.send(piped(INITIALIZE, INITIALIZED, call(1, "slow", seconds=60)))
            await anyio.to_thread.run_sync(read_until, ours, b'"begun"')
            os.close(ours)
            with anyio.fail_after(5):  # neither the call of a minute nor the drain is waited for, nor the end of input
                assert await process.wait() == 0
            assert [chunk async for chunk in process.stderr] == []


@pytest.mark.parametrize("first", [(), (INITIALIZE, INITIALIZED)], ids=["at once", "after the handshake"])
async def test_a_line_that_is_no_message_gets_an_error_and_the_next_is_served(
    first: tuple[dict[str, Any], ...],
) -> None:
    lines = {
        "{": (-32700, None),
        "no json": (-32700, None),
        '"\udcff"': (-32700, None),  # not UTF-8
        "[]": (-32600, None),
        "7": (-32600, None),
        '[{"jsonrpc":"2.0","id":1,"method":"ping"}]': (-32600, None),
        '{"jsonrpc":"2.0","id":9}': (-32600, 9),
        '{"id":"a","method":"ping"}': (-32600, "a"),
        '{"jsonrpc":"2.0","id":9,"method":"ping","params":[1]}': (-32600, 9),
        '{"jsonrpc":"2.0","id":null,"method":"ping"}': (-32600, None),
        '{"jsonrpc":"2.0","id":1.5,"method":"ping"}': (-32600, None),
        '{"jsonrpc":"2.0","id":true,"method":7}': (-32600, None),
        '{"jsonrpc":"2.0","id":1,"result":"of what?"}': (-32600, None),
        '{"jsonrpc":"2.0","id":"half a surrogate pair","method":"ping","params":{"x":"\\ud800"}}': (
            -32700,
            "half a surrogate pair",
        ),
        '{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}': (-32700, None),
        '{"jsonrpc":"2.0","id":10,"method":"ping","params":{"deep":' + "[" * 400 + "]" * 400 + "}}": (-32700, 10),
        "[" * 100_000: (-32700, None),
    }
    source = piped(*first) + "\n".join(lines).encode(errors="surrogateescape") + b"\n" + piped(request("end", "ping"))
    with anyio.fail_after(30):
        result = await anyio.run_process(COMMAND, input=source)
    *errors, ping = answered(result.stdout)[1 if first else 0 :]
    assert dict(zip(lines, [(e["error"]["code"], e["id"]) for e in errors], strict=True)) == lines
    assert ping == {"jsonrpc": "2.0", "id": "end", "result": {}}


async def test_blank_lines_are_ignored() -> None:
    assert [a["id"] for a in await run("", "  ", "\r", request(1, "ping"))] == [1]


async def test_a_client_may_discover_and_then_initialize() -> None:
    discover = request("d", "server/discover", **ENVELOPE)
    with anyio.fail_after(30):
        result = await anyio.run_process(
            COMMAND, input=piped(discover, INITIALIZE, INITIALIZED, call(1, "echo", text="legacy"))
        )
    discovered, initialized, called = answered(result.stdout)
    assert discovered["result"]["supportedVersions"] == ["2026-07-28"]
    assert initialized["result"]["protocolVersion"] == "2025-06-18"
    assert called["result"]["structuredContent"] == {"result": "legacy"}


async def test_a_client_may_discover_in_a_version_that_nobody_knows_and_then_initialize() -> None:
    unknown = {"_meta": ENVELOPE["_meta"] | {"io.modelcontextprotocol/protocolVersion": "2999-01-01"}}
    with anyio.fail_after(30):
        result = await anyio.run_process(COMMAND, input=piped(request("d", "server/discover", **unknown), INITIALIZE))
    discovered, initialized = answered(result.stdout)
    assert discovered["error"]["code"] == -32022
    assert initialized["result"]["protocolVersion"] == "2025-06-18"


async def test_a_client_may_discover_twice_and_go_on_in_the_modern_protocol() -> None:
    discover = partial(request, method="server/discover", **ENVELOPE)
    with anyio.fail_after(30):
        result = await anyio.run_process(
            COMMAND,
            input=piped(discover(1), discover(2), request(3, "tools/list", **ENVELOPE), discover(4), INITIALIZE),
        )
    answers = {a["id"]: a for a in answered(result.stdout)}
    assert answers[1]["result"] == answers[2]["result"] == answers[4]["result"]
    assert answers[3]["result"]["tools"]
    assert answers[0]["error"]["code"] == -32022


async def test_what_a_tool_prints_goes_to_standard_error() -> None:
    with anyio.fail_after(30):
        result = await anyio.run_process(COMMAND, input=piped(INITIALIZE, INITIALIZED, call(1, "shout", text="stray")))
    assert [a["id"] for a in answered(result.stdout)] == [0, 1]
    assert result.stderr.split() == [b"stray", b"stray"]


@pytest.mark.parametrize("output", ["file", "pipe"])
@pytest.mark.parametrize("input_", ["file", "pipe"])
async def test_files_may_stand_for_pipes(input_: str, output: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(
        piped(INITIALIZE, INITIALIZED, call(1, "slow", seconds=0.2), call(2, "repeat", text="x", times=1_000_000))
    )
    before, after = ("", f"< {source}") if input_ == "file" else (f"cat {source} |", "")
    with anyio.fail_after(30):
        await anyio.run_process(
            f"{before} {shlex.join(COMMAND)} {after} {'>' if output == 'file' else '| cat >'} {target}"
        )
    assert sorted(a["id"] for a in answered(target.read_bytes()) if "result" in a) == [0, 1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
async def test_a_full_disk_ends_the_server_quietly() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with anyio.fail_after(30):
        result = await anyio.run_process(COMMAND, input=piped(INITIALIZE), stdout=full, check=False)
    os.close(full)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
async def test_control_c_ends_a_server_at_a_terminal() -> None:
    await spoken_over(pty.openpty, lambda process, _: process.send_signal(signal.SIGINT))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no socket pairs to inherit")
async def test_one_socket_may_be_both_input_and_output() -> None:
    def socketpair() -> tuple[int, int]:
        ours, theirs = socket.socketpair()
        return ours.detach(), theirs.detach()

    def shut_down(_: Process, fd: int) -> None:
        with socket.socket(fileno=os.dup(fd)) as ours:
            ours.shutdown(socket.SHUT_WR)

    await spoken_over(socketpair, shut_down)


async def spoken_over(pair: Callable[[], tuple[int, int]], end: Callable[[Process, int], Any]) -> None:
    """A server at the second of a pair of descriptors answers a ping over the first, and exits 0 after `end`."""
    ours, theirs = pair()
    with anyio.fail_after(30):
        async with await anyio.open_process(COMMAND, stdin=theirs, stdout=theirs) as process:
            os.close(theirs)
            os.write(ours, piped(request("p", "ping")))
            await anyio.to_thread.run_sync(read_until, ours, b'"result":{}')
            end(process, ours)
            assert await process.wait() == 0
    os.close(ours)


def read_until(fd: int, expected: bytes) -> None:
    output = b""
    while expected not in output:
        output += os.read(fd, 4096)
