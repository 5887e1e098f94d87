"""Entities: a wrong one is named and nothing is written, a right one is seen by the next read, and keys harm nobody."""

from typing import Any

import anyio
import pytest
from pymilvus import DataType, MilvusClient

from tests.agent import Agent, agent_on, keys, structured

pytestmark = pytest.mark.anyio

HOSTILE = [
    "zz'] or pk != '' or pk in ['q",
    'a"] or pk != ""',
    "back\\slash\\",
    "'",
    '"',
    "100%",
    "_",
    "{name}",
    "\n\t",
    "ä🙂",
]


@pytest.fixture
async def quick(agent: Agent, collection: str) -> str:
    """A quick collection of two dimensions, with the dynamic field."""
    await agent.call("create_collection", collection_name=collection, dimension=2)
    return collection


@pytest.fixture
async def by_name(agent: Agent, collection: str) -> str:
    """A collection whose primary key is a string called pk."""
    fields = [
        {"name": "pk", "type": "VARCHAR", "is_primary": True, "max_length": 60},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    return collection


@pytest.fixture(scope="module")
async def strict(agent: Agent) -> str:
    """A collection with a field of each type and no dynamic field."""
    kinds = ("BOOL", "INT8", "INT16", "INT32", "INT64", "FLOAT", "DOUBLE", "JSON")
    fields: list[dict[str, Any]] = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
        {"name": "varchar", "type": "VARCHAR", "max_length": 4},
        {"name": "array", "type": "ARRAY", "element_type": "INT8", "max_capacity": 3},
        *({"name": kind.lower(), "type": kind} for kind in kinds),
        {"name": "may_be_null", "type": "INT8", "nullable": True},
    ]
    await agent.call("create_collection", collection_name="strict", fields=fields)
    return "strict"


RIGHT: dict[str, Any] = {
    "id": 1,
    "vector": [0, 1],
    "sparse": {"1": 0.5},
    "varchar": "äab",
    "array": [1, 2, 3],
    "bool": False,
    "int8": -128,
    "int16": 32767,
    "int32": -(2**31),
    "int64": 2**53 - 1,
    "float": 1,
    "double": 1e308,
    "json": {"any": ["thing"]},
}

WRONG: list[tuple[str, Any, str]] = [
    ("vector", [0, 1, 2], "3 dimensions"),
    ("vector", [], "0 dimensions"),
    ("vector", "0,1", "str"),
    ("vector", [0, "1"], "dimension 1"),
    ("vector", [0, None], "dimension 1"),
    ("vector", [True, 0], "bool"),
    ("vector", [0, 1e39], "out of range"),
    ("vector", None, "null"),
    ("sparse", {}, "at least one"),
    ("sparse", [1, 2], "list"),
    ("sparse", {"-1": 0.5}, "-1"),
    ("sparse", {"1.5": 0.5}, "1.5"),
    ("sparse", {"a": 0.5}, "a"),
    ("sparse", {str(2**32): 0.5}, "2^32"),
    ("sparse", {"1": "0.5"}, "weight"),
    ("sparse", {"1": -0.5}, "negative"),
    ("varchar", "abcde", "5 bytes"),
    ("varchar", "äöü", "6 bytes"),
    ("varchar", 5, "int 5"),
    ("varchar", None, "null"),
    ("array", [1, 2, 3, 4], "4 elements"),
    ("array", [1, "2"], "element 1"),
    ("array", [1, 128], "element 1"),
    ("array", 1, "int 1"),
    ("bool", 1, "int 1"),
    ("bool", "true", "str"),
    ("int8", 128, "128"),
    ("int8", -129, "-129"),
    ("int8", True, "bool"),
    ("int8", 1.5, "1.5"),
    ("int8", 1.0, "float"),
    ("int8", "1", "str"),
    ("int16", 32768, "32768"),
    ("int32", 2**31, str(2**31)),
    ("int64", 2**63, str(2**63)),
    ("int64", None, "null"),
    ("float", 1e39, "out of range"),
    ("float", "1", "str"),
    ("float", True, "bool"),
    ("double", 10**400, "out of range"),
    ("json", {"long": "x" * 70_000}, "bytes of JSON"),
    ("id", "one", "str"),
    ("id", None, "null"),
]


@pytest.mark.parametrize(("field", "value", "said"), WRONG, ids=[f"{field}: {said}" for field, _, said in WRONG])
async def test_a_value_that_does_not_fit_is_named_with_entity_field_and_type_and_nothing_is_written(
    agent: Agent, strict: str, field: str, value: Any, said: str
) -> None:
    for tool in ("insert", "upsert"):
        error = await agent.fails(tool, collection_name=strict, data=[RIGHT, RIGHT | {"id": 2} | {field: value}])
        assert error["code"] == "invalid_argument"
        assert f"entity 1: field '{field}'" in error["message"]
        assert "expected" in error["message"]
        assert said in error["message"]
        assert len(error["message"]) < 500
    assert await agent.count(strict) == 0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["vector", "sparse", "float", "double"])
