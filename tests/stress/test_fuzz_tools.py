"""Each tool, called in some hundred ways that nobody means, on a real engine: always an answer that is well formed."""

import json
import random
import zlib
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from mcp.client import Client
from mcp_types import CallToolResult, TextContent

from mcp_server_milvus import errors
from mcp_server_milvus.tool import CONFIRM
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Effect
from tests.agent import Agent, agent_on
from tests.calls import CALLS
from tests.stress.schemas import Calls, Seen, resolved

pytestmark = pytest.mark.anyio

SUPPORT = json.loads((Path(__file__).parents[2] / "tools" / "support.json").read_text("utf-8"))["Milvus Lite 3.2.2"]
ANSWER_SECONDS = 60
"""In which each call is answered on the slowest machine; its own deadline is far below."""

SETTINGS: dict[str, Any] = {
    "toolsets": "all",
    "timeout": 5,
    "build_timeout": 5,
    "undo": True,
    "undo_collections": 5,
    "schema_ttl": 1,
    "confirm_upserts": 2,
}

P = {"collection_name": "p"}
DOCS = {"collection_name": "docs"}
THINGS = {"collection_name": "things"}
ENTITIES = [{"id": number, "vector": [number, 1.0], "n": number, "s": f"text {number}"} for number in range(1, 9)]
WORLD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("create_collection", P | {"dimension": 2}),
    ("insert", P | {"data": ENTITIES}),
    ("create_collection", DOCS | {"text_field": "body", "metadata": [{"name": "year", "type": "INT64"}]}),
    ("insert", DOCS | {"data": [{"body": f"a red apple {number}", "year": number} for number in range(5)]}),
    (
        "create_collection",
        THINGS
        | {
            "fields": [
                {"name": "key", "type": "VARCHAR", "is_primary": True, "max_length": 64},
                {"name": "flag", "type": "BOOL", "nullable": True},
                {"name": "price", "type": "DOUBLE", "nullable": True},
                {"name": "meta", "type": "JSON", "nullable": True},
                {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 8, "max_length": 32},
                {"name": "dense", "type": "FLOAT_VECTOR", "dim": 4},
                {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
            ]
        },
    ),
    (
        "insert",
        THINGS
        | {
            "data": [
                {
                    "key": key,
                    "flag": True,
                    "price": 1.5,
                    "meta": {"a": {"b": [1, "x"]}},
                    "tags": ["red", "blue"],
                    "dense": [0.1, 0.2, 0.3, 0.4],
                    "sparse": {"1": 0.5, "7": 0.25},
                }
                for key in ("one", "two", "it's", 'a"b')
            ]
        },
    ),
    ("create_partition", P | {"partition_name": "part"}),
    ("create_collection", {"collection_name": "spare", "dimension": 2}),
    ("create_alias", {"collection_name": "spare", "alias": "other"}),
    ("create_collection", {"collection_name": "kept", "dimension": 2}),
    ("drop_collection", {"collection_name": "kept"}),
    ("create_database", {"db_name": "second"}),
    ("export_file", P | {"path": "entities.jsonl", "overwrite": True}),
)
"""What is there before a tool is called, and again after calls that may have destroyed it."""

