"""One call: limits, validation, confirmation, the tool itself, and a structured result or a structured error.

The one broad `except` is here.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import anyio
from mcp.server.context import ServerRequestContext
from mcp_types import CallToolResult, InputRequiredResult, TextContent

from mcp_server_milvus import audit
from mcp_server_milvus.app import App
from mcp_server_milvus.confirming import confirmed
from mcp_server_milvus.content import Told, told_error, told_result
from mcp_server_milvus.errors import DeadlineExceeded, Denied, Error, Internal, InvalidArgument, LimitExceeded
from mcp_server_milvus.garbage import without_frames
from mcp_server_milvus.limits import lowered, within_limits
from mcp_server_milvus.policy import Policy
from mcp_server_milvus.request_ids import given_id, under_way
from mcp_server_milvus.settings import Settings, nearest
from mcp_server_milvus.tool import CONFIRM, Input, Tool
from mcp_server_milvus.vocabulary import Effect

OVERRUN = 2
LONGEST_NAME = 80
"""Characters of the name of a tool that there is not, in logs."""

LOGGER = logging.getLogger("mcp_server_milvus")

Request = ServerRequestContext[Any, Any]
"""What the SDK knows of the request that a call came with."""


async def call(
    tool: Tool[Any, Any], app: App, arguments: dict[str, Any], context: Request | None = None
) -> CallToolResult | InputRequiredResult:
    """The outcome of one call, whatever happens: never raises but for cancellation.

    It is a question for the user where the client can ask one in between. Without a context it is none of a client's:
    it comes from the command line, or from this server itself, which lists resources and completes names.
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
    context: Request | None = None,
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
    tool: Tool[Any, Any], app: App, this: audit.Call, context: Request | None
) -> CallToolResult | InputRequiredResult:
    may_quote = False
    try:
        with app.gate.entered(this.caller):
            given = dict(this.arguments)
            token = given.pop(CONFIRM, None) if tool.is_confirmed else None
            settings = lowered(app.settings, this.meta)
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
        without_frames(error)
        return _told_failure(error, this, quotes=may_quote)
    except Exception as error:
        LOGGER.exception("%s failed", tool.name, extra={"secrets": this.secrets})
        without_frames(error)
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


async def _audited(name: str, effect: str, app: App, arguments: dict[str, Any], context: Request | None) -> audit.Call:
    """What the audit log is told of a call. A session's id opens it, so only its digest is told."""
    headers = getattr(context and context.request, "headers", {})
    meta = (context and context.meta) or {}
    session = headers.get("mcp-session-id", "")
    return audit.Call(
        caller=await app.caller_name(),
        transport=app.settings.transport if context or app.is_serving else "command line",
        session=hashlib.sha256(session.encode()).hexdigest()[:12] if session else "",
        tool=name,
        effect=effect,
        db_name=app.settings.db_name,
        arguments=arguments,
        secrets=app.policy.secrets,
        meta=meta,
        given_id=given_id(meta, headers),
    )


async def _end(app: App, this: audit.Call, result: CallToolResult | InputRequiredResult | None) -> bool:
    """Logs how the call ended; False when the audit log cannot be written."""
    structured: dict[str, Any] = {}
    outcome = "cancelled" if result is None else "asked"
    if isinstance(result, CallToolResult):
        structured = cast("dict[str, Any]", result.structured_content)
        outcome = structured["code"] if result.is_error else "ok"
    seconds = time.perf_counter() - this.started
    if LOGGER.isEnabledFor(logging.INFO):
        name = this.tool if this.tool.isidentifier() else ascii(this.tool)  # where there is no such tool: anything
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
