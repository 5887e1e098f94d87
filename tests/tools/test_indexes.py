"""Indexes: built on any field, the same one only once, another one only when asked to replace it."""

from dataclasses import replace
from typing import Any

import pytest
from pymilvus import DataType, MilvusClient

from mcp_server_milvus.milvus.client import Client
from mcp_server_milvus.milvus.schema import Index
from tests.agent import Agent, keys

pytestmark = pytest.mark.anyio

FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    {"name": "other", "type": "FLOAT_VECTOR", "dim": 2},
    {"name": "year", "type": "INT32"},
    {"name": "title", "type": "VARCHAR", "max_length": 50},
]
DATA = [{"id": n, "vector": [n, 1], "other": [1, n], "year": 1990 + n, "title": f"t{n}"} for n in range(20)]


@pytest.fixture
async def filled(agent: Agent, collection: str) -> str:
    await agent.call(
        "create_collection",
        collection_name=collection,
        fields=FIELDS,
        indexes=[{"field_name": "vector", "index_type": "FLAT", "metric_type": "L2"}],
    )
    await agent.call("insert", collection_name=collection, data=DATA)
    return collection


async def indexes_of(agent: Agent, collection: str) -> dict[str, Any]:
    described = await agent.call("describe_collection", collection_name=collection)
    return {index["field_name"]: index for index in described["indexes"]}


async def test_the_same_index_again_is_no_error(agent: Agent, filled: str) -> None:
    for asked in ({"index_type": "FLAT", "metric_type": "L2"}, {"index_type": "flat"}, {}):
        built = await agent.call("build_index", collection_name=filled, field_name="vector", **asked)
        assert built["created"] is False
        assert (built["index_type"], built["metric_type"]) == ("FLAT", "L2")


@pytest.mark.parametrize(
    "asked", [{"index_type": "HNSW"}, {"metric_type": "COSINE"}, {"index_type": "FLAT", "params": {"nlist": 4}}]
)
async def test_another_index_is_refused_and_the_existing_one_named(
    agent: Agent, filled: str, asked: dict[str, Any]
) -> None:
    error = await agent.fails("build_index", collection_name=filled, field_name="vector", **asked)
    assert error["code"] == "conflict"
    assert "FLAT L2" in error["message"]
    assert "replace" in error["hint"]
    assert (await indexes_of(agent, filled))["vector"]["index_type"] == "FLAT"


async def test_replacing_builds_the_other_index_and_leaves_the_collection_loaded(agent: Agent, filled: str) -> None:
    built = await agent.call(
        "build_index",
        collection_name=filled,
        field_name="vector",
        index_type="HNSW",
        metric_type="COSINE",
        params={"M": 8, "efConstruction": 32},
        replace=True,
    )
    assert built == {
        "created": True,
        "field_name": "vector",
        "index_name": "vector",
        "index_type": "HNSW",
        "metric_type": "COSINE",
        "params": {"M": 8, "efConstruction": 32},
    }
    assert (await agent.call("describe_collection", collection_name=filled))["loaded"] is True
    found = await agent.call("search", collection_name=filled, vector=[3, 1], anns_field="vector", limit=1)
    assert (found["metric_type"], keys(found["hits"]), found["hits"][0]["score"]) == ("COSINE", [3], 1.0)
    assert "loaded" not in found


async def test_replacing_without_a_metric_keeps_the_metric(agent: Agent, filled: str) -> None:
    built = await agent.call(
        "build_index", collection_name=filled, field_name="vector", index_type="HNSW", replace=True
    )
    assert (built["index_type"], built["metric_type"]) == ("HNSW", "L2")


async def test_replacing_one_index_leaves_the_others(agent: Agent, filled: str) -> None:
    await agent.call("build_index", collection_name=filled, field_name="year")
    await agent.call("build_index", collection_name=filled, field_name="vector", index_type="HNSW", replace=True)
    assert set(await indexes_of(agent, filled)) == {"vector", "other", "year"}
    found = await agent.call("search", collection_name=filled, vector=[1, 7], anns_field="other", limit=1)
    assert keys(found["hits"]) == [7]


async def test_replacing_in_a_released_collection_leaves_it_released(agent: Agent, filled: str) -> None:
    await agent.call("release_collection", collection_name=filled)
    await agent.call("build_index", collection_name=filled, field_name="vector", index_type="HNSW", replace=True)
    assert (await agent.call("describe_collection", collection_name=filled))["loaded"] is False


@pytest.mark.parametrize("field", ["id", "year", "title"])
async def test_scalar_fields_are_indexed_and_filters_find_the_same(agent: Agent, filled: str, field: str) -> None:
    built = await agent.call("build_index", collection_name=filled, field_name=field)
    assert (built["created"], built["index_type"]) == (True, "INVERTED")
    assert "metric_type" not in built
    assert (await agent.call("build_index", collection_name=filled, field_name=field))["created"] is False
    found = await agent.call("query", collection_name=filled, filter='id == 3 and year == 1993 and title == "t3"')
    assert keys(found["entities"]) == [3]


