"""import_file and export_file on the real Milvus 2.3.5, which keeps both entities when one key is inserted twice."""

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from pymilvus import MilvusClient

from tests.agent import Agent, agent_on, structured

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

FIELDS = [
    {"name": "pk", "type": "VARCHAR", "is_primary": True, "max_length": 40},
    {"name": "bits", "type": "BINARY_VECTOR", "dim": 8},
    {"name": "json", "type": "JSON"},
    {"name": "tags", "type": "ARRAY", "element_type": "INT64", "max_capacity": 4},
    *({"name": kind.lower(), "type": kind} for kind in ("BOOL", "INT8", "INT64", "FLOAT", "DOUBLE")),
]
JSONS: list[Any] = [{"large": 2**63 - 1, "none": None}, {"a": [1, {"b": "text"}]}, {}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
async def agent(milvus_235: str, files: Path) -> AsyncIterator[Agent]:
    async with agent_on(milvus_235, files_dir=str(files)) as agent:
        yield agent


async def test_what_is_exported_is_imported_exactly(agent: Agent) -> None:
    entities = [
        {
            "pk": f'{number} "quoted", line\nend',
            "bits": [1, 0, 1, 1, 0, 0, 0, number % 2],
            "json": value,
            "tags": [2**62, -1][: number % 3],
            "bool": number % 2 == 0,
            "int8": -128,
            "int64": str(2**63 - 1),
            "float": 0.1,
            "double": 0.1,
        }
        | ({"extra": {"n": number}} if number % 2 else {})
        for number, value in enumerate(JSONS)
    ]
    made = {"fields": FIELDS, "enable_dynamic_field": True}
    await agent.call("create_collection", collection_name="files_from", **made)
    await agent.call("insert", collection_name="files_from", data=entities)
    everything = {"output_fields": ["*"], "limit": 100}
    expected = (await agent.call("query", collection_name="files_from", **everything))["entities"]
    assert [each["json"] for each in expected] == [{"large": str(2**63 - 1), "none": None}, *JSONS[1:]]
    exported = await agent.call("export_file", collection_name="files_from", path="all.parquet")
    assert exported["export_count"] == len(JSONS)
    await agent.call("create_collection", collection_name="files_to", **made)
    imported = await agent.call("import_file", collection_name="files_to", path="all.parquet")
    assert imported["import_count"] == len(JSONS)
    assert (await agent.call("query", collection_name="files_to", **everything))["entities"] == expected
    await agent.call("create_partition", collection_name="files_to", partition_name="other")
    refusal = await agent.fails("import_file", collection_name="files_to", path="all.parquet", partition_name="other")
    assert refusal["code"] == "conflict"  # an upsert would leave each entity in both partitions


async def test_an_insert_whose_server_was_killed_is_completed_without_duplicates(
    agent: Agent, milvus_235: str, files: Path
) -> None:
    """The file itself has duplicates too, close to one another: under way at once, or just written."""
    count, distinct = 40_000, 38_500
    ids = np.arange(count)
    ids[distinct:] -= count - distinct
    await agent.call("create_collection", collection_name="files_killed", dimension=16)
    np.savez(files / "killed.npz", id=ids, vector=np.ones((count, 16), "f4"))
    arguments = {"collection_name": "files_killed", "path": "killed.npz", "mode": "insert"}
    settings = {"MILVUS_MCP_URI": milvus_235, "MILVUS_MCP_FILES_DIR": str(files)}
    command = [sys.executable, "-m", "mcp_server_milvus", "call", "import_file", json.dumps(arguments)]
    async with await anyio.open_process(command, env=os.environ | settings) as server:
        with anyio.fail_after(60):
            while not await agent.count("files_killed", filter="id >= 0"):
                await anyio.sleep(0.01)
        server.kill()
    imported = await agent.call("import_file", **arguments, on_error="skip")
    assert imported["already_there"] > 0
    assert imported["import_count"] > 0
    assert imported["import_count"] + imported["already_there"] == count
    another_program = MilvusClient(milvus_235)
    counted: Any = another_program.query(
        "files_killed", "id >= 0", output_fields=["count(*)"], consistency_level="Strong"
    )
    another_program.close()
    assert counted[0]["count(*)"] == distinct  # which counts duplicates


async def test_a_collection_that_changes_while_it_is_imported_stops_the_import(agent: Agent, files: Path) -> None:
    """A write checked against the schema of another collection would crash the server."""
    await agent.call("create_collection", collection_name="files_changed", dimension=2)
    lines = (f'{{"id": {number}, "vector": [1, 2]}}\n' for number in range(50_000))
    (files / "changed.jsonl").write_text("".join(lines))
    arguments = {"collection_name": "files_changed", "path": "changed.jsonl"}
    under_way = anyio.Event()
    refusals: list[dict[str, Any]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del progress, total, message
        under_way.set()

    async def run() -> None:
        result = await agent.client.call_tool("import_file", arguments, progress_callback=note)
        refusals.append(structured(result))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await under_way.wait()
        await agent.call("drop_collection", collection_name="files_changed")
        await agent.call("create_collection", collection_name="files_changed", dimension=2, id_type="string")
    (refusal,) = refusals
    assert refusal["code"] in {"partial_write", "not_found", "conflict"}
    assert refusal["resume_from"] < 50_000
