"""What is dropped or deleted and restored on the real Milvus 2.3.5, and servers that are killed in between."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from pymilvus import DataType, MilvusClient

from mcp_server_milvus.milvus.trash import NOTE
from tests.agent import Agent, agent_on
from tests.crashing import Servers, dying_servers
from tests.milvus.conftest import rpc_error, watching

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.live,
    pytest.mark.xdist_group("live"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="servers are forked"),
]

ENTITIES = [{"id": number, "vector": [number, 1], "x": number} for number in range(6)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def servers(milvus_235: str, kept: Path) -> Iterator[Servers]:
    with dying_servers(uri=milvus_235, data_dir=kept) as servers:
        yield servers


@pytest.fixture
async def survivor(milvus_235: str, kept: Path) -> AsyncIterator[Agent]:
    """A server that has nothing to do with those that die, and knows what others change."""
    async with agent_on(milvus_235, undo=True, data_dir=kept, schema_ttl=0.001) as agent:
        yield agent


def bare(uri: str, name: str) -> None:
    """A collection that has everything and is not loaded, which takes no time."""
    client = MilvusClient(uri)
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    client.create_collection(name, schema=schema, properties={"collection.ttl.seconds": 86_400})
    params = {"M": 8, "efConstruction": 64}
    client.create_index(name, client.prepare_index_params("vector", index_type="HNSW", metric_type="L2", params=params))
    client.create_partition(name, "old")
    client.insert(name, ENTITIES[:4])
    client.insert(name, ENTITIES[4:], partition_name="old")
    client.create_alias(name, f"{name}_alias")
    client.close()


async def described(survivor: Agent, name: str) -> dict[str, Any]:
    told = await survivor.call("describe_collection", collection_name=f"{name}_alias")
    return {
        each: told.get(each) for each in ("collection_name", "fields", "indexes", "partitions", "aliases", "properties")
    }


async def dropped(survivor: Agent, name: str) -> list[str]:
    listed = (await survivor.call("list_dropped"))["dropped"]
    return [each["id"] for each in listed if each["collection_name"] == name]


async def settled(survivor: Agent, name: str, before: dict[str, Any]) -> bool:
    """Whether it was in the trash. It is restored, and as it was before; either way nothing of it is anywhere else."""
    ids = await dropped(survivor, name)
    assert len(ids) + await survivor.exists(name) == 1
    assert "_dropped_" not in str(await survivor.call("list_aliases"))
    for each in ids:
        await survivor.call("restore_collection", id=each)
    assert await described(survivor, name) == before
    return bool(ids)


async def stored(survivor: Agent, name: str) -> dict[str, Any]:
    """The entities of each partition, whoever has written them."""
    strong = {"output_fields": ["*"], "limit": 100, "consistency_level": "Strong"}
    return {
        each: (await survivor.call("query", collection_name=name, partition_names=[each], **strong))["entities"]
        for each in ("_default", "old")
    }


async def test_what_is_cut_short_has_happened_or_not_and_loses_nothing(
    survivor: Agent, servers: Servers, milvus_235: str
) -> None:
    """One collection, for it is slow to load."""
    name = "undo_cut"
    bare(milvus_235, name)
    before = await described(survivor, name)
    await cut_drops(survivor, servers, name, before)
    await cut_restores(survivor, servers, name, before)
    (kept,) = await dropped(survivor, name)
    assert not servers.survives(0, "purge_dropped", id=kept)
    assert await settled(survivor, name, before)
    assert await survivor.call("load_collection", collection_name=name) == {"loaded": True}
    assert await stored(survivor, name) == {"_default": ENTITIES[:4], "old": ENTITIES[4:]}
    await cut_deletions(survivor, servers, name)
    assert await stored(survivor, name) == {"_default": ENTITIES[:4], "old": ENTITIES[4:]}
    kept = (await survivor.call("drop_collection", collection_name=name))["kept_as"]
    assert servers.survives(99, "purge_dropped", id=kept)
    assert await dropped(survivor, name) == []


async def cut_drops(survivor: Agent, servers: Servers, name: str, before: dict[str, Any]) -> None:
    """It is dropped from one step on. In the end it is in the trash."""
    drops: list[bool] = []
    while not servers.survives(len(drops), "drop_collection", collection_name=name):
        drops.append(await settled(survivor, name, before))
    assert drops == sorted(drops)
    assert (drops[0], drops[-1]) == (False, True)


async def cut_restores(survivor: Agent, servers: Servers, name: str, before: dict[str, Any]) -> None:
    """It is back from one step on. In the end it is in the trash."""
    restores: list[bool] = []
    done = False
    while not done:
        (kept,) = await dropped(survivor, name)
        done = servers.survives(len(restores), "restore_collection", id=kept)
        restores.append(await settled(survivor, name, before))
        await survivor.call("drop_collection", collection_name=name)
    assert restores == sorted(restores, reverse=True)
    assert (restores[0], restores[-1]) == (True, False)


async def cut_deletions(survivor: Agent, servers: Servers, name: str) -> None:
    """What was deleted comes back each time. What a step had lost would be missing in the end."""
    steps = 0
    while not servers.survives(steps, "delete", collection_name=name, filter="x in [0, 1, 2, 5]"):
        for each in await dropped(survivor, name):
            await survivor.call("restore_collection", id=each)
        steps += 1
    assert steps >= 4
    (kept,) = await dropped(survivor, name)
    assert await survivor.count(name) == 2
    assert not servers.survives(1, "restore_collection", id=kept)
    await survivor.call("restore_collection", id=kept)
    kept = (await survivor.call("drop_partition", collection_name=name, partition_name="old"))["kept_as"]
    assert "old" not in str(await survivor.call("list_partitions", collection_name=name))
    await survivor.call("restore_collection", id=kept)


async def test_generated_keys_are_new_ones_and_a_note_that_milvus_refuses_is_kept_here(
    milvus_235: str, kept: Path
) -> None:
    name = "undo_generated"
    with watching() as wire:

        async def refuse(rpc: str, _request: Any) -> None:
            if rpc == "AlterCollection":
                raise rpc_error(grpc.StatusCode.PERMISSION_DENIED, "no privilege")

        async with agent_on(milvus_235, undo=True, data_dir=kept) as agent:
            await agent.call("create_collection", collection_name=name, dimension=2, auto_id=True)
            await agent.call("create_alias", collection_name=name, alias=f"{name}_alias")
            data = [{"vector": [1, number], "x": number} for number in range(4)]
            await agent.call("insert", collection_name=name, data=data)
            deleted = await agent.call("delete", collection_name=name, filter="x > 1")
            restored = await agent.call("restore_collection", id=deleted["kept_as"])
            assert restored == {"collection_name": name, "entity_count": 2, "new_keys": True}
            found = (await agent.call("query", collection_name=name, limit=10))["entities"]
            assert sorted(each["x"] for each in found) == [0, 1, 2, 3]
            await agent.call("release_collection", collection_name=name)  # it would be loaded again, which is slow
            wire.before = refuse
            dropped = (await agent.call("drop_collection", collection_name=name))["kept_as"]
            assert NOTE in (kept / "properties.json").read_text()
            restored = await agent.call("restore_collection", id=dropped)
            assert restored["collection_name"] == name
            described = await agent.call("describe_collection", collection_name=f"{name}_alias")
            assert described["collection_name"] == name


async def test_two_servers_that_drop_or_restore_the_same_at_once_do_it_once(milvus_235: str, kept: Path) -> None:
    name = "undo_twice"
    bare(milvus_235, name)
    async with (
        agent_on(milvus_235, undo=True, data_dir=kept) as one,
        agent_on(milvus_235, undo=True, data_dir=kept) as other,
    ):
        outcomes: list[bool] = []

        async def call(agent: Agent, tool: str, **arguments: Any) -> None:
            result = await agent.client.call_tool(tool, arguments)
            outcomes.append(not result.is_error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: call(one, "drop_collection", collection_name=name))
            tasks.start_soon(lambda: call(other, "drop_collection", collection_name=name))
        (kept_as,) = await dropped(one, name)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: call(one, "restore_collection", id=kept_as))
            tasks.start_soon(lambda: call(other, "restore_collection", id=kept_as))
        assert sorted(outcomes[:2]) == sorted(outcomes[2:]) == [False, True]
        assert await dropped(one, name) == []
        assert (await one.call("list_aliases", collection_name=name))["aliases"][0]["alias"] == f"{name}_alias"