async def test_what_is_no_number_is_refused_in_every_field(
    agent: Agent, strict: str, field: str, number: float
) -> None:
    value = {"vector": [0, number], "sparse": {"1": number}}.get(field, number)
    error = await agent.fails("insert", collection_name=strict, data=[RIGHT | {field: value}])
    assert error["code"] == "invalid_argument"
    assert f"entity 0: field '{field}'" in error["message"]
    assert await agent.count(strict) == 0


@pytest.mark.parametrize(("field", "value"), [("varchar", "\ud83d"), ("json", {"half": "\udc00"})])
async def test_half_a_surrogate_pair_is_refused(agent: Agent, strict: str, field: str, value: Any) -> None:
    error = await agent.fails("insert", collection_name=strict, data=[RIGHT | {field: value}])
    assert error["code"] == "invalid_argument"
    assert f"field '{field}'" in error["message"]
    assert await agent.count(strict) == 0


@pytest.mark.parametrize("missing", ["id", "vector", "sparse", "varchar", "array", "bool", "json"])
async def test_a_missing_field_is_named(agent: Agent, strict: str, missing: str) -> None:
    entity = {name: value for name, value in RIGHT.items() if name != missing}
    error = await agent.fails("insert", collection_name=strict, data=[RIGHT, entity])
    assert f"entity 1: field '{missing}' is missing" in error["message"]
    assert await agent.count(strict) == 0


async def test_an_unknown_field_is_named_with_the_nearest_known_one(agent: Agent, strict: str) -> None:
    error = await agent.fails("insert", collection_name=strict, data=[RIGHT | {"vectro": 1}])
    assert "entity 0" in error["message"]
    assert "'vectro'" in error["message"]
    assert "vector" in error["message"]
    assert "varchar VARCHAR(4)" in error["hint"]


async def test_several_problems_are_told_at_once_but_not_hundreds(agent: Agent, strict: str) -> None:
    error = await agent.fails("insert", collection_name=strict, data=[{"id": f"x{number}"} for number in range(100)])
    assert error["message"].count("entity") == 5


async def test_the_right_entity_is_accepted_by_the_same_collection(agent: Agent, strict: str) -> None:
    """Without this, every refusal above could be for another reason."""
    assert await agent.call("insert", collection_name=strict, data=[RIGHT]) == {"insert_count": 1}
    got = await agent.call("get", collection_name=strict, ids=[1], output_fields=["*"])
    await agent.call("delete", collection_name=strict, ids=[1])
    assert got["entities"] == [RIGHT | {"may_be_null": None}]


async def test_keys_that_look_the_same_are_told_apart(agent: Agent, by_name: str) -> None:
    alike = ["k1", "k\u200b1", "k\u202e1"]
    data = [{"pk": key, "vector": [1, number]} for number, key in enumerate(alike)]
    await agent.call("insert", collection_name=by_name, data=data)
    found = await agent.call("query", collection_name=by_name)
    assert sorted(each["pk"] for each in found["entities"]) == ["k1", r"k\u200b1", r"k\u202e1"]
    assert "2 keys have invisible characters" in found["applied_limits"][0]
    hits = await agent.call("search", collection_name=by_name, vector=[0, 1])
    assert sorted(hit["id"] for hit in hits["hits"]) == ["k1", r"k\u200b1", r"k\u202e1"]
    assert await agent.call("delete", collection_name=by_name, ids=[r"k\u200b1"]) == {"delete_count": 0}
    assert await agent.call("delete", collection_name=by_name, ids=["k\u200b1"]) == {"delete_count": 1}
    assert await agent.count(by_name) == 2


async def test_an_empty_list_is_refused(agent: Agent, quick: str) -> None:
    for data in ([], {}):
        error = await agent.fails("insert", collection_name=quick, data=data)
        assert error["code"] == "invalid_argument"


@pytest.mark.parametrize(("id_type", "there", "new"), [("int", [11, 12], 13), ("string", ['a"', "b'"], "new")])
async def test_an_insert_of_existing_keys_is_refused_and_changes_nothing(
    agent: Agent, collection: str, id_type: str, there: list[Any], new: Any
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, id_type=id_type)
    before = [{"id": key, "vector": [0, 1]} for key in there]
    await agent.call("insert", collection_name=collection, data=before)
    data = [{"id": key, "vector": [5, 5]} for key in (new, *there)]
    error = await agent.fails("insert", collection_name=collection, data=data)
    assert error["code"] == "already_exists"
    assert all(repr(key) in error["message"] for key in there)
    assert repr(new) not in error["message"]
    assert "upsert" in error["hint"]
    got = await agent.call("query", collection_name=collection, output_fields=["vector"])
    assert got["entities"] == before


