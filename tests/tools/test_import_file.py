"""import_file on Milvus Lite: every format, what does not fit, and how an import goes on where another one ended."""

import json
import math
import os
import sys
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import grpc
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from pymilvus import MilvusClient

from mcp_server_milvus.milvus.entities import entity_problems
from mcp_server_milvus.milvus.fitting import Fitting
from mcp_server_milvus.milvus.packing import write_request
from mcp_server_milvus.milvus.reading import Batch, Format
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.vocabulary import DataType
from tests.agent import Agent, agent_on
from tests.milvus.conftest import rpc_error, watching

pytestmark = pytest.mark.anyio

ID = {"name": "id", "type": "INT64", "is_primary": True}
VECTOR = {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}
JSON = {"name": "json", "type": "JSON"}
YEAR = {"name": "year", "type": "INT32"}
TITLE = {"name": "title", "type": "VARCHAR", "max_length": 20}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
async def agent(lite: str, files: Path) -> AsyncIterator[Agent]:
    async with agent_on(lite, files_dir=str(files)) as agent:
        yield agent


@pytest.fixture
async def films(agent: Agent, collection: str) -> str:
    await agent.call("create_collection", collection_name=collection, fields=[ID, VECTOR, YEAR, TITLE])
    return collection


def film(number: int, **other: Any) -> dict[str, Any]:
    return {"id": number, "vector": [number, 0.5], "year": 1900 + number, "title": f"film {number}"} | other


def write_lines(path: Path, entities: list[Any]) -> str:
    path.write_text("".join(json.dumps(entity) + "\n" for entity in entities))
    return path.name


async def stored(agent: Agent, collection: str) -> list[dict[str, Any]]:
    found = await agent.call("query", collection_name=collection, output_fields=["*"], limit=1_000)
    return found["entities"]


async def test_without_a_folder_nothing_is_imported_and_the_setting_named(lite: str) -> None:
    async with agent_on(lite) as agent:
        for tool in ("import_file", "export_file"):
            refusal = await agent.fails(tool, collection_name="any", path="/etc/passwd.csv")
            assert refusal["code"] == "denied"
            assert "--files-dir" in refusal["hint"]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.parquet", "a.npz", "a.npy", "strings.parquet"]
)
async def test_each_format_gives_the_same_entities(agent: Agent, films: str, files: Path, name: str) -> None:
    entities = [film(number) for number in range(5)]
    table = {key: [entity[key] for entity in entities] for key in entities[0]}
    path = files / name
    match path.suffix:
        case ".json":
            path.write_text("\ufeff " + json.dumps(entities, indent=1))
        case ".csv":
            rows = [f'{e["id"]};"{e["vector"]}";{e["year"]};"{e["title"]}"' for e in entities]
            path.write_text("\r\n".join(["id;vector;year;title", *rows]) + "\r\n\r\n", newline="")
        case ".parquet":
            column = [str(vector) for vector in table["vector"]] if name.startswith("s") else table["vector"]
            parquet.write_table(pa.table(table | {"vector": column}), path)
        case ".npz":
            save: Any = np.savez_compressed
            save(path, **{key: np.array(column) for key, column in table.items()})
        case ".npy":
            kind = [("id", "i8"), ("vector", "f4", (2,)), ("year", "i2"), ("title", "U20")]
            np.save(path, np.array([tuple(entity.values()) for entity in entities], dtype=kind))
        case _:
            write_lines(path, entities)
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n \n")
    imported = await agent.call("import_file", collection_name=films, path=name)
    assert imported["import_count"] == 5
    assert "pending" not in imported
    assert await stored(agent, films) == entities
    again = await agent.call("import_file", collection_name=films, path=name, resume_from=3)
    assert again["import_count"] == 2
    assert await agent.count(films) == 5


