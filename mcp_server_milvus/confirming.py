"""Calls that destroy are confirmed before they do anything: by the user, or by a second call with a signed token."""

from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import InputRequiredResult

from mcp_server_milvus.app import App
from mcp_server_milvus.tool import Input, Tool


async def confirmed(
    tool: Tool[Any, Any], app: App, args: Input, token: str | None, context: Context[Any, Any] | None
) -> InputRequiredResult | None:
    """None, if the call may go on; what the client is to ask its user, in the protocol that has it as an answer.

    Raises:
        Unconfirmed: nobody has confirmed it yet; the details say what would be lost, and hold a token to confirm with.
        Denied: the user has declined.
    """
    del tool, app, args, token, context
    return None
