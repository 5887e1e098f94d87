"""Arguments: strict for every tool, so that a mistake is told and not guessed at. Databases: named in the call."""

from typing import Any

import pytest
from pymilvus import MilvusClient

from mcp_server_milvus.policy import offered
from mcp_server_milvus.tools import TOOLS
from tests.agent import Agent, keys
from tests.calls import CALLS

pytestmark = pytest.mark.anyio

ABOUT_ONE_COLLECTION = [name for name, arguments in CALLS.items() if "collection_name" in arguments]
NEEDS_ONE = CALLS.keys() - {"create_collection"}
NEEDS_NO_DATABASE = {"create_database", "list_databases", "restore_collection", "run_analyzer"}
READ_A_FILE_FIRST = {"import_file", "export_file"}
DEFAULT = [tool.name for tool in offered(TOOLS, "") if tool.name not in READ_A_FILE_FIRST]
"""The others are refused on Milvus Lite before they look for anything."""

NO_NAMES = [
    "../x",
    "../databases/x/collections/victim",
    "a/b",
    "",
    " ",
    "a b",
    "1a",
    "a-b",
    "a" * 256,
    "a\n",
    "é",
    ".",
    "x\0",
]


def arguments_of(tool: str, collection_name: str, **more: Any) -> dict[str, Any]:
    return CALLS[tool] | ({"collection_name": collection_name} if tool in ABOUT_ONE_COLLECTION else {}) | more


@pytest.mark.parametrize("tool", ABOUT_ONE_COLLECTION)
async def test_what_is_no_name_is_refused_by_every_tool(agent: Agent, tool: str) -> None:
    for name in NO_NAMES:
        error = await agent.fails(tool, **arguments_of(tool, name))
        assert error["code"] == "invalid_argument"
        assert "collection_name" in error["message"]


@pytest.mark.parametrize("tool", [tool.name for tool in TOOLS])
async def test_a_database_s_name_that_is_no_name_is_refused_by_every_tool(agent: Agent, tool: str) -> None:
    about = {name: value for name, value in arguments_of(tool, "x").items() if name != "db_name"}
    for name in ("../x", "a/b", "a b"):
        error = await agent.fails(tool, **about, db_name=name)
        assert error["code"] == "invalid_argument"
        assert "db_name" in error["message"]


@pytest.mark.parametrize("tool", [name for name in DEFAULT if name not in NEEDS_NO_DATABASE])
async def test_a_database_that_does_not_exist_is_named_by_every_tool(agent: Agent, tool: str) -> None:
    about = {name: value for name, value in arguments_of(tool, "x").items() if name != "db_name"}
    error = await agent.fails(tool, **about, db_name="nowhere")
    assert error["code"] == "not_found"
    assert "nowhere" in error["message"]


@pytest.mark.parametrize(
    "tool", [name for name in DEFAULT if name in ABOUT_ONE_COLLECTION and name != "create_collection"]
)
async def test_a_collection_that_does_not_exist_is_named_by_every_tool(
    agent: Agent, collection: str, tool: str
) -> None:
    error = await agent.fails(tool, **arguments_of(tool, collection))
    assert error["code"] == "not_found"
    assert collection in error["message"]
    assert "list_collections" in error["hint"]


@pytest.mark.parametrize("tool", [tool.name for tool in TOOLS])
async def test_an_unknown_argument_is_refused_by_every_tool(agent: Agent, tool: str) -> None:
    about = {name: value for name, value in arguments_of(tool, "x").items() if name != "db_name"}
    error = await agent.fails(tool, **about, wibble=1)
    assert error["code"] == "invalid_argument"
    assert "wibble" in error["message"]


async def test_a_misspelt_argument_is_told_its_right_name(agent: Agent) -> None:
    error = await agent.fails("count", colection_name="x")
    assert "did you mean 'collection_name'" in error["message"]
    for tool, other, meant in (
        ("describe_collection", "name", "collection_name"),
        ("query", "expr", "filter"),
        ("search", "query_text", "text"),
        ("search", "top_k", "limit"),
    ):
        error = await agent.fails(tool, collection_name="x", **{other: "x"})
        assert f"unknown argument {other!r} (did you mean {meant!r}?)" in error["message"]


