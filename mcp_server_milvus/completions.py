"""What a person may mean who has begun to type the name of a database, a collection, a field or a partition."""

from collections.abc import Collection, Mapping
from typing import Any

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import Completion

from mcp_server_milvus.addresses import DEFAULT
from mcp_server_milvus.resources import Ask

MOST = 100
"""Values of one completion. Source: the protocol."""

MOST_LOOKED_AT = 1_000
"""Collections among which those are looked for that begin so."""

SECONDS = 5.0
"""A person waits for it while typing."""

OTHER_NAMES = {"db": "db_name", "database": "db_name", "collection": "collection_name"}
"""What templates and prompts call an argument, and its name in our tools."""


async def completed(name: str, begun: str, others: Mapping[str, str], tools: Collection[str], ask: Ask) -> Completion:
    """The names that begin so, within the caller's reach; none where Milvus cannot be asked. Keys are never told."""
    found: list[str] = []
    with anyio.move_on_after(SECONDS):
        found = await _names(OTHER_NAMES.get(name, name), others, tools, ask)
    fitting = sorted({each for each in found if each.lower().startswith(begun.lower())})
    return Completion(values=fitting[:MOST], total=len(fitting), has_more=len(fitting) > MOST)


async def _names(name: str, others: Mapping[str, str], tools: Collection[str], ask: Ask) -> list[str]:
    given = {OTHER_NAMES.get(each, each): value for each, value in others.items() if value}
    tool, asked = QUESTIONS.get(name, ("", ()))
    if tool not in tools:
        return []
    arguments: dict[str, Any] = {each: given[each] for each in asked if each in given}
    if "collection_name" in asked and "collection_name" not in arguments:
        return []
    if arguments.get("db_name") == DEFAULT:
        del arguments["db_name"]
    if tool == "list_collections":
        arguments["limit"] = MOST_LOOKED_AT
    try:
        return _told(name, await ask(tool, arguments))
    except MCPError:
        return []


QUESTIONS = {
    "db_name": ("list_databases", ()),
    "collection_name": ("list_collections", ("db_name",)),
    "field_name": ("describe_collection", ("db_name", "collection_name")),
    "partition_name": ("describe_collection", ("db_name", "collection_name")),
}
"""By argument: the tool that knows its values, and what that is told."""


def _told(name: str, result: dict[str, Any]) -> list[str]:
    match name:
        case "db_name":
            return list(result["databases"])
        case "collection_name":
            return [each["name"] for each in result["collections"]]
        case "field_name":
            return [each["name"] for each in result["fields"]]
        case _:
            return list(result.get("partitions") or ())
