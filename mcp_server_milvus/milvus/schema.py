"""A collection's schema as values: parsed once from what Milvus describes, compared and asked, never changed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from mcp_server_milvus.errors import InvalidArgument, MilvusFailed, NotFound
from mcp_server_milvus.vocabulary import DataType, FunctionType

DEFAULT_PARTITION = "_default"

DESCRIPTION_PROPERTY = "mcp_description"
"""Where the description is kept on Milvus Lite, which has no place for it."""

LARGEST_VALUE = 65_536
"""Bytes of a value without a bound of its own: JSON, and a value in the dynamic field."""

INDEX_STATES = {1: "waiting", 2: "building", 3: "finished", 4: "failed", 5: "building"}
"""Milvus's `common.IndexState`; 5 is a retry."""


@dataclass(frozen=True)
class Field:
    """One field. `dim` is in elements, `max_length` in bytes of UTF-8, `max_capacity` in elements of an ARRAY."""

    name: str
    type: DataType
    is_primary: bool = False
    auto_id: bool = False
    nullable: bool = False
    default_value: Any = None
    dim: int | None = None
    max_length: int | None = None
    element_type: DataType | None = None
    max_capacity: int | None = None
    is_partition_key: bool = False
    is_clustering_key: bool = False
    enable_analyzer: bool = False
    enable_match: bool = False
    analyzer_params: str = ""
    mmap_enabled: bool | None = None
    is_function_output: bool = False
    struct_fields: tuple["Field", ...] = ()
    description: str = ""

    def __str__(self) -> str:
        """`title VARCHAR(200)`, `embedding FLOAT_VECTOR(768)`: how messages name a field."""
        size = self.dim or self.max_length
        kind = f"ARRAY of {self.element_type}" if self.type is DataType.ARRAY else str(self.type)
        return f"{self.name} {kind}({size})" if size else f"{self.name} {kind}"

    @property
    def holds_text(self) -> bool:
        """Whether an embedder can make a vector from it."""
        return self.type in {DataType.VARCHAR, DataType.TEXT}

    @property
    def holds_embeddings(self) -> bool:
        """Whether it can hold what an embedder makes."""
        dense = {DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR}
        return self.type in dense and not self.is_function_output

    @cached_property
    def most_bytes(self) -> int:
        """Bytes that a value cannot exceed, as JSON, but for a vector's."""
        if self.type in {DataType.JSON, DataType.ARRAY, DataType.GEOMETRY}:
            return LARGEST_VALUE
        return self.max_length or LARGEST_VALUE if self.type.is_string else 8

    @property
    def may_be_absent(self) -> bool:
        """Whether an entity is complete without a value for this field."""
        return (
            self.nullable
            or self.default_value is not None
            or self.is_function_output
            or (self.is_primary and self.auto_id)
        )


@dataclass(frozen=True)
class Index:
    """One index, with what it is built on. Counts are in entities and None where the backend does not tell."""

    field_name: str
    index_name: str
    index_type: str
    metric_type: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    state: str = field(default="", compare=False)
    indexed_entities: int | None = field(default=None, compare=False)
    total_entities: int | None = field(default=None, compare=False)
    failure: str = field(default="", compare=False)


@dataclass(frozen=True)
class Function:
    """A function inside Milvus that computes output fields from input fields."""

    name: str
    type: FunctionType
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)


