"""Accounts: Milvus Lite has none. Names and passwords are checked first, and passwords are never repeated."""

import logging
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.sse import sse_client

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import TOOLS
from tests.agent import Agent, served

pytestmark = pytest.mark.anyio

SECRET = "a-secret-4711"
TOOL = {tool.name: tool for tool in TOOLS}
CREATE, UPDATE = TOOL["create_user"], TOOL["update_password"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("list_users", {}),
        ("create_user", {"user_name": "alice", "password": SECRET}),
        ("update_password", {"user_name": "alice", "old_password": SECRET, "new_password": SECRET}),
        ("drop_user", {"user_name": "alice"}),
        ("list_roles", {}),
        ("describe_role", {"role_name": "reader"}),
        ("create_role", {"role_name": "reader"}),
        ("drop_role", {"role_name": "reader"}),
        ("grant_role", {"user_name": "alice", "role_name": "reader"}),
        ("revoke_role", {"user_name": "alice", "role_name": "reader"}),
        ("list_privileges", {}),
        ("grant_privilege", {"role_name": "reader", "privilege": "Search", "db_name": "*"}),
        ("revoke_privilege", {"role_name": "reader", "privilege": "Search"}),
        ("create_privilege_group", {"group_name": "g"}),
        ("alter_privilege_group", {"group_name": "g", "remove": ["Search"]}),
        ("drop_privilege_group", {"group_name": "g"}),
    ],
)
async def test_milvus_lite_has_no_accounts(
    agent: Agent, tool: str, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    error = await agent.fails(tool, **arguments)
    assert error["code"] == "not_supported"
    assert "Milvus Lite 3." in error["message"]
    assert error["hint"]
    assert SECRET not in f"{error}{caplog.text}"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (CREATE, {"password": "short"}),
        (CREATE, {"password": "ä" * 37}),
        (CREATE, {"password": 47_114_711}),
        (CREATE, {"password": [SECRET]}),
        (CREATE, {"password": {"value": SECRET}}),
        (CREATE, {"password": None}),
        (CREATE, {"password": f"\ud800{SECRET}"}),
        (CREATE, {"passwort": SECRET}),
        (CREATE, {"password": SECRET, "user_name": "no name"}),
        (UPDATE, {"old_password": [SECRET], "new_password": SECRET}),
        (UPDATE, {"old_password": f"{SECRET}\udfff", "new_password": SECRET}),
        (UPDATE, {"old_password": SECRET, "new_password": "short"}),
        (UPDATE, {"old_password": SECRET, "new_password": 47_114_711}),
    ],
)
async def test_a_password_that_is_refused_is_not_repeated(
    agent: Agent, tool: Tool[Any, Any], arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    error = await agent.fails(tool.name, **({"user_name": "alice"} | arguments))
    assert error["code"] == "invalid_argument"
    told = f"{error}{caplog.text}"
    assert not [word for word in (SECRET, "47114711", "short", "ää") if word in told]


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_no_transport_logs_a_password(tmp_path: Path, transport: str) -> None:
    log = tmp_path / "log"
    settings = ["--log-level", "DEBUG", "--toolsets", "all", "--data-dir", str(tmp_path / "data")]
    async with served(transport, *settings, log=log) as url:
        where = f"{url}/mcp" if transport == "http" else sse_client(f"{url}/sse")
        async with Client(where) as client:
            assert (await client.call_tool("create_user", {"user_name": "ann", "password": SECRET})).is_error
    assert "create_user not_supported" in log.read_text()
    assert SECRET not in log.read_text()


def test_a_password_is_a_secret_in_the_schema_and_in_every_representation() -> None:
    args = UPDATE.parse({"user_name": "alice", "old_password": SECRET, "new_password": SECRET})
    assert SECRET not in f"{args!r} {args} {args.model_dump()} {args.model_dump_json()}"
    for name in ("old_password", "new_password"):
        assert UPDATE.input_schema["properties"][name] == {"type": "string", "format": "password", "writeOnly": True}


@pytest.mark.parametrize("name", ["", "1st", "_a", "a-b", "a b", "a/b", "ä", "a" * 33])
def test_a_name_that_no_user_has_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="user_name"):
        TOOL["drop_user"].parse({"user_name": name})


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a/b", "*", "a" * 256])
def test_a_name_that_no_role_has_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="role_name"):
        TOOL["drop_role"].parse({"role_name": name})


@pytest.mark.parametrize("argument", ["privilege", "collection_name", "db_name"])
def test_what_a_privilege_is_about_is_a_name_or_all(argument: str) -> None:
    arguments = {"role_name": "reader$", "privilege": "Search"}
    for accepted in ("*", "docs_2"):
        TOOL["grant_privilege"].parse(arguments | {argument: accepted})
    for refused in ("**", "a-b", "../x", ""):
        with pytest.raises(InvalidArgument, match=argument):
            TOOL["grant_privilege"].parse(arguments | {argument: refused})
