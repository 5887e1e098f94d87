"""What the command line runs: serving, one call, and the catalogue."""

import contextlib
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.calls import call, refused
from mcp_server_milvus.compact import compact
from mcp_server_milvus.garbage import look_seldom
from mcp_server_milvus.notices import Subscribed
from mcp_server_milvus.policy import Policy
from mcp_server_milvus.progress_bar import shown_progress
from mcp_server_milvus.server import annotations, build_server
from mcp_server_milvus.settings import Settings, SettingsError
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.tracing import tracing
from mcp_server_milvus.vocabulary import MilvusIdentity, Transport

if TYPE_CHECKING:
    from mcp_server_milvus.transports.workers import Inherited

TOOL_ERROR, USAGE_ERROR = 1, 2


async def serve(settings: Settings, inherited: "Inherited | None" = None) -> None:
    """Serves clients until there is no more input, or a signal; as a worker, with what it has from its parent.

    Raises:
        SettingsError: the toolsets name what there is not, or some settings do not go together.
        OSError: the port cannot be listened on.
    """
    require_reachable(settings)
    look_seldom()
    over = _over_stdio if settings.transport is Transport.STDIO else partial(_over_http, inherited=inherited)
    try:
        async with open_app(settings) as app:
            await over(app, Policy(settings).offered(TOOLS))
    except* (OSError, SettingsError) as failures:
        raise _first(failures) from None  # the groups are task groups', and say nothing


def require_reachable(settings: Settings) -> None:
    """Raises SettingsError where every call would fail that names no database."""
    if not Policy(settings).reach.sees_database(settings.db_name):
        raise SettingsError(f"databases: {settings.databases!r} leaves out {settings.db_name!r}; set db_name, too")


def require_one_client(settings: Settings) -> None:
    """Raises SettingsError for settings that make sense over http only."""
    if settings.milvus_identity is MilvusIdentity.CALLER:
        raise SettingsError("milvus_identity caller: its accounts come in headers; set transport http")
    if settings.auth_tokens or settings.auth_issuer:
        raise SettingsError("auth_tokens, auth_issuer: stdio has one client and no tokens; set transport http")


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    failure = failures.exceptions[0]
    return _first(failure) if isinstance(failure, BaseExceptionGroup) else failure


async def _over_stdio(app: App, tools: Sequence[Tool[Any, Any]]) -> None:
    from mcp_server_milvus.transports.stdio import serve_stdio

    require_one_client(app.settings)
    subscribed = Subscribed()
    server = build_server(app, tools, subscribed=subscribed)
    async with tracing(server):
        await serve_stdio(
            server, subscribed=subscribed
        )  # which imports pymilvus for the first call: many hosts never make one


async def _over_http(app: App, tools: Sequence[Tool[Any, Any]], inherited: "Inherited | None") -> None:
    from mcp_server_milvus.auth.verifier import auth_settings, open_verifier
    from mcp_server_milvus.transports.health import Health, milvus_answers
    from mcp_server_milvus.transports.http import Beside, serve_http, sessions_of
    from mcp_server_milvus.transports.metrics import wanted_metrics

    settings = app.settings
    metrics = wanted_metrics(settings, [tool.name for tool in tools])
    seen = replace(app, meter=metrics) if metrics else app
    async with open_verifier(settings) as verifier:
        asked: dict[str, Any] = {"auth": auth_settings(settings), "token_verifier": verifier} if verifier else {}
        server = build_server(seen, tools, **asked)
        if metrics:
            metrics.watch(app, sessions_of(server))
        async with tracing(server), _warming_up(server, app):
            health = Health(partial(milvus_answers, app))
            asking = [tool.name for tool in tools if tool.is_confirmed]
            await serve_http(server, settings, Beside(verifier, health, metrics, inherited, asking))


@contextlib.asynccontextmanager
async def _warming_up(server: MCPServer[Any], app: App) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_warm_up_after_first_answer, server, app)
        yield
        tasks.cancel_scope.cancel()


async def call_once(settings: Settings, name: str, arguments: dict[str, Any]) -> int:
    """Runs one tool and prints its structured result. Returns the exit code."""
    tools = {tool.name: tool for tool in Policy(settings).offered(TOOLS)}
    async with open_app(settings) as app:
        if name not in tools:
            error = cast("dict[str, Any]", (await refused(name, app, TOOLS, arguments)).structured_content)
            print(f"mcp-server-milvus: {error['message']}; {error['hint']}", file=sys.stderr)
            return USAGE_ERROR
        async with shown_progress(sys.stderr) as report:
            seen = replace(app, report_progress=report) if report else app
            result = cast("CallToolResult", await call(tools[name], seen, arguments))  # nobody can be asked in between
    print(compact(result.structured_content))
    return TOOL_ERROR if result.is_error else 0


def contract(tool: Tool[Any, Any]) -> dict[str, Any]:
    """A tool as a client sees it in `tools/list`."""
    return {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "outputSchema": tool.output_schema,
        "annotations": annotations(tool).model_dump(by_alias=True, exclude_none=True),
    }


def listed_bytes(tool: Tool[Any, Any]) -> int:
    """Bytes of the tool in `tools/list`, the output schema left out: what a model pays for it in every conversation."""
    shown = {key: value for key, value in contract(tool).items() if key != "outputSchema"}
    return len(compact(shown).encode())


def table(settings: Settings) -> str:
    """The catalogue for people: name, toolset, whether it is on, effect, bytes, and the first sentence of each tool."""
    on = {tool.name for tool in Policy(settings).offered(TOOLS)}
    rows = [
        (
            tool.name,
            tool.toolset,
            "on" if tool.name in on else "off",
            tool.effect,
            str(listed_bytes(tool)),
            tool.description.split(". ")[0].rstrip("."),
        )
        for tool in TOOLS
    ]
    header = ("tool", "toolset", "", "effect", "bytes", "what it does")
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]])
        for row in (header, *rows)
    ]
    totals = [
        _total(str(toolset), [tool for tool in TOOLS if tool.toolset is toolset])
        for toolset in dict.fromkeys(tool.toolset for tool in TOOLS)
    ]
    return "\n".join(
        [*lines, "", *totals, _total("on", [tool for tool in TOOLS if tool.name in on]), _total("all", TOOLS)]
    )


def _total(what: str, tools: Sequence[Tool[Any, Any]]) -> str:
    return f"{what}: {len(tools)} tools, {sum(map(listed_bytes, tools))} bytes"


async def _warm_up_after_first_answer(server: MCPServer[Any], app: App) -> None:
    """Imports pymilvus beside the first client's next steps, never before its handshake."""
    answered = anyio.Event()

    async def note_answer(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        answered.set()
        return result

    server.middleware.insert(0, note_answer)
    await answered.wait()
    server.middleware.remove(note_answer)
    with contextlib.suppress(ImportError):  # each call says so, and can
        await app.clients.warm_up()
