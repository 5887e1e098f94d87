"""What measures share: a server of ours with a database of its own, calls, and pairs of times."""

import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

SERVER = [sys.executable, "-m", "mcp_server_milvus"]
ENTITIES, DIMENSION = 1_000, 128
FLAT = [{"field_name": "vector", "index_type": "FLAT"}]
"""An index that is ready at once, so that nothing in the background disturbs the next measurement."""

VECTOR_FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": DIMENSION},
]


NOT_PASSED_ON = ("MILVUS_", "PYTHONDONTWRITEBYTECODE")
"""Beginnings of variables that would change what is measured: without its bytecode a server compiles at each start."""


@contextmanager
def own_settings(**settings: str) -> Generator[tuple[str, dict[str, str]]]:
    """A folder to work in, and an environment in which our server keeps its data there and has only these settings."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        others = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
        ours = {"data_dir": str(Path(folder) / "data"), "confirm": "never", **settings}
        yield folder, others | {f"MILVUS_MCP_{name.upper()}": value for name, value in ours.items()}


@asynccontextmanager
async def connected(**settings: str) -> AsyncGenerator[tuple[Client, Path]]:
    """A client of our server over stdio, and the folder of its new database."""
    with own_settings(**settings) as (folder, environment):
        server = StdioServerParameters(command=SERVER[0], args=SERVER[1:], env=environment, cwd=folder)
        async with Client(server) as client:
            yield client, Path(environment["MILVUS_MCP_DATA_DIR"])


async def call(client: Client, tool: str, **given: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, given)
    if result.is_error or result.structured_content is None:
        raise RuntimeError(f"{tool} failed: {result.structured_content}")
    return result.structured_content


async def seconds_of(timed: Callable[..., Awaitable[Any]], *given: Any) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    await timed(*given)
    return time.perf_counter() - started


@asynccontextmanager
async def raw_client(environment: Mapping[str, str]) -> AsyncGenerator[Any]:
    """Pymilvus's own client of the Milvus or the engine that a server with this environment uses."""
    from pymilvus import AsyncMilvusClient  # pyright: ignore[reportMissingTypeStubs]

    from mcp_server_milvus.milvus.embedded import EmbeddedEngine

    engine = EmbeddedEngine(Path(environment["MILVUS_MCP_DATA_DIR"]))
    client: Any = AsyncMilvusClient(environment.get("MILVUS_MCP_URI") or await engine.address())
    try:
        yield client
    finally:
        await client.close()
        await engine.aclose()


def vector() -> list[float]:
    return [random.random() for _ in range(DIMENSION)]  # noqa: S311  # numbers to measure with
