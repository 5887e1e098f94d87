"""Partitions on Milvus Lite: made, filled, listed and dropped, never loaded by themselves."""

from typing import Any

import pytest

from mcp_server_milvus.tools import partitions
from tests.agent import Agent, keys

pytestmark = pytest.mark.anyio


@pytest.fixture
async def filled(agent: Agent, collection: str) -> str:
    """Three entities in `_default`, two in `old`."""
    await agent.call("create_collection", collection_name=collection, dimension=2)
    await agent.call("create_partition", collection_name=collection, partition_name="old")
    for name, numbers in (("_default", range(3)), ("old", range(3, 5))):
        data = [{"id": number, "vector": [number, 1]} for number in numbers]
        await agent.call("insert", collection_name=collection, data=data, partition_name=name)
    return collection


async def listed(agent: Agent, collection: str) -> dict[str, tuple[int, bool]]:
    lines = (await agent.call("list_partitions", collection_name=collection))["partitions"]
    return {line["partition_name"]: (line["entity_count"], line["loaded"]) for line in lines}


async def test_a_partition_is_created_once(agent: Agent, filled: str) -> None:
    new = {"collection_name": filled, "partition_name": "new"}
    assert await agent.call("create_partition", **new) == {"created": True, "partition_name": "new", "loaded": True}
    assert (await agent.call("create_partition", **new))["created"] is False
    assert await listed(agent, filled) == {"_default": (3, True), "new": (0, True), "old": (2, True)}
    await agent.call("release_collection", collection_name=filled)
    assert await listed(agent, filled) == {"_default": (3, False), "new": (0, False), "old": (2, False)}


async def test_a_dropped_partition_is_gone_with_its_entities_and_no_others(agent: Agent, filled: str) -> None:
    old = {"collection_name": filled, "partition_name": "old"}
    assert await agent.call("drop_partition", **old) == {"dropped": True}
    assert await listed(agent, filled) == {"_default": (3, True)}
    found = await agent.call("search", collection_name=filled, vector=[4, 1], limit=9)
    assert sorted(keys(found["hits"])) == [0, 1, 2]
    error = await agent.fails("drop_partition", **old)
    assert (error["code"], error["hint"]) == ("not_found", "list_partitions shows what there is")


async def test_partitions_are_listed_page_by_page_each_once(
    agent: Agent, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "PAGE", 1)
    first = await agent.call("list_partitions", collection_name=filled)
    last = await agent.call("list_partitions", collection_name=filled, cursor=first["next_cursor"])
    assert [page["partitions"][0]["partition_name"] for page in (first, last)] == ["_default", "old"]
    assert "next_cursor" not in last


async def test_a_partition_is_not_dropped_by_an_alias_of_its_collection(agent: Agent, filled: str) -> None:
    await agent.call("create_alias", collection_name=filled, alias=f"{filled}_alias")
    error = await agent.fails("drop_partition", collection_name=f"{filled}_alias", partition_name="old")
    assert error["code"] == "invalid_argument"
    assert repr(filled) in error["message"]
    assert (await listed(agent, filled))["old"] == (2, True)


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "said"),
    [
        ("drop_partition", {"partition_name": "_default"}, "invalid_argument", "_default"),
        ("drop_partition", {"partition_name": "../old"}, "invalid_argument", "partition_name"),
        ("create_partition", {"partition_name": "a/b"}, "invalid_argument", "partition_name"),
        ("load_partitions", {"partition_names": ["old"]}, "not_supported", "Milvus Lite"),
        ("release_partitions", {"partition_names": ["old"]}, "not_supported", "Milvus Lite"),
        ("load_partitions", {"partition_names": []}, "invalid_argument", "partition_names"),
    ],
)
async def test_what_cannot_be_is_refused_in_words(
    agent: Agent, filled: str, tool: str, arguments: dict[str, Any], code: str, said: str
) -> None:
    error = await agent.fails(tool, collection_name=filled, **arguments)
    assert error["code"] == code
    assert said in error["message"]
    assert await listed(agent, filled) == {"_default": (3, True), "old": (2, True)}


async def test_partitions_of_a_partition_key_are_milvuss_own(agent: Agent, collection: str) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "tenant", "type": "VARCHAR", "max_length": 9, "is_partition_key": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    there = await listed(agent, collection)
    for tool in ("create_partition", "drop_partition"):
        error = await agent.fails(tool, collection_name=collection, partition_name=max(there))
        assert (error["code"], "tenant" in error["message"]) == ("invalid_argument", True)
    assert await listed(agent, collection) == there


async def test_of_many_partitions_a_description_names_some_and_says_so(agent: Agent, collection: str) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "tenant", "type": "VARCHAR", "is_partition_key": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    assert "applied_limits" not in await agent.call("describe_collection", collection_name=collection)
    manual = f"{collection}_many"
    await agent.call("create_collection", collection_name=manual, dimension=2)
    for number in range(55):
        await agent.call("create_partition", collection_name=manual, partition_name=f"part_{number}")
    described = await agent.call("describe_collection", collection_name=manual)
    assert len(described["partitions"]) == 50
    assert described["applied_limits"] == ["partitions: the first 50 of 56; list_partitions shows all"]
