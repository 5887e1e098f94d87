"""Which tools the operator's choice makes visible and callable."""

import pytest
from mcp.client import Client

from mcp_server_milvus.app import open_app
from mcp_server_milvus.policy import offered
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import SettingsError, load_settings
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Toolset

pytestmark = pytest.mark.anyio

NAMES = [tool.name for tool in TOOLS]


def names_of(*toolsets: Toolset) -> list[str]:
    return [tool.name for tool in TOOLS if tool.toolset in toolsets]


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


async def test_what_is_not_offered_is_neither_listed_nor_callable() -> None:
    tools = offered(TOOLS, "search,data")
    settings = load_settings({"files_dir": "."})
    async with open_app(settings) as app, Client(build_server(app, tools)) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {tool.name for tool in tools}
        result = await client.call_tool("drop_collection", {"collection_name": "docs"})
    assert result.is_error
    assert result.structured_content is not None
    assert result.structured_content["code"] == "invalid_argument"
