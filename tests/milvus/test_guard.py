"""Nothing leaves this process that names what is out of a caller's reach, and nothing comes back that does."""

import inspect
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from mcp.client import Client
from pydantic import SecretStr
from pymilvus import AsyncMilvusClient
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.errors import InvalidFilter
from mcp_server_milvus.milvus.filters import equalities, names_in, understood
from mcp_server_milvus.milvus.guard import RULES
from mcp_server_milvus.policy import LOCAL, Caller
from mcp_server_milvus.reach import Reach
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import load_settings
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Scope
from tests.agent import UNATTENDED
from tests.calls import CALLS
from tests.fake_milvus import fake_milvus
from tests.milvus.conftest import Agent, Wire, agent
from tests.tenants import A, done, told

pytestmark = pytest.mark.anyio

ADMIN = frozenset({Scope.ADMIN})
DOCS = Caller("docs", scopes=ADMIN, collections=("docs*",))
TRASH = "_dropped_0000000001_0123456789abcdef"

NOT_JUDGED = {
    *("AddFileResource", "ListFileResources", "RemoveFileResource", "DumpMessages", "GetReplicateInfo"),
    *("GetReplicateConfiguration", "PinSnapshotData", "UnpinSnapshotData", "GetCompactionStateWithPlans"),
    *("RefreshExternalCollection", "GetRefreshExternalCollectionProgress", "ListRefreshExternalCollectionJobs"),
}
"""What nobody sends who does not reach everything, or see every field: this server has no tool for it."""


def test_every_rpc_of_pymilvus_is_judged_or_refused() -> None:
    sent = set(re.findall(r"_async_stub\.(\w+)", inspect.getsource(AsyncGrpcHandler)))
    assert sent - RULES.keys() == NOT_JUDGED


# Collections


@asynccontextmanager
async def hiding_databases(**backend: Any) -> AsyncGenerator[tuple[App, App]]:
    """Two databases with `docs`; in the first there is `secret` too, and `docs_alias`, which is its alias."""
    ours = UNATTENDED | backend
    async with open_app(load_settings(ours)) as operator:
        for name in ("hiding", "hiding_nothing"):
            await done(operator, "create_database", db_name=name)
    async with (
        open_app(load_settings(ours | {"db_name": "hiding"})) as full,
        open_app(load_settings(ours | {"db_name": "hiding_nothing"})) as empty,
    ):
        for app in (full, empty):
            await done(app, "create_collection", collection_name="docs", dimension=2)
            await done(app, "insert", collection_name="docs", data=[{"id": 1, "vector": [1, 0]}])
        await done(full, "create_collection", collection_name="secret", dimension=2)
        await done(full, "insert", collection_name="secret", data=[{"id": 1, "vector": [1, 0], "x": "SECRET"}])
        await done(full, "create_alias", collection_name="secret", alias="docs_alias")
        await done(full, "create_alias", collection_name="secret", alias="other")
        await done(full, "create_partition", collection_name="secret", partition_name="part")
        yield full, empty


@pytest.fixture(scope="module")
async def hiding(lite_dir: Path) -> AsyncGenerator[tuple[App, App]]:
    async with hiding_databases(data_dir=lite_dir, files_dir=str(lite_dir)) as both:
        yield both


def aimed(name: str, value: Any) -> Any:
    """The arguments of a call, about the collection or alias of this name."""
    if isinstance(value, dict):
        return {
            key: name if key.endswith("collection_name") or key == "alias" else aimed(name, each)
            for key, each in value.items()
        }
    return value


OFFERED = [tool.name for tool in TOOLS if tool.toolset != "access"]
EACH = {"list_dropped": {}, "restore_collection": {"id": "x"}, "purge_dropped": {"id": "x"}} | CALLS
SERVERS_OWN = {"create_database", "drop_database", "alter_database"}


async def is_as_absent(hiding: tuple[App, App], name: str) -> None:
    """Every tool tells of this name the same in both databases, and nothing has happened to what is hidden."""
    taken = {"create_collection", "create_alias", "restore_snapshot"}  # the name alone is told to be taken
    policy = hiding[0].seen_by(DOCS).policy
    offered = [tool.name for tool in TOOLS if policy.permits(tool) and tool.name not in SERVERS_OWN]
    for tool in [each for each in offered if name != "docs_alias" or each not in taken]:
        arguments = aimed(name, EACH[tool])
        answers = [json.dumps(await told(app, DOCS, tool, **arguments), sort_keys=True) for app in hiding]
        full, empty = (re.sub(r"hiding(_nothing)?", "DATABASE", answer) for answer in answers)
        assert full == empty, tool
        assert "SECRET" not in full
    there = await done(hiding[0], "query", collection_name="secret")
    assert [each["x"] for each in there["entities"]] == ["SECRET"]
    assert len((await done(hiding[0], "list_aliases"))["aliases"]) == 2


