"""Entities written to files so that `reading` and `fitting` give the same entities again.

JSON Lines and JSON hold everything. Parquet does too: JSON values, sparse vectors and the dynamic field are JSON texts
in it. CSV does not tell an empty text from none. None of them tells a null vector from zeros on Milvus Lite, which
reads both as zeros.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyarrow has no types.

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.entities import Entity
from mcp_server_milvus.milvus.fitting import DYNAMIC
from mcp_server_milvus.milvus.formats import Format
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.vectors import shortest, vector_numbers
from mcp_server_milvus.vocabulary import DataType

ROW_GROUP_BYTES = 8 * 1024 * 1024

ARROW_TYPES: dict[DataType, Any] = {
    DataType.BOOL: pa.bool_(),
    DataType.INT8: pa.int8(),
    DataType.INT16: pa.int16(),
    DataType.INT32: pa.int32(),
    DataType.INT64: pa.int64(),
    DataType.FLOAT: pa.float32(),
    DataType.DOUBLE: pa.float64(),
    DataType.FLOAT_VECTOR: pa.list_(pa.float32()),
    DataType.FLOAT16_VECTOR: pa.list_(pa.float32()),
    DataType.BFLOAT16_VECTOR: pa.list_(pa.float32()),
    DataType.BINARY_VECTOR: pa.list_(pa.uint8()),
    DataType.INT8_VECTOR: pa.list_(pa.int8()),
}
"""What Parquet has for a type; the others are texts."""


class Writer(Protocol):
    """A file that is written a page of entities at a time."""

    def write(self, entities: Sequence[Entity]) -> None:
        """Appends the entities."""
        ...

    def close(self) -> None:
        """Writes what a complete file ends with."""
        ...

    def abandon(self) -> None:
        """Lets go of a file, which need not be complete."""
        ...


def writer(file: BinaryIO, kind: Format, schema: CollectionSchema, names: Sequence[str]) -> Writer:
    """What writes entities with these fields.

    Raises:
        InvalidArgument: files of this kind are read only.
    """
    match kind:
        case Format.JSONL:
            return _JsonLines(file, schema)
        case Format.JSON:
            return _Json(file, schema)
        case Format.CSV:
            return _Csv(file, schema, names)
        case Format.PARQUET:
            return _Parquet(file, schema, names)
        case _:
            raise InvalidArgument(
                f"format: {kind} has no nulls, objects or lists of different lengths, so nothing is exported to it",
                hint="export parquet",
            )


class _Plain:
    """A file that needs nothing at its end."""

    def close(self) -> None:
        """Does nothing."""

    def abandon(self) -> None:
        """Does nothing."""


@dataclass
class _JsonLines(_Plain):
    file: BinaryIO
    schema: CollectionSchema

    def write(self, entities: Sequence[Entity]) -> None:
        self.file.writelines(line + b"\n" for line in _objects(self.schema, entities))


@dataclass
class _Json(_Plain):
    file: BinaryIO
    schema: CollectionSchema
    _before: bytes = b"[\n"

    def write(self, entities: Sequence[Entity]) -> None:
        for line in _objects(self.schema, entities):
            self.file.write(self._before + line)
            self._before = b",\n"

    def close(self) -> None:
        self.file.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class _Csv(_Plain):
    def __init__(self, file: BinaryIO, schema: CollectionSchema, names: Sequence[str]) -> None:
        self._schema = schema
        self._names = list(names)
        self._rows = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
        self._rows.writerow(self._names)

    def write(self, entities: Sequence[Entity]) -> None:
        for values in zip(*_columns(self._schema, entities, self._names, _vector_texts).values(), strict=True):
            self._rows.writerow(map(_csv_text, values))


@dataclass
class _Parquet:
    file: BinaryIO
    schema: CollectionSchema
    names: Sequence[str]
    _waiting: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        self._arrow = pa.schema([(name, _arrow_type(self.schema.by_name.get(name))) for name in self.names])
        self._out = parquet.ParquetWriter(self.file, self._arrow, compression="zstd")

    def write(self, entities: Sequence[Entity]) -> None:
        columns = _columns(self.schema, entities, self.names, list)
        arrays = [pa.array(column, self._arrow.field(name).type) for name, column in columns.items()]
        self._waiting.append(pa.record_batch(arrays, schema=self._arrow))
        if sum(batch.nbytes for batch in self._waiting) >= ROW_GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        self._write_group()
        self._out.close()

    def abandon(self) -> None:
        self._waiting.clear()
        self._out.close()

    def _write_group(self) -> None:
        if self._waiting:
            self._out.write_table(pa.Table.from_batches(self._waiting))
            self._waiting.clear()


def _arrow_type(known: Field | None) -> Any:
    if known and known.type is DataType.ARRAY and known.element_type in {*ARROW_TYPES, DataType.VARCHAR}:
        return pa.list_(ARROW_TYPES.get(cast("DataType", known.element_type), pa.string()))
    return ARROW_TYPES.get(known.type, pa.string()) if known else pa.string()


def _columns(
    schema: CollectionSchema, entities: Sequence[Entity], names: Sequence[str], vectors: Callable[[Any], list[Any]]
) -> dict[str, list[Any]]:
    """The values by column, objects as JSON texts, and whole columns of 32-bit vectors as `vectors` makes them."""
    columns = _vector_columns(schema, entities)
    return {
        name: vectors(columns[name])
        if name in columns
        else [_column_value(schema, entity, name) for entity in entities]
        for name in names
    }


def _vector_columns(schema: CollectionSchema, entities: Sequence[Entity]) -> dict[str, list[Any]]:
    """The columns of 32-bit vectors that every entity has: most of the work is in them, so it is done all at once."""
    names = [known.name for known in schema.fields if known.type is DataType.FLOAT_VECTOR]
    columns = {name: [entity.get(name) for entity in entities] for name in names}
    return {name: column for name, column in columns.items() if None not in column}


def _column_value(schema: CollectionSchema, entity: Entity, name: str) -> Any:
    known = schema.by_name.get(name)
    if name == DYNAMIC:
        value = {key: each for key, each in entity.items() if key not in schema.by_name and key != DYNAMIC} or None
    else:
        value = _plain(known, entity.get(name))
    as_text = known is None or _arrow_type(known) == pa.string()
    if value is None or (as_text and known and known.type.is_string):
        return value
    return _json(value) if as_text else value


def _csv_text(value: Any) -> Any:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list():
            return _json(value)
        case _:
            return value


def _objects(schema: CollectionSchema, entities: Sequence[Entity]) -> list[bytes]:
    """Each entity as a JSON object."""
    texts = {name: _vector_texts(column) for name, column in _vector_columns(schema, entities).items()}

    def members(index: int, entity: Entity) -> Iterator[str]:
        for name, value in _in_order(schema, entity):
            if name != DYNAMIC:
                text = texts[name][index] if name in texts else _json(_plain(schema.by_name.get(name), value))
                yield f"{_json(name)}: {text}"

    return [f"{{{', '.join(members(index, entity))}}}".encode() for index, entity in enumerate(entities)]


def _in_order(schema: CollectionSchema, entity: Entity) -> Iterator[tuple[str, Any]]:
    """The values in the order of the fields, and then those of the dynamic field."""
    yield from ((name, entity[name]) for name in schema.by_name if name in entity)
    yield from ((name, value) for name, value in entity.items() if name not in schema.by_name)


def _vector_texts(vectors: Sequence[Sequence[float]]) -> list[str]:
    """Vectors of 32-bit floats as JSON, each number with the fewest digits that are this number."""
    flat = pa.array([number for vector in vectors for number in vector], pa.float32())
    if not np.isfinite(flat.to_numpy()).all():
        raise _not_finite()
    numbers = flat.cast(pa.string()).to_pylist()
    dim = len(vectors[0]) if vectors else 0
    return [f"[{', '.join(numbers[start : start + dim])}]" for start in range(0, len(numbers), dim or 1)]


def _plain(known: Field | None, value: Any) -> Any:
    """The value as JSON has it, exactly."""
    if known is None or value is None:
        return value
    if known.type.is_vector:
        if isinstance(value, dict):
            return {str(index): _float32(weight) for index, weight in cast("dict[int, float]", value).items()}
        return vector_numbers(known.type, value)
    if known.type is DataType.FLOAT:
        return _float32(value)
    if known.type is DataType.ARRAY:
        return [_float32(each) for each in value] if known.element_type is DataType.FLOAT else list(value)
    return value


def _float32(number: float) -> float:
    return shortest(np.float32(number))


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise _not_finite() from None


def _not_finite() -> InvalidArgument:
    return InvalidArgument("an entity holds a number that is not finite, which JSON has not", hint="export parquet")
