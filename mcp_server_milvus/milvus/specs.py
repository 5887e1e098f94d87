"""Fields, functions and indexes as a caller writes them down, under pymilvus's names."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from mcp_server_milvus.milvus import schema as schemas
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.vocabulary import ConsistencyLevel, DataType, FunctionType, MetricType

TypeName = Annotated[DataType, Field(strict=False), WithJsonSchema({"type": "string"})]
Metric = Annotated[MetricType, Field(strict=False), WithJsonSchema({"type": "string"})]
Level = Annotated[ConsistencyLevel, Field(strict=False), WithJsonSchema({"type": "string"})]
"""Enums whose values are not listed a second time in the schema that a model pays for."""

Scalar = Annotated[bool | int | float | str, WithJsonSchema({})]
"""Any JSON value but null, an array or an object, said by saying nothing."""


class Spec(BaseModel):
    """A part of a tool's arguments: strict types, nothing unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class StructFieldSpec(Spec):
    """One member of the structs of an ARRAY."""

    name: Name
    type: TypeName
    dim: int | None = None
    max_length: int | None = None

    def as_field(self) -> schemas.Field:
        """As a member of a Field's `struct_fields`."""
        return schemas.Field(**self.model_dump())


StructField = Annotated[StructFieldSpec, WithJsonSchema({"type": "object"})]


class FieldSpec(Spec):
    """One field of a collection."""

    name: Name
    type: TypeName = Field(description="INT64, VARCHAR, JSON, FLOAT_VECTOR, …")
    is_primary: bool = False
    auto_id: bool = False
    dim: int | None = None
    max_length: int | None = Field(None, ge=1, le=65_535)
    element_type: TypeName | None = Field(None, description="Of ARRAY")
    max_capacity: int | None = Field(None, ge=1, le=4_096)
    struct_fields: list[StructField] | None = Field(None, description="Of STRUCT: {name, type, dim or max_length}")
    nullable: bool = False
    default_value: Scalar | None = None
    is_partition_key: bool = False
    is_clustering_key: bool = False
    enable_analyzer: bool = Field(default=False, description="For BM25, on VARCHAR")
    analyzer_params: dict[str, Any] | None = None
    enable_match: bool = Field(default=False, description="For text_match in filters")
    mmap_enabled: bool | None = None
    description: str = ""

    def as_field(self) -> schemas.Field:
        """As a Field."""
        options = self.model_dump(exclude={"analyzer_params", "struct_fields"})
        members = tuple(member.as_field() for member in self.struct_fields or ())
        analyzer = json.dumps(self.analyzer_params) if self.analyzer_params else ""
        return schemas.Field(**options, analyzer_params=analyzer, struct_fields=members)


FieldArgument = Annotated[FieldSpec, WithJsonSchema({"type": "object"})]
"""A field, whose parts another argument of the tools shows."""


class FunctionSpec(Spec):
    """A function that computes a field."""

    name: Name
    type: FunctionType = Field(strict=False)
    input_field_names: list[Name] = Field(min_length=1)
    output_field_names: list[Name] = Field(min_length=1)
    params: dict[str, Any] = Field(default_factory=dict)

    def as_function(self) -> schemas.Function:
        """As a Function."""
        return schemas.Function(
            self.name, self.type, tuple(self.input_field_names), tuple(self.output_field_names), self.params
        )


FunctionArgument = Annotated[FunctionSpec, WithJsonSchema({"type": "object"})]


class IndexSpec(Spec):
    """An index of a new collection."""

    field_name: Name
    index_type: str = "AUTOINDEX"
    metric_type: Metric | None = None
    params: dict[str, Any] = Field(default_factory=dict)

    def as_index(self) -> schemas.Index:
        """As an Index without a name."""
        return schemas.Index(self.field_name, "", self.index_type, self.metric_type or "", self.params)


IndexArgument = Annotated[IndexSpec, WithJsonSchema({"type": "object"})]
"""As FunctionArgument, an object whose members the argument's description names: that takes a third of the bytes."""


Names = Annotated[list[Name], Field(min_length=1), WithJsonSchema({"items": {"type": "string"}, "type": "array"})]
"""At least one name."""

Properties = Annotated[dict[str, Scalar | None], WithJsonSchema({"type": "object"})]
"""Properties to set; null drops one."""


def property_text(value: bool | float | str) -> str:  # noqa: FBT001  # a value, not a flag
    """A property's value as Milvus keeps it."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def split_properties(properties: Mapping[str, Scalar | None]) -> tuple[dict[str, str], list[str]]:
    """The properties to set, as Milvus keeps them, and the names of those to drop."""
    return (
        {name: property_text(value) for name, value in properties.items() if value is not None},
        [name for name, value in properties.items() if value is None],
    )
