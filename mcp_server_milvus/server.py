"""The SDK's server with our tools, resources and prompts, each as far as its caller may use them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import anyio
import anyio.to_thread
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool as SdkTool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import (
    CallToolResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    InputRequiredResult,
    ToolAnnotations,
)
from mcp_types import Prompt as ListedPrompt
from mcp_types import Resource as ListedResource
from mcp_types import ResourceTemplate as ListedTemplate
from mcp_types import Tool as ListedTool
from pydantic import PrivateAttr

from mcp_server_milvus import __version__, progress, prompts, resources, undo
from mcp_server_milvus.app import App
from mcp_server_milvus.callers import current_caller
from mcp_server_milvus.calls import call, refused
from mcp_server_milvus.completions import completed
from mcp_server_milvus.confirming import state_security
from mcp_server_milvus.instructions import instructions
from mcp_server_milvus.notices import Subscribed, tell, tell_of_list
from mcp_server_milvus.policy import LOCAL, Policy
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.vocabulary import Effect

LIST_TTL_MS = 60_000


def build_server(
    app: App, tools: Iterable[Tool[Any, Any]], *, subscribed: Subscribed | None = None, **options: Any
) -> MCPServer[None]:
    """An MCP server that offers the tools on this App. The App is opened and closed by the caller, not by sessions.

    The options are the SDK's. With `auth` among them, whoever shows no token may do nothing.
    """
    authenticated = "auth" in options
    tools = tuple(tools)
    offered = [_SdkTool.wrapping(tool, app, authenticated=authenticated) for tool in tools]
    server = _MilvusServer(
        name="mcp-server-milvus",
        title="Milvus",
        version=__version__,
        instructions=_instructions(app, tools),
        tools=[*offered],
        cache_hints={"tools/list": CacheHint(ttl_ms=LIST_TTL_MS, scope="private" if authenticated else "public")},
        log_level=cast("Any", app.settings.log_level),
        request_state_security=state_security(),
        **options,
    )
    server.known = {tool.name: tool for tool in offered}
    server.seen_now = lambda: app.seen_by(current_caller(authenticated=authenticated))
    server.subscribed = subscribed or Subscribed()
    server.completion()(server.complete)
    return server


def _instructions(app: App, tools: Iterable[Tool[Any, Any]]) -> str:
    """How the server is used, by whoever its settings let do the most."""
    most = Policy(app.settings)
    names = [tool.name for tool in tools if most.permits(tool)]
    return instructions(app.settings, names, has_embedder=bool(app.embedders), keeps_undo=undo.is_on(app))


def annotations(tool: Tool[Any, Any]) -> ToolAnnotations:
    """What a host may assume about the tool, all of it from its effect.

    Only what decides whether a host asks its user is said: every word of it is listed once for each tool.
    """
    if tool.effect is Effect.READ:
        return ToolAnnotations(read_only_hint=True)
    return ToolAnnotations(destructive_hint=tool.effect in {Effect.MODIFY, Effect.DELETE})


class _MilvusServer(MCPServer[None]):
    """An MCPServer that answers a call of an unknown tool, or one that its caller may not call, as any other mistake.

    It makes the schemas of its tools when they are first listed: a handshake need not wait for them.
    """

    known: Mapping[str, "_SdkTool"] = MappingProxyType({})
    seen_now: Callable[[], App]
    subscribed: Subscribed
    _lists_collections = True

    async def list_tools(self) -> list[ListedTool]:
        await anyio.to_thread.run_sync(_make_schemas, self.known.values())
        policy = self.seen_now().policy
        return [tool for tool in await super().list_tools() if policy.permits(self.known[tool.name].wrapped)]

    async def list_resources(self) -> list[ListedResource]:
        app = self.seen_now()
        self._lists_collections = bool(app.clients.connections)
        return await resources.listed(app, self._names(app), self._asking(app))

    async def list_resource_templates(self) -> list[ListedTemplate]:
        return resources.templates(self._names(self.seen_now()))

    async def read_resource(
        self, uri: Any, context: Context[None, Any] | None = None
    ) -> Iterable[ReadResourceContents]:
        app = self.seen_now()
        text, media_type = await resources.read(app, str(uri), self._names(app), self._asking(app, context))
        return [ReadResourceContents(content=text, mime_type=media_type)]

    async def list_prompts(self) -> list[ListedPrompt]:
        return prompts.listed(self._names(self.seen_now()))

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[None, Any] | None = None
    ) -> GetPromptResult:
        del context
        return prompts.filled(name, arguments or {}, self._names(self.seen_now()))

    async def complete(self, _: Any, argument: CompletionArgument, given: CompletionContext | None) -> Completion:
        """The names that an argument of a template or a prompt can have."""
        app = self.seen_now()
        others = (given and given.arguments) or {}
        return await completed(argument.name, argument.value, others, self._names(app), self._asking(app))

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        app, tool = self.seen_now(), self.known.get(name)
        if tool and app.policy.permits(tool.wrapped):
            return await super().call_tool(name, arguments, context)
        return await refused(name, app, [tool.wrapped for tool in self.known.values()], arguments, context)

    async def tell(
        self, tool: Tool[Any, Any], arguments: dict[str, Any], context: Context[Any, Any], settings: Settings
    ) -> None:
        """Tells clients what a call that has succeeded has changed for them."""
        if not self._lists_collections:  # the database is used for the first time since the resources were listed
            self._lists_collections = True
            await tell_of_list(settings.transport, context)
        await tell(tool, arguments, settings, self.subscribed, context)

    def _names(self, app: App) -> list[str]:
        """The tools that the caller may call."""
        return [name for name, tool in self.known.items() if app.policy.permits(tool.wrapped)]

    def _asking(self, app: App, context: Context[Any, Any] | None = None) -> resources.Ask:
        """Calls a tool that the caller may call, for what is no call of theirs."""

        async def ask(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            serving = replace(app, is_serving=True)
            result = cast("CallToolResult", await call(self.known[name].wrapped, serving, arguments, context))
            structured = cast("dict[str, Any]", result.structured_content)
            if result.is_error:
                raise resources.failed(structured)
            return structured

        return ask


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
            result = await _called(tool, seen, arguments, context)
            alone = seen.policy.caller == LOCAL
            if alone and isinstance(result, CallToolResult) and not result.is_error:
                await cast("_MilvusServer", context.mcp_server).tell(tool, arguments, context, app.settings)
            return result

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


async def _called(
    tool: Tool[Any, Any], app: App, arguments: dict[str, Any], context: Context[Any, Any]
) -> CallToolResult | InputRequiredResult:
    """The outcome of a call, whose client is told that it is under way, if it wants to be."""
    if not progress.is_wanted(context.request_context.meta):
        return await call(tool, app, arguments, context)
    async with progress.kept_up(context.report_progress, tool.name) as report:
        return await call(tool, replace(app, report_progress=report), arguments, context)
    raise AssertionError  # nothing ends the block but the call


def _make_schemas(tools: Iterable[_SdkTool]) -> None:
    for tool in tools:
        tool.make_schemas()
