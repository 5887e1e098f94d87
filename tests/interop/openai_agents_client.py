# pyright: reportMissingImports=false
import json
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

from agents import Agent, RunContextWrapper
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp, MCPUtil
from agents.tool_context import ToolContext
from story import Call, is_url, main


@asynccontextmanager
async def connected(server: list[str]) -> AsyncGenerator[tuple[Collection[str], Call]]:
    connection = (
        MCPServerStreamableHttp({"url": server[0]}, client_session_timeout_seconds=60)
        if is_url(server)
        else MCPServerStdio({"command": server[0], "args": server[1:]}, client_session_timeout_seconds=60)
    )
    async with connection:
        agent = Agent("tester", mcp_servers=[connection])
        listed = await MCPUtil.get_all_function_tools([connection], False, RunContextWrapper(None), agent)  # noqa: FBT003
        tools = {tool.name: tool for tool in listed}

        async def call(name: str, arguments: dict[str, Any]) -> Any:
            given = json.dumps(arguments)
            context = ToolContext(None, tool_name=name, tool_call_id="1", tool_arguments=given)
            return (await tools[name].on_invoke_tool(context, given))["text"]

        yield tools, call


main(connected)
