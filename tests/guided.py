"""The filters of the guide, on a collection with the fields that they name."""

import re
from typing import Any

from mcp_types import TextResourceContents

from tests.agent import Agent

FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    {"name": "year", "type": "INT64"},
    {"name": "score", "type": "DOUBLE"},
    {"name": "title", "type": "VARCHAR", "max_length": 50},
    {"name": "genre", "type": "VARCHAR", "max_length": 50},
    {"name": "meta", "type": "JSON"},
    {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 9, "max_length": 9},
]
NOTE = {"name": "note", "type": "VARCHAR", "max_length": 20, "nullable": True}
ENTITY: dict[str, Any] = {
    "id": 3,
    "vector": [1, 0],
    "year": 2030,
    "score": 0.5,
    "title": "Dune",
    "genre": "novel",
    "page": 5,
    "meta": {"lang": "en"},
    "tags": ["a", "new", "c"],
}
"""It passes each filter of the guide, but for the one that wants a value in `note`."""


async def filters_that_fail(agent: Agent, collection_name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """What the guide's filters came to that do not find the entity, by filter."""
    await agent.call("create_collection", collection_name=collection_name, fields=fields, enable_dynamic_field=True)
    await agent.call("insert", collection_name=collection_name, data=[ENTITY])
    (content,) = (await agent.client.read_resource("milvus://guide/filters")).contents
    assert isinstance(content, TextResourceContents)
    told = [line for line in content.text.splitlines() if line.startswith("- ")]
    filters = re.findall("`([^`]+)`", "".join(told))
    assert len(filters) >= 14
    counts = {each: await agent.count(collection_name, filter=each) for each in filters}
    return {each: count for each, count in counts.items() if count != 1}
