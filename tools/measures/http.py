"""`search` over Streamable HTTP with JSON replies, without Milvus's own time; the other is an empty tool of the SDK's.

Both are asked by one plain HTTP client without a session, one request after the other.
"""

import argparse
import contextlib
import socket
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import httpx2

from tools.measures.bounds import Bound, judged, milliseconds
from tools.measures.common import DIMENSION, SERVER, own_settings, raw_client, seconds_of, vector
from tools.measures.speed import STOCK_SERVER, TURNS, entities

LOWEST_SPEED = 0.8
PROTOCOL = "2025-06-18"
HEADERS = {"accept": "application/json, text/event-stream", "mcp-protocol-version": PROTOCOL}


def http(options: argparse.Namespace) -> bool:
    """How many searches' worth of our own time go into the time of the SDK's empty calls."""
    runs = [anyio.run(one_at_a_time, TURNS) for _ in range(options.runs)]
    search, raw, empty = map(median, zip(*runs, strict=True))
    how = f"{milliseconds(search)}, raw {milliseconds(raw)}, an empty call of the SDK's {milliseconds(empty)}"
    speed = median(empty / max(search - raw, 1e-6) for search, raw, empty in runs)
    return judged(
        "http: one call at a time, JSON replies",
        [Bound("search without Milvus's time, of empty calls", speed, least=LOWEST_SPEED, how=how)],
    )


async def one_at_a_time(turns: int) -> tuple[float, float, float]:
    """Median seconds of our search, of the raw one, and of the SDK's empty call."""
    root = Path(__file__).parents[2]
    async with AsyncExitStack() as stack:
        folder, environment = stack.enter_context(own_settings())
        port, other = free_port(), free_port()
        stateless = ["--transport", "http", "--stateless", "--port", str(port)]
        ours = await stack.enter_async_context(_answering([*SERVER, *stateless], environment, folder, port))
        stock = await stack.enter_async_context(
            _answering([*STOCK_SERVER, "http", str(other)], environment, root, other)
        )
        await ours("create_collection", {"collection_name": "few", "dimension": DIMENSION})
        await ours("insert", {"collection_name": "few", "data": entities()})
        raw = await stack.enter_async_context(raw_client(environment))
        asked = vector()
        timed: list[Callable[[], Awaitable[Any]]] = [
            lambda: ours("search", {"collection_name": "few", "vector": asked, "limit": 10}),
            lambda: raw.search("few", [asked], limit=10, output_fields=["id"]),
            lambda: stock("nothing", {"number": 1}),
        ]
        times = [[await seconds_of(each) for each in timed] for _ in range(turns)]
    search, raw_search, empty = map(median, zip(*times[turns // 10 :], strict=True))
    return search, raw_search, empty


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


Tool = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def _answering(
    command: list[str], environment: dict[str, str], folder: str | Path, port: int
) -> AsyncGenerator[Tool]:
    """Calls a tool of the server, which listens at the port until the block ends."""
    url = f"http://127.0.0.1:{port}/mcp"
    async with (
        await anyio.open_process(command, env=environment, cwd=folder, stderr=subprocess.DEVNULL) as server,
        httpx2.AsyncClient(timeout=60, headers=HEADERS) as client,
    ):

        async def call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
            params = {"name": tool, "arguments": arguments}
            answer = await client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
            result = answer.raise_for_status().json()["result"]
            if result.get("isError"):
                raise RuntimeError(f"{tool} failed: {result['structuredContent']}")
            return result

        with anyio.fail_after(60):
            await _listening(port)
        try:
            yield call
        finally:
            server.terminate()


async def _listening(port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            return
        await anyio.sleep(0.05)