@pytest.mark.parametrize("name", ["secret", "docs_alias", "other", "nothing"])
async def test_a_collection_out_of_reach_is_as_one_that_is_not_there(hiding: tuple[App, App], name: str) -> None:
    await is_as_absent(hiding, name)


async def test_only_names_that_fit_can_be_created(hiding: tuple[App, App]) -> None:
    app, _ = hiding
    for tool, arguments in (
        ("create_collection", {"collection_name": "mine", "dimension": 2}),
        ("create_alias", {"collection_name": "docs", "alias": "mine"}),
        ("alter_collection", {"collection_name": "docs", "new_name": "mine"}),
        ("create_collection", {"collection_name": "docs_alias", "dimension": 2}),
        ("alter_collection", {"collection_name": "docs", "new_name": "docs_alias"}),
        ("alter_alias", {"collection_name": "docs", "alias": "docs_alias"}),
    ):
        refused = await told(app, DOCS, tool, **arguments)
        assert refused["code"] in {"denied", "not_found"}, (tool, refused)
        assert "secret" not in json.dumps(refused)
    aliases = (await done(app, "list_aliases"))["aliases"]
    assert {each["collection_name"] for each in aliases} == {"secret"}


async def test_what_fits_is_created_used_renamed_and_dropped(hiding: tuple[App, App]) -> None:
    app, _ = hiding
    named = {"collection_name": "docs_new"}
    for tool, arguments in (
        ("create_collection", named | {"dimension": 2}),
        ("insert", named | {"data": [{"id": 1, "vector": [1, 0]}]}),
        ("create_alias", named | {"alias": "docs_too"}),
        ("count", {"collection_name": "docs_too"}),
        ("drop_index", named | {"index_name": "nothing"}),
        ("drop_alias", {"alias": "docs_too"}),
        ("alter_collection", named | {"new_name": "docs_newer"}),
        ("load_collection", {"collection_name": "docs_newer"}),
        ("flush", {"collection_name": "docs_newer"}),
        ("drop_collection", {"collection_name": "docs_newer"}),
    ):
        answer = await told(app, DOCS, tool, **arguments)
        assert ("code" in answer) == (tool == "drop_index"), (tool, answer)


async def test_an_alias_is_judged_by_its_collection_at_each_call(hiding: tuple[App, App]) -> None:
    app, _ = hiding
    named = {"collection_name": "docs_now"}
    await done(app, "create_alias", collection_name="docs", alias="docs_now")
    assert (await told(app, DOCS, "count", **named))["count"] == 1
    await done(app, "alter_alias", collection_name="secret", alias="docs_now")
    assert (await told(app, DOCS, "count", **named))["code"] == "not_found"
    await done(app, "drop_alias", alias="docs_now")


async def test_a_database_out_of_reach_is_as_one_that_is_not_there(hiding: tuple[App, App]) -> None:
    app, _ = hiding
    caller = Caller("own", scopes=ADMIN, databases=("hiding",))
    elsewhere = {*SERVERS_OWN, "list_databases", "server_info", "list_restore_snapshot_jobs"}
    for tool in [each for each in OFFERED if each not in elsewhere]:
        answers = [
            json.dumps(await told(app, caller, tool, **EACH[tool] | {"db_name": name}), sort_keys=True)
            for name in ("hiding_nothing", "not_there_at_all")
        ]
        assert answers[0].replace("hiding_nothing", "X") == answers[1].replace("not_there_at_all", "X"), tool
    assert (await told(app, caller, "list_databases"))["databases"] == ["hiding"]
    assert (await told(app, caller, "create_database", db_name="more"))["code"] == "denied"
    assert (await told(app, caller, "drop_database", db_name="hiding_nothing"))["code"] == "not_found"