async def test_keys_that_are_repeated_in_one_call_are_named_and_nothing_is_written(agent: Agent, quick: str) -> None:
    for tool in ("insert", "upsert"):
        for again in (7, "7"):
            data = [{"id": key, "vector": [0, 1]} for key in (7, 8, again)]
            error = await agent.fails(tool, collection_name=quick, data=data)
            assert error["code"] == "invalid_argument"
            assert "entity 2: field 'id'" in error["message"]
            assert "entity 0" in error["message"]
    assert await agent.count(quick) == 0


async def test_a_number_of_5000_digits_is_refused_wherever_it_comes(agent: Agent, quick: str, strict: str) -> None:
    digits = "9" * 5000
    refused: list[tuple[str, dict[str, Any]]] = [
        ("insert", {"collection_name": quick, "data": [{"id": digits, "vector": [0, 1]}]}),
        ("insert", {"collection_name": strict, "data": [RIGHT | {"int64": digits}]}),
        ("insert", {"collection_name": strict, "data": [RIGHT | {"sparse": {digits: 1.0}}]}),
        ("get", {"collection_name": quick, "ids": [digits]}),
        ("delete", {"collection_name": quick, "ids": [digits]}),
        ("search", {"collection_name": quick, "id": digits}),
        ("search", {"collection_name": strict, "vector": {digits: 1.0}}),
    ]
    for tool, arguments in refused:
        error = await agent.fails(tool, **arguments)
        assert error["code"] == "invalid_argument"
        assert len(error["message"]) < 500


async def test_count_as_an_output_field_is_refused_and_the_tool_named(agent: Agent, quick: str) -> None:
    for name in ("count(*)", "COUNT( * )"):
        for tool, arguments in (("query", {}), ("get", {"ids": [1]}), ("search", {"vector": [0, 1]})):
            error = await agent.fails(tool, collection_name=quick, output_fields=[name], **arguments)
            assert error["code"] == "invalid_argument"
            assert "count" in error["hint"]


async def test_of_many_missing_ids_the_first_are_named_and_the_others_counted(agent: Agent, quick: str) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 50, "vector": [0, 1]}])
    got = await agent.call("get", collection_name=quick, ids=list(range(1000)))
    assert keys(got["entities"]) == [50]
    assert got["missing_ids"] == [*range(50), *range(51, 101)]
    assert got["applied_limits"] == ["missing_ids: the first 100 of 999"]
    got = await agent.call("get", collection_name=quick, ids=list(range(51, 151)))
    assert got == {"entities": [], "missing_ids": list(range(51, 151))}


async def test_keys_of_a_collection_made_anew_with_the_same_schema_are_not_deleted(
    lite: str, agent: Agent, quick: str
) -> None:
    data = [{"id": 1, "vector": [0, 1]}]
    await agent.call("insert", collection_name=quick, data=data)
    async with agent_on(lite) as another:
        await another.call("drop_collection", collection_name=quick)
        await another.call("create_collection", collection_name=quick, dimension=2)
        await another.call("insert", collection_name=quick, data=data)
    error = await agent.fails("delete", collection_name=quick, ids=[1])
    assert error["code"] == "conflict"
    assert await agent.count(quick) == 1
    assert await agent.call("delete", collection_name=quick, ids=[1]) == {"delete_count": 1}


async def test_a_columns_object_is_understood(agent: Agent, quick: str) -> None:
    columns = {"id": [1, 2], "vector": [[0, 1], [1, 0]], "title": ["a", "b"]}
    assert await agent.call("insert", collection_name=quick, data=columns) == {"insert_count": 2}
    got = await agent.call("get", collection_name=quick, ids=[2])
    assert got["entities"] == [{"id": 2, "title": "b"}]


async def test_a_single_entity_without_its_list_is_understood(agent: Agent, quick: str) -> None:
    await agent.call("insert", collection_name=quick, data={"id": 1, "vector": [0, 1], "tags": ["x", "y"]})
    assert (await agent.call("get", collection_name=quick, ids=[1]))["entities"] == [{"id": 1, "tags": ["x", "y"]}]


