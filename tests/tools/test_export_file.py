"""export_file on Milvus Lite: what it writes, import_file reads back exactly."""

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from pyarrow import parquet

from tests.agent import Agent, agent_on, keys
from tests.milvus.conftest import watching

pytestmark = pytest.mark.anyio

KEYS = [-(2**63) + 1, -1, 0, 2**53 + 1, 2**63 - 2]
FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 3},
    {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
    {"name": "text", "type": "VARCHAR", "max_length": 200, "nullable": True},
    {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 4, "max_length": 20},
    {"name": "weights", "type": "ARRAY", "element_type": "FLOAT", "max_capacity": 4},
    {"name": "json", "type": "JSON", "nullable": True},
    *({"name": kind.lower(), "type": kind} for kind in ("BOOL", "INT8", "INT16", "INT32", "FLOAT", "DOUBLE")),
    {"name": "maybe", "type": "INT32", "nullable": True},
]
JSONS: list[Any] = [
    {"large": 2**63 - 1, "text": 'ä"\n\\', "none": None, "deep": [[{"a": [1, 2.5, True]}]]},
    {},
    [],
    [1, "2"],
    None,
]
TEXTS = ["plain", 'quote " comma , line\nend\r\n', "ä🙂\u2028", "null", None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
async def agent(lite: str, files: Path) -> AsyncIterator[Agent]:
    async with agent_on(lite, files_dir=str(files)) as agent:
        yield agent


@pytest.fixture(scope="module")
async def everything(agent: Agent) -> str:
    """A collection with entities that are hard to write down."""
    await agent.call("create_collection", collection_name="export_all", fields=FIELDS, enable_dynamic_field=True)
    entities = [
        {
            "id": str(key),
            "vector": [0.1 * number, -1e-30, 3e38],
            "sparse": {"7": 0.1, str(2**32 - 2): 1e-7},
            "text": TEXTS[number],
            "tags": ["", "a,b", '"'][:number],
            "weights": [0.1, 1e10][:number],
            "json": JSONS[number],
            "bool": number % 2 == 0,
            "int8": -128,
            "int16": 32_767,
            "int32": -(2**31),
            "float": 0.1,
            "double": 0.1 + number,
            "maybe": None if number else 5,
        }
        | ({"extra": {"n": number}, "other": "x"} if number % 2 else {})
        for number, key in enumerate(KEYS)
    ]
    await agent.call("insert", collection_name="export_all", data=entities)
    return "export_all"


async def stored(agent: Agent, collection: str) -> list[dict[str, Any]]:
    return (await agent.call("query", collection_name=collection, output_fields=["*"]))["entities"]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
async def test_every_entity_comes_back_exactly_as_it_was(
    agent: Agent, everything: str, collection: str, suffix: str
) -> None:
    exported = await agent.call("export_file", collection_name=everything, path=f"all.{suffix}")
    assert exported["export_count"] == len(KEYS)
    await agent.call("create_collection", collection_name=collection, fields=FIELDS, enable_dynamic_field=True)
    imported = await agent.call("import_file", collection_name=collection, path=f"all.{suffix}")
    assert imported["import_count"] == len(KEYS)
    assert await stored(agent, collection) == await stored(agent, everything)


async def test_only_what_was_asked_for_is_written(agent: Agent, everything: str, files: Path) -> None:
    arguments = {"filter": "id >= {least}", "filter_params": {"least": 0}, "output_fields": ["text"], "limit": 2}
    exported = await agent.call("export_file", collection_name=everything, path="some.jsonl", **arguments)
    lines = [json.loads(line) for line in (files / "some.jsonl").read_bytes().splitlines()]
    assert lines == [{"id": 0, "text": TEXTS[2]}, {"id": 2**53 + 1, "text": TEXTS[3]}]
    assert exported == {"export_count": 2, "bytes": (files / "some.jsonl").stat().st_size}
    for name, empty in (("none.json", "[]\n"), ("none.jsonl", ""), ("none.csv", "id,text\n")):
        nothing = {"filter": "id == 17", "output_fields": ["text"]}
        await agent.call("export_file", collection_name=everything, path=name, **nothing)
        assert (files / name).read_text() == empty
    await agent.call("export_file", collection_name=everything, path="none.parquet", filter="id == 17")
    assert parquet.read_table(files / "none.parquet").num_rows == 0


async def test_a_file_is_overwritten_only_when_asked_and_of_a_failure_nothing_stays(
    agent: Agent, everything: str, files: Path
) -> None:
    (files / "mine.jsonl").write_text("mine")
    before = {path.name for path in files.iterdir()}
    for code, arguments in {
        "already_exists": {"path": "mine.jsonl"},
        "invalid_filter": {"path": "new.jsonl", "filter": "id ="},
        "not_found": {"path": "new.jsonl", "collection_name": "nowhere"},
        "denied": {"path": "../new.jsonl"},
        "invalid_argument": {"path": "new.npy"},
    }.items():
        refusal = await agent.fails("export_file", **({"collection_name": everything} | arguments))
        assert refusal["code"] == code
    assert {path.name for path in files.iterdir()} == before
    assert (files / "mine.jsonl").read_text() == "mine"
    await agent.call("export_file", collection_name=everything, path="mine.jsonl", overwrite=True)
    assert len((files / "mine.jsonl").read_bytes().splitlines()) == len(KEYS)


async def test_an_export_is_of_one_collection_whatever_becomes_of_its_name(
    lite: str, collection: str, files: Path
) -> None:
    """Between its pages the alias flips, and then the collection is dropped and made anew."""
    with watching() as wire:
        async with agent_on(lite, files_dir=str(files)) as agent:

            async def make(name: str, value: int) -> None:
                await agent.call("create_collection", collection_name=name, dimension=2)
                data = [{"id": n, "vector": [1, 2], "value": value} for n in range(1_500)]
                await agent.call("insert", collection_name=name, data=data)

            other, alias = f"{collection}_other", f"{collection}_alias"
            await make(collection, 1)
            await make(other, 2)
            await agent.call("create_alias", collection_name=collection, alias=alias)
            changes: list[Callable[[], Awaitable[Any]]] = []

            async def change(rpc: str, _request: Any) -> None:
                if rpc == "Query" and changes and wire.sent[rpc] == 2:
                    await changes.pop()()

            wire.before = change
            wire.sent.clear()
            changes.append(lambda: agent.call("alter_alias", collection_name=other, alias=alias))
            await agent.call("export_file", collection_name=alias, path="flipped.jsonl", output_fields=["value"])
            values = [json.loads(line)["value"] for line in (files / "flipped.jsonl").read_bytes().splitlines()]
            assert (values, changes) == ([1] * 1_500, [])

            async def make_anew() -> None:
                await agent.call("drop_collection", collection_name=collection)
                await make(collection, 3)

            wire.sent.clear()
            changes.append(make_anew)
            refusal = await agent.fails("export_file", collection_name=collection, path="anew.jsonl")
            assert (refusal["code"], changes) == ("conflict", [])
            assert not (files / "anew.jsonl").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there the size of files cannot be limited")
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_a_full_disk_is_told_and_of_the_file_nothing_stays(
    agent: Agent, collection: str, files: Path, suffix: str
) -> None:
    import resource
    import signal

    await agent.call("create_collection", collection_name=collection, dimension=2)
    texts = [f"{number}".join("x" * 10_000) for number in range(20)]
    data = [{"id": number, "vector": [1, 2], "text": text} for number, text in enumerate(texts)]
    await agent.call("insert", collection_name=collection, data=data)
    before, kept = sorted(files.iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 if suffix == "parquet" else 100_000, kept[1]))
    try:
        refusal = await agent.fails("export_file", collection_name=collection, path=f"full.{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)
    assert refusal["code"] == "limit_exceeded"
    assert f"full.{suffix}" in refusal["message"]
    assert sorted(files.iterdir()) == before


async def test_a_large_collection_is_written_page_by_page_and_a_cancelled_file_is_removed(
    agent: Agent, collection: str, files: Path
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=8)
    (files / "many.jsonl").write_text("".join(f'{{"id": {n}, "vector": {[n] * 8}}}\n' for n in range(20_000)))
    await agent.call("import_file", collection_name=collection, path="many.jsonl")
    with anyio.CancelScope() as scope:

        async def cancel(progress: float, total: float | None, message: str | None) -> None:
            del progress, total, message
            scope.cancel()

        arguments = {"collection_name": collection, "path": "cancelled.csv"}
        await agent.client.call_tool("export_file", arguments, progress_callback=cancel)
    with anyio.fail_after(10):
        while any(path.name.endswith(".part") for path in files.iterdir()):
            await anyio.sleep(0.01)
    assert not (files / "cancelled.csv").exists()
    exported = await agent.call("export_file", collection_name=collection, path="many.parquet")
    assert exported["export_count"] == 20_000
    assert keys(parquet.read_table(files / "many.parquet").to_pylist()) == list(range(20_000))
