"""The tools that agents see, one module per kind of thing. The catalogue below is written down, not discovered."""

from typing import Any

from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import (
    access,
    aggregates,
    aliases,
    alterations,
    analyzers,
    collections,
    databases,
    diagnosis,
    entities,
    files,
    hybrid,
    indexes,
    measuring,
    operations,
    partitions,
    replicas,
    search,
    snapshots,
    undo,
)

TOOLS: tuple[Tool[Any, Any], ...] = (
    *search.TOOLS,
    *diagnosis.TOOLS,
    *aggregates.TOOLS,
    *hybrid.TOOLS,
    *analyzers.TOOLS,
    *entities.TOOLS,
    *files.TOOLS,
    *collections.TOOLS,
    *alterations.TOOLS,
    *indexes.TOOLS,
    *partitions.TOOLS,
    *aliases.TOOLS,
    *undo.TOOLS,
    *databases.TOOLS,
    *operations.TOOLS,
    *measuring.TOOLS,
    *replicas.TOOLS,
    *snapshots.TOOLS,
    *access.TOOLS,
)
