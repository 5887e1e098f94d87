# pyright: reportMissingImports=false
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from story import Call, is_url, main


@asynccontextmanager
async def connected(server: list[str]) -> AsyncGenerator[tuple[Collection[str], Call]]:
    how = (
        {"transport": "streamable_http", "url": server[0]}
        if is_url(server)
        else {"transport": "stdio", "command": server[0], "args": server[1:]}
    )
    async with MultiServerMCPClient({"milvus": how}).session("milvus") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}

        async def call(name: str, arguments: dict[str, Any]) -> str:
            return (await tools[name].ainvoke(arguments))[0]["text"]

        yield tools, call


main(connected)
