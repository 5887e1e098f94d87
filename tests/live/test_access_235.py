"""Users, roles and privileges on the real Milvus 2.3.5 with accounts."""

import itertools
import logging
from collections.abc import AsyncIterator

import anyio
import grpc
import pytest
from pymilvus import AsyncMilvusClient, DataType, MilvusException
from pymilvus.grpc_gen import common_pb2

from tests.agent import Agent, agent_on

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live with servers of their own")]

NUMBERS = itertools.count(1)
PASSWORD, BETTER = "first-pass-9431", "better-pass-5178"


@pytest.fixture(scope="module")
async def root(milvus_235_with_accounts: str) -> AsyncIterator[Agent]:
    async with agent_on(milvus_235_with_accounts, token="root:Milvus") as agent:
        yield agent


@pytest.fixture
async def guarded(root: Agent, milvus_235_with_accounts: str) -> AsyncIterator[str]:
    """A collection that is not loaded, which takes seconds."""
    async with AsyncMilvusClient(milvus_235_with_accounts, token="root:Milvus") as client:
        schema = client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
        await client.create_collection("guarded", schema=schema)
    yield "guarded"
    await root.call("drop_collection", collection_name="guarded")


@pytest.fixture
def user() -> str:
    return f"user_{next(NUMBERS)}"


@pytest.fixture
async def role(root: Agent) -> str:
    name = f"role_{next(NUMBERS)}"
    await root.call("create_role", role_name=name)
    return name


async def users(root: Agent) -> dict[str, list[str]]:
    return {each["user_name"]: each["roles"] for each in (await root.call("list_users"))["users"]}


async def grants(root: Agent, role: str) -> set[tuple[str, str, str, str]]:
    found = (await root.call("describe_role", role_name=role))["privileges"]
    return {(each["privilege"], each["object_type"], each["object_name"], each["db_name"]) for each in found}


async def counts(uri: str, user: str, collection: str) -> bool:
    """Whether the user may count a collection's entities."""
    async with AsyncMilvusClient(uri, user=user, password=PASSWORD, timeout=5, dedicated=True) as client:
        try:
            await client.get_collection_stats(collection)
        except grpc.RpcError:
            return False
        return True


async def test_a_role_allows_its_users_what_it_was_granted_until_that_is_revoked(
    root: Agent, milvus_235_with_accounts: str, guarded: str, user: str, role: str
) -> None:
    assert await root.call("create_user", user_name=user, password=PASSWORD) == {"created": True}
    assert not await counts(milvus_235_with_accounts, user, guarded)
    granted = {"role_name": role, "privilege": "GetStatistics", "collection_name": guarded}
    await root.call("grant_privilege", **granted)
    await root.call("grant_role", user_name=user, role_name=role)
    assert (await users(root))[user] == [role]
    assert await grants(root, role) == {("GetStatistics", "Collection", guarded, "default")}
    with anyio.fail_after(20):
        while not await counts(milvus_235_with_accounts, user, guarded):
            await anyio.sleep(0.05)

    error = await root.fails("drop_role", role_name=role)
    assert (error["code"], "revoke_privilege" in error["hint"]) == ("conflict", True)
    await root.call("revoke_privilege", **granted)
    assert await grants(root, role) == set()
    await root.call("revoke_role", user_name=user, role_name=role)
    with anyio.fail_after(20):
        while await counts(milvus_235_with_accounts, user, guarded):
            await anyio.sleep(0.05)
    await root.call("drop_role", role_name=role)
    assert role not in (await root.call("list_roles"))["roles"]


