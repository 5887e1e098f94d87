"""The tools, resources and prompts that the conformance suite calls, behind our own transports.

What each of them answers is said in the suite's own descriptions of its scenarios. It is started like our server:
`python fixtures_server.py [--transport http --port PORT]`.
"""

import argparse
import base64
import json
from collections.abc import Callable
from typing import Annotated, Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolResult,
    Completion,
    ContentBlock,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    InputResponses,
    JSONRPCMessage,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field
from starlette.applications import Starlette

from mcp_server_milvus.settings import Settings
from mcp_server_milvus.transports.http import Beside, serve_http
from mcp_server_milvus.transports.stdio import serve_stdio

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
RETRY_MS = 100
STEP_SECONDS = 0.05

Answer = CallToolResult | InputRequiredResult


class Memory(EventStore):
    """Every event of every stream, so that a client that lost its stream can read on. Keys are counted from 1."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        last = int(last_event_id)
        stream = self._events[last - 1][0]
        for number, (of, message) in enumerate(self._events[last:], start=last + 1):
            if of == stream and message:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Resumable(MCPServer[Any]):
    """A server whose event streams can be read on. Ours offers none: its calls are asked again."""

    def streamable_http_app(self, **options: Any) -> Starlette:
        return super().streamable_http_app(event_store=Memory(), retry_interval=RETRY_MS, **options)


# What is said

IMAGE = ImageContent(type="image", data=PNG, mime_type="image/png")
AUDIO = AudioContent(type="audio", data=WAV, mime_type="audio/wav")


def text(said: str) -> TextContent:
    return TextContent(type="text", text=said)


def embedded(uri: str, mime_type: str, said: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=said))


def answer(*content: ContentBlock) -> CallToolResult:
    return CallToolResult(content=[*content])


# What is asked

TEXT = {"type": "string"}


def form(message: str, /, **properties: dict[str, Any]) -> ElicitRequest:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": [*properties]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def completion_of(prompt: str, max_tokens: int) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=text(prompt))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=max_tokens))


def told(responses: InputResponses, key: str) -> str:
    """What a client answered, as text."""
    match responses[key]:
        case ElicitResult(content=dict(content)):
            return ", ".join(map(str, content.values()))
        case CreateMessageResult(content=TextContent(text=said)):
            return said
        case ListRootsResult(roots=roots):
            return f"{len(roots)} roots"
        case other:
            return type(other).__name__


NAME = form("What is your name?", name=TEXT)
CONFIRM = form("Please confirm", ok={"type": "boolean"})
DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
TITLED = [{"const": "value1", "title": "First"}, {"const": "value2", "title": "Second"}]
ENUMS = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2"]},
    "titledSingle": {"type": "string", "oneOf": TITLED},
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["One", "Two"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2"]}},
    "titledMulti": {"type": "array", "items": {"anyOf": TITLED}},
}
SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {"$anchor": "addressDef", "type": "object", "properties": {"street": TEXT, "city": TEXT}},
    },
    "properties": {
        "name": TEXT,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": TEXT,
        "email": TEXT,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

# Kinds of tools


def made(name: str, fn: Callable[..., Any]) -> Tool:
    return Tool.from_function(fn, name=name, description=f"The suite's {name}.")


def telling(name: str, *content: ContentBlock) -> Tool:
    """A tool that always answers the same."""

    async def tell() -> CallToolResult:
        return answer(*content)

    return made(name, tell)


def eliciting(name: str, /, **properties: dict[str, Any]) -> Tool:
    """A tool that asks its client while it runs, which a client of a handshake protocol can be."""

    async def elicit(ctx: Context[Any], message: str = "Please answer") -> CallToolResult:
        asked = form(message, **properties).params
        assert isinstance(asked, ElicitRequestFormParams)
        result = await ctx.session.elicit(message, asked.requested_schema, ctx.request_id)
        return answer(text(f"User response: action={result.action}, content={json.dumps(result.content)}"))

    return made(name, elicit)


def requiring(name: str, done: str, state: str | None = None, /, **asked: InputRequest) -> Tool:
    """A tool that ends its call with questions, and answers the call that brings all answers."""

    async def require(ctx: Context[Any]) -> Answer:
        responses = ctx.input_responses or {}
        if asked.keys() <= responses.keys() and ctx.request_state == state:
            return answer(text(done.format(**{key: told(responses, key) for key in asked})))
        return InputRequiredResult(input_requests={**asked}, request_state=state)

    return made(name, require)


# Tools of their own


async def with_logging(ctx: Context[Any]) -> CallToolResult:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(said)  # pyright: ignore[reportDeprecated]
        await anyio.sleep(STEP_SECONDS)
    return answer(text("logged"))


async def with_progress(ctx: Context[Any]) -> CallToolResult:
    for percent in (0, 50, 100):
        await ctx.report_progress(percent, 100)
        await anyio.sleep(STEP_SECONDS)
    return answer(text("progressed"))


async def sampling(ctx: Context[Any], prompt: str) -> CallToolResult:
    result = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
        [SamplingMessage(role="user", content=text(prompt))], max_tokens=100, related_request_id=ctx.request_id
    )
    return answer(text(f"LLM response: {result.content.text if isinstance(result.content, TextContent) else ''}"))


async def failing() -> CallToolResult:
    return answer(text("This tool intentionally returns an error for testing")).model_copy(update={"is_error": True})


async def reconnection(ctx: Context[Any]) -> CallToolResult:
    """Ends its own stream: the answer is read from the next one."""
    await ctx.close_sse_stream()
    await anyio.sleep(2 * RETRY_MS / 1000)
    return answer(text("reconnected"))


async def in_header(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "none",
) -> CallToolResult:
    return answer(text(f"region={region}"))


async def missing_capability(ctx: Context[Any]) -> CallToolResult:
    if not ctx.client_capabilities or ctx.client_capabilities.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY, "sampling is needed", {"requiredCapabilities": {"sampling": {}}}
        )
    return answer(text("sampling is there"))


async def streaming_elicitation(ctx: Context[Any]) -> Answer:
    """Reports progress before it asks: the question is an answer to the call, not a request on its stream."""
    await ctx.report_progress(1, 2)
    return answer(text("asked")) if ctx.input_responses else InputRequiredResult(input_requests={"user_name": NAME})


async def multi_round(ctx: Context[Any]) -> Answer:
    responses = ctx.input_responses or {}
    known: dict[str, str] = json.loads(ctx.request_state or "{}")
    if "step2" in responses and "name" in known:
        return answer(text(f"{known['name']} likes {told(responses, 'step2')}."))
    if "step1" in responses:
        known = {"name": told(responses, "step1")}
        step: dict[str, InputRequest] = {"step2": form("Step 2: What is your favorite color?", color=TEXT)}
    else:
        step = {"step1": form("Step 1: What is your name?", name=TEXT)}
    return InputRequiredResult(input_requests=step, request_state=json.dumps(known))


async def of_capabilities(ctx: Context[Any]) -> Answer:
    """Asks only what the client says it can be asked."""
    can = ctx.client_capabilities
    possible: dict[str, tuple[Any, InputRequest]] = {
        "sample": (can and can.sampling, completion_of("Say hello", 50)),
        "ask": (can and can.elicitation, NAME),
    }
    asked = {key: request for key, (capability, request) in possible.items() if capability is not None}
    return InputRequiredResult(input_requests=asked, request_state="asked")


async def tool_change(ctx: Context[Any]) -> CallToolResult:
    await ctx.notify_tools_changed()
    return answer(text("changed"))


async def prompt_change(ctx: Context[Any]) -> CallToolResult:
    await ctx.notify_prompts_changed()
    return answer(text("changed"))


TOOLS = [
    telling("test_simple_text", text("This is a simple text response for testing.")),
    telling("test_image_content", IMAGE),
    telling("test_audio_content", AUDIO),
    telling(
        "test_embedded_resource",
        embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."),
    ),
    telling(
        "test_multiple_content_types",
        text("Multiple content types test:"),
        IMAGE,
        embedded("test://mixed-content-resource", "application/json", '{"test": "data", "value": 123}'),
    ),
    telling("json_schema_2020_12_tool").model_copy(update={"parameters": SCHEMA_2020_12}),
    eliciting("test_elicitation", username=TEXT, email=TEXT),
    eliciting("test_elicitation_sep1034_defaults", **DEFAULTS),
    eliciting("test_elicitation_sep1330_enums", **ENUMS),
    requiring("test_input_required_result_elicitation", "Hello, {user_name}!", user_name=NAME),
    requiring(
        "test_input_required_result_sampling",
        "The model said: {capital_question}",
        capital_question=completion_of("What is the capital of France?", 100),
    ),
    requiring("test_input_required_result_list_roots", "There are {client_roots}", client_roots=ListRootsRequest()),
    requiring("test_input_required_result_request_state", "state-ok", "a state", confirm=CONFIRM),
    requiring("test_input_required_result_tampered_state", "state-ok", "a state", confirm=CONFIRM),
    requiring(
        "test_input_required_result_multiple_inputs",
        "{user_name}, {greeting}, {client_roots}",
        "a state",
        user_name=NAME,
        greeting=completion_of("Generate a greeting", 50),
        client_roots=ListRootsRequest(),
    ),
    made("test_tool_with_logging", with_logging),
    made("test_logging_tool", with_logging),
    made("test_tool_with_progress", with_progress),
    made("test_sampling", sampling),
    made("test_error_handling", failing),
    made("test_reconnection", reconnection),
    made("test_x_mcp_header", in_header),
    made("test_missing_capability", missing_capability),
    made("test_streaming_elicitation", streaming_elicitation),
    made("test_input_required_result_multi_round", multi_round),
    made("test_input_required_result_capabilities", of_capabilities),
    made("test_trigger_tool_change", tool_change),
    made("test_trigger_prompt_change", prompt_change),
]
ASKING = [
    *("test_tool_with_logging", "test_sampling", "test_elicitation", "test_reconnection"),
    *("test_elicitation_sep1034_defaults", "test_elicitation_sep1330_enums"),
]
"""Those that tell or ask their client something while they run, which a plain JSON reply has no room for."""

server = Resumable("fixtures", version="1.0", log_level="ERROR", tools=TOOLS)


# Resources


@server.resource("test://static-text", description="A text.")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", description="A picture.", mime_type="image/png")
def static_binary() -> bytes:
    return base64.b64decode(PNG)


@server.resource("test://template/{key}/data", description="A text by its key.", mime_type="application/json")
def template(key: str) -> str:
    return json.dumps({"id": key, "templateTest": True, "data": f"Data for ID: {key}"})


@server.resource("test://watched-resource", description="A text to be watched.")
def watched() -> str:
    return "watched"


# Prompts


async def simple_prompt() -> list[UserMessage]:
    return [UserMessage("This is a simple prompt for testing.")]


async def prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    return [UserMessage(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]


async def prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803  # the suite's name
    resource = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


async def prompt_with_image() -> list[UserMessage]:
    return [UserMessage(IMAGE), UserMessage("Please analyze the image above.")]


async def input_required_result_prompt(ctx: Context[Any]) -> list[UserMessage] | InputRequiredResult:
    responses = ctx.input_responses or {}
    if "user_context" in responses:
        return [UserMessage(f"Use this context: {told(responses, 'user_context')}")]
    question = form("What context should the prompt use?", context=TEXT)
    return InputRequiredResult(input_requests={"user_context": question})


for prompt in (
    simple_prompt,
    prompt_with_arguments,
    prompt_with_embedded_resource,
    prompt_with_image,
    input_required_result_prompt,
):
    name = f"test_{prompt.__name__}"
    server.add_prompt(Prompt.from_function(prompt, name=name, description=f"The suite's {name}."))


# Methods that the SDK has no decorator for


async def accept(*_: Any) -> EmptyResult:
    return EmptyResult()


@server.completion()
async def completed(*_: Any) -> Completion:
    return Completion(values=[])


for method, params in (
    ("logging/setLevel", SetLevelRequestParams),
    ("resources/subscribe", SubscribeRequestParams),
    ("resources/unsubscribe", UnsubscribeRequestParams),
):
    server._lowlevel_server.add_request_handler(method, params, accept)


def main(transport: str, port: str) -> None:
    if transport == "stdio":
        anyio.run(serve_stdio, server)
    else:
        settings = Settings.model_validate({"transport": transport, "port": port})
        anyio.run(serve_http, server, settings, Beside(asking=ASKING))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--transport", default="stdio")
    arguments.add_argument("--port", default="0")
    main(**vars(arguments.parse_args()))