async def test_what_is_in_the_trash_is_there_for_nobody_who_does_not_ask_for_it(hiding: tuple[App, App]) -> None:
    app, _ = hiding
    await done(app.with_trash(), "create_collection", collection_name=TRASH, dimension=2)
    for tool in ("describe_collection", "drop_collection", "search", "load_collection"):
        assert (await told(app, LOCAL, tool, **aimed(TRASH, EACH[tool])))["code"] == "not_found", tool
    assert (await told(app, LOCAL, "create_collection", collection_name=TRASH, dimension=2))["code"] == "denied"
    listed = [each["name"] for each in (await done(app, "list_collections"))["collections"]]
    assert sorted(listed) == ["docs", "secret"]
    assert (await app.with_trash().schemas.get("hiding", TRASH)).name == TRASH
    async with app.with_trash().clients.client("hiding") as client:
        await client.drop_collection(TRASH)


@pytest.mark.parametrize("limit", [{"collections": "docs_*"}, {"mask_fields": "docs_bin.ssn"}])
async def test_what_patterns_limit_is_dropped_and_restored(lite_dir: Path, limit: dict[str, str]) -> None:
    async with agent(data_dir=lite_dir, undo=True, **limit) as each:
        named = {"collection_name": "docs_bin"}
        await each.call("create_collection", **named, dimension=2)
        await each.call("insert", **named, data=[{"id": 1, "vector": [1, 0], "ssn": "s1"}])
        dropped = await each.call("drop_collection", **named)
        assert (await each.refused("count", **named))["code"] == "not_found"
        await each.call("restore_collection", id=dropped["kept_as"])
        assert (await each.call("count", **named))["count"] == 1
        async with each.app.clients.client("") as client:
            await client.drop_collection("docs_bin")


async def test_an_alias_that_leads_into_the_trash_leads_nowhere(wire: Wire, lite_dir: Path) -> None:
    async with agent(data_dir=lite_dir, toolsets="all") as each:
        await each.call("create_collection", collection_name="soon_gone", dimension=2)
        await each.call("create_alias", collection_name="soon_gone", alias="left")
        async with each.app.with_trash().clients.client("") as client:
            await client.rename("soon_gone", TRASH)  # and then a crash
        each.app.schemas.forget("default", "soon_gone")
        for tool in ("query", "search", "insert", "upsert", "delete", "describe_collection", "drop_collection"):
            wire.sent.clear()
            assert (await each.refused(tool, **aimed("left", EACH[tool])))["code"] == "not_found", tool
            assert wire.sent.keys().isdisjoint({"Query", "Search", "Insert", "Upsert", "Delete"}), tool
        assert (await each.refused("drop_alias", alias="left"))["code"] == "not_found"
        assert "left" not in str(await each.call("list_aliases"))
        async with each.app.with_trash().clients.client("") as client:
            assert await client.alias_target("left") == TRASH
            await client.drop_alias("left")
            await client.drop_collection(TRASH)


# Costs


async def test_the_guard_asks_only_for_whom_it_must(wire: Wire, lite_dir: Path) -> None:
    """Partitions, by which indexes are told, are looked at once a second, whoever calls."""
    async with agent(data_dir=lite_dir) as each:
        await each.call("create_collection", collection_name="costs", dimension=2)
        await each.call("insert", collection_name="costs", data=[{"id": 1, "vector": [1, 0], "tenant": "a"}])
        arguments: dict[str, Any] = {"collection_name": "costs", "vector": [1, 0], "filter": "id > 0"}
        counted: list[dict[str, int]] = []
        for caller in (LOCAL, LOCAL, A, Caller("c", scopes=ADMIN, collections=("costs",))):
            wire.sent.clear()
            assert len((await told(each.app, caller, "search", **arguments))["hits"]) == 1
            counted.append({name: count for name, count in wire.sent.items() if name != "ShowPartitions"})
    assert counted[0] == counted[1]
    for more in counted[2:]:
        assert more == counted[0] | {"DescribeCollection": 1}


# Masked fields


