"""The SDK's server with our tools, resources and prompts, each as far as its caller may use them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import anyio
import anyio.to_thread
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp_types import (
    SERVER_INFO_META_KEY,
    CallToolResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    Implementation,
    InputRequiredResult,
    TextContent,
    ToolAnnotations,
)
from mcp_types import Prompt as ListedPrompt
from mcp_types import Resource as ListedResource
from mcp_types import ResourceTemplate as ListedTemplate
from mcp_types import Tool as ListedTool
from mcp_types.methods import validate_client_request
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_server_milvus import __version__, progress, prompts, resources, undo
from mcp_server_milvus.app import App
from mcp_server_milvus.callers import current_caller
from mcp_server_milvus.calls import Request, call, refused
from mcp_server_milvus.completions import completed
from mcp_server_milvus.confirming import state_security
from mcp_server_milvus.instructions import instructions
from mcp_server_milvus.notices import Notices, Subscribed
from mcp_server_milvus.policy import LOCAL, Policy
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.vocabulary import Effect

LIST_TTL_MS = 60_000

Outcome = CallToolResult | InputRequiredResult


def build_server(
    app: App, tools: Iterable[Tool[Any, Any]], *, subscribed: Subscribed | None = None, **options: Any
) -> MCPServer[None]:
    """An MCP server that offers the tools on this App. The App is opened and closed by the caller, not by sessions.

    The options are the SDK's. With `auth` among them, whoever shows no token may do nothing.
    """
    authenticated = "auth" in options
    tools = tuple(tools)
    bus = options.setdefault("subscriptions", InMemorySubscriptionBus())
    server = _MilvusServer(
        name="mcp-server-milvus",
        title="Milvus",
        version=__version__,
        instructions=_instructions(app, tools),
        cache_hints={"tools/list": CacheHint(ttl_ms=LIST_TTL_MS, scope="private" if authenticated else "public")},
        log_level=cast("Any", app.settings.log_level),
        request_state_security=state_security(),
        **options,
    )
    server.known = {tool.name: tool for tool in tools}
    server.seen_now = lambda: app.seen_by(current_caller(authenticated=authenticated))
    server.notices = Notices(bus, subscribed or Subscribed(), app.settings)
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
    """An MCPServer whose tools are ours: our schemas, our validation, our errors, our results.

    A call of an unknown tool, or one that its caller may not call, is answered as any other mistake.
    """

    known: Mapping[str, Tool[Any, Any]] = MappingProxyType({})
    seen_now: Callable[[], App]
    notices: Notices
    _lists_collections = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.middleware.append(self._answer)
        info = Implementation(name=self.name, title=self.title, version=self.version)
        self._stamp = {SERVER_INFO_META_KEY: info.model_dump(by_alias=True, exclude_none=True)}

    async def list_tools(self) -> list[ListedTool]:
        """Their schemas are made now, in a thread: a handshake need not wait for them."""
        policy = self.seen_now().policy
        permitted = [tool for tool in self.known.values() if policy.permits(tool)]
        return await anyio.to_thread.run_sync(lambda: [*map(_listed, permitted)])

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
        asking = self._asking(app, context and context.request_context)
        text, media_type = await resources.read(app, str(uri), self._names(app), asking)
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
    ) -> Outcome:
        return await self._outcome(name, arguments, context and context.request_context)

    async def _answer(self, ctx: Request, call_next: CallNext) -> HandlerResult:
        """Answers calls in the modern protocol: checked once, and in the form in which the answer goes out.

        The SDK would check them twice and make a model of its own for each, then check the answer and copy it again.
        It is the last middleware: what wants to see these calls goes before it.
        """
        is_modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        if ctx.method != "tools/call" or ctx.request_id is None or not is_modern:
            return await call_next(ctx)
        given = ctx.params or {}
        validate_client_request(ctx.method, ctx.protocol_version, given)
        outcome = await self._outcome(given["name"], given.get("arguments") or {}, ctx)
        return {**_as_sent(outcome), "_meta": self._stamp}

    async def _outcome(self, name: str, arguments: dict[str, Any], request: Request | None) -> Outcome:
        app, tool = self.seen_now(), self.known.get(name)
        if tool is None or not app.policy.permits(tool):
            return await refused(name, app, [*self.known.values()], arguments, request)
        result = await _called(tool, app, arguments, request)
        alone = app.policy.caller == LOCAL
        if request and alone and isinstance(result, CallToolResult) and not result.is_error:
            await self._tell(tool, arguments, request)
        return result

    async def _tell(self, tool: Tool[Any, Any], arguments: dict[str, Any], request: Request) -> None:
        """Tells clients what a call that has succeeded has changed for them."""
        if not self._lists_collections:  # the database is used for the first time since the resources were listed
            self._lists_collections = True
            await self.notices.tell_of_list(request)
        await self.notices.tell(tool, arguments, request)

    def _names(self, app: App) -> list[str]:
        """The tools that the caller may call."""
        return [name for name, tool in self.known.items() if app.policy.permits(tool)]

    def _asking(self, app: App, request: Request | None = None) -> resources.Ask:
        """Calls a tool that the caller may call, for what is no call of theirs."""

        async def ask(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            serving = replace(app, is_serving=True)
            result = cast("CallToolResult", await call(self.known[name], serving, arguments, request))
            structured = cast("dict[str, Any]", result.structured_content)
            if result.is_error:
                raise resources.failed(structured)
            return structured

        return ask


def _listed(tool: Tool[Any, Any]) -> ListedTool:
    return ListedTool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=annotations(tool),
    )


def _as_sent(outcome: Outcome) -> dict[str, Any]:
    """The outcome of a call as JSON. A result is that already, as a tool has made it; an error may hold tuples."""
    if isinstance(outcome, InputRequiredResult) or outcome.is_error:
        return outcome.model_dump(by_alias=True, mode="json", exclude_none=True)
    return {
        "content": [{"type": "text", "text": cast("TextContent", each).text} for each in outcome.content],
        "structuredContent": outcome.structured_content,
        "isError": False,
        "resultType": outcome.result_type,
    }


async def _called(tool: Tool[Any, Any], app: App, arguments: dict[str, Any], request: Request | None) -> Outcome:
    """The outcome of a call, whose client is told that it is under way, if it wants to be."""
    if request is None:
        return await call(tool, app, arguments)
    to_client = request.session.report_progress
    if not progress.is_wanted(request.meta):
        return await call(tool, replace(app, report_progress=to_client), arguments, request)
    async with progress.kept_up(to_client, tool.name) as report:
        return await call(tool, replace(app, report_progress=report), arguments, request)
    raise AssertionError  # nothing ends the block but the call
