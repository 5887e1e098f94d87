"""What a tool is, before any protocol: a name, two schemas, an effect and an async function. Knows no MCP.

@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def count(app: App, args: CountInput) -> CountOutput:
    \"\"\"What the model reads when it chooses among tools.\"\"\"
"""

import difflib
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.vocabulary import Effect, Toolset


class Input(BaseModel):
    """Arguments of a tool: strict types, nothing unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class Output(BaseModel):
    """Result of a tool. Fields that are None are left out on the wire."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class BoundedOutput(Output):
    """Result of a tool whose size is bounded: what was cut is said."""

    applied_limits: list[str] | None = Field(
        default=None, description="What was cut from this result, and how to get it"
    )


MAX_PROBLEMS = 5
"""Problems that one message tells."""

SHOWN_LENGTH = 60
"""Characters of a wrong value that a message repeats."""

EMPTY = frozenset({"null", "false", "0", '""', "[]", "{}"})
"""Defaults that a reader assumes anyway, as JSON."""

OBJECT = {"type": "object"}
"""Schema of what is in a list, where it says nothing else of it. The schema of a result leaves it out: a client that
checks each of its entities takes as long for that as for all else that it does with the result."""

BOUNDS = frozenset({"minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength"})
"""Told to who breaks one, not to everybody in every conversation."""

OTHER_NAMES = {
    "collection": "collection_name",
    "name": "collection_name",
    "database": "db_name",
    "expr": "filter",
    "filter_expr": "filter",
    "where": "filter",
    "query": "text",
    "query_text": "text",
    "query_vector": "vector",
    "vector_field": "anns_field",
    "field": "field_name",
    "field_name": "index_name",
    "fields": "output_fields",
    "k": "limit",
    "top_k": "limit",
    "entities": "data",
    "documents": "data",
    "id": "ids",
    "partition": "partition_name",
    "alias_name": "alias",
    "sort": "order_by",
    "search_type": "mode",
    "highlight": "snippet",
    "chunk": "chunk_size",
    "overlap": "chunk_overlap",
    "text_column": "text_field",
    "metadata_fields": "metadata",
}
"""What callers write, from other databases and other servers, and the argument that they mean."""

CONFIRM = "confirm"
"""Argument of every tool that destroys: the token of the call that told what would be lost."""

NOTE = "note"
"""Field of a result beside those of its model: what its reader is told of stored text. No model has one of its own."""

In = TypeVar("In", bound=Input)
Out = TypeVar("Out", bound=Output)


@dataclass(frozen=True)
class Loss:
    """What a call would destroy, for whoever confirms it.

    `what` is one sentence. `state` is all that the confirmation depends on: another one voids it. `preview` holds what
    a reader should see besides, such as `entity_count`, `bytes`, `sample`; `undo` how it could be taken back.
    """

    what: str
    state: tuple[str | int, ...]
    preview: Mapping[str, Any] = field(default_factory=dict[str, Any])
    undo: str = "it cannot be taken back"


Losing = Callable[[App, Any], Awaitable[Loss | None]]
"""Tells what a call with these arguments would destroy."""