async def test_columns_are_renamed_and_left_out_and_values_converted_as_reported(
    agent: Agent, films: str, files: Path
) -> None:
    rows = [{"key": str(n), "embedding": f"[{n}, 0.5]", "year": 1900.0 + n, "title": n, "extra": n} for n in range(3)]
    name = write_lines(files / "columns.jsonl", rows)
    refusal = await agent.fails("import_file", collection_name=films, path=name)
    assert (refusal["code"], refusal["resume_from"]) == ("invalid_argument", 0)
    assert "line 1" in refusal["message"]
    columns = {"key": "id", "embedding": "vector", "extra": ""}
    imported = await agent.call("import_file", collection_name=films, path=name, columns=columns)
    assert imported["coerced"] == [
        "id: 3 strings became INT64",
        "vector: 3 strings became FLOAT_VECTOR",
        "year: 3 floats became INT32",
        "title: 3 whole numbers became VARCHAR",
    ]
    assert await stored(agent, films) == [film(n, title=str(n)) for n in range(3)]


async def test_an_import_stops_at_what_is_wrong_and_goes_on_from_there(agent: Agent, films: str, files: Path) -> None:
    wrong = film(1_700, year="last")
    name = write_lines(files / "wrong.jsonl", [*map(film, range(1_700)), wrong, *map(film, range(1_701, 2_500))])
    refusal = await agent.fails("import_file", collection_name=films, path=name)
    assert (refusal["code"], refusal["resume_from"], refusal["import_count"]) == ("partial_write", 1_700, 1_700)
    assert "line 1701: field 'year': got str 'last'; expected year INT32" in refusal["message"]
    assert await agent.count(films) == 1_700
    imported = await agent.call("import_file", collection_name=films, path=name, on_error="skip", resume_from=1_700)
    assert (imported["import_count"], imported["wrong_count"]) == (799, 1)
    assert await agent.count(films) == 2_499


async def test_wrong_lines_are_counted_the_first_twenty_listed_and_the_others_imported(
    agent: Agent, films: str, files: Path
) -> None:
    name = "bad.jsonl"
    bad = ["{", "[1]", "NaN", '{"id": 9}', json.dumps(film(9, vector=[1])), json.dumps(film(9, none=1)), '"\\ud800"']
    bad += [json.dumps(film(9, title="x" * 21)), json.dumps(film(0)), json.dumps(film(9, vector=[1e39, 0]))]
    bad += [json.dumps(film(9, vector=[math.nan, 0])), "[" * 100_000, json.dumps(film(9, year=2**31)), *["x"] * 20]
    lines = [json.dumps(film(0)), *bad, json.dumps(film(1))]
    (files / name).write_bytes("\n".join(lines).encode() + b"\n\xff\n" + b" " * (9 << 20) + b"\n")
    imported = await agent.call("import_file", collection_name=films, path=name, on_error="skip")
    assert imported["import_count"] == 2
    assert imported["wrong_count"] == len(bad) + 2
    assert len(imported["wrong"]) == 20
    assert imported["wrong"][8] == "line 10: field 'id' is the same as that of line 1"
    assert "longer than" not in imported["wrong"][0]
    assert await agent.count(films) == 2


SCHEMA = CollectionSchema(
    "strict",
    (
        Field("id", DataType.INT64, is_primary=True),
        Field("vector", DataType.FLOAT_VECTOR, dim=2),
        Field("half", DataType.FLOAT16_VECTOR, dim=2, nullable=True),
    ),
    (),
    (),
    enable_dynamic_field=False,
)
VECTORS: list[Any] = [
    *([1, 0.5], [1.0, -3.4028234663852886e38], [1, 2, 3], [], [True, 0], [0, "1"], [0, None], [0, [1]]),
    *([0, math.nan], [0, math.inf], [0, 3.5e38], [0, 10**400], None, {"0": 1}, "x", 7, [-0.0, 1e-46]),
]


@pytest.mark.parametrize("vector", VECTORS, ids=repr)
def test_vectors_looked_at_as_one_array_are_refused_as_single_ones_are(vector: Any) -> None:
    entities = [{"id": 0, "vector": [0, 0]}, {"id": 1, "vector": vector}, {"id": 2, "half": None}]
    expected = {number: entity_problems(SCHEMA, entity, keys_required=True) for number, entity in enumerate(entities)}
    fitted = Fitting(SCHEMA, {}, keys_required=True, kind=Format.JSONL).fit(Batch(5, [dict(e) for e in entities]))
    assert fitted.wrong == {
        5 + number: f"entity {5 + number}: {problems[0]}" for number, problems in expected.items() if problems
    }
    assert [entity["id"] for entity in fitted.entities] == [n for n in range(3) if not expected[n]]
    right = [entity["vector"] for number, entity in enumerate(entities) if not expected[number]]
    assert fitted.matrices["vector"].tolist() == np.array(right, "f4").tolist()


