# pyright: reportMissingImports=false
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

from fastmcp.client.transports import StdioTransport
from pydantic_ai.mcp import MCPToolset
from story import Call, is_url, main


@asynccontextmanager
async def connected(server: list[str]) -> AsyncGenerator[tuple[Collection[str], Call]]:
    async with MCPToolset(server[0] if is_url(server) else StdioTransport(server[0], server[1:])) as toolset:
        yield [tool.name for tool in await toolset.list_tools()], toolset.direct_call_tool


main(connected)