@dataclass(frozen=True)
class Tool(Generic[In, Out]):
    """One tool, complete: everything that a transport, the policy, the catalogue and the documentation need.

    `loses` tells what a call would destroy, None for one that destroys nothing; a tool of effect DELETE that has no
    `loses` always does. `uses_files` is true of those that read or write the files folder.
    """

    name: str
    description: str
    toolset: Toolset
    effect: Effect
    input_model: type[In]
    output_model: type[Out]
    function: Callable[[App, In], Awaitable[Out]]
    loses: Losing | None = None
    uses_files: bool = False

    @property
    def is_confirmed(self) -> bool:
        """Whether some of its calls have to be confirmed."""
        return self.loses is not None or self.effect is Effect.DELETE

    @property
    def tells_content(self) -> bool:
        """Whether its results may hold what is stored, or what is in a file."""
        return self.effect is Effect.READ or self.uses_files

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, in the portable subset that every client understands."""
        schema: dict[str, Any] = portable_schema(self.input_model, mode="validation") | {"additionalProperties": False}
        if self.is_confirmed:
            schema["properties"][CONFIRM] = {"type": "string"}
        return schema

    @cached_property
    def output_schema(self) -> dict[str, Any]:
        """The JSON schema of the structured result."""
        schema: dict[str, Any] = portable_schema(self.output_model, mode="serialization")
        for listed in schema["properties"].values():
            if listed.get("items") == OBJECT:
                del listed["items"]
        if self.tells_content:
            schema["properties"][NOTE] = {"type": "string"}
        return schema

    @cached_property
    def _required(self) -> frozenset[str]:
        return frozenset(name for name, field in self.input_model.model_fields.items() if field.is_required())

    def parse(self, arguments: Mapping[str, Any]) -> In:
        """The arguments as the tool's input model. A null for an argument that may be left out leaves it out.

        Raises:
            InvalidArgument: names every argument that is unknown, missing or of the wrong type.
        """
        given = {name: value for name, value in arguments.items() if value is not None or name in self._required}
        try:
            return self.input_model.model_validate(given)
        except ValidationError as error:
            raise InvalidArgument(_explained(self, error)) from None

    async def run(self, app: App, args: In) -> dict[str, Any]:
        """The structured result of parsed arguments, JSON-safe. Raises one of our errors."""
        result = await self.function(app, args)
        return result.model_dump(mode="json", exclude_none=True)


def tool(
    *, toolset: Toolset, effect: Effect, loses: Losing | None = None, uses_files: bool = False
) -> Callable[[Callable[[App, In], Awaitable[Out]]], Tool[In, Out]]:
    """Makes a plain async function `(app, args: In) -> Out` a Tool; its name and docstring are what the model sees."""

    def decorate(function: Callable[[App, In], Awaitable[Out]]) -> Tool[In, Out]:
        hints = get_type_hints(function)
        return Tool(
            name=function.__name__,
            description=inspect.cleandoc(function.__doc__ or ""),
            toolset=toolset,
            effect=effect,
            input_model=cast("type[In]", hints["args"]),
            output_model=cast("type[Out]", hints["return"]),
            function=function,
            loses=loses,
            uses_files=uses_files,
        )

    return decorate


def portable_schema(model: type[BaseModel], *, mode: Any) -> dict[str, Any]:
    """The model's JSON schema without `title`, `$ref`, `$defs`, null alternatives and defaults that say nothing."""
    schema = model.model_json_schema(mode=mode)
    schema.pop("description", None)  # says what the class is, for readers of the code
    return _portable(schema, schema.get("$defs", {}))


def _portable(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_portable(item, definitions) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    schema = _without_null(cast("dict[str, Any]", node))
    if "$ref" in schema:
        referred = definitions[schema["$ref"].removeprefix("#/$defs/")]
        own = {key: value for key, value in referred.items() if key != "description"}
        return _portable(own | {key: value for key, value in schema.items() if key != "$ref"}, definitions)
    return {
        key: {name: _portable(value, definitions) for name, value in inner.items()}
        if key == "properties"
        else _portable(inner, definitions)
        for key, inner in schema.items()
        if not _says_nothing(key, inner)
    }


def _says_nothing(key: str, value: Any) -> bool:
    """Whether a reader of the schema assumes it anyway."""
    if key == "default":
        return json.dumps(value) in EMPTY
    return key in {"title", "$defs"} | BOUNDS or (key == "additionalProperties" and isinstance(value, bool))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" not in schema:
        return schema
    choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return choices[0] | rest if len(choices) == 1 else {"anyOf": choices} | rest


def _explained(tool: Tool[Any, Any], error: ValidationError) -> str:
    names = list(tool.input_model.model_fields)
    problems = list(dict.fromkeys(_problem(problem, names) for problem in error.errors(include_url=False)))
    more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    return f"{tool.name}: {'; '.join(problems[:MAX_PROBLEMS])}{more}"


def _problem(problem: Any, names: list[str]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(part for part in location if not part.startswith(("list[", "dict[", "function-")))
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown argument {path!r}{_meant(location[0], names) if len(location) == 1 else ''}"
        case "missing":
            return f"argument {path!r} is missing"
        case "value_error":
            return f"{path}: {problem['ctx']['error']}" if path else str(problem["ctx"]["error"])
        case _:
            return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {_shown(problem['input'])}"


def _meant(unknown: str, names: list[str]) -> str:
    if (other := OTHER_NAMES.get(unknown.lower())) in names:
        return f" (did you mean {other!r}?)"
    close = difflib.get_close_matches(unknown, names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f"; arguments: {', '.join(names)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}..."