def test_a_request_with_vectors_as_memory_says_what_one_with_lists_says() -> None:
    kinds = {"id": 5, "vector": 101}
    described = {"fields": [{"name": each.name, "type": kinds[each.name]} for each in SCHEMA.fields[:2]]}
    schema = replace(SCHEMA, fields=SCHEMA.fields[:2], described=described)
    entities = [{"id": number, "vector": [0.1 * number, -3e38]} for number in range(300)]
    ids = [{"id": entity["id"]} for entity in entities]
    matrix = np.array([entity["vector"] for entity in entities])
    for operation in ("insert", "upsert"):
        lists = write_request(operation, "strict", entities, {}, schema, "part")
        memory = write_request(operation, "strict", ids, {"vector": matrix}, schema, "part")
        assert memory == lists


async def test_a_text_that_is_all_of_a_json_value_is_refused_where_it_cannot_be_read_back(
    agent: Agent, collection: str, files: Path
) -> None:
    await agent.call("create_collection", collection_name=collection, fields=[ID, VECTOR, JSON])
    name = write_lines(files / "text.jsonl", [{"id": 1, "vector": [1, 2], "json": "text"}])
    refusal = await agent.fails("import_file", collection_name=collection, path=name)
    assert refusal["code"] == "not_supported"
    assert "json" in refusal["message"]
    (files / "text.csv").write_text('id,vector,json\n1,"[1, 2]",{\n')
    refusal = await agent.fails("import_file", collection_name=collection, path="text.csv")
    assert "line 2: field 'json': the text is not JSON" in refusal["message"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.parquet", b"PAR1 no parquet PAR1"),
        ("x.npy", b"\x93NUMPY\x01\x00"),
        ("x.npz", b"PK no zip"),
        ("x.json", b'{"id": 1}'),
        ("x.json", b'[{"id": 1'),
        ("twice.csv", b"id,id\n1,2\n"),
        ("x.unknown", b""),
    ],
)
async def test_what_is_no_file_of_its_format_is_said_to_be_none(
    agent: Agent, films: str, files: Path, name: str, content: bytes
) -> None:
    (files / name).write_bytes(content)
    refusal = await agent.fails("import_file", collection_name=films, path=name)
    assert refusal["code"] == "invalid_argument"
    assert "path" in refusal["message"]


async def test_python_objects_are_never_unpickled(agent: Agent, films: str, files: Path) -> None:
    np.save(files / "pickled.npy", np.array([{"id": 1}], dtype=object), allow_pickle=True)
    refusal = await agent.fails("import_file", collection_name=films, path="pickled.npy")
    assert "Python objects" in refusal["message"]
    with zipfile.ZipFile(files / "lengths.npz", "w") as archive:
        for name, count in (("id", 2), ("year", 3)):
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, np.arange(count))
    refusal = await agent.fails("import_file", collection_name=films, path="lengths.npz")
    assert "lengths [2, 3]" in refusal["message"]


async def test_an_insert_leaves_what_is_there_and_doubles_nothing(agent: Agent, films: str, files: Path) -> None:
    await agent.call("insert", collection_name=films, data=[film(1, title="mine"), film(2, title="mine")])
    name = write_lines(files / "insert.jsonl", [film(number) for number in range(4)])
    refusal = await agent.fails("import_file", collection_name=films, path=name, mode="insert")
    assert (refusal["code"], refusal["resume_from"]) == ("already_exists", 0)
    assert await agent.count(films) == 2
    imported = await agent.call("import_file", collection_name=films, path=name, mode="insert", on_error="skip")
    assert (imported["import_count"], imported["already_there"]) == (2, 2)
    assert [each["title"] for each in await stored(agent, films)] == ["film 0", "mine", "mine", "film 3"]


async def test_keys_are_generated_where_the_collection_generates_them(
    agent: Agent, collection: str, files: Path
) -> None:
    await agent.call("create_collection", collection_name=collection, fields=[ID | {"auto_id": True}, VECTOR])
    np.save(files / "matrix.npy", np.arange(6, dtype="f8").reshape(3, 2))
    imported = await agent.call("import_file", collection_name=collection, path="matrix.npy")
    assert imported["import_count"] == 3
    assert [each["vector"] for each in await stored(agent, collection)] == [[0, 1], [2, 3], [4, 5]]