NAMES = ("p", "docs", "things", "spare", "other", "gone", "fresh")
FILTERS = (
    "",
    "id > 2",
    "id in [1, 2, 3]",
    "not (id == 1) and n < 5",
    's like "text%"',
    "year >= 2 or year is null",
    'key == "one"',
    "price > 0.5 and flag == true",
    'meta["a"]["b"][0] == 1',
    'array_contains(tags, "red")',
    "id > {x}",
    "id in {ids}",
    "{x} {x}",
    "id >",
    "vector > 1",
    "nothing == 1",
    "id / 0 == 1",
    "id == 99999999999999999999999",
    "((((((((((id > 1))))))))))",
    " or ".join(f"id == {number}" for number in range(200)),
    "(" * 300 + "id > 1" + ")" * 300,
    "1 == 1; drop",
)
FIELDS = (
    "id",
    "vector",
    "n",
    "s",
    "body",
    "year",
    "key",
    "flag",
    "meta",
    "tags",
    "dense",
    "sparse",
    "*",
    "$meta",
    "no",
)
VECTORS = ([1, 2], [1.0], [0.1, 0.2, 0.3, 0.4], {"1": 0.5}, [[1, 2]], [], ["a", "b"], [1e39, 0])
PROPERTIES = (
    {"collection.ttl.seconds": 3600},
    {"mmap.enabled": True},
    {"collection.ttl.seconds": None},
    {"collection.ttl.seconds": "soon"},
    {"x" * 300: "y"},
    {},
)
KNOWN: dict[str, tuple[Any, ...]] = {
    "collection_name": NAMES,
    "source_collection_name": NAMES,
    "target_collection_name": NAMES,
    "new_name": ("fresh", "docs", "p", "_dropped_x"),
    "alias": ("other", "another", "p"),
    "db_name": ("default", "second", "nowhere"),
    "partition_name": ("part", "_default", "gone"),
    "partition_names": (["part"], ["_default"], ["gone", "part"], []),
    "field_name": FIELDS,
    "index_name": FIELDS,
    "anns_field": FIELDS,
    "text_field": FIELDS,
    "group_by_field": FIELDS,
    "output_fields": (["*"], ["id"], ["n", "vector"], ["no"], [], ["body", "year"]),
    "load_fields": (["id", "vector"], ["id"]),
    "group_by": (["n"], ["s", "n"], ["meta"], ["no"]),
    "order_by": (["n desc"], ["count desc"], ["id", "n desc"], ["no"], ["n up"]),
    "aggregates": (["count"], ["avg(n)", "max(s)"], ["distinct(n)"], ["sum(vector)"], ["avg("]),
    "filter": FILTERS,
    "filter_params": ({"x": 2}, {"x": 2, "ids": [1, 2]}, {"x": "a' or 1"}, {"x": None}, {"ids": [float("nan")]}, {}),
    "text": ("a red apple", "", "apple " * 2000),
    "texts": (["a red apple"], [], ["x" * 70_000], [""]),
    "vector": VECTORS,
    "id": (1, "one", Seen("kept_as"), "all"),
    "ids": ([1, 2], ["one", "it's"], [], [1, "one"], list(range(2000))),
    "limit": (1, 5, 100, 16_384, 16_385, 0, -1),
    "offset": (0, 3, 16_384),
    "cursor": (Seen("next_cursor"), "bm90IG9uZQ"),
    "confirm": (Seen("confirm"), "nothing", ""),
    "params": ({"ef": 100}, {"nprobe": 32}, {"M": 16, "efConstruction": 200}, {"ef": -1}, {"ef": "many"}, {}),
    "index_type": ("HNSW", "IVF_FLAT", "FLAT", "INVERTED", "SPARSE_INVERTED_INDEX", "DISKANN", "NOPE"),
    "metric_type": ("L2", "IP", "COSINE", "BM25", "JACCARD", "NOPE"),
    "consistency_level": ("Strong", "Bounded", "Eventually", "Sometimes"),
    "embedder": ("default", "none"),
    "properties": PROPERTIES,
    "path": ("entities.jsonl", "odd.jsonl", "odd.csv", "odd.parquet", "out.csv", "out.parquet", "../x.jsonl", "none"),
    "format": ("jsonl", "json", "csv", "parquet", "xls"),
    "data": (ENTITIES[:2], [{"id": 1}], {"id": [1, 2], "vector": [[1, 2], [2, 1]]}, [{"body": "red", "year": 1}], []),
    "dimension": (2, 1, 0, 32_769),
    "job_id": ("1", Seen("job_id"), "x"),
    "name": ("fresh", "docs", "p"),
    "privilege": ("Search", "Insert", "All"),
}
"""Values that exist, or nearly, by argument."""