async def test_a_misspelt_tool_is_told_its_right_name(agent: Agent) -> None:
    error = await agent.fails("serch", collection_name="x")
    assert error["code"] == "invalid_argument"
    assert "search" in error["message"]


@pytest.mark.parametrize(
    ("tool", "wrong"),
    [
        ("search", {"limit": "10"}),
        ("search", {"limit": 10.5}),
        ("search", {"limit": True}),
        ("search", {"limit": 20_000}),
        ("search", {"output_fields": "title"}),
        ("search", {"filter": 3}),
        ("search", {"filter_params": []}),
        ("search", {"radius": "1"}),
        ("search", {"partition_names": ["../x"]}),
        ("query", {"output_fields": [1]}),
        ("query", {"limit": 0}),
        ("get", {"ids": 1}),
        ("insert", {"data": "x"}),
        ("insert", {"data": [1]}),
        ("insert", {"partition_name": "../x"}),
        ("build_index", {"replace": "yes"}),
        ("build_index", {"params": "M=8"}),
        ("create_collection", {"dimension": "2"}),
        ("create_collection", {"num_shards": 0}),
        ("create_collection", {"properties": {"a": []}}),
    ],
)
async def test_an_argument_of_the_wrong_type_or_size_is_named(agent: Agent, tool: str, wrong: dict[str, Any]) -> None:
    error = await agent.fails(tool, **arguments_of(tool, "x", **wrong))
    assert error["code"] == "invalid_argument"
    assert next(iter(wrong)) in error["message"]
    assert "pydantic" not in error["message"]


@pytest.mark.parametrize("tool", ["search", "query", "create_collection", "build_index", "describe_collection"])
async def test_null_for_an_optional_argument_leaves_it_out(agent: Agent, collection: str, tool: str) -> None:
    if tool != "create_collection":
        await agent.call("create_collection", collection_name=collection, dimension=2)
    given = arguments_of(tool, collection)
    (optional,) = ({*each.input_schema["properties"]} - given.keys() for each in TOOLS if each.name == tool)
    assert optional
    nulls = await agent.call(tool, **dict.fromkeys(optional), **given)
    if tool == "create_collection":
        assert nulls["created"] is True
    else:
        assert nulls == await agent.call(tool, **given)


async def test_null_for_a_required_argument_is_refused(agent: Agent, collection: str) -> None:
    error = await agent.fails("search", collection_name=None, vector=[0, 1])
    assert error["code"] == "invalid_argument"
    assert "collection_name" in error["message"]
    error = await agent.fails("insert", collection_name=collection, data=None)
    assert error["code"] == "invalid_argument"
    assert "data" in error["message"]


async def test_a_collection_of_another_database_is_used_by_naming_the_database(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    database = f"db_{collection}"
    another_program.create_database(database)
    assert database in (await agent.call("list_databases"))["databases"]
    await agent.call("create_collection", collection_name=collection, dimension=2)
    here, there = {"collection_name": collection}, {"collection_name": collection, "db_name": database}
    await agent.call("create_collection", dimension=3, **there)
    await agent.call("insert", data=[{"id": 1, "vector": [0, 1]}], **here)
    await agent.call("insert", data=[{"id": 2, "vector": [0, 1, 2]}], **there)
    assert keys((await agent.call("search", vector=[0, 1, 2], **there))["hits"]) == [2]
    assert keys((await agent.call("query", **here))["entities"]) == [1]
    await agent.call("drop_collection", **there)
    assert await agent.exists(collection)
    assert not await agent.exists(collection, db_name=database)


async def test_the_databases_and_the_default_one_are_listed(agent: Agent) -> None:
    listed = await agent.call("list_databases")
    assert "default" in listed["databases"]
    assert listed["default"] == "default"