async def test_the_privileges_that_are_listed_are_those_that_can_be_granted(root: Agent, role: str) -> None:
    listed = (await root.call("list_privileges"))["privileges"]
    for names in listed.values():
        for name in names:
            await root.call("grant_privilege", role_name=role, privilege=name)
    expected = {(name, kind, "*", "default") for kind, names in listed.items() for name in names}
    assert await grants(root, role) == expected

    every = {value.name.removeprefix("Privilege") for value in common_pb2.ObjectPrivilege.DESCRIPTOR.values}
    for name in every - {name for names in listed.values() for name in names}:
        error = await root.fails("grant_privilege", role_name=role, privilege=name, object_type="Global")
        assert (error["code"], "list_privileges" in error["hint"]) == ("invalid_argument", True)
        assert (await root.fails("grant_privilege", role_name=role, privilege=name))["code"] == "invalid_argument"


async def test_a_role_is_described_with_its_privileges_in_every_database(root: Agent, role: str) -> None:
    await root.call("create_database", db_name="elsewhere")
    await root.call("grant_privilege", role_name=role, privilege="Insert", collection_name="a", db_name="elsewhere")
    await root.call("grant_privilege", role_name=role, privilege="Search", collection_name="b")
    await root.call("grant_privilege", role_name=role, privilege="*", object_type="Collection", db_name="*")
    here, there = ("Search", "Collection", "b", "default"), ("Insert", "Collection", "a", "elsewhere")
    everywhere = ("*", "Collection", "*", "*")
    assert await grants(root, role) == {here, there, everywhere}
    only_there = await root.call("describe_role", role_name=role, db_name="elsewhere")
    assert {each["db_name"] for each in only_there["privileges"]} == {"elsewhere", "*"}
    for privilege, kind, name, db_name in (here, there, everywhere):
        await root.call(
            "revoke_privilege",
            role_name=role,
            privilege=privilege,
            object_type=kind,
            collection_name=name,
            db_name=db_name,
        )
    assert await grants(root, role) == set()
    await root.call("drop_database", db_name="elsewhere")


async def test_a_new_password_takes_the_place_of_the_old_one(
    root: Agent, milvus_235_with_accounts: str, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await root.call("create_user", user_name=user, password=PASSWORD)
    wrong = await root.fails("update_password", user_name=user, old_password=BETTER, new_password=PASSWORD)
    assert wrong["code"] == "denied"
    again = await root.fails("create_user", user_name=user, password=PASSWORD)
    assert again["code"] == "already_exists"
    assert await root.call("update_password", user_name=user, old_password=PASSWORD, new_password=BETTER) == {
        "done": True
    }
    async with AsyncMilvusClient(milvus_235_with_accounts, user=user, password=BETTER, dedicated=True) as client:
        await client.list_collections()  # is not refused
    with pytest.raises(MilvusException):
        await AsyncMilvusClient(milvus_235_with_accounts, user=user, password=PASSWORD, timeout=5).list_collections()
    assert not any(secret in f"{caplog.text}{wrong}{again}" for secret in (PASSWORD, BETTER))


async def test_a_user_who_is_dropped_is_gone_and_one_who_is_not_there_is_not_found(root: Agent, user: str) -> None:
    await root.call("create_user", user_name=user, password=PASSWORD)
    assert await root.call("drop_user", user_name=user) == {"dropped": True}
    assert user not in await users(root)
    for tool in ("drop_user", "list_users"):
        error = await root.fails(tool, user_name=user)
        assert (error["code"], error["message"]) == ("not_found", f"there is no user {user!r}")
    assert (await root.fails("grant_role", user_name=user, role_name="public"))["code"] == "not_found"


async def test_roles_that_are_not_there_are_not_found(root: Agent) -> None:
    for tool in ("describe_role", "drop_role"):
        assert (await root.fails(tool, role_name="nobodys"))["code"] == "not_found"
    error = await root.fails("grant_privilege", role_name="nobodys", privilege="Search")
    assert (error["code"], "list_roles" in error["hint"]) == ("not_found", True)
    assert (await root.fails("create_role", role_name="public"))["code"] == "already_exists"


async def test_the_account_of_this_server_keeps_its_password(root: Agent) -> None:
    changed = await root.fails("update_password", user_name="root", old_password="Milvus", new_password=BETTER)
    dropped = await root.fails("drop_user", user_name="root")
    assert changed["code"] == dropped["code"] == "conflict"
    assert "Milvus" not in changed["message"]
    assert "root" in await users(root)


async def test_an_account_without_rights_is_denied(root: Agent, milvus_235_with_accounts: str, user: str) -> None:
    await root.call("create_user", user_name=user, password=PASSWORD)
    async with agent_on(milvus_235_with_accounts, user=user, password=PASSWORD) as agent:
        for tool, arguments in (
            ("list_users", {}),
            ("create_user", {"user_name": "another", "password": PASSWORD}),
            ("drop_role", {"role_name": "public"}),
            ("flush", {"collection_name": "theirs"}),
        ):
            error = await agent.fails(tool, **arguments)
            assert (error["code"], PASSWORD in str(error)) == ("denied", False)
        info = await agent.call("server_info")
        assert info["healthy"] is True
        assert "databases" not in info
    assert "another" not in await users(root)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("create_privilege_group", {"group_name": "g"}, "privilege groups"),
        ("alter_privilege_group", {"group_name": "g", "add": ["Search"]}, "privilege groups"),
        ("drop_privilege_group", {"group_name": "g"}, "privilege groups"),
        ("create_user", {"user_name": "u", "password": PASSWORD, "description": "d"}, "descriptions"),
        ("create_role", {"role_name": "r", "description": "d"}, "descriptions"),
        ("drop_role", {"role_name": "public", "force_drop": True}, "that has privileges"),
    ],
)
async def test_what_2_3_lacks_is_refused_before_anything_is_done(
    root: Agent, tool: str, arguments: dict[str, object], said: str
) -> None:
    error = await root.fails(tool, **arguments)
    assert error["code"] == "not_supported"
    assert said in error["message"]
    assert "Milvus 2.3.5" in error["message"]
    assert "u" not in await users(root)
    assert "r" not in (await root.call("list_roles"))["roles"]


