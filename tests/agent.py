"""An agent: a real MCP client, in memory, of the real server on a real backend."""

import json
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client
from mcp_types import CallToolResult, TextContent
from pymilvus import MilvusClient

from mcp_server_milvus.app import open_app
from mcp_server_milvus.content import STORED
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tool import NOTE
from mcp_server_milvus.tools import TOOLS

UNATTENDED: dict[str, Any] = {"confirm": "never", "undo": False}
"""Settings of the tests that are about something else."""


@dataclass(frozen=True)
class Agent:
    client: Client

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """The result of a call that succeeds."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.structured_content
        return without_note(structured(result))

    async def fails(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """The error of a call that does not: `{code, message, hint, retriable}`."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        error = structured(result)
        assert error.keys() >= {"code", "message", "hint", "retriable"}
        assert error["code"] != "internal"
        return error

    async def pages(self, tool: str, /, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        """The result of a call, and of each that its cursor continues."""
        cursor: dict[str, str] = {}
        while True:
            page = await self.call(tool, **arguments, **cursor)
            yield page
            if "next_cursor" not in page:
                return
            cursor = {"cursor": page["next_cursor"]}

    async def exists(self, collection_name: str, **database: str) -> bool:
        listed = await self.call("list_collections", limit=1000, **database)
        return collection_name in names(listed["collections"])

    async def count(self, collection_name: str, **arguments: Any) -> int:
        return (await self.call("count", collection_name=collection_name, **arguments))["count"]


def structured(result: CallToolResult) -> dict[str, Any]:
    """The structured content, which the text says too: clients show the model only one of them."""
    (text,) = result.content
    assert isinstance(text, TextContent)
    assert json.loads(text.text) == result.structured_content
    assert result.structured_content is not None
    return result.structured_content


def without_note(result: dict[str, Any]) -> dict[str, Any]:
    """What the tool itself says. What its readers are told of stored text is the same everywhere."""
    return {name: value for name, value in result.items() if (name, value) != (NOTE, STORED)}


def names(described: list[dict[str, Any]]) -> list[str]:
    return [each["name"] for each in described]


def keys(found: list[dict[str, Any]]) -> list[int | str]:
    """The primary keys of hits or entities whose key is `id`."""
    return [each["id"] for each in found]


def collections_in(database: MilvusClient) -> list[str]:
    """What another program sees. (pymilvus's own annotation takes this call for an asynchronous one.)"""
    listed: Any = database.list_collections()
    return listed


@asynccontextmanager
async def agent_on(uri: str, **settings: Any) -> AsyncGenerator[Agent]:
    """An agent of a server of its own, with these settings. Unless they say otherwise it destroys without asking."""
    chosen = Settings.model_validate({"uri": uri} | UNATTENDED | settings)
    async with open_app(chosen) as app, Client(build_server(app, TOOLS)) as client:
        yield Agent(client)


@asynccontextmanager
async def served(transport: str, *settings: str, log: Path = Path(os.devnull)) -> AsyncGenerator[str]:
    """The address of a server over HTTP in a process of its own, once it listens. It logs to the file."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    command = [sys.executable, "-m", "mcp_server_milvus", "--transport", transport, "--port", str(port), *settings]
    with log.open("w") as stderr:
        async with await anyio.open_process(command, stdout=stderr, stderr=stderr) as process:
            try:
                with anyio.fail_after(60):
                    while not await answers(port):
                        await anyio.sleep(0.05)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


async def answers(port: int) -> bool:
    try:
        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True