async def test_a_partition_that_is_not_there_is_named(agent: Agent, films: str, files: Path) -> None:
    name = write_lines(files / "partition.jsonl", [film(1)])
    refusal = await agent.fails("import_file", collection_name=films, path=name, partition_name="nowhere")
    assert refusal["code"] == "not_found"
    assert "nowhere" in refusal["message"]


async def test_progress_tells_from_where_another_import_would_go_on(lite: str, films: str, files: Path) -> None:
    name = write_lines(files / "progress.jsonl", [film(number) for number in range(2_500)])
    told: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        told.append((progress, message))

    async with agent_on(lite, files_dir=str(files)) as agent:
        arguments = {"collection_name": films, "path": name}
        await agent.client.call_tool("import_file", arguments, progress_callback=note)
    assert (2_500, f"{films}: resume_from 2500 would go on from here") in told


@pytest.mark.parametrize("mode", ["upsert", "insert"])
async def test_a_lost_answer_neither_loses_nor_doubles_entities(lite: str, films: str, files: Path, mode: str) -> None:
    """An upsert is repeated at once, an insert by the next call, which looks what is there."""
    name = write_lines(files / "lost.jsonl", [film(number) for number in range(2_500)])
    lost: list[str] = []

    async def lose_one(rpc: str, _request: Any) -> None:
        if rpc == mode.title() and not lost:
            lost.append(rpc)
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, "the connection broke")

    with watching() as wire:
        wire.after = lose_one
        async with agent_on(lite, files_dir=str(files)) as agent:
            arguments = {"collection_name": films, "path": name, "mode": mode}
            if mode == "insert":
                refusal = await agent.fails("import_file", **arguments)
                assert (refusal["code"], refusal["resume_from"]) == ("partial_write", 0)
                assert refusal["outcome_unknown"] == [[0, 999]]
            imported = await agent.call("import_file", **arguments, resume_from=0)
            assert imported["import_count"] + imported.get("already_there", 0) == 2_500
            assert await agent.count(films) == 2_500
    assert lost


async def test_a_cancelled_import_leaves_the_server_working_and_can_be_done_again(
    agent: Agent, films: str, files: Path
) -> None:
    name = write_lines(files / "cancelled.jsonl", [film(number) for number in range(20_000)])
    with anyio.move_on_after(10):
        async with anyio.create_task_group() as tasks:

            async def cancel_early() -> None:
                while not await agent.count(films):
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()

            tasks.start_soon(cancel_early)
            await agent.client.call_tool("import_file", {"collection_name": films, "path": name})
    assert 0 < await agent.count(films) < 20_000
    assert (await agent.call("import_file", collection_name=films, path=name))["import_count"] == 20_000
    assert await agent.count(films) == 20_000


@pytest.mark.parametrize("mode", ["upsert", "insert"])
async def test_an_import_whose_server_was_killed_is_completed_without_duplicates(
    agent: Agent, another_program: MilvusClient, lite: str, films: str, files: Path, mode: str
) -> None:
    count = 40_000
    name = write_lines(files / "killed.jsonl", [film(number) for number in range(count)])
    arguments = json.dumps({"collection_name": films, "path": name, "mode": mode})
    settings = {"MILVUS_MCP_URI": lite, "MILVUS_MCP_FILES_DIR": str(files)}
    command = [sys.executable, "-m", "mcp_server_milvus", "call", "import_file", arguments]
    async with await anyio.open_process(command, env=os.environ | settings) as server:
        with anyio.fail_after(60):
            while not await agent.count(films):
                await anyio.sleep(0.01)
        server.kill()
    assert 0 < await agent.count(films) < count
    imported = await agent.call("import_file", collection_name=films, path=name, mode=mode, on_error="skip")
    assert imported["import_count"] + imported.get("already_there", 0) == count
    assert await agent.count(films) == count
    keys = another_program.query(films, "id >= 0", output_fields=["id"])
    assert sorted(each["id"] for each in keys) == list(range(count))
