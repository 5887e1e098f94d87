"""A server with toy tools, as a process of its own: `python echo_server.py stdio [DRAIN_SECONDS]`.

Or sdk, which is stdio as the SDK has it; or stopped, which is stdio until `hold` is called. Or http, or sse, or
stateless, which print their URL as one line on standard output once they listen.
"""

import asyncio
import sys
from functools import partial
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.transports.http import serve_http
from mcp_server_milvus.transports.stdio import serve_stdio


async def breaking(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Fails where nothing is expected to: outside of every tool."""
    match ctx.params and ctx.params.get("name"):
        case "broken":
            raise RuntimeError("broken")
        case "stubborn":
            try:
                await anyio.sleep(60)
            finally:
                raise RuntimeError("stubborn")
        case _:
            return await call_next(ctx)


server = MCPServer("echo", version="1.0", log_level="ERROR", middleware=[breaking])
held, released = anyio.Event(), anyio.Event()


@server.tool()
async def echo(text: str) -> str:
    return text


@server.tool()
async def length(text: str) -> int:
    return len(text)


@server.tool()
async def repeat(text: str, times: int) -> str:
    return text * times


@server.tool()
async def slow(seconds: float, ctx: Context[Any]) -> str:
    """Says that it has begun, and sleeps."""
    await ctx.report_progress(1, 2, "begun")
    await anyio.sleep(seconds)
    return f"slept {seconds}"


@server.tool()
async def hold() -> str:
    held.set()
    await released.wait()
    return "released"


@server.tool()
async def release() -> str:
    released.set()
    return "released"


@server.tool()
async def refuse() -> str:
    raise MCPError(code=-32_042, message="not so", data={"why": "because"})


@server.tool()
async def fail() -> str:
    raise RuntimeError("failed")


@server.tool()
async def taken_by() -> str:
    """What runs the call."""
    task = asyncio.current_task()
    assert task
    return str(task.get_coro())


@server.tool()
async def knows(ctx: Context[Any]) -> str:
    """What its client says that it can do."""
    await ctx.session.send_resource_updated("milvus://anything")
    return str(ctx.client_capabilities)


@server.tool()
async def asks(ctx: Context[Any]) -> str:
    """Asks its client, which the modern protocol has no way for."""
    await ctx.session.send_ping()
    return "asked"


@server.tool()
async def shout(text: str) -> str:
    """Prints where nothing belongs but messages, flushed and not."""
    print(text, flush=True)
    print(text)
    return "shouted"


async def serve_until_held() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_stdio, server)
        await held.wait()
        tasks.cancel_scope.cancel()


async def serve_and_print_url(settings: Settings) -> None:
    async with anyio.create_task_group() as tasks:
        print(await tasks.start(partial(serve_http, server, settings)), flush=True)


def main(transport: str, drain_seconds: str = "60") -> None:
    if transport == "sdk":
        server.run("stdio")
    elif transport == "stopped":
        anyio.run(serve_until_held)
    elif transport == "stdio":
        anyio.run(partial(serve_stdio, server, drain_seconds=float(drain_seconds)))
    else:
        chosen = {"transport": "http", "stateless": True} if transport == "stateless" else {"transport": transport}
        anyio.run(serve_and_print_url, Settings.model_validate({"port": 0} | chosen))


if __name__ == "__main__":
    main(*sys.argv[1:])
