# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pymilvus has no types.
"""Requests that write entities, with vectors copied into them as memory, not number by number."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import schema_pb2

from mcp_server_milvus.milvus.entities import Entity
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.writing import Operation

Vectors = Mapping[str, Any]
"""By field, one line of 32-bit floats for each entity."""

PACKED_FLOATS = b"\x0a"
"""What announces a `FloatArray`'s numbers on the wire: field 1, a run of bytes."""


def vectors_apart(entities: Sequence[Entity], schema: CollectionSchema) -> tuple[Sequence[Entity], Vectors]:
    """Checked entities without the float vectors that all of them have, and those."""
    vectors: dict[str, Any] = {}
    for each in schema.fields:
        column: list[Any] = [entity.get(each.name) for entity in entities]
        if each.dim and all(isinstance(vector, array) for vector in column):
            vectors[each.name] = np.frombuffer(b"".join(column), np.float32).reshape(len(column), each.dim)
    rest = [{name: value for name, value in entity.items() if name not in vectors} for entity in entities]
    return rest, vectors


def write_request(
    operation: Operation,
    collection_name: str,
    entities: Sequence[Entity],
    vectors: Vectors,
    schema: CollectionSchema,
    partition_name: str,
) -> Any:
    """One Insert or Upsert of checked entities, whose `vectors` are apart."""
    described = schema.described
    prepare: Any = Prepare.row_insert_param if operation == "insert" else Prepare.row_upsert_param
    request = prepare(
        collection_name,
        list(entities),
        partition_name,
        [each for each in described["fields"] if each["name"] not in vectors],
        described.get("struct_array_fields", []),
        enable_dynamic=schema.enable_dynamic_field,
        schema_timestamp=described.get("update_timestamp", 0),
    )
    for name, matrix in vectors.items():
        column = request.fields_data.add(field_name=name, type=schema_pb2.FloatVector)
        if schema.by_name[name].nullable:
            column.valid_data.extend([True] * len(matrix))
        column.vectors.dim = matrix.shape[1]
        column.vectors.float_vector.MergeFromString(_as_float_array(matrix))
    return request


def _as_float_array(matrix: Any) -> bytes:
    data = np.ascontiguousarray(matrix, dtype="<f4").tobytes()
    return PACKED_FLOATS + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    low = number & 0x7F
    return bytes([low | 0x80]) + _varint(number >> 7) if number > low else bytes([low])
