# pyright: reportMissingImports=false
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

from llama_index.tools.mcp import BasicMCPClient, McpToolSpec
from story import Call, main


@asynccontextmanager
async def connected(server: list[str]) -> AsyncGenerator[tuple[Collection[str], Call]]:
    listed = await McpToolSpec(BasicMCPClient(server[0], args=server[1:])).to_tool_list_async()
    tools = {tool.metadata.get_name(): tool for tool in listed}

    async def call(name: str, arguments: dict[str, Any]) -> str:
        return (await tools[name].acall(**arguments)).raw_output.content[0].text

    yield tools, call


main(connected)
