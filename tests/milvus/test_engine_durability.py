import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from pymilvus import DataType, MilvusClient

from mcp_server_milvus.milvus.embedded import EmbeddedEngine
from mcp_server_milvus.milvus.engine import EngineFolder

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals there"),
]

# Eight writers that never stop; a line for each insert that was acknowledged: its first key.
WRITERS = """
import asyncio, itertools, sys
from pathlib import Path
from pymilvus import AsyncMilvusClient
from mcp_server_milvus.milvus.embedded import EmbeddedEngine

def entity(key: int) -> dict[str, object]:
    return {"id": key, "vector": [float(key % 1000)] * 64, "text": f"entity {key}"}

async def write(client: AsyncMilvusClient, writer: int) -> None:
    for first in itertools.count(writer * 10_000_000, 10):
        await client.insert("docs", [entity(first + offset) for offset in range(10)])
        print(first, flush=True)

async def main(data_dir: str, first_writer: int) -> None:
    client = AsyncMilvusClient(uri=await EmbeddedEngine(Path(data_dir)).address())
    await asyncio.gather(*(write(client, writer) for writer in range(first_writer, first_writer + 8)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""
INSERTS_BEFORE_THE_SIGNAL = 400


class Acknowledged:
    """The first keys of all inserts that any writer said were acknowledged."""

    def __init__(self) -> None:
        self.first_keys: list[int] = []
        self.enough = anyio.Event()

    async def listen(self, writers: Process) -> None:
        assert writers.stdout is not None
        rest = ""
        async for text in TextReceiveStream(writers.stdout):
            *lines, rest = (rest + text).split("\n")
            self.first_keys += map(int, lines)
            if len(self.first_keys) >= INSERTS_BEFORE_THE_SIGNAL:
                self.enough.set()

    def entities(self) -> set[int]:
        return {first + offset for first in self.first_keys for offset in range(10)}


async def start_writers(data: Path, first_writer: int) -> Process:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITERS, str(data), str(first_writer)]
    with data.with_name(f"writers-{first_writer}.log").open("wb") as complaints:
        return await anyio.open_process(command, env=environment, stderr=complaints)


async def write_until(data: Path, end_the_engine: Callable[[], None]) -> set[int]:
    """The keys that sixteen writers in two processes were told are in, when the engine ended under them."""
    acknowledged = Acknowledged()
    async with (
        await start_writers(data, 0) as some,
        await start_writers(data, 8) as others,
        anyio.create_task_group() as listeners,
    ):
        listeners.start_soon(acknowledged.listen, some)
        listeners.start_soon(acknowledged.listen, others)
        with anyio.fail_after(30):
            await acknowledged.enough.wait()
        end_the_engine()
        with anyio.fail_after(20):
            while not has_ended(data):
                await anyio.sleep(0.02)
        for writers in (some, others):
            with suppress(ProcessLookupError):  # the end of the engine may have ended them
                writers.kill()
    return acknowledged.entities()


def has_ended(data: Path) -> bool:
    with EngineFolder(data).lock("alive").sharing() as dead:
        return dead


def create(address: str) -> None:
    client = MilvusClient(uri=address)
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=64)
    schema.add_field("text", DataType.VARCHAR, max_length=100)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="L2")
    client.create_collection("docs", schema=schema, index_params=index)
    client.close()


def stored(address: str) -> dict[int, str]:
    client = MilvusClient(uri=address)
    client.load_collection("docs")
    entities = client.query("docs", filter="id >= 0", output_fields=["id", "text", "vector"])
    client.close()
    assert all(set(entity["vector"]) == {float(entity["id"] % 1000)} for entity in entities)
    return {entity["id"]: entity["text"] for entity in entities}


@pytest.mark.parametrize("wal_bytes", [None, 300_000], ids=["in the log", "while segments are written"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
async def test_every_acknowledged_entity_outlives_the_engine(
    tmp_path: Path, number: signal.Signals, wal_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wal_bytes is not None:
        monkeypatch.setenv("MILVUS_LITE_WAL_SIZE_LIMIT_BYTES", str(wal_bytes))
    data = tmp_path / "data"
    engine = EmbeddedEngine(data)
    first = await engine.address()
    await anyio.to_thread.run_sync(create, first)
    pid = int((data / ".engine" / "address").read_text().split("\n")[1])

    acknowledged = await write_until(data, lambda: os.kill(pid, number))
    if number == signal.SIGTERM:
        assert list(data.rglob("wal_*.arrow")) == [], "it closed without writing everything out"
    if wal_bytes is not None:
        assert list(data.rglob("*.parquet")) != [], "it wrote no segment meanwhile"
    second = await engine.address()
    entities = await anyio.to_thread.run_sync(stored, second)
    await engine.aclose()

    assert second != first
    assert len(acknowledged) >= INSERTS_BEFORE_THE_SIGNAL * 10
    assert acknowledged - entities.keys() == set()
    assert {key: f"entity {key}" for key in acknowledged}.items() <= entities.items()
