"""What a server does without a word: it reads half of a collection, keeps a key twice, and leaves some of a delete."""

from collections.abc import AsyncGenerator

import pytest

from tests.milvus.conftest import Agent, agent

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]


@pytest.fixture(scope="module")
async def server(milvus_235: str) -> AsyncGenerator[Agent]:
    async with agent(uri=milvus_235) as each:
        yield each


@pytest.fixture
async def divided(server: Agent, request: pytest.FixtureRequest) -> AsyncGenerator[str]:
    """Three entities in `_default`, one in `z`."""
    name = f"pt_{abs(hash(request.node.name))}"
    await server.call("create_collection", collection_name=name, dimension=2)
    await server.call("create_partition", collection_name=name, partition_name="z")
    await server.call("insert", collection_name=name, data=[{"id": n, "vector": [1, n]} for n in range(3)])
    entity = {"id": 9, "vector": [1, 9], "s": "old"}
    await server.call("insert", collection_name=name, data=[entity], partition_name="z")
    yield name
    await server.call("drop_collection", collection_name=name)


async def test_a_partly_loaded_collection_is_loaded_before_it_is_read(server: Agent, divided: str) -> None:
    named = {"collection_name": divided}
    for tool, arguments, expected in (
        ("count", {}, {"count": 4}),
        ("aggregate", {}, {"groups": [{"count": 4}], "loaded": True}),
        ("get", {"ids": [1]}, {"entities": [{"id": 1}]}),
        ("delete", {"filter": "id < 2"}, {"delete_count": 2}),
    ):
        await server.call("release_partitions", **named, partition_names=["_default"])
        assert (await server.call("describe_collection", **named))["loaded"] is False
        assert await server.call("count", **named, partition_names=["z"]) == {"count": 1}
        assert await server.call(tool, **named, **arguments) == expected
    await server.call("release_partitions", **named, partition_names=["_default"])
    assert {hit["id"] for hit in (await server.call("search", **named, vector=[1, 1]))["hits"]} == {2, 9}


async def test_without_loading_by_itself_a_partly_loaded_collection_is_refused(milvus_235: str, divided: str) -> None:
    async with agent(uri=milvus_235, auto_load=False) as strict:
        await strict.call("release_partitions", collection_name=divided, partition_names=["z"])
        for tool, arguments in (("count", {}), ("search", {"vector": [1, 1]}), ("delete", {"filter": "id >= 0"})):
            refusal = await strict.refused(tool, collection_name=divided, **arguments)
            assert refusal["code"] == "not_loaded"
            assert "z" in refusal["message"]
        await strict.call("load_collection", collection_name=divided)
        assert await strict.call("count", collection_name=divided) == {"count": 4}


async def test_an_upsert_never_leaves_the_old_entity_in_another_partition(server: Agent, divided: str) -> None:
    new = {"collection_name": divided, "data": [{"id": 9, "vector": [1, 9], "s": "new"}]}
    refusal = await server.refused("upsert", **new)
    assert refusal["code"] == "conflict"
    assert "partition_name" in refusal["hint"]
    assert await server.call("upsert", **new, partition_name="z") == {"upsert_count": 1}
    assert [entity["s"] for entity in await server.found(divided, filter="id == 9")] == ["new"]
    assert await server.call("count", collection_name=divided) == {"count": 4}


async def test_a_delete_by_filter_leaves_none_of_the_entities_with_the_same_key(server: Agent, divided: str) -> None:
    again = [{"id": n, "vector": [1, n]} for n in range(3)]
    await server.call("insert", collection_name=divided, data=again)
    assert await server.call("count", collection_name=divided) == {"count": 7}
    await server.call("delete", collection_name=divided, filter="id >= 0")
    assert await server.call("count", collection_name=divided) == {"count": 0}


async def test_what_another_server_wrote_is_counted(milvus_235: str, server: Agent, divided: str) -> None:
    async with agent(uri=milvus_235) as another:
        for number in range(3):
            await another.call("insert", collection_name=divided, data=[{"id": 100 + number, "vector": [1, 1]}])
            tool = ("count", "aggregate")[number % 2]
            counted = await server.call(tool, collection_name=divided)
            assert counted.get("count", counted.get("groups", [{}])[0].get("count")) == 5 + number


async def test_a_collection_with_an_alias_is_not_dropped(server: Agent, divided: str) -> None:
    await server.call("create_alias", collection_name=divided, alias=f"{divided}_alias")
    refusal = await server.refused("drop_collection", collection_name=divided)
    assert (refusal["code"], refusal["hint"]) == ("conflict", "drop_alias them first")
    await server.call("drop_alias", alias=f"{divided}_alias")