@pytest.fixture(scope="module")
async def masked(lite_dir: Path) -> AsyncGenerator[Agent]:
    """`people`, whose field `ssn`, and whose dynamic `pin`, are masked."""
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "ssn", "type": "VARCHAR", "max_length": 100, "enable_analyzer": True, "enable_match": True},
        {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    by_words = {"name": "words", "type": "BM25", "input_field_names": ["ssn"], "output_field_names": ["sparse"]}
    async with agent(data_dir=lite_dir, mask_fields="people.ssn, pin", toolsets="all") as each:
        await each.call(
            "create_collection",
            collection_name="people",
            fields=fields,
            functions=[by_words],
            enable_dynamic_field=True,
        )
        await each.call("create_collection", collection_name="pinned", fields=[fields[0] | {"name": "pin"}, fields[3]])
        await each.call(
            "insert",
            collection_name="people",
            data=[{"id": number, "ssn": f"SSN{number}", "pin": 77, "x": 1, "vector": [1, 0]} for number in (1, 2)],
        )
        yield each


async def test_a_masked_value_is_never_shown(masked: Agent) -> None:
    named = {"collection_name": "people"}
    for tool, arguments in (
        ("query", {}),
        ("query", {"output_fields": ["*"]}),
        ("query", {"output_fields": ["$meta"]}),
        ("query", {"order_by": ["x"]}),
        ("get", {"ids": [1]}),
        ("search", {"vector": [1, 0]}),
        ("search", {"vector": [1, 0], "output_fields": ["*"], "exact": True}),
        ("hybrid_search", {"legs": [{"vector": [1, 0]}, {"vector": [0, 1]}]}),
        ("describe_collection", {}),
    ):
        answer = json.dumps(await masked.call(tool, **named, **arguments))
        assert "SSN" not in answer, tool
        assert "77" not in answer, tool


def ranked(fields: Any = None, **params: Any) -> dict[str, Any]:
    """The arguments of a hybrid search whose ranking a function makes."""
    function = {"input_field_names": fields or [], "params": {"reranker": "boost", "weight": 9} | params}
    return {"legs": [{"vector": [1, 0]}, {"vector": [0, 1]}], "ranker": "function", "function": function}


async def test_a_masked_value_decides_nothing(masked: Agent) -> None:
    named = {"collection_name": "people"}
    for tool, arguments in (
        *(("query", {"filter": text}) for text in ('ssn like "S%"', "pin == 77", '$meta["pin"] == 77', "exists pin")),
        ("count", {"filter": 'text_match(ssn, "SSN1")'}),
        ("delete", {"filter": 'ssn == "SSN1"'}),
        ("search", {"vector": [1, 0], "filter": "pin > 1"}),
        ("search", {"vector": [1, 0], "group_by_field": "ssn"}),
        ("search", {"text": "SSN1", "mode": "bm25"}),
        ("hybrid_search", {"legs": [{"vector": [1, 0], "filter": "pin > 1"}]}),
        ("query", {"output_fields": ["ssn"]}),
        ("query", {"output_fields": ["pin"]}),
        ("query", {"order_by": ["ssn"]}),
        ("query", {"order_by": ["pin"]}),
        ("aggregate", {"aggregates": ["max(ssn)"]}),
        ("aggregate", {"group_by": ["ssn"]}),
        ("aggregate", {"group_by": ["pin"]}),
        ("alter_collection", {"new_name": "persons"}),
        *(
            ("hybrid_search", ranked(**boost))
            for boost in ({"filter": "pin == 77"}, {"random_score": {"field": "ssn"}})
        ),
        ("hybrid_search", ranked(filter='not (ssn like "S%")')),
        ("hybrid_search", ranked(["pin"], reranker="decay", function="gauss", origin=1, scale=2)),
    ):
        refused = await masked.refused(tool, **named, **arguments)
        assert refused["code"] == "denied", (tool, arguments, refused)
        assert "mask" in refused["message"]
    refused = await masked.refused("query", collection_name="pinned")
    assert (refused["code"], "primary key" in refused["message"]) == ("denied", True)


async def test_what_is_not_masked_ranks_hits(masked: Agent) -> None:
    found = await masked.call("hybrid_search", collection_name="people", **ranked(filter="x in [1]"))
    assert len(found["hits"]) == 2


async def test_a_new_name_unmasks_nothing(lite_dir: Path) -> None:
    async with agent(data_dir=lite_dir, mask_fields="veiled*.ssn") as each:
        await each.call("create_collection", collection_name="veiled", dimension=2)
        await each.call("insert", collection_name="veiled", data=[{"id": 1, "vector": [1, 0], "ssn": "s1"}])
        assert (await each.refused("alter_collection", collection_name="veiled", new_name="bare"))["code"] == "denied"
        await each.call("alter_collection", collection_name="veiled", new_name="veiled_too")
        assert "ssn" not in (await each.found("veiled_too", output_fields=["*"]))[0]


@pytest.mark.parametrize(
    ("masks", "new", "expected"),
    [
        (("people.ssn",), "people2", True),
        (("people.ssn",), "people", False),
        (("people*.ssn",), "people2", False),
        (("people*.ssn", "people.x"), "people2", True),
        (("ssn", "others.ssn"), "people2", False),
        (("*.ssn",), "people2", False),
    ],
)
def test_a_name_unmasks_what_only_the_old_one_masked(masks: tuple[str, ...], new: str, expected: bool) -> None:  # noqa: FBT001
    assert Reach(masked_fields=masks).would_unmask("people", new) is expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("not (a in [1]) AND b is NOT NULL or exists c", {"a", "b", "c"}),
        ('text_match(a, "in") && b like "x" || c == TRUE', {"a", "b", "c"}),
        ('$meta["in"] == 1 and In == 2', {"$meta", "in", "In"}),
        ("", set[str]()),
    ],
)
def test_the_names_in_a_filter_are_those_of_fields(text: str, names: set[str]) -> None:
    assert names_in(understood(text)) == names