RIGHT: dict[str, tuple[dict[str, Any], ...]] = {
    "search": (P | {"vector": [1, 2]}, DOCS | {"text": "a red apple"}, THINGS | {"vector": {"1": 1}}, P | {"id": 1}),
    "hybrid_search": (
        P | {"legs": [{"vector": [1, 2]}, {"vector": [2, 1], "filter": "id > 1"}]},
        THINGS | {"legs": [{"vector": [1, 0, 0, 0], "anns_field": "dense"}, {"vector": {"1": 1}, "limit": 3}]},
    ),
    "query": (P | {"limit": 2}, DOCS, THINGS | {"filter": 'key like "o%"'}),
    "get": (P | {"ids": [1]}, THINGS | {"ids": ["one"]}),
    "aggregate": (P | {"group_by": ["n"]}, THINGS | {"aggregates": ["count", "avg(price)"]}),
    "insert": (
        P | {"data": ENTITIES[:1]},
        P | {"data": {"id": [1, 2], "vector": [[1, 2], [2, 1]]}},
        DOCS | {"data": [{"body": "a green pear. " * 20, "year": 1}], "chunk_size": 100, "chunk_overlap": 10},
        THINGS | {"data": [{"key": "new", "tags": [], "dense": [0, 0, 0, 1], "sparse": {"3": 1}}]},
    ),
    "upsert": (P | {"data": ENTITIES[:3]}, THINGS | {"data": [{"key": "one", "price": 2}]}),
    "delete": (P | {"ids": [1]}, P | {"filter": "id > 6"}, THINGS | {"ids": ["one"]}, P | {"filter": "", "ids": []}),
    "export_file": (P | {"path": "out.jsonl", "overwrite": True}, DOCS | {"path": "out.csv", "overwrite": True}),
    "import_file": (P | {"path": "entities.jsonl"}, P | {"path": "odd.jsonl", "on_error": "skip"}),
    "create_collection": (
        {"collection_name": "fresh", "dimension": 2},
        {"collection_name": "fresh_text", "text_field": "body"},
        {
            "collection_name": "fresh_fields",
            "fields": [
                {"name": "id", "type": "INT64", "is_primary": True, "auto_id": True},
                {"name": "body", "type": "VARCHAR", "max_length": 100, "enable_analyzer": True, "enable_match": True},
                {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
                {"name": "words", "type": "SPARSE_FLOAT_VECTOR"},
            ],
            "functions": [
                {"name": "f", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["words"]}
            ],
            "indexes": [{"field_name": "vector", "index_type": "HNSW", "metric_type": "L2", "params": {"M": 8}}],
        },
    ),
    "alter_collection": (
        P | {"properties": PROPERTIES[0]},
        P | {"new_name": "fresh"},
        P | {"add_field": {"name": "more", "type": "INT64", "nullable": True}},
        P | {"drop_field": "n"},
        THINGS | {"field_name": "key", "field_params": {"max_length": 128}},
        P | {"embed_fields": {"vector": "s"}, "embedder": "default"},
    ),
    "drop_partition": (P | {"partition_name": "part"},),
    "restore_collection": ({"id": Seen("kept_as")}, {"id": Seen("kept_as"), "new_name": "fresh"}),
    "purge_dropped": ({"id": Seen("kept_as")}, {"id": "all"}),
}
"""Calls that are right for what is there, where there are more of them than the one of `CALLS`."""

CODES = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")} - {"internal"}
BATCH = 10
"""Calls that are drawn at one time: hypothesis takes four times as long for each alone."""

REMADE_AFTER = {Effect.DELETE: 50, Effect.MODIFY: 100, Effect.CREATE: 100}
"""Calls of a tool that changes something, after which all is there again."""


MIXED_REMADE_AFTER = 400


def test_the_codes_are_all_that_a_call_may_end_with() -> None:
    assert {"invalid_argument", "milvus_error", "confirmation_required", "deadline_exceeded"} < CODES


class Session:
    """Two clients of one engine: one whose calls need no confirmation, and one whose calls do. A third keeps order."""

    def __init__(self, free: Client, asked: Client, keeper: Agent, files: Path) -> None:
        self._free = free
        self._asked = asked
        self._keeper = keeper
        self._files = files
        self._seen: dict[str, Any] = {}

    async def remade(self) -> None:
        """All is there that a call may want, and nothing that others have left."""
        for database in (await self._keeper.call("list_databases"))["databases"]:
            await self._emptied(database)
        for tool, arguments in WORLD:
            result = await self.ends_well(tool, arguments)
            assert "code" not in result, (tool, result)
        (self._files / "odd.jsonl").write_bytes(b'{"id": 1, "vector": [1, 2]}\n{"id": "x"}\n\xff\n[]\n{"id": 1e999}\n')
        (self._files / "odd.csv").write_bytes(b'id,vector\n1,"[1, 2]"\n2,"[1"\n"\0",\n')
        (self._files / "odd.parquet").write_bytes(b"PAR1 not really PAR1")

    async def _emptied(self, db_name: str) -> None:
        where = {"db_name": db_name}
        for each in (await self._keeper.call("list_aliases", **where))["aliases"]:
            await self._keeper.call("drop_alias", alias=each["alias"], **where)
        for each in (await self._keeper.call("list_collections", limit=1000, **where))["collections"]:
            await self._keeper.call("drop_collection", collection_name=each["name"], **where)
        await self._keeper.call("purge_dropped", id="all", **where)
        if db_name != "default":
            await self._keeper.call("drop_database", **where)

    async def outcome(self, tool: str, arguments: dict[str, Any], *, asked: bool) -> str:
        """The code of a call that ends well, or ok; of the second one, if it has to be confirmed."""
        try:
            told = await self.ends_well(tool, arguments, asked=asked)
            if told.get("code") == "confirmation_required":
                told = await self.ends_well(tool, arguments | {CONFIRM: told[CONFIRM]}, asked=asked)
            return told.get("code", "ok")
        except Exception as failure:
            failure.add_note(f"{tool}({arguments!r:.5000})")
            raise

    async def ends_well(self, tool: str, arguments: dict[str, Any], *, asked: bool = False) -> dict[str, Any]:
        """The structured content of the answer, which is well formed."""
        arguments = resolved(arguments, self._seen)
        with anyio.fail_after(ANSWER_SECONDS):
            result = await (self._asked if asked else self._free).call_tool(tool, arguments)
        structured = well_formed(result)
        for name in ("next_cursor", CONFIRM, "kept_as", "job_id"):
            if name in structured:
                self._seen[name] = structured[name]
        return structured


def refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def well_formed(result: CallToolResult) -> dict[str, Any]:
    """The structured content, which is JSON for any parser, and which the text says too."""
    (text,) = result.content
    assert isinstance(text, TextContent)
    text.text.encode()
    structured = json.loads(text.text, parse_constant=refused)
    assert structured == result.structured_content
    if result.is_error:
        assert structured.keys() >= {"code", "message", "hint", "retriable"}
        assert structured["code"] in CODES, structured
        assert structured["message"], structured
    return structured


@pytest.fixture(scope="module")
async def session(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Session]:
    folder = tmp_path_factory.mktemp("fuzz")
    (files := folder / "files").mkdir()
    settings = SETTINGS | {"data_dir": folder / "data", "files_dir": str(files)}
    async with (
        agent_on("", **settings) as free,
        agent_on("", **settings | {"confirm": "token"}) as asked,
        agent_on("", data_dir=folder / "data") as keeper,
    ):
        yield Session(free.client, asked.client, keeper, files)


def drawn(name: str, count: int) -> list[dict[str, Any]]:
    """So many different arguments of the tool, the same at every run."""
    tool = next(tool for tool in TOOLS if tool.name == name)
    right = RIGHT.get(name, (CALLS[name],))
    found: list[dict[str, Any]] = []

    @hypothesis.seed(zlib.crc32(name.encode()))
    @hypothesis.settings(
        max_examples=-(-count // BATCH),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @hypothesis.given(st.lists(Calls(tool.input_schema, right, KNOWN).all, min_size=BATCH, max_size=BATCH))
    def draw(batch: list[dict[str, Any]]) -> None:
        found.extend(batch)

    draw()
    return found[:count]


@pytest.mark.parametrize("name", [tool.name for tool in TOOLS])
async def test_every_call_of_a_tool_is_answered_well_whatever_its_arguments(
    name: str, session: Session, pytestconfig: pytest.Config
) -> None:
    tool = next(tool for tool in TOOLS if tool.name == name)
    works = SUPPORT[name] == "works"
    count = int(pytestconfig.getoption("fuzz_calls") or 0)
    remade_after = REMADE_AFTER.get(tool.effect, count) if works else count
    outcomes: Counter[str] = Counter()
    for number, arguments in enumerate(drawn(name, count)):
        if number % remade_after == 0:
            await session.remade()
        outcomes[await session.outcome(name, arguments, asked=tool.is_confirmed and number % 3 == 0)] += 1
    print(name, dict(outcomes.most_common()))
    least = count // 5 if tool.effect is Effect.READ else 1
    assert not works or outcomes["ok"] >= least, "the calls are not what the tool takes"
    assert "collections" in await session.ends_well("list_collections", {})


async def test_calls_of_all_tools_in_any_order_are_answered_well(session: Session, pytestconfig: pytest.Config) -> None:
    count = int(pytestconfig.getoption("fuzz_calls") or 0)
    calls = [
        (tool.name, arguments, tool.is_confirmed and number % 3 == 0)
        for tool in TOOLS
        if SUPPORT[tool.name] == "works"
        for number, arguments in enumerate(drawn(tool.name, count // 10))
    ]
    random.Random(count).shuffle(calls)  # noqa: S311  # no secret
    outcomes: Counter[str] = Counter()
    for number, (name, arguments, asked) in enumerate(calls):
        if number % MIXED_REMADE_AFTER == 0:
            await session.remade()
        outcomes[await session.outcome(name, arguments, asked=asked)] += 1
    print(dict(outcomes.most_common()))
    assert outcomes["ok"] >= len(calls) // 10, "the calls find nothing that they can do something with"
