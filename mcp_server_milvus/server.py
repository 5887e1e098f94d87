"""Our tools as the SDK's: a call becomes a structured result or a structured error. The one broad `except` is here."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    TextContent,
    ToolAnnotations,
)
from mcp_types import Prompt as ListedPrompt
from mcp_types import Resource as ListedResource
from mcp_types import ResourceTemplate as ListedTemplate
from mcp_types import Tool as ListedTool
from pydantic import PrivateAttr

from mcp_server_milvus import __version__, audit, progress, prompts, resources, undo
from mcp_server_milvus.app import App
from mcp_server_milvus.callers import current_caller
from mcp_server_milvus.completions import completed
from mcp_server_milvus.confirming import confirmed, state_security
from mcp_server_milvus.content import Told, told_error, told_result
from mcp_server_milvus.errors import DeadlineExceeded, Denied, Error, Internal, InvalidArgument, LimitExceeded
from mcp_server_milvus.instructions import instructions
from mcp_server_milvus.limits import lowered, within_limits
from mcp_server_milvus.notices import tell, tell_of_list
from mcp_server_milvus.policy import Policy
from mcp_server_milvus.request_ids import given_id, under_way
from mcp_server_milvus.settings import Settings, nearest
from mcp_server_milvus.tool import CONFIRM, Input, Tool
from mcp_server_milvus.vocabulary import Effect

LIST_TTL_MS = 60_000
OVERRUN = 2
LONGEST_NAME = 80
"""Characters of the name of a tool that there is not, in logs."""

LOGGER = logging.getLogger("mcp_server_milvus")


def build_server(app: App, tools: Iterable[Tool[Any, Any]], **options: Any) -> MCPServer[None]:
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


async def call(
    tool: Tool[Any, Any], app: App, arguments: dict[str, Any], context: Context[Any, Any] | None = None
) -> CallToolResult | InputRequiredResult:
    """The outcome of one call, whatever happens: never raises but for cancellation.

    It is a question for the user where the client can ask one in between.
    """
    this = await _audited(tool.name, tool.effect, app, arguments, context)
    with under_way(this.request_id):
        app.meter.begun()
        outcome = None
        try:
            outcome = result = await _result(tool, app, this, context)
        finally:
            is_written = await _end(app, this, outcome)
    if is_written or tool.effect is not Effect.READ:
        return result
    fault = Internal("the audit log cannot be written, so nothing is returned", hint=audit.TELL_THE_OPERATOR)
    return _told_failure(fault, this)


async def refused(
    name: str,
    app: App,
    tools: Sequence[Tool[Any, Any]],
    arguments: dict[str, Any],
    context: Context[Any, Any] | None = None,
) -> CallToolResult:
    """The outcome of a call of what is none of the tools that the caller may call, in the audit log as any other."""
    error = not_offered(name, app.policy, tools)
    effect = next((tool.effect for tool in tools if tool.name == name), "")
    this = await _audited(name[:LONGEST_NAME], effect, app, arguments, context)
    with under_way(this.request_id):
        app.meter.begun()
        result = _told_failure(error, this)
        await _end(app, this, result)
    return result


async def _result(
    tool: Tool[Any, Any], app: App, this: audit.Call, context: Context[Any, Any] | None
) -> CallToolResult | InputRequiredResult:
    may_quote = False
    try:
        async with app.gate.entered(this.caller):
            given = dict(this.arguments)
            token = given.pop(CONFIRM, None) if tool.is_confirmed else None
            settings = lowered(app.settings, (context and context.request_context.meta) or {})
            args = within_limits(tool, tool.parse(given), settings)
            may_quote = True
            question = await confirmed(tool, app, args, token, context)
            if question:
                return question
            if tool.effect is not Effect.READ:
                await app.audit.begin(this)
            seconds = settings.timeout if settings.timeout < app.settings.timeout else None
            limited = app if settings is app.settings else replace(app, settings=settings)
            structured = await _in_time(tool, limited, args, seconds)
            told = told_result(structured, this.secrets, is_content=tool.tells_content)
            return succeeded(_bounded(tool, settings, told))
    except Error as error:
        return _told_failure(error, this, quotes=may_quote)
    except Exception:
        LOGGER.exception("%s failed", tool.name, extra={"secrets": this.secrets})
        fault = Internal(f"{tool.name}: a fault of this server", hint="its log has the details; report it")
        return _told_failure(fault, this)


async def _in_time(tool: Tool[Any, Any], app: App, args: Input, seconds: float | None) -> dict[str, Any]:
    """The result of the tool, which has this many seconds; the App's clients have deadlines of their own.

    Raises:
        DeadlineExceeded: the time was up.
    """
    if seconds is None:
        return await tool.run(app, args)
    with anyio.move_on_after(seconds):
        return await tool.run(app, args)
    raise DeadlineExceeded(
        f"{tool.name}: not done in the {seconds:g} s that its _meta allows",
        hint="if this was a write, look before repeating it",
    )


def _bounded(tool: Tool[Any, Any], settings: Settings, told: Told) -> Told:
    """The result itself. Tools hold the bound themselves, but for lists that are short everywhere but in odd places.

    Raises:
        LimitExceeded: it is far too large. What has changed something is told in any size.
    """
    most = OVERRUN * settings.max_result_bytes
    if tool.effect is Effect.READ and told.size > most:
        raise LimitExceeded(
            f"{tool.name}: a result of {told.size} bytes, where {most} are possible",
            hint="ask about less, or start the server with a larger --max-result-bytes",
        )
    return told


def succeeded(told: Told) -> CallToolResult:
    """A result, complete as text and as structure, since clients show the model only one of them."""
    return CallToolResult(content=[TextContent(type="text", text=told.text)], structured_content=told.structured)


def failed(told: Told) -> CallToolResult:
    """An error, in the same two forms."""
    return succeeded(told).model_copy(update={"is_error": True})


def _told_failure(error: Error, this: audit.Call, *, quotes: bool = False) -> CallToolResult:
    """The error, and for a fault of this server the id by which the user can have it looked for in the log."""
    told = error.as_dict()
    if isinstance(error, Internal):
        told["request_id"] = this.request_id
    return failed(told_error(told, this.secrets, quotes=quotes))


async def _audited(
    name: str, effect: str, app: App, arguments: dict[str, Any], context: Context[Any, Any] | None
) -> audit.Call:
    """What the audit log is told of a call. A session's id opens it, so only its digest is told."""
    headers = (context and context.headers) or {}
    session = headers.get("mcp-session-id", "")
    return audit.Call(
        caller=await app.caller_name(),
        transport=app.settings.transport if context else "command line",
        session=hashlib.sha256(session.encode()).hexdigest()[:12] if session else "",
        tool=name,
        effect=effect,
        db_name=app.settings.db_name,
        arguments=arguments,
        secrets=app.policy.secrets,
        given_id=given_id(context.request_context.meta, headers) if context else "",
    )


