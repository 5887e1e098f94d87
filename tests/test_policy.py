"""Which tools the operator's choice makes visible and callable."""

from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client

from mcp_server_milvus.app import open_app
from mcp_server_milvus.calls import not_offered
from mcp_server_milvus.policy import LOCAL, NOBODY, Caller, Policy, offered
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import SettingsError, load_settings
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Effect, Scope, Toolset

pytestmark = pytest.mark.anyio

NAMES = [tool.name for tool in TOOLS]


def names_of(*toolsets: Toolset) -> list[str]:
    return [tool.name for tool in TOOLS if tool.toolset in toolsets]


def of_nobodys_account(names: list[str]) -> list[str]:
    """Those that are not about the accounts of Milvus."""
    return [name for name in names if name not in names_of(Toolset.ACCESS)]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("search,data,schema", names_of(Toolset.SEARCH, Toolset.DATA, Toolset.SCHEMA)),
        ("", names_of(Toolset.SEARCH, Toolset.DATA, Toolset.SCHEMA)),
        ("all", NAMES),
        (" data , search ", names_of(Toolset.SEARCH, Toolset.DATA)),
        ("+server_info", [*names_of(Toolset.SEARCH, Toolset.DATA, Toolset.SCHEMA), "server_info"]),
        ("all,-delete", [name for name in NAMES if name != "delete"]),
        ("data,+search,-delete", ["search", *(name for name in names_of(Toolset.DATA) if name != "delete")]),
        ("data,-search,+search", names_of(Toolset.DATA)),
    ],
)
def test_toolsets_and_single_tools_are_switched_on_and_off(choice: str, names: list[str]) -> None:
    assert sorted(tool.name for tool in offered(TOOLS, choice)) == sorted(names)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("serch", "'serch' is no toolset (did you mean search?)"),
        ("+droop_collection", "there is no tool 'droop_collection' (did you mean drop_collection?)"),
        ("-", "there is no tool ''"),
        ("delete", "single tools are written +TOOL and -TOOL"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(choice: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        offered(TOOLS, choice)
    assert said in str(refused.value)


READ_TOOLS = [tool.name for tool in TOOLS if tool.effect is Effect.READ]


@pytest.mark.parametrize(
    ("settings", "caller", "names"),
    [
        ({"read_only": True}, LOCAL, READ_TOOLS),
        ({"no_drop": True}, LOCAL, [tool.name for tool in TOOLS if tool.effect is not Effect.DELETE]),
        ({}, Caller("r", scopes=frozenset({Scope.READ})), of_nobodys_account(READ_TOOLS)),
        ({}, Caller("n", scopes=frozenset()), []),
        ({"read_only": True}, Caller("a", scopes=frozenset({Scope.ADMIN})), READ_TOOLS),
        (
            {"collections": "docs*"},
            LOCAL,
            of_nobodys_account(NAMES),
        ),
        (
            {},
            Caller("w", scopes=frozenset({Scope.READ, Scope.WRITE})),
            of_nobodys_account(
                [
                    *READ_TOOLS,
                    *names_of(Toolset.DATA),
                    *(
                        tool.name
                        for tool in TOOLS
                        if tool.toolset is Toolset.SCHEMA and tool.effect in {Effect.CREATE, Effect.MODIFY}
                    ),
                ]
            ),
        ),
    ],
)
async def test_what_a_caller_may_not_do_is_neither_listed_nor_callable(
    settings: dict[str, Any], caller: Caller, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_milvus.server.current_caller", lambda **_: caller)
    chosen = load_settings({"files_dir": str(tmp_path), "data_dir": str(tmp_path)} | settings)
    async with open_app(chosen) as app, Client(build_server(app, TOOLS)) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == set(names)
        for name in set(NAMES) - set(names):
            result = await client.call_tool(name, {})
            assert result.is_error
            assert result.structured_content is not None
            assert f"there is no tool '{name}'" in result.structured_content["message"]


async def test_what_is_not_offered_is_neither_listed_nor_callable() -> None:
    tools = offered(TOOLS, "search,data")
    settings = load_settings({"files_dir": "."})
    async with open_app(settings) as app, Client(build_server(app, tools)) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {tool.name for tool in tools}
        result = await client.call_tool("drop_collection", {"collection_name": "docs"})
    assert result.is_error
    assert result.structured_content is not None
    assert result.structured_content["code"] == "invalid_argument"


def test_what_a_setting_lacks_is_told_to_whom_it_would_help() -> None:
    for settings, caller, code in (
        ({}, LOCAL, "denied"),
        ({"read_only": True}, LOCAL, "invalid_argument"),
        ({}, NOBODY, "invalid_argument"),
        ({}, Caller("r", scopes=frozenset({Scope.READ})), "invalid_argument"),
    ):
        assert not_offered("import_file", Policy(load_settings(settings), caller), TOOLS).as_dict()["code"] == code
