"""The tools that agents see, one module per kind of thing. The catalogue below is written down, not discovered."""

from typing import Any

from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import collections, databases, entities, indexes, search

TOOLS: tuple[Tool[Any, Any], ...] = (
    *search.TOOLS,
    *entities.TOOLS,
    *collections.TOOLS,
    *indexes.TOOLS,
    *databases.TOOLS,
)
