"""Our tools as the SDK's: a call becomes a structured result or a structured error. The one broad `except` is here."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import anyio.to_thread
from mcp.server.caching import CacheHint
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool as SdkTool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from mcp_types import Tool as ListedTool
from pydantic import PrivateAttr

from mcp_server_milvus import __version__
from mcp_server_milvus.app import App
from mcp_server_milvus.callers import current_caller
from mcp_server_milvus.confirming import confirmed
from mcp_server_milvus.content import told
from mcp_server_milvus.errors import Denied, Error, Internal, InvalidArgument, LimitExceeded
from mcp_server_milvus.milvus.results import json_size
from mcp_server_milvus.policy import Policy
from mcp_server_milvus.settings import nearest
from mcp_server_milvus.tool import CONFIRM, Tool
from mcp_server_milvus.vocabulary import Effect

LIST_TTL_MS = 60_000
OVERRUN = 2
LOGGER = logging.getLogger("mcp_server_milvus")

INSTRUCTIONS = """\
A Milvus vector database. list_collections and describe_collection show what is there; describe_collection gives an \
example entity and an example search for each collection.
To keep text and find it by {how}: create_collection with text_field; insert entities without vectors (chunk_size \
splits long texts); search with text. Never make up a vector.
With vectors of your own: create_collection with dimension, insert entities {{id, vector, ...}}, search with vector.
For a question about many entities use aggregate or query with order_by instead of reading them.
Errors are {{code, message, hint, retriable}}: do what the hint says. Whole numbers beyond 2^53 travel as strings."""


def build_server(app: App, tools: Iterable[Tool[Any, Any]], **options: Any) -> MCPServer[None]:
    """An MCP server that offers the tools on this App. The App is opened and closed by the caller, not by sessions.

    The options are the SDK's. With `auth` among them, whoever shows no token may do nothing.
    """
    authenticated = "auth" in options
    offered = [_SdkTool.wrapping(tool, app, authenticated=authenticated) for tool in tools]
    server = _MilvusServer(
        name="mcp-server-milvus",
        title="Milvus",
        version=__version__,
        instructions=INSTRUCTIONS.format(how="meaning and words" if app.embedders else "its words"),
        tools=[*offered],
        cache_hints={"tools/list": CacheHint(ttl_ms=LIST_TTL_MS, scope="private" if authenticated else "public")},
        log_level=cast("Any", app.settings.log_level),
        **options,
    )
    server.known = {tool.name: tool for tool in offered}
    server.seen_now = lambda: app.seen_by(current_caller(authenticated=authenticated)).policy
    return server


def annotations(tool: Tool[Any, Any]) -> ToolAnnotations:
    """What a host may assume about the tool, all of it from its effect.

    Only what decides whether a host asks its user is said: every word of it is listed once for each tool.
    """
    if tool.effect is Effect.READ:
        return ToolAnnotations(read_only_hint=True)
    return ToolAnnotations(destructive_hint=tool.effect in {Effect.MODIFY, Effect.DELETE})


async def call(
    tool: Tool[Any, Any], app: App, arguments: dict[str, Any], context: Context[Any, Any] | None = None
) -> CallToolResult | InputRequiredResult:
    """The outcome of one call, whatever happens: never raises but for cancellation.

    It is a question for the user where the client can ask one in between.
    """
    started = time.perf_counter()
    try:
        async with app.gate.entered(app.policy.caller.name):
            given = dict(arguments)
            token = given.pop(CONFIRM, None) if tool.is_confirmed else None
            args = tool.parse(given)
            question = await confirmed(tool, app, args, token, context)
            if question:
                return question
            result = succeeded(told(_bounded(tool, app, await tool.run(app, args)), tool.effect))
    except Error as error:
        result = failed(error)
    except Exception:
        LOGGER.exception("%s failed", tool.name)
        result = failed(Internal(f"{tool.name}: a fault of this server", hint="its log has the details; report it"))
    outcome = cast("dict[str, Any]", result.structured_content).get("code", "ok") if result.is_error else "ok"
    LOGGER.info("%s %s %.0f ms", tool.name, outcome, 1000 * (time.perf_counter() - started))
    return result


def _bounded(tool: Tool[Any, Any], app: App, structured: dict[str, Any]) -> dict[str, Any]:
    """The result itself. Tools hold the bound themselves, but for lists that are short everywhere but in odd places.

    Raises:
        LimitExceeded: it is far too large. What has changed something is told in any size.
    """
    size, most = json_size(structured), OVERRUN * app.settings.max_result_bytes
    if tool.effect is Effect.READ and size > most:
        raise LimitExceeded(
            f"{tool.name}: a result of {size} bytes, where {most} are possible",
            hint="ask about less, or start the server with a larger --max-result-bytes",
        )
    return structured


def succeeded(structured: dict[str, Any]) -> CallToolResult:
    """A result, complete as text and as structure, since clients show the model only one of them."""
    return CallToolResult(content=[TextContent(type="text", text=compact(structured))], structured_content=structured)


def failed(error: Error) -> CallToolResult:
    """An error, in the same two forms."""
    structured = error.as_dict()
    return CallToolResult(
        is_error=True, content=[TextContent(type="text", text=compact(structured))], structured_content=structured
    )


def compact(value: Any) -> str:
    """The value as JSON without a byte too many."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def not_offered(name: str, policy: Policy, tools: Sequence[Tool[Any, Any]]) -> Error:
    """What a call is told of a tool that there is not for this caller, whether for others or for nobody."""
    setting = next((policy.lacking(tool) for tool in tools if tool.name == name), "")
    if setting:
        return Denied(
            f"{name} needs the setting {setting}, which this server has not",
            hint=f"its operator starts it with --{setting.replace('_', '-')}",
        )
    names = [tool.name for tool in tools if policy.permits(tool)]
    return InvalidArgument(f"there is no tool {name[:80]!r}{nearest(name, names)}", hint=f"tools: {', '.join(names)}")


