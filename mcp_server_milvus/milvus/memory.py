"""How much memory a loaded collection takes, reckoned from its schema before it is loaded. Pure: reads nothing.

Bytes are those of one copy; each replica is one more. What an index takes is in `index_sizes`, with its sources.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mcp_server_milvus.compact import json_size
from mcp_server_milvus.milvus.index_sizes import FORMULAS, WEIGHT_BYTES, Cost, Vectors
from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Index
from mcp_server_milvus.vocabulary import DataType

VECTOR_BYTES = {
    DataType.FLOAT_VECTOR: 4.0,
    DataType.FLOAT16_VECTOR: 2.0,
    DataType.BFLOAT16_VECTOR: 2.0,
    DataType.INT8_VECTOR: 1.0,
    DataType.BINARY_VECTOR: 1 / 8,
}
"""Bytes of one number. Source: what the types are."""

SCALAR_BYTES = {
    DataType.BOOL: 1,
    DataType.INT8: 1,
    DataType.INT16: 2,
    DataType.INT32: 4,
    DataType.INT64: 8,
    DataType.FLOAT: 4,
    DataType.DOUBLE: 8,
    DataType.TIMESTAMPTZ: 8,
}
"""Source: what the types are."""

SYSTEM_BYTES = 16
"""Of each entity: its RowID and Timestamp, 64 bits each. Source: these are Milvus's system fields."""

SPARSE_WEIGHTS, JSON_BYTES = 128, 256
"""Weights of a sparse vector, and bytes of a JSON value, where no entity was read. An assumption, and told as one."""


@dataclass(frozen=True)
class FieldMemory:
    """One field, or what is not told by field. `index_type` is empty without an index."""

    name: str
    type: str
    index_type: str
    memory: int
    disk: int
    formula: str


@dataclass(frozen=True)
class Reckoning:
    """What is to be reckoned: so many entities of a schema, with these indexes on its vector fields.

    `means` are the mean bytes of values that differ in size, by field, where entities were read. `mapped` are fields
    that are memory-mapped: they are on disk, and in memory only as far as there is room.
    """

    schema: CollectionSchema
    entity_count: int
    indexes: Mapping[str, Index]
    means: Mapping[str, float]
    mapped: Collection[str] = ()

    def fields(self) -> list[FieldMemory]:
        """Every field, then the dynamic field, then what Milvus adds."""
        found = [self._vector(each) if each.type.is_vector else self._scalar(each) for each in self.schema.fields]
        if self.schema.enable_dynamic_field:
            each, told = self._mean("$meta", JSON_BYTES, "assumed")
            found.append(self._placed("$meta", "JSON", "", Cost(self.entity_count * each, told)))
        system = Cost(self.entity_count * SYSTEM_BYTES, f"{SYSTEM_BYTES} bytes an entity")
        return [*found, self._placed("RowID, Timestamp", "INT64", "", system)]

    def assumed(self) -> list[str]:
        """Which sizes were not seen."""
        names = [each.name for each in self.schema.fields if _differs(each)]
        names += ["$meta"] if self.schema.enable_dynamic_field else []
        unseen = [name for name in names if name not in self.means]
        return (
            [f"no entities were read for {', '.join(unseen)}: values are half as large as they may be"]
            if unseen
            else []
        )

    def _vector(self, each: Field) -> FieldMemory:
        dim = each.dim or 0
        if each.type is DataType.SPARSE_FLOAT_VECTOR:
            size, _ = self._mean(each.name, SPARSE_WEIGHTS * WEIGHT_BYTES, "")
        else:
            size = dim * VECTOR_BYTES[each.type]
        index = self.indexes.get(each.name)
        formula = FORMULAS[index.index_type if index else "FLAT"]
        cost = formula(Vectors(self.entity_count, dim, size, index.params if index else {}))
        return self._placed(each.name, str(each.type), index.index_type if index else "", cost)

    def _scalar(self, each: Field) -> FieldMemory:
        if each.type in SCALAR_BYTES:
            size, told = float(SCALAR_BYTES[each.type]), f"{SCALAR_BYTES[each.type]} bytes"
        else:
            size, told = self._mean(each.name, _half(each), "half of the largest")
        return self._placed(each.name, str(each.type), "", Cost(self.entity_count * size, told))

    def _mean(self, name: str, otherwise: float, why: str) -> tuple[float, str]:
        size = self.means.get(name)
        return (otherwise, f"{otherwise:g} bytes, {why}") if size is None else (size, f"{size:.0f} bytes on average")

    def _placed(self, name: str, kind: str, index_type: str, cost: Cost) -> FieldMemory:
        memory, disk, told = cost.memory, cost.disk, cost.formula
        if name in self.mapped:
            memory, disk, told = 0.0, disk + memory, f"{told}; memory-mapped"
        return FieldMemory(name, kind, index_type, math.ceil(memory), math.ceil(disk), told)


def _differs(each: Field) -> bool:
    return each.type is DataType.SPARSE_FLOAT_VECTOR or not (each.type.is_vector or each.type in SCALAR_BYTES)


def _half(each: Field) -> float:
    """Bytes of a value that is half as large as it may be."""
    if each.type is DataType.ARRAY:
        element = SCALAR_BYTES.get(each.element_type or DataType.INT64, each.max_length or JSON_BYTES)
        return (each.max_capacity or 1) * element / 2
    return (each.max_length or 2 * JSON_BYTES) / 2


def varying(schema: CollectionSchema) -> list[str]:
    """The names of the fields whose values differ in size, as far as they can be read."""
    hidden = schema.masked
    names = [each.name for each in schema.fields if _differs(each) and not each.is_function_output]
    return [name for name in names if name not in hidden] + (["$meta"] if schema.enable_dynamic_field else [])


def readable(size: float) -> str:
    """As people write it: 1.5 GB is 1,500,000,000 bytes."""
    for unit, bytes_of_it in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_of_it:
            return f"{size / bytes_of_it:.1f} {unit}"
    return f"{size:.0f} bytes"


def mean_sizes(schema: CollectionSchema, entities: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean bytes of the values of these entities, by field; nothing without entities."""
    if not entities:
        return {}
    names = varying(schema)
    declared = schema.by_name
    sizes = dict.fromkeys(names, 0.0)
    for entity in entities:
        for name, value in entity.items():
            field = declared.get(name)
            if name in sizes and field:
                sizes[name] += _value_bytes(field, value)
            elif field is None and "$meta" in sizes:
                sizes["$meta"] += json_size({name: value})
    return {name: size / len(entities) for name, size in sizes.items()}


def _value_bytes(field: Field, value: Any) -> float:
    kind, element = field.type, field.element_type
    match value:
        case None:
            return 0
        case str() if kind is not DataType.JSON:
            return len(value.encode(errors="replace"))
        case dict() if kind is DataType.SPARSE_FLOAT_VECTOR:
            return WEIGHT_BYTES * len(cast("dict[int, float]", value))
        case list() if element and element in SCALAR_BYTES:
            return len(cast("list[Any]", value)) * SCALAR_BYTES[element]
        case _:
            return json_size(value)
