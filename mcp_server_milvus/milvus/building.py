# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pymilvus has no types.
"""Our description of a collection as the object that pymilvus creates it from."""

from typing import Any

from pymilvus import AsyncMilvusClient
from pymilvus import DataType as MilvusType
from pymilvus import Function as MilvusFunction
from pymilvus import FunctionType as MilvusFunctionType

from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Function
from mcp_server_milvus.vocabulary import DataType

FIELD_OPTIONS = (
    "is_primary",
    "auto_id",
    "nullable",
    "dim",
    "max_length",
    "max_capacity",
    "is_partition_key",
    "is_clustering_key",
    "enable_analyzer",
    "enable_match",
    "analyzer_params",
    "mmap_enabled",
)
"""The attributes of our Field that pymilvus takes under the same name."""


def milvus_schema(wanted: CollectionSchema) -> Any:
    """The schema as pymilvus's own object."""
    built = AsyncMilvusClient.create_schema(
        enable_dynamic_field=wanted.enable_dynamic_field, description=wanted.description
    )
    for each in wanted.fields:
        if each.element_type is DataType.STRUCT:
            built.add_field(
                each.name,
                MilvusType.ARRAY,
                element_type=MilvusType.STRUCT,
                max_capacity=each.max_capacity,
                struct_schema=_struct(each),
            )
        else:
            built.add_field(each.name, MilvusType[each.type], **_field_options(each))
    for function in wanted.functions:
        built.add_function(milvus_function(function))
    return built


def milvus_field(wanted: Field) -> Any:
    """One field, of a type other than an array of structs, as pymilvus's own object."""
    options = _field_options(wanted)
    return AsyncMilvusClient.create_field_schema(
        wanted.name, MilvusType[wanted.type], options.pop("desc", ""), **options
    )


def milvus_function(wanted: Function) -> Any:
    """The function as pymilvus's own object."""
    return MilvusFunction(
        name=wanted.name,
        function_type=MilvusFunctionType[wanted.type],
        input_field_names=list(wanted.inputs),
        output_field_names=list(wanted.outputs),
        params=dict(wanted.params),
    )


def _struct(wanted: Field) -> Any:
    struct = AsyncMilvusClient.create_struct_field_schema()
    for member in wanted.struct_fields:
        struct.add_field(member.name, MilvusType[member.type], **_field_options(member))
    return struct


def _field_options(wanted: Field) -> dict[str, Any]:
    """What pymilvus takes beside name and type: only what was set, since a server may refuse even a default."""
    options: dict[str, Any] = {"desc": wanted.description} if wanted.description else {}
    for option in FIELD_OPTIONS:
        value = getattr(wanted, option)
        if value not in {None, ""} and (value is not False or option == "mmap_enabled"):
            options[option] = value
    if wanted.default_value is not None:
        options["default_value"] = wanted.default_value
    if wanted.element_type:
        options["element_type"] = MilvusType[wanted.element_type]
    return options
