import json
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from story import Call, main


@asynccontextmanager
async def connected(server: list[str]) -> AsyncGenerator[tuple[Collection[str], Call]]:
    async with Client(stdio_client(StdioServerParameters(command=server[0], args=server[1:]))) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]

        async def call(name: str, arguments: dict[str, Any]) -> Any:
            result = await client.call_tool(name, arguments)
            assert not result.is_error, result
            return json.dumps(result.structured_content)

        yield names, call


main(connected)