@pytest.mark.parametrize("number", ["010", "00", "-07", "01.5", "0x10", "0b1", "1.", ".5"])
def test_numbers_that_backends_read_in_several_ways_are_not_understood(number: str) -> None:
    with pytest.raises(InvalidFilter):
        equalities(f"t == {number}")


# Functions


MODEL = {"reranker": "model", "provider": "tei", "queries": ["x"]}


@pytest.mark.parametrize(
    "params",
    [
        MODEL | {"endpoint": "http://169.254.169.254/"},
        MODEL,
        {"reranker": "rrf", "Endpoint": "http://h/"},
        {"reranker": "rrf", "RERANKER": "model"},
        {"reranker": "rrf", "provider": "tei"},
        {"endpoint": "http://h/"},
    ],
)
async def test_no_ranker_has_milvus_call_out(params: dict[str, Any]) -> None:
    async with fake_milvus("2.6.9") as fake, agent(uri=fake.uri) as each:
        arguments = ranked() | {"function": {"input_field_names": ["title"], "params": params}}
        refused = await each.refused("hybrid_search", collection_name="docs", **arguments)
        assert (refused["code"], "boost, decay, rrf, weighted" in refused["hint"]) == ("denied", True)
        assert not fake.requests("HybridSearch")


@pytest.mark.parametrize("key", ["url", "Endpoint", "resource_name"])
async def test_no_function_of_a_collection_says_where_its_model_is(key: str) -> None:
    function = {"name": "embed", "type": "TEXTEMBEDDING", "input_field_names": ["title"]}
    function |= {"output_field_names": ["vector"], "params": {"provider": "tei", key: "http://169.254.169.254/"}}
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "title", "type": "VARCHAR", "max_length": 9},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    async with fake_milvus("2.6.9") as fake, agent(uri=fake.uri) as each:
        refused = await each.refused("alter_collection", collection_name="docs", add_function=function)
        assert (refused["code"], key.lower() in refused["message"]) == ("denied", True), refused
        fake.answers["DescribeCollection"] = milvus_pb2.DescribeCollectionResponse(status=common_pb2.Status(code=100))
        refused = await each.refused("create_collection", collection_name="new", fields=fields, functions=[function])
        assert (refused["code"], key.lower() in refused["message"]) == ("denied", True), refused
        assert not [name for name, _ in fake.received if name in {"AddCollectionFunction", "CreateCollection"}]


async def test_a_masked_field_groups_nothing_in_a_hybrid_search() -> None:
    async with fake_milvus("2.6.9") as fake, agent(uri=fake.uri, mask_fields="title") as each:
        legs = [{"vector": [1, 0]}, {"vector": [0, 1]}]
        refused = await each.refused("hybrid_search", collection_name="docs", legs=legs, group_by_field="title")
        assert refused["code"] == "denied", refused
        assert not fake.requests("HybridSearch")


async def test_a_tenant_ranks_by_no_filter(lite_dir: Path) -> None:
    async with agent(data_dir=lite_dir) as each:
        await each.call("create_collection", collection_name="shared", dimension=2)
        await each.call("insert", collection_name="shared", data=[{"id": 1, "vector": [1, 0], "tenant": "a"}])
        refused = await told(each.app, A, "hybrid_search", collection_name="shared", **ranked(filter="id > 0"))
        assert (refused["code"], "boost" in refused["message"]) == ("denied", True)
        by_rank = ranked(reranker="rrf", weight=None)
        by_rank["function"]["params"] = {"reranker": "rrf"}
        assert len((await told(each.app, A, "hybrid_search", collection_name="shared", **by_rank))["hits"]) == 1


