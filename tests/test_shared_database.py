"""Two real servers over stdio on one data folder, as two hosts on one machine have them."""

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

pytestmark = pytest.mark.anyio

WRITERS = 16
ENTITIES_PER_CALL = 5
CALLS_BEFORE_THE_SIGNAL = 40


@asynccontextmanager
async def server(data_dir: Path) -> AsyncGenerator[Client]:
    arguments = ["-m", "mcp_server_milvus", "--data-dir", str(data_dir)]
    async with Client(StdioServerParameters(command=sys.executable, args=arguments)) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.structured_content
    return result.structured_content or {}


def engine_pid(data_dir: Path) -> int:
    return int((data_dir / ".engine" / "address").read_text().splitlines()[1])


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " not in stat.read_text()


async def until_ended(pid: int, seconds: float) -> None:
    with anyio.fail_after(seconds):
        while lives(pid):
            await anyio.sleep(0.05)


async def test_two_servers_work_on_one_database_at_once(tmp_path: Path) -> None:
    async with server(tmp_path) as one, server(tmp_path) as other:
        await call(one, "create_collection", collection_name="notes", dimension=2)
        await call(one, "insert", collection_name="notes", data=[{"id": 1, "vector": [1, 0]}])
        await call(other, "insert", collection_name="notes", data=[{"id": 2, "vector": [0, 1]}])
        assert await call(one, "count", collection_name="notes") == {"count": 2}
        assert await call(other, "count", collection_name="notes") == {"count": 2}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
async def test_every_acknowledged_entity_outlives_the_engine(tmp_path: Path, name: str) -> None:
    acknowledged: set[int] = set()
    signalled = anyio.Event()

    async def write(client: Client, writer: int) -> None:
        for round_ in range(1_000):
            first = (round_ * WRITERS + writer) * ENTITIES_PER_CALL
            ids = list(range(first, first + ENTITIES_PER_CALL))
            data = [{"id": key, "vector": [key, 1]} for key in ids]
            result = await client.call_tool("insert", {"collection_name": "notes", "data": data})
            if result.is_error:
                return
            acknowledged.update(ids)
            if len(acknowledged) >= CALLS_BEFORE_THE_SIGNAL * ENTITIES_PER_CALL and not signalled.is_set():
                signalled.set()
                os.kill(engine_pid(tmp_path), signal.Signals[name])
            if signalled.is_set():
                return

    async with server(tmp_path) as one, server(tmp_path) as other:
        await call(one, "create_collection", collection_name="notes", dimension=2)
        first_engine = engine_pid(tmp_path)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for writer in range(WRITERS):
                    tasks.start_soon(write, (one, other)[writer % 2], writer)
        await until_ended(first_engine, 30)
        for client in (one, other):
            stored = await all_ids(client)
            assert acknowledged <= stored
        assert engine_pid(tmp_path) != first_engine


async def all_ids(client: Client) -> set[int]:
    ids: set[int] = set()
    cursor = None
    while True:
        page = await call(client, "query", collection_name="notes", output_fields=["id"], limit=1_000, cursor=cursor)
        ids |= {entity["id"] for entity in page["entities"]}
        cursor = page.get("next_cursor")
        if cursor is None:
            return ids


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
async def test_a_server_that_is_killed_leaves_no_engine_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mcp_server_milvus", "--data-dir", str(tmp_path), "--transport", "stdio"]
    line = b'{"jsonrpc":"2.0","id":%d,"method":"%s","params":%s}\n'
    hello = b'{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}'
    listing = b'{"name":"list_collections","arguments":{}}'
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdin
        assert process.stdout
        await process.stdin.send(line % (1, b"initialize", hello) + line % (2, b"tools/call", listing))
        answers = b""
        with anyio.fail_after(60):
            while answers.count(b"\n") < 2:
                answers += await process.stdout.receive()
        engine = engine_pid(tmp_path)
        process.kill()
        await process.wait()
    await until_ended(engine, 10)
