"""Many clients for a long time: no error that Milvus did not cause, and nothing held in the end that was not before."""

import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client

from tests.stress.clients import (
    PATIENCE,
    Held,
    HttpClient,
    http_server,
    metrics_of,
    our_server,
    stdio_server,
)

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]

CLIENTS = 64
CALLS_A_SECOND = 1_000 / 180
"""Of each client over HTTP, by `--flood-seconds`: a thousand unless it is given, however long they take."""

STEADY_CALLS_A_SECOND = 20_000 / 180
"""Of the one whose memory is watched, by `--flood-seconds` too: 100,000 for 900."""

AT_ONCE = 8
EMPTY_TIMES = 1.3
EMPTY = "from mcp.server import MCPServer; MCPServer('empty').run()"
REAL_CLIENTS = 8
"""Of the clients over HTTP, so many are the SDK's own. The others cost less, and leave the machine to the server."""

SERVERS = 8
FLOOD = {"collection_name": "flood"}
GAUGES = {"milvus_mcp_sessions", "milvus_mcp_calls_in_flight", "milvus_mcp_pool_borrowed"}
ENTITIES = 200
KEYS_OF_ONE = 1_000_000
"""Clients never write the same key."""

SLACK = 3
"""Descriptors more or less: a connection that is being closed."""

POOL = 40
"""Threads that anyio keeps for blocking work, at most, and lets go when it likes."""

GROWTH, MEGABYTES = 1.05, 10
"""Memory may grow by so much: allocators keep what they had."""

Call = Callable[..., Awaitable[dict[str, Any]]]


def entities(first: int, count: int) -> list[dict[str, Any]]:
    return [{"id": key, "vector": [key % 7, 1.0], "n": key} for key in range(first, first + count)]


async def prepared(call: Call) -> None:
    await call("create_collection", dimension=2, **FLOOD)
    await call("insert", data=entities(0, ENTITIES), **FLOOD)


class Flood:
    """What some clients do for a while, each in an order of its own, and what was acknowledged to them."""

    def __init__(self) -> None:
        self.calls = 0
        self.written: set[int] = set()
        self.seconds: Counter[str] = Counter()

    async def one_call(self, pick: random.Random, call: Call, client: int) -> None:
        """One call, mostly of what Milvus does quickly: the others are here to be slowed down by."""
        key = pick.randrange(ENTITIES)
        match pick.choices(range(6), (80, 8, 4, 3, 3, 2))[0]:
            case 0:
                assert [each["id"] for each in (await call("get", ids=[key], **FLOOD))["entities"]] == [key]
            case 1:
                assert (await call("list_collections"))["collections"]
            case 2:
                assert (await call("describe_collection", **FLOOD))["fields"]
            case 3:
                found = await call("query", filter=f"id == {key}", output_fields=["n"], **FLOOD)
                assert [each["n"] for each in found["entities"]] == [key]
            case 4:
                assert (await call("search", vector=[1, 1], limit=3, **FLOOD))["hits"]
            case _:
                first = KEYS_OF_ONE * (client + 1) + self.calls
                await call("insert", data=entities(first, 1), **FLOOD)
                self.written.add(first)
        self.calls += 1

    async def calls_of(self, number: int, call: Call, count: int) -> None:
        pick = random.Random(number)  # noqa: S311  # no secret
        for _ in range(count):
            await self.one_call(pick, call, number)

    async def calls_until(self, number: int, call: Call, end: float) -> None:
        pick = random.Random(number)  # noqa: S311  # no secret
        while time.monotonic() < end:
            await self.one_call(pick, call, number)


