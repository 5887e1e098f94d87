"""Flushing, compacting, segments, replicas and resource groups on the real Milvus 2.3.5, which checks no accounts."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pymilvus import AsyncMilvusClient, DataType
from pymilvus.grpc_gen import milvus_pb2

from mcp_server_milvus.milvus import client as milvus_client
from mcp_server_milvus.milvus.quirks import quiet_pymilvus
from tests.agent import Agent, agent_on

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live on a second server")]

DEFAULT_GROUP = "__default_resource_group"
ENTITIES = [{"id": number, "vector": [number, 1]} for number in range(50)]


@pytest.fixture(scope="module")
async def agent(milvus_235: str) -> AsyncIterator[Agent]:
    async with agent_on(milvus_235) as agent:
        yield agent


@pytest.fixture(scope="module")
async def client(milvus_235: str) -> AsyncIterator[milvus_client.Client]:
    quiet_pymilvus()
    client = await milvus_client.connect(
        milvus_235, credentials="", db_name="default", last_writes={}, computing=anyio.CapacityLimiter(1), seconds=10
    )
    yield client
    await client.close()


@pytest.fixture(scope="module")
async def kept(agent: Agent) -> str:
    """A loaded collection of one segment; half of its entities were deleted."""
    await agent.call("create_collection", collection_name="ops_kept", dimension=2)
    await agent.call("insert", collection_name="ops_kept", data=ENTITIES)
    assert (await agent.call("collection_stats", collection_name="ops_kept"))["row_count"] == 0
    await agent.call("delete", collection_name="ops_kept", filter="id < 25")
    assert await agent.call("flush", collection_name="ops_kept") == {"flushed": True, "row_count": 50}
    return "ops_kept"


@pytest.fixture(scope="module")
async def plain(client: milvus_client.Client) -> str:
    """A collection that is not loaded, which takes seconds."""
    await client.create_collection("ops_plain", schema=two_fields())
    return "ops_plain"


@pytest.fixture
async def group(agent: Agent, client: milvus_client.Client) -> AsyncIterator[str]:
    await agent.call("create_resource_group", name="ops_group")
    yield "ops_group"
    if "ops_group" in await client.list_resource_groups():
        await client.drop_resource_group("ops_group")


async def test_server_info_tells_what_there_is_and_no_address(agent: Agent, milvus_235: str) -> None:
    info = await agent.call("server_info")
    assert (info["backend"], info["kind"], info["healthy"]) == ("Milvus 2.3.5", "STANDALONE", True)
    assert "default" in info["databases"]
    assert {"users and roles", "listing segments"} <= set(info["supported"])
    assert {"snapshots", "privilege groups"} <= set(info["not_supported"])
    assert "BINARY_VECTOR" in info["types"]
    assert "SPARSE_FLOAT_VECTOR" not in info["types"]
    assert milvus_235.rpartition(":")[2] not in str(info)


async def test_a_collection_is_counted_by_what_can_be_read_and_by_what_is_stored(agent: Agent, kept: str) -> None:
    stats = await agent.call("collection_stats", collection_name=kept)
    assert (stats["loaded"], stats["entity_count"], stats["row_count"]) == (True, 25, 50)
    assert stats["segments"]["Flushed"] == 1
    (index,) = stats["indexes"]
    assert (index["field_name"], index["state"]) == ("vector", "finished")
    listed = await agent.call("list_segments", collection_name=kept)
    assert (listed["total"], listed["segments"][0]["num_rows"], listed["segments"][0]["state"]) == (1, 50, "Flushed")
    assert (await agent.fails("list_segments", collection_name="nowhere"))["code"] == "not_found"


async def test_flushing_without_a_collection_flushes_every_collection(agent: Agent, kept: str, plain: str) -> None:
    for name in (kept, plain):
        await agent.call("insert", collection_name=name, data=[{"id": 100, "vector": [1, 1]}])
    assert await agent.call("flush") == {"flushed": True}
    rows = [(await agent.call("collection_stats", collection_name=name))["row_count"] for name in (kept, plain)]
    assert rows in ([51, 1], [26, 1])  # the second once Milvus has compacted what was deleted
    assert (await agent.fails("flush", collection_name="nowhere"))["code"] == "not_found"


async def test_a_compaction_is_followed_by_its_job(agent: Agent, plain: str) -> None:
    """One that finds work takes 14 s there."""
    started = await agent.call("compact", collection_name=plain)
    assert started["job_id"].isdigit()
    ended = await agent.call("compaction_state", job_id=started["job_id"], wait=True)
    assert (ended["job_id"], ended["state"]) == (started["job_id"], "Completed")
    waited = await agent.call("compact", collection_name=plain, wait=True)
    assert waited["state"] == "Completed"
    assert waited["job_id"] != started["job_id"]
    assert (await agent.fails("compact", collection_name="nowhere"))["code"] == "not_found"


async def test_replicas_are_moved_between_resource_groups(
    agent: Agent, client: milvus_client.Client, kept: str, group: str
) -> None:
    (replica,) = (await agent.call("describe_replica", collection_name=kept))["replicas"]
    assert replica["resource_group"] == DEFAULT_GROUP
    move: dict[str, Any] = {"source": DEFAULT_GROUP, "target": group, "collection_name": kept, "num_replica": 1}
    refused = await agent.fails("transfer_replica", **move)
    assert (refused["code"], "query node" in refused["hint"]) == ("limit_exceeded", True)

    async with the_only_node_in(group, client):
        assert await agent.call("transfer_replica", **move) == {"done": True}
        (moved,) = (await agent.call("describe_replica", collection_name=kept))["replicas"]
        assert moved["resource_group"] == group
        listed = {each["name"]: each for each in (await agent.call("list_resource_groups"))["resource_groups"]}
        assert (listed[group]["available_nodes"], listed[group]["loaded_replicas"]) == (1, {kept: 1})
        in_use = await agent.fails("drop_resource_group", name=group)
        assert "release it first" in in_use["message"]

    await agent.call("transfer_replica", **(move | {"source": group, "target": DEFAULT_GROUP}))
    assert await agent.call("drop_resource_group", name=group) == {"dropped": True}
    assert (await agent.fails("drop_resource_group", name=group))["code"] == "not_found"
    assert (await agent.fails("transfer_replica", **move))["code"] == "not_found"


async def test_the_replicas_are_those_of_the_collection_that_has_the_name_now(
    agent: Agent, client: milvus_client.Client, milvus_235: str, kept: str
) -> None:
    async with AsyncMilvusClient(milvus_235) as plain:
        assert len(await plain.describe_replica(kept)) == 1
        await client.rename_collection(kept, "ops_renamed")
        await plain.create_collection(kept, schema=two_fields())  # not loaded
        try:
            assert len(await plain.describe_replica(kept)) == 1  # the fault: it is the other's
            error = await agent.fails("describe_replica", collection_name=kept)
            assert error["code"] == "not_loaded"
        finally:
            await client.drop_collection(kept)
            await client.rename_collection("ops_renamed", kept)


async def test_what_2_3_lacks_is_refused_before_anything_is_done(agent: Agent, kept: str) -> None:
    collection = {"collection_name": kept}
    snapshot = {"snapshot_name": "s"} | collection
    for tool, arguments, said in (
        ("optimize", collection, "target size"),
        ("compact", collection | {"target_size": 100}, "target size"),
        ("compact", collection | {"is_l0": True}, "deletions"),
        ("compact", collection | {"is_clustering": True}, "clustering"),
        ("create_resource_group", {"name": "ops_new", "config": {"requests": {"node_num": 1}}}, "configurations"),
        ("update_resource_groups", {"configs": {"ops_new": {}}}, "configurations"),
        ("create_snapshot", snapshot, "snapshots"),
        ("list_snapshots", collection, "snapshots"),
        ("describe_snapshot", snapshot, "snapshots"),
        ("drop_snapshot", snapshot, "snapshots"),
        ("list_restore_snapshot_jobs", {}, "snapshots"),
        (
            "restore_snapshot",
            {"snapshot_name": "s", "source_collection_name": kept, "target_collection_name": "t"},
            "snapshots",
        ),
    ):
        error = await agent.fails(tool, **arguments)
        assert error["code"] == "not_supported", error
        assert said in error["message"]
        assert "Milvus 2.3.5" in error["message"]
        assert error["hint"]
    names = [each["name"] for each in (await agent.call("list_resource_groups"))["resource_groups"]]
    assert "ops_new" not in names


async def test_a_server_that_checks_no_accounts_says_why_it_grants_nothing(agent: Agent) -> None:
    await agent.call("create_role", role_name="ops_role")
    error = await agent.fails("grant_privilege", role_name="ops_role", privilege="Search")
    assert (error["code"], "authorization" in error["hint"]) == ("conflict", True)
    await agent.call("drop_role", role_name="ops_role")


@asynccontextmanager
async def the_only_node_in(group: str, client: milvus_client.Client) -> AsyncGenerator[None]:
    """Milvus 2.3 has an RPC for it, of which pymilvus's asynchronous client knows nothing."""
    stub, _ = await client.stub()

    async def transfer(source: str, target: str) -> None:
        await stub.TransferNode(
            milvus_pb2.TransferNodeRequest(source_resource_group=source, target_resource_group=target, num_node=1)
        )

    await transfer(DEFAULT_GROUP, group)
    try:
        yield
    finally:
        await transfer(group, DEFAULT_GROUP)


def two_fields() -> Any:
    schema = AsyncMilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    return schema
