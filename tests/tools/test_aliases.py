"""Aliases on Milvus Lite: what is known under one is forgotten when it is pointed elsewhere."""

import pytest

from mcp_server_milvus.tools import aliases
from tests.agent import Agent, keys

pytestmark = pytest.mark.anyio


@pytest.fixture
async def two(agent: Agent, collection: str) -> tuple[str, str]:
    """Two collections of different dimensions, and one entity each: 1 and 2."""
    other = f"{collection}_other"
    for number, name in enumerate((collection, other), start=1):
        await agent.call("create_collection", collection_name=name, dimension=1 + number)
        data = [{"id": number, "vector": [1.0] * (1 + number)}]
        await agent.call("insert", collection_name=name, data=data)
    return collection, other


async def test_an_alias_is_created_once_and_is_of_one_collection(agent: Agent, two: tuple[str, str]) -> None:
    one, other = two
    alias = f"{one}_alias"
    assert (await agent.call("create_alias", collection_name=one, alias=alias))["created"] is True
    again = await agent.call("create_alias", collection_name=one, alias=alias)
    assert again == {"alias": alias, "collection_name": one, "created": False}
    error = await agent.fails("create_alias", collection_name=other, alias=alias)
    assert (error["code"], one in error["message"], "alter_alias" in error["hint"]) == ("already_exists", True, True)
    assert (await agent.fails("create_alias", collection_name=one, alias=other))["code"] == "already_exists"
    assert (await agent.fails("create_alias", collection_name="nowhere", alias="a"))["code"] == "not_found"
    assert (await agent.fails("create_alias", collection_name=one, alias="../a"))["code"] == "invalid_argument"


async def test_an_alias_of_an_alias_is_an_alias_of_the_collection(agent: Agent, two: tuple[str, str]) -> None:
    one, _ = two
    await agent.call("create_alias", collection_name=one, alias=f"{one}_a")
    created = await agent.call("create_alias", collection_name=f"{one}_a", alias=f"{one}_b")
    assert created["collection_name"] == one
    listed = await agent.call("list_aliases", collection_name=f"{one}_b")
    assert listed == {"aliases": [{"alias": f"{one}_{end}", "collection_name": one} for end in "ab"]}


async def test_reads_and_writes_by_an_alias_follow_it_at_once(agent: Agent, two: tuple[str, str]) -> None:
    one, other = two
    alias = f"{one}_now"
    await agent.call("create_alias", collection_name=one, alias=alias)
    found = await agent.call("search", collection_name=alias, vector=[1, 1])
    assert keys(found["hits"]) == [1]

    altered = await agent.call("alter_alias", collection_name=other, alias=alias)
    assert altered == {"alias": alias, "collection_name": other, "previous": one}
    found = await agent.call("search", collection_name=alias, vector=[1, 1, 1])
    assert keys(found["hits"]) == [2]
    await agent.call("insert", collection_name=alias, data=[{"id": 3, "vector": [0, 0, 1]}])
    assert (await agent.count(one), await agent.count(other)) == (1, 2)

    assert await agent.call("drop_alias", alias=alias) == {"dropped": True, "collection_name": other}
    assert (await agent.fails("search", collection_name=alias, vector=[1, 1, 1]))["code"] == "not_found"
    assert await agent.count(other) == 2


async def test_what_is_no_alias_is_neither_altered_nor_dropped(agent: Agent, two: tuple[str, str]) -> None:
    one, other = two
    for name in (other, "nowhere"):
        assert (await agent.fails("alter_alias", collection_name=one, alias=name))["code"] == "not_found"
        error = await agent.fails("drop_alias", alias=name)
        assert (error["code"], error["hint"]) == ("not_found", "list_aliases shows what there is")
    assert await agent.exists(other)


async def test_the_aliases_of_a_database_are_listed_page_by_page_with_their_collections(
    agent: Agent, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = {"db_name": collection}
    await agent.call("create_database", **database)
    await agent.call("create_collection", collection_name="docs", dimension=2, **database)
    await agent.call("create_collection", collection_name="more", dimension=2, **database)
    for alias, name in (("a", "docs"), ("b", "more"), ("c", "docs")):
        await agent.call("create_alias", alias=alias, collection_name=name, **database)
    monkeypatch.setattr(aliases, "PAGE", 2)
    first = await agent.call("list_aliases", **database)
    last = await agent.call("list_aliases", cursor=first["next_cursor"], **database)
    assert [(line["alias"], line["collection_name"]) for line in first["aliases"] + last["aliases"]] == [
        ("a", "docs"),
        ("b", "more"),
        ("c", "docs"),
    ]
    assert "next_cursor" not in last