# Confirmation


async def test_who_may_not_read_is_told_nothing_of_what_would_be_lost(lite_dir: Path) -> None:
    async with agent(data_dir=lite_dir, confirm="token") as each:
        named = {"collection_name": "unread"}
        await each.call("create_collection", **named, dimension=2)
        await each.call("insert", **named, data=[{"id": 41, "vector": [1, 0], "x": "SECRET"}])
        writer = Caller("w", scopes=frozenset({Scope.WRITE}))
        asked = await told(each.app, writer, "delete", **named, filter='x like "S%"')
        assert asked["code"] == "confirmation_required"
        assert asked.keys().isdisjoint({"sample", "entity_count", "bytes"})
        assert "1 entity" not in json.dumps(asked)
        done = await told(each.app, writer, "delete", **named, filter='x like "S%"', confirm=asked["confirm"])
        assert done["delete_count"] == 1


# Accounts


async def test_each_account_has_connections_of_its_own(lite_server: Any) -> None:
    settings = load_settings(UNATTENDED | {"uri": lite_server.uri, "milvus_identity": "caller"})
    async with open_app(settings) as app:
        clients: list[AsyncMilvusClient] = []
        for name, secret in (("first", "x"), ("again", "x"), ("second", "y")):
            caller = Caller(name, scopes=ADMIN, credentials=SecretStr(secret))
            async with app.seen_by(caller).clients.client("") as client:
                clients.append(client)
                assert client._config.token == secret
        assert clients[0]._handler is clients[1]._handler is not clients[2]._handler
        refused = await told(app, LOCAL, "list_collections")
        assert refused["code"] == "denied"
        async with Client(build_server(app, TOOLS)) as client:
            result = await client.call_tool("list_collections", {})
        assert result.is_error


async def test_of_too_many_accounts_the_unused_are_let_go(lite_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_server_milvus.milvus.identities.MOST", 2)
    settings = load_settings(UNATTENDED | {"uri": lite_server.uri, "milvus_identity": "caller"})
    callers = [Caller(str(number), scopes=ADMIN, credentials=SecretStr(str(number))) for number in range(4)]
    async with open_app(settings) as app:
        held = app.seen_by(callers[0])
        async with held.clients.client("") as busy:
            for caller in callers[1:]:
                assert "code" not in await told(app, caller, "list_collections")
            assert await busy.list_collections() == []
        assert "code" not in await told(app, callers[1], "list_collections")
        assert "code" not in await told(app, callers[0], "list_collections")
        async with held.clients.client("") as client:  # of a pool that may have been let go
            assert await client.list_collections() == []


# Milvus servers that cannot be run here


async def test_who_does_not_see_every_field_sends_nothing_that_is_not_judged() -> None:
    async with fake_milvus("3.0.0") as fake, agent(uri=fake.uri, mask_fields="ssn", toolsets="all") as each:
        async with each.app.clients.seen_by(each.app.policy.reach).client("") as client:
            stub, metadata = await client.stub()
            with pytest.raises(grpc.aio.AioRpcError, match="ListFileResources"):
                await stub.ListFileResources(milvus_pb2.ListFileResourcesRequest(), metadata=metadata)
            await stub.ListCredUsers(milvus_pb2.ListCredUsersRequest(), metadata=metadata)
        assert not fake.requests("ListFileResources")


async def test_a_server_with_other_rpcs_gets_none_that_is_not_judged() -> None:
    async with fake_milvus("3.0.0") as fake, open_app(load_settings(UNATTENDED | {"uri": fake.uri})) as app:
        caller = Caller("docs", scopes=ADMIN, collections=("docs*",))
        for tool in ("list_users", "list_resource_groups", "flush"):
            if app.seen_by(caller).policy.permits(next(each for each in TOOLS if each.name == tool)):
                assert (await told(app, caller, tool))["code"] == "denied", tool
        async with app.seen_by(caller).clients.client("") as client:
            stub, metadata = await client.stub()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ListFileResources(milvus_pb2.ListFileResourcesRequest(), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert not fake.requests("ListFileResources")