async def test_columns_of_different_length_are_refused(agent: Agent, quick: str) -> None:
    error = await agent.fails("insert", collection_name=quick, data={"id": [1, 2], "vector": [[0, 1]]})
    assert error["code"] == "invalid_argument"
    assert "'id': 2" in error["message"]
    assert await agent.count(quick) == 0


async def test_dynamic_values_of_every_kind_are_kept(agent: Agent, quick: str) -> None:
    values = {
        "text": "x",
        "number": 1.5,
        "whole": 7,
        "truth": False,
        "nothing": None,
        "many": [1, "a"],
        "deep": {"a": 1},
    }
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1], **values}])
    assert (await agent.call("get", collection_name=quick, ids=[1]))["entities"] == [{"id": 1, **values}]


@pytest.mark.parametrize(
    ("dynamic", "said"),
    [
        ({"$meta": 1}, "$meta"),
        ({"": 1}, "''"),
        ({"much": "x" * 70_000}, "'much'"),
        ({f"some_{number}": "x" * 1_000 for number in range(100)}, "dynamic field"),
        ({"half": "\ud800"}, "'half'"),
        ({"huge": 2**64}, "'huge'"),
    ],
    ids=["reserved", "no name", "long", "long together", "half", "huge"],
)
async def test_dynamic_values_that_cannot_be_kept_are_named_and_nothing_is_written(
    agent: Agent, quick: str, dynamic: dict[str, Any], said: str
) -> None:
    data = [{"id": 1, "vector": [0, 1]}, {"id": 2, "vector": [0, 1], **dynamic}]
    error = await agent.fails("insert", collection_name=quick, data=data)
    assert error["code"] == "invalid_argument"
    assert "entity 1" in error["message"]
    assert said in error["message"]
    assert await agent.count(quick) == 0


async def test_generated_ids_are_returned_in_order_and_get_and_delete_take_them(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, auto_id=True)
    data = [{"vector": [0, 1], "number": number} for number in range(3)]
    ids = (await agent.call("insert", collection_name=collection, data=data))["ids"]
    got = await agent.call("get", collection_name=collection, ids=ids, output_fields=["number"])
    assert [entity["number"] for entity in got["entities"]] == [0, 1, 2]
    assert await agent.call("delete", collection_name=collection, ids=ids[:2]) == {"delete_count": 2}
    assert await agent.count(collection) == 1


async def test_a_key_of_ones_own_is_refused_where_milvus_makes_the_keys(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, auto_id=True)
    error = await agent.fails("insert", collection_name=collection, data=[{"id": 1, "vector": [0, 1]}])
    assert "auto_id" in error["message"]
    assert "'id'" in error["message"]