class _MilvusServer(MCPServer[None]):
    """An MCPServer that answers a call of an unknown tool, or one that its caller may not call, as any other mistake.

    It makes the schemas of its tools when they are first listed: a handshake need not wait for them.
    """

    known: Mapping[str, "_SdkTool"] = MappingProxyType({})
    seen_now: Callable[[], Policy]

    @property
    def offered(self) -> list[str]:
        """The names of the tools that there are for the caller of this moment."""
        policy = self.seen_now()
        return [name for name, tool in self.known.items() if policy.permits(tool.wrapped)]

    async def list_tools(self) -> list[ListedTool]:
        await anyio.to_thread.run_sync(_make_schemas, self.known.values())
        offered = self.offered
        return [tool for tool in await super().list_tools() if tool.name in offered]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        if name not in self.offered:
            return failed(not_offered(name, self.seen_now(), [tool.wrapped for tool in self.known.values()]))
        return await super().call_tool(name, arguments, context)


class _SdkTool(SdkTool):
    """The SDK's tool, with its `run` replaced by ours: our validation, our errors, our result."""

    _tool: Tool[Any, Any] = PrivateAttr()

    @property
    def wrapped(self) -> Tool[Any, Any]:
        """Our tool."""
        return self._tool

    @classmethod
    def wrapping(cls, tool: Tool[Any, Any], app: App, *, authenticated: bool) -> "_SdkTool":
        """The tool as the SDK registers it."""

        async def run(arguments: dict[str, Any], context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
            seen = app.seen_by(current_caller(authenticated=authenticated))
            return await call(tool, replace(seen, report_progress=context.report_progress), arguments, context)

        wrapped = cls(
            fn=run,
            name=tool.name,
            title=None,
            description=tool.description,
            context_kwarg=None,
            parameters={},
            fn_metadata=FuncMetadata(arg_model=ArgModelBase),
            is_async=True,
            annotations=annotations(tool),
        )
        wrapped._tool = tool
        return wrapped

    @cached_property
    def output_schema(self) -> dict[str, Any] | None:
        return self._tool.output_schema

    def make_schemas(self) -> None:
        """Makes what the SDK lists."""
        self.parameters = self._tool.input_schema
        self._tool.output_schema  # noqa: B018  # made by being looked at, and kept

    async def run(
        self,
        arguments: dict[str, Any],
        context: Context[Any, Any],
        convert_result: bool = False,  # noqa: FBT001, FBT002  # the SDK's signature
    ) -> Any:
        del convert_result
        return await self.fn(arguments, context)


def _make_schemas(tools: Iterable[_SdkTool]) -> None:
    for tool in tools:
        tool.make_schemas()
