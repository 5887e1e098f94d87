"""Operations and accounts of servers newer than 2.3.5, by the requests that reach them. No such server can run here."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pymilvus import AsyncMilvusClient, MilvusException
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.grpc_gen import common_pb2, milvus_pb2, rg_pb2, schema_pb2

from tests.agent import agent_on
from tests.fake_milvus import FakeMilvus, fake_milvus

pytestmark = pytest.mark.anyio

EVERYTHING = 2**63 - 1
STATES = common_pb2.CompactionState
SNAPSHOT = {"snapshot_name": "before", "collection_name": "docs"}
RESTORED = {"snapshot_name": "before", "source_collection_name": "docs", "target_collection_name": "again"}


def sent(fake: FakeMilvus, name: str) -> Any:
    """The only request of one RPC."""
    (request,) = fake.requests(name)
    return request


def in_turn(*answers: Any) -> Callable[[Any], Any]:
    """The answers one by one, and then the last one for good."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def compacting(*states: Any) -> dict[str, Any]:
    """A server whose next job is 470643737303587943, in these states one after the other."""
    return {
        "ManualCompaction": milvus_pb2.ManualCompactionResponse(compactionID=470643737303587943),
        "GetCompactionState": in_turn(
            *(
                milvus_pb2.GetCompactionStateResponse(state=state, executingPlanNo=3 - done, completedPlanNo=done)
                for done, state in enumerate(states)
            )
        ),
    }