async def test_what_a_function_computes_may_not_be_given(agent: Agent, collection: str) -> None:
    await agent.call(
        "create_collection",
        collection_name=collection,
        fields=[
            {"name": "id", "type": "INT64", "is_primary": True},
            {"name": "text", "type": "VARCHAR", "enable_analyzer": True},
            {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
        ],
        functions=[{"name": "bm25", "type": "BM25", "input_field_names": ["text"], "output_field_names": ["sparse"]}],
    )
    error = await agent.fails("insert", collection_name=collection, data=[{"id": 1, "text": "a", "sparse": {"1": 1}}])
    assert "'sparse'" in error["message"]
    assert "leave it out" in error["message"]


async def test_keys_beyond_2_53_travel_as_strings_and_come_back_exactly(agent: Agent, quick: str) -> None:
    big = 2**53 + 1
    await agent.call(
        "insert", collection_name=quick, data=[{"id": str(big), "vector": [0, 1]}, {"id": 7, "vector": [1, 0]}]
    )
    assert keys((await agent.call("query", collection_name=quick))["entities"]) == [7, str(big)]
    assert keys((await agent.call("search", collection_name=quick, vector=[0, 1], limit=1))["hits"]) == [str(big)]
    assert keys((await agent.call("get", collection_name=quick, ids=[str(big)]))["entities"]) == [str(big)]
    assert keys((await agent.call("search", collection_name=quick, id=str(big)))["hits"]) == [7]
    assert await agent.call("delete", collection_name=quick, ids=[str(big)]) == {"delete_count": 1}


@pytest.mark.parametrize("tool", ["get", "delete"])
async def test_a_number_beyond_2_53_is_refused_since_it_may_have_been_rounded(
    agent: Agent, quick: str, tool: str
) -> None:
    error = await agent.fails(tool, collection_name=quick, ids=[2**53 + 1])
    assert error["code"] == "invalid_argument"
    assert f'"{2**53 + 1}"' in error["hint"]


@pytest.mark.parametrize("ids", [["x"], [1.5], [None], [True], [[1]], [], "1", ["1 or 1 == 1"], [2**70], [str(2**70)]])
@pytest.mark.parametrize("tool", ["get", "delete"])
async def test_keys_of_the_wrong_type_are_refused(agent: Agent, quick: str, tool: str, ids: Any) -> None:
    error = await agent.fails(tool, collection_name=quick, ids=ids)
    assert error["code"] == "invalid_argument"


async def test_hostile_keys_are_kept_found_and_delete_nothing_but_themselves(agent: Agent, by_name: str) -> None:
    data = [{"pk": key, "vector": [number, 1]} for number, key in enumerate([*HOSTILE, "innocent"])]
    await agent.call("insert", collection_name=by_name, data=data)
    for left, key in zip(range(len(HOSTILE), 0, -1), HOSTILE, strict=True):
        got = await agent.call("get", collection_name=by_name, ids=[key])
        assert [entity["pk"] for entity in got["entities"]] == [key]
        near = await agent.call("search", collection_name=by_name, id=key, limit=20)
        assert len(near["hits"]) == left
        assert key not in keys(near["hits"])
        assert await agent.call("delete", collection_name=by_name, ids=[key]) == {"delete_count": 1}
        assert await agent.count(by_name) == left
    assert [entity["pk"] for entity in (await agent.call("query", collection_name=by_name))["entities"]] == ["innocent"]


async def test_hostile_values_of_filter_params_match_only_themselves(agent: Agent, quick: str) -> None:
    data = [{"id": number, "vector": [0, 1], "name": name} for number, name in enumerate(HOSTILE)]
    await agent.call("insert", collection_name=quick, data=data)
    for number, name in enumerate(HOSTILE):
        arguments = {"collection_name": quick, "filter": "name == {name}", "filter_params": {"name": name}}
        assert keys((await agent.call("query", **arguments))["entities"]) == [number]
        assert keys((await agent.call("search", vector=[0, 1], **arguments))["hits"]) == [number]
        assert (await agent.call("count", **arguments))["count"] == 1
    everything = {"filter": "name in {names}", "filter_params": {"names": HOSTILE}}
    assert (await agent.call("delete", collection_name=quick, **everything))["delete_count"] == len(HOSTILE)


async def test_get_keeps_the_order_of_the_ids_and_names_the_missing_ones(agent: Agent, quick: str) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": n, "vector": [n, 1]} for n in range(5)])
    got = await agent.call("get", collection_name=quick, ids=[4, 99, 0, "2", 4, 98])
    assert keys(got["entities"]) == [4, 0, 2]
    assert got["missing_ids"] == [99, 98]


async def test_vectors_are_read_only_when_they_are_named(agent: Agent, quick: str) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0.1, 0.2], "title": "t"}])
    for read, arguments in (("get", {"ids": [1]}), ("query", {"filter": "id == 1"})):
        for fields, expected in (
            (None, {"id": 1, "title": "t"}),
            (["title"], {"id": 1, "title": "t"}),
            (["vector"], {"id": 1, "vector": [0.1, 0.2]}),
            (["*"], {"id": 1, "vector": [0.1, 0.2], "title": "t"}),
        ):
            asked = {"output_fields": fields} if fields else {}
            assert (await agent.call(read, collection_name=quick, **arguments, **asked))["entities"] == [expected]


async def test_an_unknown_output_field_is_refused_with_the_fields_there_are(agent: Agent, by_name: str) -> None:
    for read, arguments in (("get", {"ids": ["a"]}), ("query", {}), ("search", {"vector": [0, 1]})):
        error = await agent.fails(read, collection_name=by_name, output_fields=["titel"], **arguments)
        assert error["code"] == "invalid_argument"
        assert "pk, vector" in error["message"]


async def test_deleting_counts_what_was_there(agent: Agent, quick: str) -> None:
    await agent.call(
        "insert", collection_name=quick, data=[{"id": n, "vector": [n, 1], "odd": n % 2} for n in range(10)]
    )
    assert await agent.call("delete", collection_name=quick, ids=[0, 1, 777]) == {"delete_count": 2}
    assert await agent.call("delete", collection_name=quick, ids=[0]) == {"delete_count": 0}
    by_filter = {"filter": "odd == {odd}", "filter_params": {"odd": 1}}
    assert await agent.call("delete", collection_name=quick, **by_filter) == {"delete_count": 4}
    assert keys((await agent.call("query", collection_name=quick))["entities"]) == [2, 4, 6, 8]


@pytest.mark.parametrize("arguments", [{}, {"ids": [1], "filter": "id > 0"}, {"filter": ""}, {"filter": "  "}])
async def test_delete_takes_either_ids_or_a_filter_and_never_everything(
    agent: Agent, quick: str, arguments: dict[str, Any]
) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1]}])
    error = await agent.fails("delete", collection_name=quick, **arguments)
    assert error["code"] == "invalid_argument"
    assert await agent.count(quick) == 1


