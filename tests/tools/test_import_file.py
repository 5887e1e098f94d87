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

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus import fitting
from mcp_server_milvus.milvus.capabilities import Backend
from mcp_server_milvus.milvus.entities import entity_problems
from mcp_server_milvus.milvus.fitting import Fitted, Fitting
from mcp_server_milvus.milvus.formats import Batch, Format
from mcp_server_milvus.milvus.packing import write_request
from mcp_server_milvus.milvus.reading import read
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.underway import KnownKeys
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


SPARSE = CollectionSchema(
    "sparse",
    (Field("id", DataType.INT64, is_primary=True), Field("sparse", DataType.SPARSE_FLOAT_VECTOR)),
    (),
    (),
    enable_dynamic_field=False,
)


def test_a_sparse_vector_in_two_lists_is_read_by_their_names_and_nothing_else_is_one() -> None:
    right = [{"indices": [5, 9], "values": [2, 1]}, {"values": [2, 1], "indices": [5, 9]}]
    wrong: list[Any] = [
        right[0] | {"dim": 9},
        *({"indices": each, "values": [2, 1]} for each in ([5], [5, 5], [[], {}])),
    ]
    entities: list[Any] = [{"id": number, "sparse": each} for number, each in enumerate([*right, *wrong])]
    fitted = Fitting(SPARSE, {}, keys_required=True, kind=Format.JSONL).fit(Batch(0, entities))
    assert [entity["sparse"] for entity in fitted.entities] == [{5: 2.0, 9: 1.0}] * 2
    assert list(fitted.wrong) == [2, 3, 4, 5]
    assert "index str 'indices' is no whole number" in fitted.wrong[2]


def test_entities_that_no_check_finds_wrong_and_that_cannot_be_packed_are_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitting, "entity_problems", lambda *_, **__: [])
    with pytest.raises(InvalidArgument):
        Fitting(SCHEMA, {}, keys_required=True, kind=Format.JSONL).fit(Batch(0, [{"id": "x", "vector": [0, 0]}]))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
async def test_columns_that_are_mapped_must_be_there_and_be_the_only_ones_of_their_field(
    agent: Agent, films: str, files: Path, suffix: str
) -> None:
    path = files / f"columns.{suffix}"
    lines = [{"id": 1, "vector": [1, 2], "year": 3, "title": "a", "other": "b"}]
    path.write_text('id,vector,year,title,other\n1,"[1, 2]",3,a,b\n') if suffix == "csv" else write_lines(path, lines)
    arguments = {"collection_name": films, "path": path.name}
    refusal = await agent.fails("import_file", **arguments, columns={"title": "title", "other": "title"})
    assert "several columns are mapped to 'title'" in refusal["message"]
    refusal = await agent.fails("import_file", **arguments, columns={"other": "title"})
    assert "there is a column 'title' too" in refusal["message"]
    right = {"other": "title", "title": ""}
    if suffix == "csv":
        refusal = await agent.fails("import_file", **arguments, columns={**right, "nowhere": "year"})
        assert (refusal["code"], refusal["resume_from"]) == ("invalid_argument", 0)
        assert "no column 'nowhere'" in refusal["message"]
    else:
        imported = await agent.call("import_file", **arguments, columns={**right, "nowhere": "year"})
        assert imported["wrong"] == ["columns: 'nowhere' is in no entity of the file"]
    await agent.call("import_file", **arguments, columns=right)
    assert [each["title"] for each in await stored(agent, films)] == ["b"]


async def test_long_names_do_not_make_a_result_long(agent: Agent, films: str, files: Path) -> None:
    name = write_lines(files / "names.jsonl", [film(n, **{"x" * 200_000 + str(n): 1}) for n in range(20)])
    result = await agent.call("import_file", collection_name=films, path=name, on_error="skip")
    assert result["wrong_count"] == 20
    refusal = await agent.fails("import_file", collection_name=films, path=name)
    assert max(len(json.dumps(result)), len(json.dumps(refusal))) < 32_768
    assert "xxx" in result["wrong"][-1]


def test_batches_are_small_in_memory_however_small_the_file_is(tmp_path: Path) -> None:
    """A value that occurs often is once in a Parquet file."""
    path = tmp_path / "often.parquet"
    columns = {"id": range(600), "title": ["a"] * 200 + ["b" * 100_000] * 400}
    parquet.write_table(pa.table({key: list(column) for key, column in columns.items()}), path)
    assert path.stat().st_size < 1_000_000
    with path.open("rb") as file:
        batches = list(read(file, Format.PARQUET, resume_from=3, unnamed="vector").batches)
    keys: list[Any] = []
    for batch in batches:
        entities: list[Any] = batch.entities
        assert batch.first == 3 + len(keys)
        assert sum(len(entity["title"]) for entity in entities) < 16_000_000
        keys += [entity["id"] for entity in entities]
    assert keys == list(range(3, 600))


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
    assert refusal["code"] == "invalid_argument"
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