@dataclass(frozen=True)
class CollectionSchema:
    """All that is known of one collection. Equality is about what a caller's entities and searches depend on.

    `identity` tells a collection from another that is later made with its name, and `index_digest` its indexes from
    later ones; both are "0" where the backend has no such thing. `unloaded_partitions` are those that a partly loaded
    collection lacks: Milvus reads the others and says nothing. The values of `masked` fields are never shown.
    """

    name: str
    fields: tuple[Field, ...]
    functions: tuple[Function, ...]
    indexes: tuple[Index, ...]
    enable_dynamic_field: bool
    identity: str = ""
    index_digest: str = ""
    partition_names: tuple[str, ...] = field(default=(), compare=False)
    unloaded_partitions: tuple[str, ...] = field(default=(), compare=False)
    consistency_level: str = field(default="", compare=False)
    num_shards: int = field(default=1, compare=False)
    num_partitions: int | None = field(default=None, compare=False)
    description: str = field(default="", compare=False)
    aliases: tuple[str, ...] = field(default=(), compare=False)
    properties: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    described: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False, repr=False)
    masked: frozenset[str] = field(default=frozenset(), compare=False)

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """The fields, by name."""
        return {each.name: each for each in self.fields}

    @property
    def shape(self) -> tuple[Any, ...]:
        """What decides which entities a key or a filter means. Indexes may come and go; this may not change unseen."""
        return (self.name, self.identity, self.fields, self.enable_dynamic_field)

    @cached_property
    def primary_key(self) -> Field:
        """The primary key's field."""
        return next(each for each in self.fields if each.is_primary)

    @cached_property
    def has_partition_key(self) -> bool:
        """Whether Milvus itself decides in which partition an entity is."""
        return any(each.is_partition_key for each in self.fields)

    @cached_property
    def vector_fields(self) -> tuple[Field, ...]:
        """The fields that hold vectors, in the order of the schema."""
        return tuple(each for each in self.fields if each.type.is_vector)

    @cached_property
    def scalar_names(self) -> tuple[str, ...]:
        """The names of all other fields, the primary key among them."""
        return tuple(each.name for each in self.fields if not each.type.is_vector and each.name not in self.masked)

    def index_of(self, field_name: str) -> Index | None:
        """The index on a field, if there is one."""
        return next((index for index in self.indexes if index.field_name == field_name), None)

    def text_source_of(self, vector_field: str) -> Function | None:
        """The function whose output the vector field is, if there is one: such a field is searched with text."""
        return next((function for function in self.functions if vector_field in function.outputs), None)

    def require(self, field_name: str) -> Field:
        """The field of that name.

        Raises:
            NotFound: there is none; the message lists the fields.
        """
        if field_name not in self.by_name:
            raise NotFound(f"{self.name} has no field {field_name!r}; fields: {', '.join(map(str, self.fields))}")
        return self.by_name[field_name]

    def output_fields(self, asked: Sequence[str] | None) -> list[str]:
        """The names to ask Milvus for: what was asked for, or every field but the vectors and function outputs.

        Raises:
            InvalidArgument: a name is no field and the collection has no dynamic field; or it is a function's output,
                which Milvus never returns.
        """
        dynamic = ["$meta"] if self.enable_dynamic_field else []
        if asked is None:
            return [*self.scalar_names, *dynamic]
        names: list[str] = []
        for name in asked:
            names += (
                [
                    *(
                        each.name
                        for each in self.fields
                        if not each.is_function_output and each.name not in self.masked
                    ),
                    *dynamic,
                ]
                if name == "*"
                else [name]
            )
        for name in names:
            if name.replace(" ", "").lower() == "count(*)":
                raise InvalidArgument("output_fields: count(*) is no field", hint="the tool count counts entities")
            known = self.by_name.get(name)
            if known is None and not self.enable_dynamic_field:
                raise InvalidArgument(
                    f"output_fields: {self.name} has no field {name!r}; fields: {', '.join(self.by_name)}",
                    hint="name existing fields, or '*'",
                )
            if known and known.is_function_output:
                raise InvalidArgument(
                    f"output_fields: {name} is computed inside Milvus and cannot be read; leave it out"
                )
        return list(dict.fromkeys([self.primary_key.name, *names]))


def parse_schema(described: Mapping[str, Any], indexes: Sequence[Any]) -> CollectionSchema:
    """The schema from pymilvus's description and the index descriptions of its gRPC API.

    Raises:
        MilvusFailed: they describe none that this server knows.
    """
    try:
        return _parsed(described, indexes)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as wrong:
        told = f"Milvus describes the collection in a way that this server does not know: {str(wrong)[:200]}"
        raise MilvusFailed(told) from wrong