async def flooded(port: int, flood: Flood, count: int) -> None:
    """All clients come, make so many calls each, and go."""

    async def light(number: int) -> None:
        async with HttpClient(port, modern=number % 2 == 0) as client:
            await flood.calls_of(number, client.call, count)

    async def real(number: int) -> None:
        mode = "legacy" if number % 2 else "2026-07-28"
        async with Client(f"http://127.0.0.1:{port}/mcp", mode=mode) as client:

            async def call(tool: str, /, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result.structured_content
                assert result.structured_content is not None
                return result.structured_content

            await flood.calls_of(number, call, count)

    async with anyio.create_task_group() as tasks:
        for number in range(CLIENTS):
            tasks.start_soon(real if number < REAL_CLIENTS else light, number)


async def settled(pid: int, before: Held) -> Held:
    """What the process holds, once that is no more than before."""
    deadline = time.monotonic() + PATIENCE
    while True:
        now = Held.by(pid)
        if now.descriptors <= before.descriptors + SLACK and now.threads <= before.threads + POOL:
            return now
        assert time.monotonic() < deadline, (before, now)
        await anyio.sleep(0.2)


def seconds_of(config: pytest.Config) -> int:
    return int(config.getoption("flood_seconds") or 0)


def engine_pid(data: Path) -> int:
    return int((data / ".engine" / "address").read_text().split("\n")[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


async def test_64_clients_of_one_http_server_leave_nothing_behind(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    port, log, flood = free_port(), tmp_path / "log", Flood()
    count = int(CALLS_A_SECOND * seconds_of(pytestconfig))
    async with http_server("--data-dir", str(tmp_path / "data"), port=port, log=log) as server:
        async with HttpClient(port, modern=True) as client:
            await prepared(client.call)
        await flooded(port, flood, max(1, count // 20))
        before, gauges = Held.by(server.pid), await metrics_of(port)
        memory: list[float] = []
        started = time.monotonic()
        for _ in range(4):
            await flooded(port, flood, count // 4)
            memory.append(Held.by(server.pid).megabytes)
        seconds = time.monotonic() - started
        after = await settled(server.pid, before)
        now = await metrics_of(port)
        assert {name: now[name] for name in GAUGES} == dict.fromkeys(GAUGES, 0)
        assert now["milvus_mcp_pool_connections"] == gauges["milvus_mcp_pool_connections"]
        assert memory[-1] <= memory[1] * GROWTH + MEGABYTES, memory
        async with HttpClient(port, modern=True) as client:
            assert (await client.call("count", **FLOOD))["count"] == ENTITIES + len(flood.written)
    assert "Traceback" not in log.read_text()
    print(f"{flood.calls} calls in {seconds:.0f} s; {before} -> {after}; memory after each quarter: {memory}")


async def test_8_stdio_servers_of_one_engine_lose_nothing(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    data, log, flood = tmp_path / "data", tmp_path / "log", Flood()
    seconds = seconds_of(pytestconfig)
    pids, started, told = list[int](), anyio.Event(), list[str]()

    async def flood_one(number: int) -> None:
        async with stdio_server(*our_server("--data-dir", str(data)), log=log) as server:
            if number == 0:
                await prepared(server.call)
                started.set()
            await started.wait()
            await flood.calls_until(number, server.call, time.monotonic() + 3)
            before = Held.by(server.process.pid)
            async with anyio.create_task_group() as tasks:
                for task in range(2):
                    tasks.start_soon(
                        flood.calls_until, number + SERVERS * task, server.call, time.monotonic() + seconds
                    )
            after = await settled(server.process.pid, before)
            assert after.megabytes <= before.megabytes * GROWTH + MEGABYTES, (before, after)
            told.append(f"{before} -> {after}")
            pids.append(engine_pid(data))

    async with anyio.create_task_group() as tasks:
        for number in range(SERVERS):
            tasks.start_soon(flood_one, number)
    with anyio.fail_after(PATIENCE):
        while Path(f"/proc/{pids[0]}").exists():
            await anyio.sleep(0.1)
    assert len(set(pids)) == 1
    async with stdio_server(*our_server("--data-dir", str(data)), log=log) as server:
        assert (await server.call("count", **FLOOD))["count"] == ENTITIES + len(flood.written)
        for first in range(0, len(keys := sorted(flood.written)), 1000):
            some = keys[first : first + 1000]
            found = await server.call("get", ids=some, output_fields=["id"], **FLOOD)
            assert sorted(each["id"] for each in found["entities"]) == some
    assert "Traceback" not in log.read_text()
    print(f"{flood.calls} calls, {len(flood.written)} entities; {told}")


async def test_one_stdio_server_does_not_grow(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    count, log, flood = int(STEADY_CALLS_A_SECOND * seconds_of(pytestconfig)), tmp_path / "log", Flood()
    async with stdio_server(*our_server("--data-dir", str(tmp_path / "data")), log=log) as server:
        await prepared(server.call)

        async def many(number: int) -> None:
            async with anyio.create_task_group() as tasks:
                for task in range(AT_ONCE):
                    tasks.start_soon(flood.calls_of, task, server.call, number // AT_ONCE)

        await many(count // 10)
        before = Held.by(server.process.pid)
        await many(count)
        after = await settled(server.process.pid, before)
    assert after.megabytes <= before.megabytes * GROWTH + MEGABYTES, (before, after)
    print(f"{flood.calls} calls: {before} -> {after}")


async def test_an_idle_server_is_not_much_larger_than_an_empty_one(tmp_path: Path) -> None:
    async def idle(*command: str) -> float:
        async with stdio_server(*command, log=tmp_path / "log") as server:
            await server.say("tools/list", {})
            last, now = 0.0, Held.by(server.process.pid).megabytes
            while now != last:  # what is imported after the handshake is there, too
                await anyio.sleep(1)
                last, now = now, Held.by(server.process.pid).megabytes
            return now

    empty, ours = await idle(sys.executable, "-c", EMPTY), await idle(*our_server("--data-dir", str(tmp_path / "data")))
    assert ours <= EMPTY_TIMES * empty, (ours, empty)
    print(f"idle: {ours:.0f} MB, an empty server {empty:.0f} MB: {ours / empty:.2f}")