async def test_an_array_of_empty_lines_has_no_end_and_is_refused(agent: Agent, films: str, files: Path) -> None:
    empty: Any = {"descr": "<f4", "fortran_order": False, "shape": (2**60, 0)}
    with (files / "empty.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, empty)
    refusal = await agent.fails("import_file", collection_name=films, path="empty.npy")
    assert "lines without a value" in refusal["message"]


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


@pytest.mark.parametrize("mode", ["insert", "upsert"])
async def test_with_generated_keys_nothing_follows_a_failure_and_nothing_is_sent_twice(
    lite: str, agent: Agent, collection: str, files: Path, mode: str
) -> None:
    """Every entity behind one that is not in would be in twice after the next call."""
    await agent.call("create_collection", collection_name=collection, fields=[ID | {"auto_id": True}, VECTOR])
    keys = [{"id": number} if mode == "upsert" else {} for number in range(3_000)]
    name = write_lines(files / "generated.jsonl", [key | {"vector": [n, 0.5]} for n, key in enumerate(keys)])
    failures = [rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "rate limit")]

    async def fail(rpc: str, _request: Any) -> None:
        if rpc == mode.title() and failures:
            raise failures.pop()

    with watching() as wire:
        wire.before = fail
        async with agent_on(lite, files_dir=str(files)) as watched:
            arguments = {"collection_name": collection, "path": name, "mode": mode}
            refusal = await watched.fails("import_file", **arguments)
            assert (refusal["code"], refusal["resume_from"], wire.sent[mode.title()]) == ("limit_exceeded", 0, 1)
            assert await agent.count(collection) == 0
            wire.before, wire.after = wire.after, fail
            failures.append(rpc_error(grpc.StatusCode.UNAVAILABLE, "the connection broke"))
            refusal = await watched.fails("import_file", **arguments)
            assert (refusal["resume_from"], refusal["outcome_unknown"]) == (0, [[0, 999]])
            assert "resume_from 1000 if it is there, or 0 if not" in refusal["hint"]
            assert wire.sent[mode.title()] == 2
            assert (await watched.call("import_file", **arguments, resume_from=1_000))["import_count"] == 2_000
    assert await agent.count(collection) == 3_000


@pytest.mark.parametrize("mode", ["upsert", "insert"])
async def test_requests_with_a_common_key_are_carried_out_in_the_order_of_the_file(
    lite: str, films: str, files: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of requests at once, the one that is sent later could be carried out before the other."""
    monkeypatch.setattr(Backend, "concurrent_writes", 4)
    name = write_lines(files / "twice.jsonl", [film(n % 1_000, year=1 + n // 1_000) for n in range(2_000)])
    second = anyio.Event()

    async def hold_the_first(rpc: str, _request: Any) -> None:
        if rpc == mode.title() and wire.sent[rpc] == 1:
            with anyio.move_on_after(0.3):
                await second.wait()

    async def note(rpc: str, _request: Any) -> None:
        if rpc == mode.title():
            second.set()

    with watching() as wire:
        wire.before, wire.after = hold_the_first, note
        async with agent_on(lite, files_dir=str(files)) as agent:
            arguments = {"collection_name": films, "path": name, "mode": mode, "on_error": "skip"}
            imported = await agent.call("import_file", **arguments)
            years = {each["year"] for each in await stored(agent, films)}
    assert (imported["import_count"], years) == ((2_000, {2}) if mode == "upsert" else (1_000, {1}))


def test_known_keys_are_found_and_others_not() -> None:
    known = KnownKeys()
    assert not known.may_have([1, "1"])
    known.add(range(5, 1_000))
    known.add(["a", "b", -5])
    assert not known.may_have([4, "c", 1_000, -6])
    for key in (5, 999, 500, "a", "b", -5):
        assert known.may_have([4, key])


async def test_a_fault_of_this_server_ends_an_import_saying_from_where_to_go_on(
    agent: Agent, films: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_lines(files / "fault.jsonl", [film(number) for number in range(1_500)])
    really = Fitting.fit

    def fit(self: Fitting, batch: Batch) -> Fitted:
        if batch.first:
            raise ZeroDivisionError
        return really(self, batch)

    monkeypatch.setattr(Fitting, "fit", fit)
    refusal = await agent.fails("import_file", collection_name=films, path=name)
    assert (refusal["code"], refusal["resume_from"], refusal["import_count"]) == ("partial_write", 1_000, 1_000)
    assert "internal" in refusal["message"]


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


async def test_a_json_value_that_the_backend_cannot_keep_is_a_wrong_line(
    agent: Agent, collection: str, files: Path
) -> None:
    key, vector = {"name": "id", "type": "INT64", "is_primary": True}, {"name": "v", "type": "FLOAT_VECTOR", "dim": 1}
    await agent.call("create_collection", collection_name=collection, fields=[key, JSON, vector])
    values = [{"a": 1}, "text", [1], 7, {}]
    name = write_lines(
        files / "kept.jsonl", [{"id": number, "json": value, "v": [1]} for number, value in enumerate(values)]
    )
    refusal = await agent.fails("import_file", collection_name=collection, path=name)
    assert "'json'" in refusal["message"]
    skipped = await agent.call("import_file", collection_name=collection, path=name, on_error="skip")
    assert (skipped["import_count"], skipped["wrong_count"]) == (3, 2)
    assert [entity["json"] for entity in await stored(agent, collection)] == [{"a": 1}, [1], {}]
