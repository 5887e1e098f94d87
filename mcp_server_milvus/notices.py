"""Who is told of changes: clients of the newer protocol that listen, and the one at the other end of stdio."""

from typing import Any

from mcp.server.mcpserver import Context
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_server_milvus.addresses import collection_address
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.vocabulary import Effect, Toolset, Transport

LISTED_ANEW = frozenset(
    {"create_collection", "drop_collection", "restore_collection", "restore_snapshot", "alter_collection"}
)
"""Tools after which there may be other collections than before; `alter_collection` renames."""

IN_COLLECTIONS = frozenset({Toolset.DATA, Toolset.SCHEMA, Toolset.OPERATIONS})


async def tell(
    tool: Tool[Any, Any], arguments: dict[str, Any], db_name: str, transport: Transport, context: Context[Any, Any]
) -> None:
    """Tells of what a call has changed that has succeeded. Asks Milvus nothing.

    Of several callers none is told what another has done: this is for servers with one.
    """
    if tool.effect is Effect.READ or tool.toolset not in IN_COLLECTIONS:
        return
    name = arguments.get("collection_name")
    if isinstance(name, str):
        await context.notify_resource_updated(collection_address(arguments.get("db_name") or db_name, name))
    if tool.name in LISTED_ANEW:
        await tell_of_list(transport, context)


async def tell_of_list(transport: Transport, context: Context[Any, Any]) -> None:
    """Tells that there are other resources than before."""
    await context.notify_resources_changed()
    if transport is Transport.STDIO and context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        await context.session.send_resource_list_changed()