async def test_a_filter_that_does_not_parse_deletes_nothing_and_says_so(agent: Agent, quick: str) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1]}])
    for wrong in ("id >> 0", "id > 0 or (", "id > 0) or (id < 1", 'id == "', "nonsense here"):
        for tool in ("delete", "query", "count"):
            error = await agent.fails(tool, collection_name=quick, filter=wrong)
            assert error["code"] == "invalid_filter", (tool, wrong)
    assert await agent.count(quick) == 1


async def test_filter_params_and_filter_must_name_each_other(agent: Agent, quick: str) -> None:
    error = await agent.fails("query", collection_name=quick, filter="id == {key}")
    assert "{key}" in error["message"]
    error = await agent.fails("count", collection_name=quick, filter="id == 1", filter_params={"key": 1})
    assert "'key'" in error["message"]


async def test_count_counts_all_or_what_the_filter_matches(agent: Agent, quick: str) -> None:
    await agent.call(
        "insert", collection_name=quick, data=[{"id": n, "vector": [n, 1], "year": 1990 + n} for n in range(9)]
    )
    assert await agent.count(quick) == 9
    assert await agent.count(quick, filter="year < {year}", filter_params={"year": 1993}) == 3
    assert await agent.count(quick, filter="year in {years}", filter_params={"years": [1990, 1998, 2050]}) == 2


async def test_upsert_replaces_an_entity_and_adds_another(agent: Agent, quick: str) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1], "title": "old"}])
    data = [{"id": 1, "vector": [1, 0], "title": "new"}, {"id": 2, "vector": [1, 1], "title": "added"}]
    assert await agent.call("upsert", collection_name=quick, data=data) == {"upsert_count": 2}
    got = await agent.call("get", collection_name=quick, ids=[1, 2], output_fields=["*"])
    assert got["entities"] == data


async def test_upsert_replaces_the_whole_entity(agent: Agent, collection: str) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        {"name": "note", "type": "VARCHAR", "max_length": 9, "nullable": True},
        {"name": "size", "type": "INT8", "default_value": 5},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    await agent.call("insert", collection_name=collection, data=[{"id": 1, "vector": [0, 1], "note": "old", "size": 9}])
    await agent.call("upsert", collection_name=collection, data=[{"id": 1, "vector": [1, 0]}])
    got = await agent.call("get", collection_name=collection, ids=[1], output_fields=["*"])
    assert got["entities"] == [{"id": 1, "vector": [1, 0], "note": None, "size": 5}]
    error = await agent.fails("upsert", collection_name=collection, data=[{"id": 1, "note": "only this"}])
    assert "field 'vector' is missing" in error["message"]


async def test_on_lite_dynamic_values_outlive_an_upsert_that_does_not_name_them(agent: Agent, quick: str) -> None:
    """Milvus Lite merges the dynamic field, and no request can say otherwise: null is the way to overwrite a value."""
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1], "old": 1, "both": 1}])
    await agent.call("upsert", collection_name=quick, data=[{"id": 1, "vector": [0, 1], "both": 2}])
    (entity,) = (await agent.call("get", collection_name=quick, ids=[1]))["entities"]
    assert entity == {"id": 1, "old": 1, "both": 2}


async def test_upsert_needs_the_key_also_where_milvus_makes_it(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, auto_id=True)
    error = await agent.fails("upsert", collection_name=collection, data=[{"vector": [0, 1]}])
    assert "'id' is missing" in error["message"]


async def test_5000_entities_in_one_call_are_all_in(agent: Agent, quick: str) -> None:
    heard: list[float] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        assert total == 5000
        assert message
        heard.append(progress)

    data = [{"id": n, "vector": [n, 1], "title": f"title {n}"} for n in range(5000)]
    result = await agent.client.call_tool("insert", {"collection_name": quick, "data": data}, progress_callback=listen)
    assert structured(result) == {"insert_count": 5000}
    assert await agent.count(quick) == 5000
    assert await agent.count(quick, filter="id >= 4990") == 10
    assert heard == sorted(heard)
    assert len(heard) >= 5


async def test_more_generated_ids_than_fit_a_result_are_cut_and_it_says_so(
    lite: str, agent: Agent, collection: str
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, auto_id=True)
    async with agent_on(lite, max_result_bytes=1024) as short_spoken:
        inserted = await short_spoken.call("insert", collection_name=collection, data=[{"vector": [0, 1]}] * 2000)
    assert inserted["insert_count"] == 2000
    assert 0 < len(inserted["ids"]) < 500
    assert "of 2000" in inserted["applied_limits"][0]


