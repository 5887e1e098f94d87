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
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.server import build_server, compact
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Effect

pytestmark = pytest.mark.anyio

CONTRACTS = Path(__file__).parents[1] / "tools" / "contracts"
ALL_BYTES, TOOL_BYTES = 15_000, {"create_collection": 4_000}
"""Of the definitions without output schemas: what a model pays for in every conversation."""

HINTS = {
    Effect.READ: {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True},
    Effect.CREATE: {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": False},
    Effect.MODIFY: {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True},
    Effect.DELETE: {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True},
}
EFFECTS = {
    Effect.READ: "search query get count list_collections describe_collection list_databases",
    Effect.CREATE: "insert create_collection load_collection build_index",
    Effect.MODIFY: "upsert release_collection",
    Effect.DELETE: "delete drop_collection",
}
ARGUMENTS = {
    "list_databases": "",
    "list_collections": "limit cursor",
    "describe_collection": "collection_name",
    "create_collection": "collection_name dimension metric_type id_type auto_id fields functions indexes"
    " enable_dynamic_field num_shards num_partitions consistency_level properties description",
    "drop_collection": "collection_name",
    "load_collection": "collection_name",
    "release_collection": "collection_name",
    "build_index": "collection_name field_name index_type metric_type params replace",
    "insert": "collection_name data partition_name",
    "upsert": "collection_name data partition_name",
    "delete": "collection_name ids filter filter_params partition_name",
    "get": "collection_name ids output_fields partition_names",
    "query": "collection_name filter filter_params output_fields limit cursor partition_names consistency_level",
    "count": "collection_name filter filter_params partition_names",
    "search": "collection_name vector text id anns_field filter filter_params limit offset output_fields"
    " partition_names radius range_filter group_by_field group_size params consistency_level",
}
"""Spellings that callers rely on. Most are pymilvus's own, which models know already."""

ANY_VALUE: dict[str, Any] = {}
"""The schema of what may be of any type."""

CALLS = {
    "list_databases": {},
    "list_collections": {"limit": 5},
    "describe_collection": {"collection_name": "docs"},
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
    "drop_collection": {"collection_name": "docs"},
    "load_collection": {"collection_name": "docs", "db_name": "prod"},
    "release_collection": {"collection_name": "docs"},
    "build_index": {"collection_name": "docs", "field_name": "vector", "index_type": "HNSW", "params": {"M": 16}},
    "insert": {"collection_name": "docs", "data": {"id": [1, 2], "vector": [[0.1], [0.2]]}},
    "upsert": {"collection_name": "docs", "data": [{"id": 1, "vector": [0.1]}]},
    "delete": {"collection_name": "docs", "ids": [1, "a"]},
    "get": {"collection_name": "docs", "ids": ["a"], "output_fields": ["*"]},
    "query": {"collection_name": "docs", "filter": "year > {year}", "filter_params": {"year": 1990}, "limit": 3},
    "count": {"collection_name": "docs"},
    "search": {"collection_name": "docs", "vector": {"7": 0.5}, "radius": 0.2, "consistency_level": "Strong"},
}
each_tool = pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)


@pytest.fixture
async def listed() -> dict[str, dict[str, Any]]:
    """The definitions by name, as they travel."""
    async with open_app(Settings.model_validate({})) as app, Client(build_server(app, TOOLS)) as client:
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


def test_the_fifteen_tools_are_there() -> None:
    assert sorted(tool.name for tool in TOOLS) == sorted(ARGUMENTS)


async def test_what_is_listed_is_what_the_contracts_say(listed: dict[str, dict[str, Any]]) -> None:
    contracts = {path.stem: json.loads(path.read_text("utf-8")) for path in CONTRACTS.glob("*.json")}
    assert listed == contracts, "run tools/generate.py and read the difference: it is the change of the interface"


async def test_the_definitions_are_small(listed: dict[str, dict[str, Any]]) -> None:
    sizes = {
        name: len(compact({key: value for key, value in definition.items() if key != "outputSchema"}).encode())
        for name, definition in listed.items()
    }
    assert {name: size for name, size in sizes.items() if size > TOOL_BYTES.get(name, 2_500)} == {}
    assert sum(sizes.values()) <= ALL_BYTES


@pytest.mark.parametrize(("effect", "names"), EFFECTS.items())
async def test_annotations_follow_the_effect(effect: Effect, names: str, listed: dict[str, dict[str, Any]]) -> None:
    assert {tool.name for tool in TOOLS if tool.effect is effect} == set(names.split())
    for name in names.split():
        annotations = listed[name]["annotations"]
        assert annotations == HINTS[effect] | {"openWorldHint": False, "title": annotations["title"]}


@each_tool
def test_a_description_begins_with_a_verb_and_has_one_to_three_sentences(tool: Tool[Any, Any]) -> None:
    assert re.match(r"[A-Z][a-z]+s ", tool.description)
    assert 1 <= len(re.findall(r"\.(?= |$)", tool.description)) <= 3
    assert tool.description.endswith(".")
    assert "\n" not in tool.description


@each_tool
def test_arguments_are_spelled_as_documented(tool: Tool[Any, Any]) -> None:
    assert {*ARGUMENTS[tool.name].split(), "db_name"} <= tool.input_schema["properties"].keys()


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
def test_objects_with_named_members_take_no_others(tool: Tool[Any, Any]) -> None:
    with_members = [node for node in nodes(tool.input_schema) if "properties" in node]
    assert with_members
    assert all(node["additionalProperties"] is False for node in with_members)


@each_tool
def test_what_the_schema_accepts_the_tool_accepts_and_nothing_unknown(tool: Tool[Any, Any]) -> None:
    arguments = CALLS[tool.name]
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