async def _end(app: App, this: audit.Call, result: CallToolResult | InputRequiredResult | None) -> bool:
    """Logs how the call ended; False when the audit log cannot be written."""
    structured: dict[str, Any] = {}
    outcome = "cancelled" if result is None else "asked"
    if isinstance(result, CallToolResult):
        structured = cast("dict[str, Any]", result.structured_content)
        outcome = structured["code"] if result.is_error else "ok"
    name = this.tool if this.tool.isidentifier() else ascii(this.tool)  # of a tool that there is not, it is anything
    seconds = time.perf_counter() - this.started
    fields = {"tool": name, "caller": this.caller, "outcome": outcome, "duration_ms": round(1000 * seconds, 1)}
    LOGGER.info("%s %s %.0f ms", name, outcome, 1000 * seconds, extra=fields)
    app.meter.ended(this.tool, outcome, seconds)
    is_written = await app.audit.end(this, outcome, structured)
    if not is_written:
        LOGGER.error("the audit log cannot be written: %s", app.settings.audit)
    return is_written


def not_offered(name: str, policy: Policy, tools: Sequence[Tool[Any, Any]]) -> Error:
    """What a call is told of a tool that there is not for this caller, whether for others or for nobody."""
    setting = next((policy.lacking(tool) for tool in tools if tool.name == name and policy.would_permit(tool)), "")
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
    seen_now: Callable[[], App]
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
        await tell(tool, arguments, settings.db_name, settings.transport, context)

    def _names(self, app: App) -> list[str]:
        """The tools that the caller may call."""
        return [name for name, tool in self.known.items() if app.policy.permits(tool.wrapped)]

    def _asking(self, app: App, context: Context[Any, Any] | None = None) -> resources.Ask:
        """Calls a tool that the caller may call, for what is no call of theirs."""

        async def ask(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            result = cast("CallToolResult", await call(self.known[name].wrapped, app, arguments, context))
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
            if not authenticated and isinstance(result, CallToolResult) and not result.is_error:
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
        return await call(tool, replace(app, report_progress=context.report_progress), arguments, context)
    async with progress.kept_up(context.report_progress, tool.name) as report:
        return await call(tool, replace(app, report_progress=report), arguments, context)
    raise AssertionError  # nothing ends the block but the call


def _make_schemas(tools: Iterable[_SdkTool]) -> None:
    for tool in tools:
        tool.make_schemas()