async def test_a_compaction_that_is_waited_for_reports_its_progress() -> None:
    told: list[tuple[float, float | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert message == "compacting"
        told.append((progress, total))

    async with fake_milvus("2.6.4") as fake, agent_on(fake.uri) as agent:
        fake.answers |= compacting(STATES.Executing, STATES.Executing, STATES.Completed)
        arguments = {"collection_name": "docs", "is_l0": True, "wait": True}
        result = await agent.client.call_tool("compact", arguments, progress_callback=note)
    assert result.structured_content == {
        "job_id": "470643737303587943",
        "state": "Completed",
        "executing_plans": 1,
        "completed_plans": 2,
        "timed_out_plans": 0,
    }
    assert told == [(0, 3), (1, 3)]
    assert sent(fake, "ManualCompaction").l0Compaction


async def test_a_compaction_that_is_not_waited_for_has_a_job_to_follow() -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        fake.answers |= compacting(STATES.Executing, STATES.Completed)
        started = await agent.call("compact", collection_name="docs", target_size=512)
        assert (started["state"], started["executing_plans"]) == ("Executing", 3)
        assert (await agent.call("compaction_state", job_id=started["job_id"]))["state"] == "Completed"
        asked = {request.compactionID for request in fake.requests("GetCompactionState")}
        assert (sent(fake, "ManualCompaction").target_size, asked) == (512, {470643737303587943})

        fake.answers["ManualCompaction"] = milvus_pb2.ManualCompactionResponse(compactionID=-1)
        assert await agent.call("compact", collection_name="docs", wait=True) == {"state": "Completed"}
        both = await agent.fails("compact", collection_name="docs", is_l0=True, is_clustering=True)
        assert both["code"] == "invalid_argument"


async def test_a_compaction_that_does_not_end_is_not_waited_for_longer_than_building_may_take() -> None:
    async with fake_milvus("2.6.4") as fake, agent_on(fake.uri, build_timeout=0.5) as agent:
        fake.answers |= compacting(STATES.Executing)
        error = await agent.fails("compaction_state", job_id="7", wait=True)
    assert error["code"] == "deadline_exceeded"


async def test_optimizing_merges_all_it_can_and_loads_the_result() -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        fake.answers |= compacting(STATES.Executing, STATES.Completed)
        assert (await agent.call("optimize", collection_name="docs"))["state"] == "Completed"
        assert sent(fake, "ManualCompaction").target_size == EVERYTHING
        assert sent(fake, "LoadCollection").refresh


async def test_optimizing_without_waiting_only_starts_the_compaction() -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        fake.answers |= compacting(STATES.Executing)
        started = await agent.call("optimize", collection_name="docs", target_size=2048, wait=False)
        assert (started["job_id"], started["state"]) == ("470643737303587943", "Executing")
        assert sent(fake, "ManualCompaction").target_size == 2048
        assert fake.requests("LoadCollection") == []


async def test_pymilvus_itself_optimizes_in_the_default_database_and_cannot_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why this server takes the steps one by one."""
    given: dict[str, Any] = {}
    scope = anyio.CancelScope()

    async def compact(_self: Any, **options: Any) -> int:
        given.update(options)
        scope.cancel()
        return 1

    monkeypatch.setattr(AsyncGrpcHandler, "compact", compact)
    async with fake_milvus("3.0.0") as fake, AsyncMilvusClient(fake.uri, db_name="prod") as client:
        fake.answers |= compacting(STATES.Executing)
        with pytest.raises(MilvusException, match="cancelled"), scope:
            await client.optimize("docs")
    assert given["collection_name"] == "docs"
    assert "context" not in given  # which has the database


@pytest.mark.parametrize("missing", ["flush_all", "get_flush_all_state"])
async def test_pymilvus_itself_cannot_flush_all(missing: str) -> None:
    async with fake_milvus("2.6.4") as fake, AsyncMilvusClient(fake.uri) as client:
        with pytest.raises(AttributeError):
            await getattr(client, missing)()


async def test_flushing_all_flushes_one_database_and_waits() -> None:
    async with fake_milvus("2.6.4") as fake, agent_on(fake.uri) as agent:
        fake.answers["FlushAll"] = milvus_pb2.FlushAllResponse(flush_all_ts=9)
        fake.answers["GetFlushAllState"] = in_turn(
            milvus_pb2.GetFlushAllStateResponse(flushed=False), milvus_pb2.GetFlushAllStateResponse(flushed=True)
        )
        assert await agent.call("flush", db_name="prod") == {"flushed": True}
        assert sent(fake, "FlushAll").db_name == "prod"
        assert [(each.flush_all_ts, each.db_name) for each in fake.requests("GetFlushAllState")] == [(9, "prod")] * 2


async def test_segments_are_listed_page_by_page_within_the_bytes_of_a_result() -> None:
    numbers = [470643737303587000 + number for number in range(250)]
    infos = [
        milvus_pb2.PersistentSegmentInfo(segmentID=number, num_rows=1, state="Flushed") for number in reversed(numbers)
    ]
    async with fake_milvus("2.6.4") as fake, agent_on(fake.uri, max_result_bytes=4_096) as agent:
        fake.answers["GetPersistentSegmentInfo"] = milvus_pb2.GetPersistentSegmentInfoResponse(infos=infos)
        found: list[int] = []
        cursor: dict[str, str] = {}
        while True:
            page = await agent.call("list_segments", collection_name="docs", limit=200, **cursor)
            assert page["total"] == 250
            assert len(str(page)) < 4_096
            found += [int(segment["segment_id"]) for segment in page["segments"]]
            if "next_cursor" not in page:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert found == numbers
        wrong = await agent.fails("list_segments", collection_name="other", **cursor)
        assert wrong["code"] == "invalid_argument"


async def test_a_server_that_is_not_well_says_why_without_its_addresses() -> None:
    async with fake_milvus("2.6.4") as fake, agent_on(fake.uri) as agent:
        reasons = ["query node 3 at 10.1.2.3:21123 is down", "etcd-0.internal.example:2379 does not answer"]
        fake.answers["CheckHealth"] = milvus_pb2.CheckHealthResponse(isHealthy=False, reasons=reasons)
        fake.answers["ListDatabases"] = milvus_pb2.ListDatabasesResponse(
            db_names=[f"db_{number:03}" for number in range(120)]
        )
        info = await agent.call("server_info")
    assert info["healthy"] is False
    assert "query node 3" in info["reasons"][0]
    assert not any(part in str(info) for part in ("10.1.2.3", "21123", "internal"))
    assert (len(info["databases"]), "120" in info["applied_limits"][0]) == (100, True)
    assert "privilege groups" in info["supported"]


async def test_resource_groups_are_configured_and_described_without_addresses() -> None:
    config = {
        "requests": {"node_num": 1},
        "limits": {"node_num": 2},
        "transfer_from": ["spare"],
        "transfer_to": ["other"],
    }
    expected = rg_pb2.ResourceGroupConfig(
        requests=rg_pb2.ResourceGroupLimit(node_num=1),
        limits=rg_pb2.ResourceGroupLimit(node_num=2),
        transfer_from=[rg_pb2.ResourceGroupTransfer(resource_group="spare")],
        transfer_to=[rg_pb2.ResourceGroupTransfer(resource_group="other")],
    )
    async with fake_milvus("2.4.1") as fake, agent_on(fake.uri) as agent:
        assert await agent.call("create_resource_group", name="fast", config=config) == {"created": True}
        assert sent(fake, "CreateResourceGroup").config == expected
        await agent.call("update_resource_groups", configs={"fast": config, "slow": {"limits": {"node_num": 3}}})
        updated = sent(fake, "UpdateResourceGroups").resource_groups
        assert (updated["fast"], updated["slow"].limits.node_num) == (expected, 3)

        node = common_pb2.NodeInfo(node_id=4, address="10.1.2.3:21123", hostname="node-4.internal")
        group = milvus_pb2.ResourceGroup(name="fast", capacity=2, num_available_node=1, config=expected, nodes=[node])
        fake.answers["ListResourceGroups"] = milvus_pb2.ListResourceGroupsResponse(resource_groups=["fast"])
        fake.answers["DescribeResourceGroup"] = milvus_pb2.DescribeResourceGroupResponse(resource_group=group)
        listed = await agent.call("list_resource_groups")
    assert listed == {
        "resource_groups": [{"name": "fast", "capacity": 2, "available_nodes": 1, "nodes": [4], "config": config}]
    }


async def test_a_snapshot_has_what_is_flushed_so_that_comes_first() -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        fake.answers["Flush"] = milvus_pb2.FlushResponse(
            coll_segIDs={"docs": schema_pb2.LongArray()}, coll_flush_ts={"docs": 1}
        )
        fake.answers["GetFlushState"] = milvus_pb2.GetFlushStateResponse(flushed=True)
        created = await agent.call("create_snapshot", **SNAPSHOT, description="why", db_name="prod")
        assert created == {"created": True}
        order = [name for name, _ in fake.received if name in {"Flush", "CreateSnapshot"}]
        assert order == ["Flush", "CreateSnapshot"]
        request = sent(fake, "CreateSnapshot")
        assert (request.name, request.collection_name, request.db_name) == ("before", "docs", "prod")
        assert request.description == "why"


async def test_snapshots_are_listed_described_and_dropped() -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        fake.answers["ListSnapshots"] = milvus_pb2.ListSnapshotsResponse(snapshots=["later", "before"])
        listed = await agent.call("list_snapshots", collection_name="docs")
        assert listed == {"snapshots": ["before", "later"]}
        fake.answers["DescribeSnapshot"] = milvus_pb2.DescribeSnapshotResponse(
            name="before", collection_name="docs", partition_names=["_default"], create_ts=1, s3_location="s3://a/b"
        )
        assert await agent.call("describe_snapshot", **SNAPSHOT) == {
            "snapshot_name": "before",
            "collection_name": "docs",
            "partitions": ["_default"],
            "created": 1,
        }
        assert await agent.call("drop_snapshot", **SNAPSHOT) == {"dropped": True}
        for name in ("ListSnapshots", "DescribeSnapshot", "DropSnapshot"):
            request = sent(fake, name)
            assert (request.collection_name, request.db_name) == ("docs", "default")
        assert sent(fake, "DropSnapshot").name == "before"


def restoring(state: str, progress: int, reason: str = "") -> Any:
    info = milvus_pb2.RestoreSnapshotInfo(
        job_id=470643737303587943,
        collection_name="again",
        state=f"RestoreSnapshot{state}",
        progress=progress,
        reason=reason,
    )
    return milvus_pb2.GetRestoreSnapshotStateResponse(info=info)


async def test_restoring_a_snapshot_is_followed_or_waited_for() -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        fake.answers["RestoreSnapshot"] = milvus_pb2.RestoreSnapshotResponse(job_id=470643737303587943)
        fake.answers["GetRestoreSnapshotState"] = in_turn(restoring("Executing", 40), restoring("Completed", 100))
        started = await agent.call("restore_snapshot", **RESTORED)
        assert started == {
            "job_id": "470643737303587943",
            "state": "Executing",
            "percent": 40,
            "collection_name": "again",
        }
        request = sent(fake, "RestoreSnapshot")
        assert (request.name, request.collection_name, request.target_collection_name) == ("before", "docs", "again")
        assert (await agent.call("restore_snapshot", **RESTORED, wait=True))["state"] == "Completed"

        fake.answers["GetRestoreSnapshotState"] = restoring("Failed", 40, "no such file")
        error = await agent.fails("restore_snapshot", **RESTORED, wait=True)
        assert (error["code"], "no such file" in error["message"]) == ("milvus_error", True)
        jobs = [restoring("Failed", 40, "no such file").info]
        fake.answers["ListRestoreSnapshotJobs"] = milvus_pb2.ListRestoreSnapshotJobsResponse(jobs=jobs)
        listed = (await agent.call("list_restore_snapshot_jobs"))["jobs"]
        assert [(job["state"], job["reason"]) for job in listed] == [("Failed", "no such file")]


async def test_newer_servers_find_the_object_type_of_a_privilege_themselves() -> None:
    granted = {"role_name": "reader", "privilege": "my_group", "collection_name": "docs", "db_name": "prod"}
    async with fake_milvus("2.5.0") as fake, agent_on(fake.uri) as agent:
        for tool in ("grant_privilege", "revoke_privilege"):
            assert await agent.call(tool, **granted) == {"done": True}
        grant, revoke = fake.requests("OperatePrivilegeV2")
        assert (grant.role.name, grant.grantor.privilege.name) == ("reader", "my_group")
        assert (grant.collection_name, grant.db_name) == ("docs", "prod")
        kinds = milvus_pb2.OperatePrivilegeType
        assert (grant.type, revoke.type) == (kinds.Grant, kinds.Revoke)

        await agent.call("grant_privilege", role_name="r", privilege="ClusterAdmin", db_name="*")
        wide = fake.requests("OperatePrivilegeV2")[-1]
        assert (wide.collection_name, wide.db_name) == ("*", "*")
        assert fake.requests("OperatePrivilege") == []


async def test_older_servers_and_callers_name_the_object_type() -> None:
    granted = {"role_name": "reader", "privilege": "Search", "collection_name": "docs"}
    for version, arguments in (("2.4.0", {}), ("2.5.0", {"object_type": "Collection"})):
        async with fake_milvus(version) as fake, agent_on(fake.uri) as agent:
            await agent.call("grant_privilege", **granted, **arguments)
            entity = sent(fake, "OperatePrivilege").entity
            assert (entity.object.name, entity.object_name, entity.db_name) == ("Collection", "docs", "default")
            assert entity.grantor.privilege.name == "Search"
            assert fake.requests("OperatePrivilegeV2") == []


async def test_privilege_groups_are_made_filled_and_dropped() -> None:
    async with fake_milvus("2.4.18") as fake, agent_on(fake.uri) as agent:
        await agent.call("create_privilege_group", group_name="mine")
        assert sent(fake, "CreatePrivilegeGroup").group_name == "mine"
        await agent.call("alter_privilege_group", group_name="mine", add=["Search", "Query"], remove=["Insert"])
        added, removed = fake.requests("OperatePrivilegeGroup")
        kinds = milvus_pb2.OperatePrivilegeGroupType
        assert (added.type, removed.type) == (kinds.AddPrivilegesToGroup, kinds.RemovePrivilegesFromGroup)
        assert [[each.name for each in request.privileges] for request in (added, removed)] == [
            ["Search", "Query"],
            ["Insert"],
        ]
        assert (await agent.fails("alter_privilege_group", group_name="mine"))["code"] == "invalid_argument"
        await agent.call("drop_privilege_group", group_name="mine")
        assert sent(fake, "DropPrivilegeGroup").group_name == "mine"

        group = milvus_pb2.PrivilegeGroupInfo(
            group_name="CollectionReadOnly", privileges=[milvus_pb2.PrivilegeEntity(name="Search")]
        )
        fake.answers["ListPrivilegeGroups"] = milvus_pb2.ListPrivilegeGroupsResponse(privilege_groups=[group])
        listed = await agent.call("list_privileges")
        assert listed["privilege_groups"] == {"CollectionReadOnly": ["Search"]}
        assert "Search" in listed["privileges"]["Collection"]


async def test_users_and_roles_have_descriptions_and_roles_are_dropped_by_force() -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        await agent.call("create_user", user_name="alice", password="long-enough", description="who")
        assert sent(fake, "CreateCredential").description == "who"
        await agent.call("create_role", role_name="reader", description="what")
        assert sent(fake, "CreateRole").entity.description == "what"
        await agent.call("drop_role", role_name="reader", force_drop=True)
        assert sent(fake, "DropRole").force_drop
        assert "CreateSnapshot" in (await agent.call("list_privileges"))["privileges"]["Collection"]


@pytest.mark.parametrize(
    ("version", "tool", "arguments", "needs"),
    [
        ("2.3.9", "compact", {"collection_name": "docs", "is_clustering": True}, "2.4.7"),
        ("2.6.2", "compact", {"collection_name": "docs", "is_l0": True}, "2.6.3"),
        ("2.6.9", "compact", {"collection_name": "docs", "target_size": 1}, "3.0.0"),
        ("2.6.9", "optimize", {"collection_name": "docs"}, "3.0.0"),
        ("2.6.9", "create_snapshot", SNAPSHOT, "3.0.0"),
        ("2.4.0", "update_resource_groups", {"configs": {"g": {}}}, "2.4.1"),
        ("2.4.17", "create_privilege_group", {"group_name": "g"}, "2.4.18"),
        ("2.4.20", "drop_role", {"role_name": "r", "force_drop": True}, "2.5.0"),
        ("2.6.9", "create_role", {"role_name": "r", "description": "d"}, "3.0.0"),
    ],
)
async def test_an_older_server_is_not_asked_for_what_it_lacks(
    version: str, tool: str, arguments: dict[str, Any], needs: str
) -> None:
    async with fake_milvus(version) as fake, agent_on(fake.uri) as agent:
        error = await agent.fails(tool, **arguments)
        reads = {"GetVersion", "Connect", "DescribeCollection", "DescribeIndex", "ShowPartitions", "AllocTimestamp"}
        assert {name for name, _ in fake.received} <= reads
    assert error["code"] == "not_supported"
    assert f"Milvus {version}" in error["message"]
    assert f"needs Milvus {needs}" in error["message"]
    assert error["hint"]


async def test_a_role_with_more_privileges_than_a_result_holds_says_so() -> None:
    entities = [
        milvus_pb2.GrantEntity(
            role={"name": "r"},
            object={"name": "Collection"},
            object_name=f"collection_{number}",
            db_name="default",
            grantor={"privilege": {"name": "Search"}},
        )
        for number in range(100)
    ]
    async with fake_milvus("2.6.4") as fake, agent_on(fake.uri, max_result_bytes=4_096) as agent:
        fake.answers["SelectGrant"] = milvus_pb2.SelectGrantResponse(entities=entities)
        role = await agent.call("describe_role", role_name="r")
        assert len(str(role)) < 4_096
        assert role["applied_limits"] == [f"{len(role['privileges'])} of 100 privileges: name a db_name to see its own"]