async def test_a_write_that_fails_halfway_says_exactly_which_entities_are_in(
    agent: Agent, another_program: MilvusClient, quick: str
) -> None:
    """Another program takes the alias away by which the entities are written, after the first batches have landed."""
    alias = f"{quick}_alias"
    another_program.create_alias(quick, alias)

    async def take_the_alias_away(progress: float, total: float | None, message: str | None) -> None:
        del total, message
        listed: Any = another_program.list_aliases(quick)
        if progress >= 1000 and listed["aliases"]:
            another_program.drop_alias(alias)

    data = [{"id": n, "vector": [n, 1]} for n in range(12_000)]
    result = await agent.client.call_tool(
        "insert", {"collection_name": alias, "data": data}, progress_callback=take_the_alias_away
    )
    assert result.is_error
    error = structured(result)
    assert error["code"] == "partial_write"
    ranges = error["written"]
    written = [number for first, last in ranges for number in range(first, last + 1)]
    assert 1000 <= error["insert_count"] == len(written) < 12_000
    assert str(error["insert_count"]) in error["message"]
    missing = [number for first, last in error["not_written"] for number in range(first, last + 1)]
    assert sorted(written + missing) == list(range(12_000))
    assert error["outcome_unknown"] == []
    assert await agent.count(quick) == len(written)
    for first, last in ranges:
        assert await agent.count(quick, filter=f"id >= {first} and id <= {last}") == last - first + 1


async def test_what_was_written_is_seen_by_the_next_read(agent: Agent, quick: str) -> None:
    for number in range(5):
        await agent.call("insert", collection_name=quick, data=[{"id": number, "vector": [number, 1], "v": 0}])
        assert keys((await agent.call("query", collection_name=quick, filter=f"id == {number}"))["entities"]) == [
            number
        ]
        await agent.call("upsert", collection_name=quick, data=[{"id": number, "vector": [number, 1], "v": 1}])
        (entity,) = (await agent.call("get", collection_name=quick, ids=[number]))["entities"]
        assert entity["v"] == 1
        await agent.call("delete", collection_name=quick, ids=[number])
        assert (await agent.call("search", collection_name=quick, vector=[number, 1]))["hits"] == []
        assert await agent.count(quick) == 0


async def test_entities_go_into_the_partition_that_is_named(
    agent: Agent, another_program: MilvusClient, quick: str
) -> None:
    another_program.create_partition(quick, "old")
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1]}])
    await agent.call("insert", collection_name=quick, data=[{"id": 2, "vector": [0, 1]}], partition_name="old")
    old = {"collection_name": quick, "partition_names": ["old"]}
    assert keys((await agent.call("query", **old))["entities"]) == [2]
    assert keys((await agent.call("get", ids=[1, 2], **old))["entities"]) == [2]
    assert keys((await agent.call("search", vector=[0, 1], **old))["hits"]) == [2]
    assert (await agent.call("count", **old))["count"] == 1
    elsewhere = await agent.call("delete", collection_name=quick, ids=[1], partition_name="old")
    assert elsewhere == {"delete_count": 0}
    by_filter = await agent.call("delete", collection_name=quick, filter="id > 0", partition_name="old")
    assert by_filter == {"delete_count": 1}
    assert keys((await agent.call("query", collection_name=quick))["entities"]) == [1]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("insert", {"data": [{"id": 1, "vector": [0, 1]}], "partition_name": "nowhere"}),
        ("upsert", {"data": [{"id": 1, "vector": [0, 1]}], "partition_name": "nowhere"}),
        ("delete", {"filter": "id > 0", "partition_name": "nowhere"}),
        ("query", {"partition_names": ["nowhere"]}),
        ("get", {"ids": [1], "partition_names": ["nowhere"]}),
        ("count", {"partition_names": ["nowhere"]}),
        ("search", {"vector": [0, 1], "partition_names": ["nowhere"]}),
    ],
)
async def test_a_partition_that_does_not_exist_is_an_error_not_an_empty_result(
    agent: Agent, quick: str, tool: str, arguments: dict[str, Any]
) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1]}])
    error = await agent.fails(tool, collection_name=quick, **arguments)
    assert error["code"] == "not_found"
    assert "partition" in error["message"]
    assert "nowhere" in error["message"]


