"""Several processes that serve one port as one server does."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import Process
from mcp.client import Client
from mcp_types import ElicitResult

from mcp_server_milvus.transports.workers import LISTENER
from tests.agent import Agent, agent_on
from tests.milvus.conftest import linux
from tests.transports.test_cancelled import held

pytestmark = [pytest.mark.anyio, linux]

COMMAND = [sys.executable, "-m", "mcp_server_milvus", "--transport", "http"]
SECRET = "very-secret-words"
EXITS = 30
"""Seconds in which everything has ended."""


@asynccontextmanager
async def started(*settings: str, workers: int = 2) -> AsyncGenerator[tuple[Process, int]]:
    """The parent of workers that serve, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    command = [*COMMAND, "--stateless", "--workers", str(workers), "--port", str(port), *settings]
    async with await anyio.open_process(command, stdout=None, stderr=subprocess.PIPE) as parent:
        try:
            await until(lambda: len(workers_of(parent)) == workers)
            await until(lambda: is_listened_on(port))
            yield parent, port
        finally:
            with suppress(ProcessLookupError):
                parent.terminate()
            with anyio.fail_after(EXITS):
                await parent.wait()


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not is_so():
            await anyio.sleep(0.02)


def is_listened_on(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()))


def workers_of(parent: Process) -> list[int]:
    """Those that have become this command: a child is first a copy of the parent."""
    with suppress(OSError):
        return [pid for pid in children_of(parent.pid) if b"-P" in title(pid).split(b"\0")]
    return []


def title(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def exit_code(parent: Process) -> int:
    with anyio.fail_after(EXITS):
        return await parent.wait()


async def test_any_worker_serves_any_request_and_one_that_dies_comes_back(tmp_path: Path) -> None:
    """Each request has a connection of its own, so that any worker may get it."""
    data, log = tmp_path / "data", tmp_path / "audit.jsonl"
    settings = ("--data-dir", str(data), "--no-undo", "--audit", str(log), "--audit-arguments")
    async with agent_on("", data_dir=data) as agent, started(*settings, "--token", SECRET) as (parent, port):
        first = workers_of(parent)
        assert [SECRET.encode() in title(pid) for pid in (parent.pid, *first)] == [False] * 3
        assert await dropped_after_asking(agent, port, 3) == 3
        await agent.call("create_collection", collection_name="last", dimension=2)
        os.kill(first[0], signal.SIGKILL)
        await until(lambda: len(set(workers_of(parent)) - {first[0]}) == 2)
        assert await token_taken_by_all(port, "last") == Counter({"dropped": 1, "refused": 7})
        await anyio.wait_all_tasks_blocked()
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        assert Counter(line["tool"] for line in lines).keys() == {"drop_collection"}
        last = workers_of(parent)
        parent.kill()
        await until(lambda: not any(map(is_alive, last)) and not is_listened_on(port))


async def dropped_after_asking(agent: Agent, port: int, count: int) -> int:
    """How many questions are asked while that many collections are dropped."""
    questions = 0

    async def agreeing(context: Any, params: Any) -> ElicitResult:
        del context, params
        nonlocal questions
        questions += 1
        return ElicitResult(action="accept", content={"confirm": True})

    for number in range(count):
        name = f"docs_{number}"
        await agent.call("create_collection", collection_name=name, dimension=2)
        address = f"http://127.0.0.1:{port}/mcp"
        async with Client(address, mode="2026-07-28", elicitation_callback=agreeing) as client:
            await Agent(client).call("drop_collection", collection_name=name)
        assert not await agent.exists(name)
    return questions


async def test_workers_answer_what_is_in_flight_and_end_with_their_parent() -> None:
    async with held() as milvus, started("--uri", milvus.uri) as (parent, port):
        workers, results = workers_of(parent), list[dict[str, Any]]()

        async def call() -> None:
            results.append(await called(port, "list_collections"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await milvus.begun.wait()
            parent.terminate()
            await until(lambda: not is_listened_on(port))
            milvus.released.set()
        assert "collections" in results[0]
        assert await exit_code(parent) == 0
        assert not any(map(is_alive, workers))


async def test_a_second_signal_ends_all_workers_at_once() -> None:
    async with held() as milvus, started("--uri", milvus.uri) as (parent, port), anyio.create_task_group() as tasks:
        workers = workers_of(parent)

        async def call() -> None:
            with pytest.raises(httpx2.TransportError):
                await called(port, "list_collections")

        tasks.start_soon(call)
        await milvus.begun.wait()
        parent.terminate()
        await until(lambda: not is_listened_on(port))
        parent.terminate()
        assert await exit_code(parent) == -signal.SIGTERM
        await until(lambda: not any(map(is_alive, workers)))


async def token_taken_by_all(port: int, name: str) -> Counter[str]:
    """How eight calls end that come at one time with one token."""
    outcomes = Counter[str]()
    refusal = await called(port, "drop_collection", collection_name=name)
    token = refusal["confirm"]

    async def confirm() -> None:
        result = await called(port, "drop_collection", collection_name=name, confirm=token)
        outcomes["dropped" if result.get("dropped") else "refused"] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(confirm)
    return outcomes


async def called(port: int, tool: str, **arguments: Any) -> dict[str, Any]:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    async with httpx2.AsyncClient(headers={"Accept": "application/json"}, timeout=60) as http:
        response = await http.post(f"http://127.0.0.1:{port}/mcp", json=call)
    return response.json()["result"]["structuredContent"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "a session is known to one process only"),
        (["--stateless", "--metrics-port", "1"], "each counts for itself"),
        (["--stateless", "--host", "0.0.0.0"], "nobody would be asked for a token"),  # noqa: S104
    ],
)
async def test_what_no_worker_could_do_is_said_once(settings: list[str], said: str) -> None:
    command = [*COMMAND, "--port", "0", "--workers", "3", *settings]
    with anyio.fail_after(60):
        result = await anyio.run_process(command, check=False)
    assert (result.returncode, result.stderr.decode().count(said)) == (2, 1), result.stderr


async def test_workers_that_all_die_are_given_up(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif '_MCP_SERVER_MILVUS_LISTENER' in os.environ: os._exit(7)\n", "utf-8"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [*COMMAND, "--port", "0", "--workers", "3", "--stateless"]
    with anyio.fail_after(60):
        result = await anyio.run_process(command, check=False, env=os.environ | {"PYTHONPATH": path})
    assert result.returncode == 1
    assert result.stderr.decode().count("has ended with 7") == 3


@pytest.mark.parametrize(
    ("what", "count"), [("print('hello', flush=True)", 3), ("import time; time.sleep(600)", 1)], ids=["prints", "hangs"]
)
async def test_a_worker_that_prints_or_hangs_at_its_start_keeps_nobody_up(
    tmp_path: Path, what: str, count: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os\nif '{LISTENER}' in os.environ:\n    {what}\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [*COMMAND, "--stateless", "--workers", "3", "--port", "0", "--uri", "http://127.0.0.1:1"]
    async with await anyio.open_process(command, stdout=None, stderr=subprocess.PIPE, env=environment) as parent:
        await until(lambda: len(workers_of(parent)) == count)
        parent.terminate()
        with anyio.fail_after(EXITS):
            assert await parent.wait() == 0


async def test_a_parent_imports_no_mcp() -> None:
    code = "import sys, mcp_server_milvus.cli; assert not {'mcp', 'starlette', 'pymilvus'} & sys.modules.keys()"
    assert (await anyio.run_process([sys.executable, "-c", code], check=False)).returncode == 0
