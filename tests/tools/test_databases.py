"""Databases on Milvus Lite: made, described, changed, and dropped only when they are empty."""

import pytest
from pymilvus import MilvusClient

from tests.agent import Agent

pytestmark = pytest.mark.anyio


async def databases(agent: Agent) -> list[str]:
    return (await agent.call("list_databases"))["databases"]


async def test_a_database_is_created_once_described_and_dropped(agent: Agent, collection: str) -> None:
    name = {"db_name": collection}
    assert await agent.call("create_database", **name) == {"created": True} | name
    assert await agent.call("create_database", **name) == {"created": False} | name
    assert await agent.call("describe_database", **name) == {"collection_count": 0} | name
    assert collection in await databases(agent)
    assert await agent.call("drop_database", **name) == {"dropped": True}
    assert collection not in await databases(agent)
    for tool in ("drop_database", "describe_database"):
        assert (await agent.fails(tool, **name))["code"] == "not_found"


async def test_properties_of_a_database_are_kept_changed_and_dropped(agent: Agent, collection: str) -> None:
    name = {"db_name": collection}
    created = await agent.call("create_database", properties={"timezone": "Europe/Berlin", "a": True}, **name)
    assert created["properties"] == {"timezone": "Europe/Berlin", "a": "true"}
    altered = await agent.call("alter_database", properties={"timezone": None, "a": 2, "token": "s"}, **name)
    assert altered == {"properties": {"a": "2", "token": "***"}} | name
    assert (await agent.call("describe_database", **name))["properties"] == altered["properties"]
    error = await agent.fails("create_database", properties={"a": 3}, **name)
    assert (error["code"], "alter_database" in error["hint"]) == ("already_exists", True)
    assert (await agent.fails("alter_database", db_name="nowhere", properties={"a": 3}))["code"] == "not_found"


async def test_a_database_with_collections_is_not_dropped_and_the_default_one_never(
    agent: Agent, collection: str
) -> None:
    await agent.call("create_database", db_name=collection)
    await agent.call("create_collection", collection_name="docs", dimension=2, db_name=collection)
    error = await agent.fails("drop_database", db_name=collection)
    assert (error["code"], "docs" in error["message"]) == ("conflict", True)
    assert "drop_collection" in error["hint"]
    assert (await agent.call("describe_database", db_name=collection))["collection_count"] == 1
    assert (await agent.fails("drop_database", db_name="default"))["code"] == "invalid_argument"
    assert (await agent.fails("drop_database", db_name="../x"))["code"] == "invalid_argument"
    assert (await agent.call("describe_database"))["db_name"] == "default"


async def test_nothing_is_remembered_of_a_database_that_was_dropped(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    docs = {"collection_name": "docs", "db_name": collection}
    await agent.call("create_database", db_name=collection)
    await agent.call("create_collection", dimension=2, **docs)
    await agent.call("insert", data=[{"id": 1, "vector": [1, 1]}], **docs)
    another_program.use_database(collection)
    another_program.drop_collection("docs")
    another_program.use_database("default")
    await agent.call("drop_database", db_name=collection)

    await agent.call("create_database", db_name=collection)
    another_program.use_database(collection)
    another_program.create_collection("docs", dimension=3)
    another_program.use_database("default")
    await agent.call("insert", data=[{"id": 1, "vector": [1, 1, 1]}], **docs)
    assert await agent.count("docs", db_name=collection) == 1