def _parsed(described: Mapping[str, Any], indexes: Sequence[Any]) -> CollectionSchema:
    functions = tuple(_parse_function(raw) for raw in described.get("functions", ()))
    outputs = {name for function in functions for name in function.outputs}
    fields = [_parse_field(raw, outputs) for raw in described["fields"]]
    fields += [_parse_struct(raw) for raw in described.get("struct_array_fields", ())]
    if not any(each.is_primary for each in fields):
        raise ValueError("it has no primary key")
    return CollectionSchema(
        name=described["collection_name"],
        fields=tuple(fields),
        functions=functions,
        indexes=tuple(parse_index(raw) for raw in indexes),
        enable_dynamic_field=bool(described.get("enable_dynamic_field")),
        consistency_level=str(described.get("consistency_level_name", "")),
        num_shards=int(described.get("num_shards", 1)),
        num_partitions=described.get("num_partitions"),
        description=description_in(described),
        aliases=tuple(described.get("aliases", ())),
        properties={
            name: value for name, value in described.get("properties", {}).items() if name != DESCRIPTION_PROPERTY
        },
        described=described,
    )


def description_in(described: Mapping[str, Any]) -> str:
    """The collection's description, wherever the backend keeps it."""
    return str(described.get("description") or described.get("properties", {}).get(DESCRIPTION_PROPERTY, ""))


def _parse_field(raw: Mapping[str, Any], function_outputs: set[str]) -> Field:
    params: Mapping[str, Any] = raw.get("params", {})
    element = raw.get("element_type")
    return Field(
        name=raw["name"],
        type=DataType(raw["type"].name),
        is_primary=bool(raw.get("is_primary")),
        auto_id=bool(raw.get("auto_id")),
        nullable=bool(raw.get("nullable")),
        default_value=_plain_default(raw.get("default_value")),
        dim=_whole(params.get("dim")),
        max_length=_whole(params.get("max_length")),
        element_type=DataType(element.name) if element else None,
        max_capacity=_whole(params.get("max_capacity")),
        is_partition_key=bool(raw.get("is_partition_key")),
        is_clustering_key=bool(raw.get("is_clustering_key")),
        enable_analyzer=_is_true(params.get("enable_analyzer")),
        enable_match=_is_true(params.get("enable_match")),
        analyzer_params=str(params.get("analyzer_params", "")),
        mmap_enabled=params.get("mmap_enabled"),
        is_function_output=bool(raw.get("is_function_output")) or raw["name"] in function_outputs,
        description=raw.get("description", ""),
    )


def _parse_struct(raw: Mapping[str, Any]) -> Field:
    inner = [_struct_member(member) for member in raw.get("fields", ())]
    capacity = next((member["params"].get("max_capacity") for member in raw.get("fields", ())), None)
    return Field(
        name=raw["name"],
        type=DataType.ARRAY,
        element_type=DataType.STRUCT,
        max_capacity=_whole(capacity),
        struct_fields=tuple(inner),
        nullable=bool(raw.get("nullable")),
        description=raw.get("description", ""),
    )


def _struct_member(raw: Mapping[str, Any]) -> Field:
    """A struct's member is stored as an array of its own; its element type is what a caller knows it as."""
    return _parse_field(dict(raw) | {"type": raw["element_type"], "element_type": None}, set())


def _parse_function(raw: Mapping[str, Any]) -> Function:
    return Function(
        name=raw["name"],
        type=FunctionType(raw["type"].name),
        inputs=tuple(raw["input_field_names"]),
        outputs=tuple(raw["output_field_names"]),
        params=dict(raw.get("params") or {}),
    )


def parse_index(raw: Any) -> Index:
    """The index from its description in the gRPC API."""
    pairs = {pair.key: pair.value for pair in raw.params}
    metric = pairs.pop("metric_type", "").removeprefix("NONE")
    nested = pairs.pop("params", "")
    params: dict[str, Any] = {
        key: _from_json(value) for key, value in pairs.items() if key not in {"index_type", "mmap.enabled"}
    }
    if nested:
        inner = _from_json(nested)
        params |= cast("dict[str, Any]", inner) if isinstance(inner, dict) else {"params": inner}
    return Index(
        field_name=raw.field_name,
        index_name=raw.index_name,
        index_type=pairs.get("index_type", ""),
        metric_type=metric,
        params=params,
        state=INDEX_STATES.get(raw.state, "unknown"),
        indexed_entities=raw.indexed_rows,
        total_entities=raw.total_rows,
        failure=raw.index_state_fail_reason,
    )


def _plain_default(value: Any) -> Any:
    """The value inside the protobuf `ValueField`, or None."""
    if value is None:
        return None
    which = cast("str | None", value.WhichOneof("data"))
    return getattr(value, which) if which else None


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
