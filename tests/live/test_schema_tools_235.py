"""The schema tools on the real Milvus 2.3.5: what it does, and what it is spared because it would hang or forget."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from pymilvus import DataType, MilvusClient

from tests.agent import Agent, agent_on, keys

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

KEPT, PARTED, NAMED, INDEXED = (f"schema_{name}" for name in ("kept", "parted", "named", "indexed"))
BARE = "schema_bare"
ENTITIES = [{"id": number, "vector": [number, 1], "title": f"t{number}"} for number in range(4)]
YEAR = {"name": "year", "type": "INT64", "nullable": True}
BM25 = {"name": "bm25", "type": "BM25", "input_field_names": ["title"], "output_field_names": ["sparse"]}


@pytest.fixture(scope="module")
async def agent(milvus_235: str) -> AsyncIterator[Agent]:
    async with agent_on(milvus_235) as agent:
        yield agent


@pytest.fixture(scope="module", autouse=True)
async def collections(agent: Agent) -> None:
    """Two entities in `_default`, two in `old`. Each takes three seconds, most of which Milvus sleeps."""

    async def make(name: str) -> None:
        await agent.call("create_collection", collection_name=name, dimension=2)
        await agent.call("create_partition", collection_name=name, partition_name="old")
        await agent.call("insert", collection_name=name, data=ENTITIES[:2])
        await agent.call("insert", collection_name=name, data=ENTITIES[2:], partition_name="old")

    async with anyio.create_task_group() as tasks:
        for name in (KEPT, PARTED, NAMED, INDEXED):
            tasks.start_soon(make, name)


@pytest.fixture(scope="module", autouse=True)
def bare(milvus_235: str) -> None:
    """A collection that has an index and is not loaded, which takes no time, made by another program."""
    client = MilvusClient(milvus_235)
    client.create_collection(BARE, schema=key_and_vector())
    index = client.prepare_index_params("vector", index_type="FLAT", metric_type="L2")
    client.create_index(BARE, index)
    client.close()


def key_and_vector() -> Any:
    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    return schema


async def loaded(agent: Agent, collection: str) -> dict[str, bool]:
    lines = (await agent.call("list_partitions", collection_name=collection))["partitions"]
    return {line["partition_name"]: line["loaded"] for line in lines}


async def found(agent: Agent, collection: str) -> list[int | str]:
    hits = await agent.call("search", collection_name=collection, vector=[0, 1], limit=9)
    return sorted(keys(hits["hits"]))


async def test_partitions_are_loaded_released_and_dropped_by_themselves(agent: Agent) -> None:
    old = {"collection_name": PARTED, "partition_names": ["old"]}
    assert await loaded(agent, PARTED) == {"_default": True, "old": True}
    released = await agent.call("release_partitions", **old)
    assert released == {"loaded": False, "collection_loaded": True}
    assert await loaded(agent, PARTED) == {"_default": True, "old": False}
    assert await agent.call("count", collection_name=PARTED, partition_names=["_default"]) == {"count": 2}
    assert await agent.call("load_partitions", **old) == {"loaded": True, "collection_loaded": True}
    assert await found(agent, PARTED) == [0, 1, 2, 3]

    assert await agent.call("drop_partition", collection_name=PARTED, partition_name="old") == {"dropped": True}
    assert (await loaded(agent, PARTED), await found(agent, PARTED)) == ({"_default": True}, [0, 1])
    released = await agent.call("release_partitions", collection_name=PARTED, partition_names=["_default"])
    assert released == {"loaded": False, "collection_loaded": False}


async def test_a_partition_that_is_not_there_is_no_success(agent: Agent) -> None:
    again = await agent.call("create_partition", collection_name=KEPT, partition_name="old")
    assert again == {"created": False, "partition_name": "old", "loaded": True}
    for tool in ("load_partitions", "release_partitions"):
        error = await agent.fails(tool, collection_name=KEPT, partition_names=["old", "nope"])
        assert (error["code"], "nope" in error["message"]) == ("not_found", True)
    error = await agent.fails("drop_partition", collection_name=KEPT, partition_name="nope")
    assert (error["code"], error["hint"]) == ("not_found", "list_partitions shows what there is")
    error = await agent.fails("drop_partition", collection_name=KEPT, partition_name="_default")
    assert error["code"] == "invalid_argument"
    lines = (await agent.call("list_partitions", collection_name=KEPT))["partitions"]
    assert [line["entity_count"] for line in lines if line["loaded"]] == [2, 2]


async def test_aliases_are_made_pointed_elsewhere_listed_and_dropped(agent: Agent) -> None:
    alias = {"alias": "schema_alias"}
    named = alias | {"collection_name": KEPT}
    assert await agent.call("create_alias", **named) == {"created": True} | named
    assert await agent.call("create_alias", **named) == {"created": False} | named
    error = await agent.fails("create_alias", **alias, collection_name=BARE)
    assert (error["code"], KEPT in error["message"]) == ("already_exists", True)
    assert (await agent.fails("create_alias", alias=BARE, collection_name=KEPT))["code"] == "already_exists"
    assert await found(agent, "schema_alias") == [0, 1, 2, 3]
    for tool, arguments in (
        ("drop_partition", {"partition_name": "old"}),
        ("alter_collection", {"new_name": "x"}),
        ("drop_index", {"index_name": "vector"}),
    ):
        error = await agent.fails(tool, collection_name="schema_alias", **arguments)
        assert (error["code"], repr(KEPT) in error["message"]) == ("invalid_argument", True)

    moved = alias | {"collection_name": BARE}
    assert await agent.call("alter_alias", **moved) == {"previous": KEPT} | moved
    fits_no_more = [ENTITIES[0]]  # it has a dynamic value, and BARE has no place for it
    error = await agent.fails("insert", collection_name="schema_alias", data=fits_no_more)
    assert (error["code"], "title" in error["message"]) == ("invalid_argument", True)
    assert moved in (await agent.call("list_aliases"))["aliases"]
    assert await agent.call("list_aliases", collection_name="schema_alias") == {"aliases": [moved]}
    assert await agent.call("drop_alias", **alias) == {"dropped": True, "collection_name": BARE}
    assert (await agent.fails("drop_alias", **alias))["code"] == "not_found"
    assert (await agent.fails("drop_alias", alias=BARE))["code"] == "not_found"


async def test_a_renamed_collection_stays_loaded_and_what_was_written_is_seen(agent: Agent) -> None:
    new = f"{NAMED}_new"
    await agent.call("upsert", collection_name=NAMED, data=[ENTITIES[0] | {"title": "last"}])
    properties = {"collection.ttl.seconds": 3600, "mmap.enabled": False}
    altered = await agent.call("alter_collection", collection_name=NAMED, properties=properties, new_name=new)
    assert altered["done"] == ["set collection.ttl.seconds, mmap.enabled", f"renamed to {new}"]
    assert (altered["collection_name"], altered["loaded"], "notes" in altered) == (new, True, False)
    assert altered["properties"] == {"collection.ttl.seconds": "3600", "mmap.enabled": "false"}
    (read,) = (await agent.call("get", collection_name=new, ids=[0]))["entities"]
    assert read["title"] == "last"
    assert (await agent.fails("count", collection_name=NAMED))["code"] == "not_found"
    await agent.call("delete", collection_name=new, ids=[0])
    assert await found(agent, new) == [1, 2, 3]
    error = await agent.fails("alter_collection", collection_name=new, new_name=KEPT)
    assert error["code"] == "already_exists"


@pytest.mark.parametrize(
    ("tool", "arguments", "since"),
    [
        ("alter_collection", {"description": "words"}, "2.5.12"),
        ("alter_collection", {"properties": {"mmap.enabled": None}}, "2.5.0"),
        ("alter_collection", {"add_field": YEAR}, "2.6.0"),
        ("alter_collection", {"field_name": "vector", "field_params": {"mmap_enabled": True}}, "2.5.0"),
        ("alter_collection", {"add_function": BM25}, "2.6.8"),
        ("alter_collection", {"drop_function": "bm25"}, "2.6.8"),
        ("alter_collection", {"drop_field": "vector"}, "3.0.0"),
        ("truncate_collection", {}, "2.6.11"),
        ("alter_index", {"index_name": "vector", "properties": {"mmap.enabled": True}}, "2.4.0"),
        ("load_collection", {"load_fields": ["id", "vector"]}, "2.5.0"),
        ("load_collection", {"skip_load_dynamic_field": True}, "2.5.0"),
    ],
)
async def test_what_2_3_5_lacks_is_refused_before_it_is_sent(
    agent: Agent, tool: str, arguments: dict[str, Any], since: str
) -> None:
    error = await agent.fails(tool, collection_name=BARE, **arguments)
    assert (error["code"], bool(error["hint"])) == ("not_supported", True)
    assert "Milvus 2.3.5" in error["message"]
    assert since in error["message"]


async def test_an_index_is_dropped_once_the_collection_is_released(agent: Agent) -> None:
    vector = {"collection_name": INDEXED, "index_name": "vector"}
    error = await agent.fails("drop_index", **vector)
    assert (error["code"], "release: true" in error["hint"]) == ("conflict", True)
    assert await found(agent, INDEXED) == [0, 1, 2, 3]
    dropped = await agent.call("drop_index", release=True, **vector)
    assert dropped.pop("dropped_index")["index_type"] == "AUTOINDEX"
    assert dropped == {"dropped": True, "indexes": [], "loaded": False}
    assert (await agent.fails("drop_index", **vector))["code"] == "not_found"


async def test_a_load_that_cannot_be_as_asked_is_refused_in_words(agent: Agent) -> None:
    assert (await agent.fails("refresh_load", collection_name=BARE))["code"] == "not_loaded"
    error = await agent.fails("load_collection", collection_name=BARE, replica_number=2)
    assert (error["code"], "replicas" in error["hint"]) == ("limit_exceeded", True)
    error = await agent.fails("load_collection", collection_name=BARE, resource_groups=["nope"])
    assert (error["code"], "nope" in error["message"]) == ("not_found", True)


async def test_a_database_is_created_described_and_dropped_when_it_is_empty(agent: Agent, milvus_235: str) -> None:
    name = {"db_name": "schema_database"}
    error = await agent.fails("create_database", properties={"database.replica.number": 1}, **name)
    assert (error["code"], error["hint"]) == ("not_supported", "leave properties out")
    assert (await agent.fails("alter_database", properties={"a": 1}, **name))["code"] == "not_supported"
    assert await agent.call("create_database", **name) == {"created": True} | name
    assert await agent.call("create_database", **name) == {"created": False} | name
    inside = MilvusClient(milvus_235, db_name="schema_database")
    inside.create_collection("docs", schema=key_and_vector())
    inside.close()
    described = await agent.call("describe_database", **name)
    assert described["collection_count"] == 1
    assert "Milvus 2.3.5" in described["notes"][0]
    error = await agent.fails("drop_database", **name)
    assert (error["code"], "docs" in error["message"]) == ("conflict", True)
    await agent.call("drop_collection", collection_name="docs", **name)
    assert await agent.call("drop_database", **name) == {"dropped": True}
    for tool in ("drop_database", "describe_database"):
        assert (await agent.fails(tool, **name))["code"] == "not_found"
    assert (await agent.fails("drop_database", db_name="default"))["code"] == "invalid_argument"


async def test_an_alias_in_another_database_is_found_listed_and_dropped(agent: Agent) -> None:
    """Milvus 2.3.5 looks for aliases in the default database only."""
    there = {"db_name": "schema_other"}
    await agent.call("create_database", **there)
    await agent.call("create_collection", collection_name="docs", dimension=2, **there)
    alias = {"alias": "papers", "collection_name": "docs"}
    assert (await agent.call("create_alias", **alias, **there))["created"] is True
    assert (await agent.call("create_alias", **alias, **there))["created"] is False
    for asked in ({}, {"collection_name": "docs"}):
        assert (await agent.call("list_aliases", **asked, **there))["aliases"] == [alias]
    assert (await agent.call("describe_collection", collection_name="papers", **there))["aliases"] == ["papers"]
    assert (await agent.call("drop_alias", alias="papers", **there))["dropped"] is True
    await agent.call("drop_collection", collection_name="docs", **there)
    await agent.call("drop_database", **there)