async def test_an_account_that_may_only_search_and_query_can_use_this_server(
    root: Agent, milvus_235_with_accounts: str, user: str, role: str
) -> None:
    named = {"collection_name": "searched"}
    await root.call("create_collection", **named, dimension=2)
    await root.call("insert", **named, data=[{"id": 1, "vector": [1, 0]}])
    await root.call("create_user", user_name=user, password=PASSWORD)
    await root.call("grant_role", user_name=user, role_name=role)
    for privilege in ("Search", "Query"):
        await root.call("grant_privilege", role_name=role, privilege=privilege, **named)
    async with agent_on(milvus_235_with_accounts, user=user, password=PASSWORD) as reader:
        with anyio.fail_after(30):
            while (await reader.client.call_tool("count", named)).is_error:
                await anyio.sleep(0.2)  # a grant takes its time
        assert await reader.call("count", **named) == {"count": 1}
        assert [hit["id"] for hit in (await reader.call("search", **named, vector=[1, 0]))["hits"]] == [1]
        assert [entity["id"] for entity in (await reader.call("query", **named))["entities"]] == [1]
        assert (await reader.call("describe_collection", **named))["entity_count"] == 1
        assert "searched" in [line["name"] for line in (await reader.call("list_collections"))["collections"]]
        error = await reader.fails("insert", **named, data=[{"id": 2, "vector": [1, 0]}])
        assert error["code"] == "denied"
    await root.call("drop_collection", **named)


async def test_a_privilege_that_no_collection_can_narrow_is_not_granted_for_one(root: Agent, role: str) -> None:
    asked = {"role_name": role, "privilege": "CreateCollection"}
    error = await root.fails("grant_privilege", **asked, collection_name="searched")
    assert error["code"] == "invalid_argument"
    assert "collection_name" in error["hint"]
    assert await grants(root, role) == set()
    await root.call("grant_privilege", **asked)
    assert {grant[0] for grant in await grants(root, role)} == {"CreateCollection"}