@pytest.mark.parametrize("index_type", ["FLAT", "HNSW"])
async def test_an_index_that_failed_is_built_again_without_being_asked_to_replace_it(
    agent: Agent, filled: str, index_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = Client.describe_indexes

    async def failed_at_first(client: Client, collection_name: str) -> tuple[Index, ...]:
        monkeypatch.setattr(Client, "describe_indexes", described)
        return tuple(replace(each, state="failed") for each in await described(client, collection_name))

    monkeypatch.setattr(Client, "describe_indexes", failed_at_first)
    built = await agent.call("build_index", collection_name=filled, field_name="vector", index_type=index_type)
    assert (built["created"], built["index_type"], built["metric_type"]) == (True, index_type, "L2")
    found = await agent.call("search", collection_name=filled, vector=[3, 1], anns_field="vector", limit=1)
    assert keys(found["hits"]) == [3]


async def test_an_index_of_a_foreign_collection_is_built_and_then_it_can_be_searched(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    schema = another_program.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    another_program.create_collection(collection, schema=schema)
    error = await agent.fails("search", collection_name=collection, vector=[0, 1])
    assert error["code"] == "conflict"
    assert "build_index" in error["hint"]
    built = await agent.call("build_index", collection_name=collection, field_name="vector", metric_type="IP")
    assert built["created"] is True
    await agent.call("insert", collection_name=collection, data=[{"id": 1, "vector": [0, 1]}])
    found = await agent.call("search", collection_name=collection, vector=[0, 2])
    assert (found["hits"][0]["score"], found["metric_type"]) == (2.0, "IP")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ({"field_name": "vektor"}, "not_found", "vector"),
        ({"field_name": "vector", "metric_type": "JACCARD"}, "invalid_argument", "COSINE"),
        ({"field_name": "vector", "metric_type": "BM25"}, "invalid_argument", "COSINE"),
        ({"field_name": "vector", "index_type": "DISKANN"}, "not_supported", "HNSW"),
        ({"field_name": "year", "index_type": "HNSW"}, "not_supported", "INVERTED"),
        ({"field_name": "vector", "index_name": "../x"}, "invalid_argument", "index_name"),
    ],
)
async def test_an_index_that_cannot_be_is_refused_with_the_choices(
    agent: Agent, filled: str, arguments: dict[str, Any], code: str, said: str
) -> None:
    before = await indexes_of(agent, filled)
    error = await agent.fails("build_index", collection_name=filled, replace=True, **arguments)
    assert error["code"] == code
    assert said in error["message"]
    assert await indexes_of(agent, filled) == before


async def test_an_index_of_a_loaded_collection_is_dropped_only_by_releasing_it(agent: Agent, filled: str) -> None:
    await agent.call("build_index", collection_name=filled, field_name="year")
    year = {"collection_name": filled, "index_name": "year"}
    error = await agent.fails("drop_index", **year)
    assert (error["code"], "release: true" in error["hint"]) == ("conflict", True)
    assert set(await indexes_of(agent, filled)) == {"vector", "other", "year"}

    dropped = await agent.call("drop_index", release=True, **year)
    was = {"field_name": "year", "index_type": "INVERTED"}
    assert dropped == {"dropped": True, "dropped_index": was, "indexes": ["vector", "other"], "loaded": True}
    assert set(await indexes_of(agent, filled)) == {"vector", "other"}
    found = await agent.call("search", collection_name=filled, vector=[3, 1], anns_field="vector", limit=1)
    assert keys(found["hits"]) == [3]


async def test_without_its_index_a_vector_field_cannot_be_searched(agent: Agent, filled: str) -> None:
    other = {"collection_name": filled, "index_name": "other"}
    dropped = await agent.call("drop_index", release=True, **other)
    was = {"field_name": "other", "index_type": "AUTOINDEX", "metric_type": "COSINE"}
    assert dropped == {"dropped": True, "dropped_index": was, "indexes": ["vector"], "loaded": False}
    error = await agent.fails("search", collection_name=filled, vector=[3, 1], anns_field="other")
    assert (error["code"], "build_index" in error["hint"]) == ("conflict", True)
    error = await agent.fails("drop_index", **other)
    assert (error["code"], "vector" in error["message"]) == ("not_found", True)
    await agent.call("create_alias", collection_name=filled, alias=f"{filled}_alias")
    error = await agent.fails("drop_index", collection_name=f"{filled}_alias", index_name="vector")
    assert (error["code"], repr(filled) in error["message"]) == ("invalid_argument", True)


async def test_lite_changes_no_index_and_says_what_does(agent: Agent, filled: str) -> None:
    error = await agent.fails(
        "alter_index", collection_name=filled, index_name="vector", properties={"mmap.enabled": True}
    )
    assert (error["code"], error["hint"]) == ("not_supported", "build_index with replace: true")
