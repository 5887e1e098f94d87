"""A collection as an agent reads it: its parts under the names that create_collection takes, and examples to copy."""

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

from mcp_server_milvus.milvus.results import masked
from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Function, Index
from mcp_server_milvus.milvus.trash import NOTE
from mcp_server_milvus.vocabulary import DataType

SHORT_VECTOR = 8
"""Dimensions of a vector that an example writes out."""


def described_field(field: Field) -> dict[str, Any]:
    """What is set, under the names that create_collection takes."""
    shown: dict[str, Any] = {"name": field.name, "type": field.type}
    for name in ("dim", "element_type", "max_length", "max_capacity", "default_value", "mmap_enabled", "description"):
        if getattr(field, name) not in {None, ""}:
            shown[name] = getattr(field, name)
    flags = (
        "is_primary",
        "auto_id",
        "nullable",
        "is_partition_key",
        "is_clustering_key",
        "enable_analyzer",
        "enable_match",
        "is_function_output",
    )
    shown |= {name: True for name in flags if getattr(field, name)}
    if field.struct_fields:
        shown["struct_fields"] = [described_field(member) for member in field.struct_fields]
    return shown


def described_function(function: Function) -> dict[str, Any]:
    """As `functions` takes it, without secrets."""
    shown = {
        "name": function.name,
        "type": function.type,
        "input_field_names": function.inputs,
        "output_field_names": function.outputs,
    }
    return shown | ({"params": masked(function.params)} if function.params else {})


def described_index(index: Index) -> dict[str, Any]:
    """As `indexes` takes it, and how far it is."""
    shown: dict[str, Any] = {"field_name": index.field_name, "index_type": index.index_type}
    named = {"index_name": index.index_name} if index.index_name != index.field_name else {}
    metric = {"metric_type": index.metric_type} if index.metric_type else {}
    params = {"params": dict(index.params)} if index.params else {}
    state = {"state": index.state} if index.state != "finished" else {}
    return shown | named | metric | params | state


def described_bindings(bound: Mapping[str, object]) -> dict[str, str] | None:
    """`{"vector": "body by openai text-embedding-3-small (dim 1536)"}`, or None where nothing is bound."""
    return {name: str(each) for name, each in bound.items()} or None


def described_properties(schema: CollectionSchema, told_elsewhere: str) -> dict[str, Any] | None:
    """The properties but for one and this server's own notes, secrets hidden; None where there are no others."""
    hidden = {told_elsewhere, NOTE}
    return masked({name: value for name, value in schema.properties.items() if name not in hidden}) or None


def example_entity(schema: CollectionSchema, computed: Container[str]) -> dict[str, Any]:
    """An entity that fits the schema, without what may be absent and what is computed here."""
    return {
        each.name: _example_value(each)
        for each in schema.fields
        if not each.may_be_absent and each.name not in computed
    }


def example_search(schema: CollectionSchema, computed: Container[str]) -> dict[str, Any] | None:
    """The arguments of a search that fits: with text where a function or an embedder makes a vector of it."""
    indexed = [each for each in schema.vector_fields if schema.index_of(each.name)]
    if not indexed:
        return None
    if any(each.name in computed or schema.text_source_of(each.name) for each in indexed):
        return {"collection_name": schema.name, "text": "plain words", "limit": 5}
    vector = {"vector": _example_value(indexed[0]), "anns_field": indexed[0].name}
    return {"collection_name": schema.name, **vector, "limit": 5}


def _example_value(field: Field) -> Any:
    """A value that fits the field; a long vector only by its first numbers."""
    if field.type is DataType.SPARSE_FLOAT_VECTOR:
        return {"17": 0.5, "1024": 0.25}
    if field.type.is_vector:
        return [0.5] * field.dim if field.dim and field.dim <= SHORT_VECTOR else f"[{field.dim} numbers]"
    examples: dict[DataType, Any] = {
        DataType.BOOL: True,
        DataType.FLOAT: 0.5,
        DataType.DOUBLE: 0.5,
        DataType.JSON: {"key": "value"},
        DataType.GEOMETRY: "POINT (8.5 47.4)",
        DataType.TIMESTAMPTZ: "2026-01-01T00:00:00Z",
    }
    if field.type is DataType.ARRAY:
        element = replace(field, type=field.element_type or DataType.VARCHAR, element_type=None)
        return [
            {member.name: _example_value(member) for member in field.struct_fields}
            if field.struct_fields
            else _example_value(element)
        ]
    return examples.get(field.type, 1 if field.type.is_integer else "text"[: field.max_length])
