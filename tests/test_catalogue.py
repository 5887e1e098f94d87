"""Every tool as a client sees it in `tools/list`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp.client import Client

from mcp_server_milvus.app import open_app
from mcp_server_milvus.content import compact
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.policy import Policy, offered
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import load_settings
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Effect
from tests.calls import CALLS

pytestmark = pytest.mark.anyio

CONTRACTS = Path(__file__).parents[1] / "tools" / "contracts"
DEFAULT_BYTES, DEFAULT_BYTES_WITH_FILES, ALL_BYTES = 20_000, 20_480, 48_000
TOOL_BYTES = {"create_collection": 3_500, "search": 3_500}
"""Of the definitions without output schemas: what a model pays for in every conversation."""

HINTS: dict[Effect, dict[str, bool]] = {
    Effect.READ: {"readOnlyHint": True},
    Effect.CREATE: {"destructiveHint": False},
    Effect.MODIFY: {"destructiveHint": True},
    Effect.DELETE: {"destructiveHint": True},
}
READING = re.compile(
    r"(list|describe|diagnose|measure|estimate)_|search|hybrid_search|query|get|count|aggregate|run_analyzer"
    r"|.*_(info|stats|state)"
)
DELETING = re.compile(r"(drop|truncate|purge)_|delete|alter_collection")
CREATING = re.compile(r"(create|load|build|refresh|restore)_|insert|flush")
"""The effect that a name promises: alter_collection can drop a field."""

ANY_VALUE: dict[str, Any] = {}
"""The schema of what may be of any type."""

COMPLEX = {
    "create_collection": {
        "collection_name": "docs",
        "fields": [
            {"name": "id", "type": "INT64", "is_primary": True, "auto_id": True},
            {"name": "body", "type": "VARCHAR", "max_length": 512, "enable_analyzer": True},
            {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 8, "max_length": 32},
            {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
        ],
        "functions": [
            {"name": "bm25", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["sparse"]}
        ],
        "indexes": [{"field_name": "sparse", "index_type": "SPARSE_INVERTED_INDEX", "metric_type": "BM25"}],
        "consistency_level": "Session",
        "properties": {"collection.ttl.seconds": 60},
    },
    "insert": {"collection_name": "docs", "data": {"id": [1, 2], "vector": [[0.1], [0.2]]}},
    "query": {"collection_name": "docs", "filter": "year > {year}", "filter_params": {"year": 1990}, "limit": 3},
    "search": {"collection_name": "docs", "vector": {"7": 0.5}, "radius": 0.2, "consistency_level": "Strong"},
}
"""Arguments of all kinds, beside the simple ones of every tool."""

each_tool = pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)


@pytest.fixture
async def listed() -> dict[str, dict[str, Any]]:
    """The definitions by name, as they travel."""
    every_tool = load_settings({"files_dir": str(CONTRACTS)})
    async with open_app(every_tool) as app, Client(build_server(app, TOOLS)) as client:
        tools = (await client.list_tools()).tools
    return {tool.name: tool.model_dump(mode="json", by_alias=True, exclude_unset=True) for tool in tools}


def nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema and every schema inside it."""
    yield schema
    for part in (*schema.get("properties", {}).values(), *schema.get("anyOf", ()), schema.get("items")):
        if isinstance(part, dict):
            yield from nodes(part)
    if isinstance(values := schema.get("additionalProperties"), dict):
        yield from nodes(values)


def both_schemas(tool: Tool[Any, Any]) -> list[dict[str, Any]]:
    return [*nodes(tool.input_schema), *nodes(tool.output_schema)]


def test_no_name_is_taken_twice() -> None:
    assert sorted(tool.name for tool in TOOLS) == sorted(CALLS)


async def test_what_is_listed_is_what_the_contracts_say(listed: dict[str, dict[str, Any]]) -> None:
    contracts = {path.stem: json.loads(path.read_text("utf-8")) for path in CONTRACTS.glob("*.json")}
    assert listed == contracts, "run tools/generate.py and read the difference: it is the change of the interface"


async def test_the_definitions_are_small(listed: dict[str, dict[str, Any]]) -> None:
    sizes = {
        name: len(compact({key: value for key, value in definition.items() if key != "outputSchema"}).encode())
        for name, definition in listed.items()
    }
    assert {name: size for name, size in sizes.items() if size > TOOL_BYTES.get(name, 2_500)} == {}
    assert sum(sizes[tool.name] for tool in Policy(load_settings({})).offered(TOOLS)) <= DEFAULT_BYTES
    assert sum(sizes[tool.name] for tool in offered(TOOLS, "")) <= DEFAULT_BYTES_WITH_FILES
    assert sum(sizes.values()) <= ALL_BYTES