async def test_another_program_s_new_collection_of_that_name_is_noticed_before_anything_is_written_or_deleted(
    agent: Agent, another_program: MilvusClient, quick: str
) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1]}])
    another_program.drop_collection(quick)
    schema = another_program.create_schema(enable_dynamic_field=True)
    schema.add_field("number", DataType.INT64, is_primary=True)
    schema.add_field("id", DataType.VARCHAR, max_length=10)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    another_program.create_collection(quick, schema=schema)
    another_program.insert(quick, [{"number": 1, "id": "1", "vector": [0, 1]}])
    error = await agent.fails("delete", collection_name=quick, ids=[1])
    assert error["code"] == "conflict"
    assert "another client" in error["message"]
    assert another_program.get_collection_stats(quick)["row_count"] == 1
    error = await agent.fails("insert", collection_name=quick, data=[{"id": 2, "vector": [0, 1]}])
    assert "'number' is missing" in error["message"]


async def test_fifty_calls_at_once_are_all_answered(agent: Agent, quick: str) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": n, "vector": [n, 1]} for n in range(50)])
    found: dict[int, Any] = {}

    async def work(number: int) -> None:
        await agent.call("upsert", collection_name=quick, data=[{"id": number, "vector": [number, 1], "seen": True}])
        found[number] = keys((await agent.call("get", collection_name=quick, ids=[number]))["entities"])
        await agent.call("search", collection_name=quick, vector=[number, 1], filter="seen == true")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(work, number)
    assert found == {number: [number] for number in range(50)}
    assert await agent.count(quick, filter="seen == true") == 50


async def test_long_text_is_trimmed_unless_it_is_named(agent: Agent, quick: str) -> None:
    text = "ä" * 3000
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1], "text": text}])
    for read, arguments in (("get", {"ids": [1]}), ("query", {}), ("search", {"vector": [0, 1]})):
        short = await agent.call(read, collection_name=quick, **arguments)
        whole = await agent.call(read, collection_name=quick, output_fields=["text"], **arguments)
        fields, all_fields = (
            result["hits"][0]["fields"] if read == "search" else result["entities"][0] for result in (short, whole)
        )
        assert fields["text"] == "ä" * 1000 + "…"
        assert "text" in short["applied_limits"][0]
        assert all_fields["text"] == text
        assert "applied_limits" not in whole


async def test_a_result_that_reaches_its_bytes_is_cut_and_says_how_to_go_on(
    lite: str, agent: Agent, quick: str
) -> None:
    data = [{"id": n, "vector": [n, 1], "text": "x" * 900} for n in range(20)]
    await agent.call("insert", collection_name=quick, data=data)
    async with agent_on(lite, max_result_bytes=4096) as short_spoken:
        for read, arguments, how in (
            ("get", {"ids": list(range(20))}, "another call"),
            ("query", {}, "next_cursor"),
            ("search", {"vector": [0, 1], "limit": 20}, "offset: 3"),
        ):
            result = await short_spoken.client.call_tool(read, {"collection_name": quick, **arguments})
            cut = structured(result)
            assert len(cut["hits"] if read == "search" else cut["entities"]) == 3
            assert how in cut["applied_limits"][0]
            assert len(result.model_dump_json(include={"structured_content"})) < 4300


async def test_one_entity_that_alone_exceeds_the_bytes_is_shortened_but_keeps_its_key(
    lite: str, agent: Agent, quick: str
) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 1, "vector": [0, 1], "text": "x" * 9000, "n": 1}])
    async with agent_on(lite, max_result_bytes=4096) as short_spoken:
        got = await short_spoken.call("get", collection_name=quick, ids=[1], output_fields=["text", "n", "vector"])
    (entity,) = got["entities"]
    assert (entity["id"], entity["n"], entity["vector"]) == (1, 1, [0, 1])
    assert entity["text"].startswith("xxx")
    assert len(entity["text"]) < 4096
    assert "exceeds 4096 bytes" in got["applied_limits"][0]


async def test_a_json_value_that_milvus_lite_cannot_give_back_is_refused_and_others_stay_readable(
    agent: Agent, collection: str
) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "meta", "type": "JSON"},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    kept = [{"a": {"b": [1, None, "é"]}}, [1, "x"], {}]
    data = [{"id": number, "meta": value, "vector": [1, 2]} for number, value in enumerate(kept)]
    await agent.call("insert", collection_name=collection, data=data)
    for tool in ("insert", "upsert"):
        for value in ("hello", "7", '"q"', '{"a":1}', 7, 3.5, True):
            entity = {"id": 9, "meta": value, "vector": [1, 2]}
            error = await agent.fails(tool, collection_name=collection, data=[entity])
            assert error["code"] == "not_supported"
            assert "'meta'" in error["message"]
            assert "object" in error["hint"]
    found = await agent.call("query", collection_name=collection)
    assert [entity["meta"] for entity in found["entities"]] == kept