@each_tool
def test_the_effect_is_what_the_name_promises(tool: Tool[Any, Any]) -> None:
    promised = (
        Effect.READ
        if READING.match(tool.name)
        else Effect.DELETE
        if DELETING.match(tool.name)
        else Effect.CREATE
        if CREATING.match(tool.name)
        else Effect.MODIFY
    )
    assert tool.effect is promised


@each_tool
async def test_annotations_follow_the_effect(tool: Tool[Any, Any], listed: dict[str, dict[str, Any]]) -> None:
    assert listed[tool.name]["annotations"] == HINTS[tool.effect]


@each_tool
def test_a_description_begins_with_a_verb_and_has_one_to_three_sentences(tool: Tool[Any, Any]) -> None:
    assert re.match(r"[A-Z][a-z]+s ", tool.description)
    assert 1 <= len(re.findall(r"\.(?= |$)", tool.description)) <= 3
    assert tool.description.endswith(".")
    assert "\n" not in tool.description


@each_tool
def test_every_tool_takes_a_database(tool: Tool[Any, Any]) -> None:
    assert "db_name" in tool.input_schema["properties"]


@each_tool
def test_schemas_are_valid(tool: Tool[Any, Any]) -> None:
    for schema in (tool.input_schema, tool.output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft7Validator.check_schema(schema)
        assert schema["type"] == "object"


@each_tool
def test_schemas_are_portable(tool: Tool[Any, Any]) -> None:
    for node in both_schemas(tool):
        assert node.keys() & {"title", "$ref", "$defs", "allOf", "oneOf", "prefixItems", "const"} == set()
        assert node.get("type") != "null"
        assert {"type": "null"} not in node.get("anyOf", [])
        assert node.get("default", 0) is not None
    assert all("$ref" not in compact(schema) for schema in (tool.input_schema, tool.output_schema))


@each_tool
def test_each_argument_says_its_type(tool: Tool[Any, Any]) -> None:
    typeless = [node for node in nodes(tool.input_schema) if not node.keys() & {"type", "anyOf"}]
    assert typeless == ([ANY_VALUE] if tool.name == "create_collection" else [])


def test_a_default_value_may_be_of_any_type() -> None:
    (create_collection,) = (tool for tool in TOOLS if tool.name == "create_collection")
    field = create_collection.input_schema["properties"]["fields"]["items"]
    assert field["properties"]["default_value"] == ANY_VALUE


@each_tool
def test_no_other_arguments_are_taken(tool: Tool[Any, Any]) -> None:
    assert tool.input_schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("name", "nested"),
    [
        ("create_collection", {"fields": [{"name": "id", "type": "INT64", "surprise": 1}]}),
        ("create_collection", {"indexes": [{"field_name": "id", "surprise": 1}]}),
        ("hybrid_search", {"legs": [{"text": "a", "surprise": 1}]}),
        ("alter_collection", {"add_field": {"name": "id", "type": "INT64", "surprise": 1}}),
    ],
)
def test_objects_inside_arguments_take_no_other_members_either(name: str, nested: dict[str, Any]) -> None:
    (tool,) = (tool for tool in TOOLS if tool.name == name)
    with pytest.raises(InvalidArgument, match="surprise"):
        tool.parse({"collection_name": "docs"} | nested)


@each_tool
def test_what_the_schema_accepts_the_tool_accepts_and_nothing_unknown(tool: Tool[Any, Any]) -> None:
    for arguments in (CALLS[tool.name], COMPLEX.get(tool.name, CALLS[tool.name])):
        jsonschema.validate(arguments, tool.input_schema)
        tool.parse(arguments)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(arguments | {"surprise": 1}, tool.input_schema)
        with pytest.raises(InvalidArgument, match="surprise"):
            tool.parse(arguments | {"surprise": 1})


@each_tool
def test_required_arguments_are_required_by_both(tool: Tool[Any, Any]) -> None:
    required = tool.input_schema.get("required", [])
    assert set(required) <= CALLS[tool.name].keys()
    for name in required:
        without = {key: value for key, value in CALLS[tool.name].items() if key != name}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(without, tool.input_schema)
        with pytest.raises(InvalidArgument, match=f"'{name}' is missing"):
            tool.parse(without)
