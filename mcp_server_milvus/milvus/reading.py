"""Entities read from files a batch at a time, in memory that does not grow with the file: nothing is checked yet."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeArgument=false
# pyarrow has no types.

import codecs
import csv
import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import PurePath
from typing import IO, Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet
from pydantic_core import from_json

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.entities import BATCH_BYTES, BATCH_ENTITIES, Entity

LONGEST_ENTITY = 8 * 1024 * 1024
"""Bytes of one entity in a text file. A vector of Milvus's largest dimension takes a tenth of that."""

TEXT_BYTES = 2 * BATCH_BYTES
MEASURED = 16
"""Entities of a Parquet file that the size of the others is estimated from."""

LONGEST_HEADER = 10_000
"""Bytes of what describes an array: numpy reads no longer ones."""

CHUNK = 64 * 1024
PAGE_BUFFER = 1024 * 1024
BOM = b"\xef\xbb\xbf"
SEPARATORS = ",;\t"
BROKEN = (
    *(ValueError, OSError, EOFError, KeyError, NotImplementedError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, csv.Error, pa.ArrowException, tokenize.TokenError),
)
"""What the readers raise for a file of another format, or one that is damaged."""


class Format(StrEnum):
    """What a file holds."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    NPY = "npy"
    NPZ = "npz"


SUFFIXES = {f".{kind}": kind for kind in Format} | {".ndjson": Format.JSONL, ".pq": Format.PARQUET}


@dataclass(frozen=True)
class Unreadable:
    """What stands in a file where an entity should be."""

    problem: str


@dataclass(frozen=True)
class Batch:
    """Consecutive entities. `first` is how many come before them in the file.

    A column of equally long lists of numbers may be in `matrices` instead, one line per entity, and every entity of
    such a batch is readable. `lines` are line numbers of a text file, from 1; 0 in a text that lines do not divide.
    """

    first: int
    entities: list[Entity | Unreadable]
    lines: list[int] | None = None
    matrices: dict[str, Any] = field(default_factory=dict[str, Any])

    def place(self, index: int) -> str:
        """Where in the file the entity is, for people."""
        line = self.lines[index] if self.lines else 0
        return f"line {line}" if line else f"entity {self.first + index}"


@dataclass(frozen=True)
class Source:
    """A file's entities from `resume_from` on, and how many it holds in all, where that is known beforehand."""

    batches: Iterator[Batch]
    total: int | None = None


def format_of(path: str) -> Format:
    """The format that a file's name tells.

    Raises:
        InvalidArgument: it tells none.
    """
    kind = SUFFIXES.get(PurePath(path).suffix.lower())
    if kind is None:
        raise InvalidArgument(
            f"path: the format of {path[:80]!r} is unknown", hint=f"format: one of {', '.join(Format)}"
        )
    return kind


def read(file: BinaryIO, kind: Format, *, resume_from: int, unnamed: str) -> Source:
    """The file's entities in batches. `unnamed` is what a plain array's column is called.

    Raises:
        InvalidArgument: the file is not of that format; while reading, too.
    """
    with _explained(kind):
        source = READERS[kind](file, resume_from, unnamed)
    return Source(_explaining(source.batches, kind), source.total)


def _explaining(batches: Iterator[Batch], kind: Format) -> Generator[Batch]:
    while True:
        with _explained(kind):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@contextmanager
def _explained(kind: Format) -> Generator[None]:
    try:
        yield
    except BROKEN as broken:
        raise InvalidArgument(f"path: the file cannot be read as {kind}: {str(broken)[:200]}") from broken


# Text


def _json_lines(file: BinaryIO, resume_from: int, _: str) -> Source:
    return Source(_batches(_lines(file), resume_from, _object))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Each line that is not blank, with its number; None for one that is too long."""
    number = 0
    while line := file.readline(LONGEST_ENTITY):
        number += 1
        if len(line) == LONGEST_ENTITY and not line.endswith(b"\n"):
            while (rest := file.readline(CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        if not line.isspace():
            yield number, line


def _object(raw: bytes | None) -> Entity | Unreadable:
    if raw is None:
        return Unreadable(f"longer than {LONGEST_ENTITY} bytes")
    try:
        return _entity(_decoded(raw))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON: {error}")


def _decoded(raw: bytes) -> Any:
    """What `json` makes of the text, five times as fast; what only `json` reads, it gets."""
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError:
        return json.loads(raw)


def _entity(value: Any) -> Entity | Unreadable:
    return value if isinstance(value, dict) else Unreadable(f"{type(value).__name__} where an object should be")


def _json(file: BinaryIO, resume_from: int, _: str) -> Source:
    return Source(_batches(_elements(file), resume_from, _entity))


def _elements(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Each element of a JSON array, decoded from a window of the file that grows only while it holds no whole one."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    window = decoder.decode(file.read(CHUNK)).lstrip()
    if not window.startswith("["):
        raise ValueError("it is no array of objects; one object per line is jsonl")
    decode = json.JSONDecoder().raw_decode
    position, number, ended = 1, 0, False
    while True:
        try:
            position = _after_space(window, position)
            if window[position : position + 1] == "]":
                return
            value, end = decode(window, position)
            end = _after_space(window, end)
            if window[end] not in ",]":
                raise ValueError(f"after element {number} there is no comma")
        except (json.JSONDecodeError, IndexError) as error:
            if ended or len(window) - position > LONGEST_ENTITY:
                raise ValueError(f"element {number} is broken or longer than {LONGEST_ENTITY} bytes: {error}") from None
            more = file.read(max(CHUNK, len(window) - position))
            ended = not more
            window, position = window[position:] + decoder.decode(more, final=ended), 0
            continue
        yield 0, value
        number += 1
        position = end + (window[end] == ",")


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def _csv(file: BinaryIO, resume_from: int, _: str) -> Source:
    csv.field_size_limit(LONGEST_ENTITY)  # of the process; nothing else in it reads CSV
    used = [0]
    lines = _csv_lines(file, used)
    first = next(lines, "")
    rows = csv.reader(_again(first, lines), delimiter=max(SEPARATORS, key=first.count))
    names = next(rows, [])
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")

    def entity(row: list[str]) -> Entity | Unreadable:
        if len(row) != len(names):
            return Unreadable(f"{len(row)} values for {len(names)} columns")
        return dict(zip(names, row, strict=True))

    return Source(_batches(_rows(rows, used), resume_from, entity))


def _rows(rows: Any, used: list[int]) -> Iterator[tuple[int, list[str]]]:
    for row in rows:
        used[0] = 0
        if row:
            yield rows.line_num, row


def _csv_lines(file: BinaryIO, used: list[int]) -> Iterator[str]:
    """The lines of a text whose values may have several. `used` is how many bytes the current entity has so far."""
    start = BOM
    while line := file.readline(LONGEST_ENTITY):
        used[0] += len(line)
        if used[0] >= LONGEST_ENTITY:
            raise ValueError(f"an entity is longer than {LONGEST_ENTITY} bytes: is a quote not closed?")
        yield line.removeprefix(start).decode(errors="surrogateescape")
        start = b""


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _batches(
    parts: Iterable[tuple[int, Any]], resume_from: int, parse: Callable[[Any], Entity | Unreadable]
) -> Iterator[Batch]:
    """The parts of a text, parsed, in batches that are small in bytes too."""
    lines: list[int] = []
    entities: list[Entity | Unreadable] = []
    first, size = resume_from, 0
    for line, part in islice(parts, resume_from, None):
        entities.append(parse(part))
        lines.append(line)
        size += len(part) if isinstance(part, bytes) else _text_size(part)
        if len(entities) == BATCH_ENTITIES or size > TEXT_BYTES:
            yield Batch(first, entities, lines)
            first += len(entities)
            lines, entities, size = [], [], 0
    if entities:
        yield Batch(first, entities, lines)


def _text_size(part: Any) -> int:
    """Roughly the characters that were decoded into this."""
    match part:
        case str():
            return len(part)
        case list() | dict():
            values = cast("list[Any]", list(part.values()) if isinstance(part, dict) else part)
            return 20 * len(values) if values and isinstance(values[0], float) else sum(map(_text_size, values)) + 8
        case _:
            return 8


# Columns


def _parquet(file: BinaryIO, resume_from: int, _: str) -> Source:
    opened = parquet.ParquetFile(file, pre_buffer=False, buffer_size=PAGE_BUFFER)
    if texts := [each.name for each in opened.schema_arrow if _holds_texts(each.type)]:
        # Each text is in memory once, however many entities have it: it takes next to nothing in the file.
        opened = parquet.ParquetFile(
            file, metadata=opened.metadata, read_dictionary=texts, pre_buffer=False, buffer_size=PAGE_BUFFER
        )
    return Source(_parquet_batches(opened, resume_from), opened.metadata.num_rows)


def _parquet_batches(opened: Any, resume_from: int) -> Iterator[Batch]:
    metadata = opened.metadata
    group = before = 0
    while group < metadata.num_row_groups and before + metadata.row_group(group).num_rows <= resume_from:
        before += metadata.row_group(group).num_rows
        group += 1
    if group == metadata.num_row_groups:
        return
    groups = list(range(group, metadata.num_row_groups))
    for table in opened.iter_batches(_entities_at_once(opened, groups), row_groups=groups, use_threads=False):
        start, before = before, before + table.num_rows
        if before <= resume_from:
            continue
        first = max(start, resume_from)
        for part in _small_enough(table.slice(first - start)):
            yield _batch_of(part, first)
            first += part.num_rows


def _entities_at_once(opened: Any, groups: list[int]) -> int:
    """How many entities a batch may have, by the size of the first few as they are in memory.

    In the file a value that occurs often is there once.
    """
    measured = opened.iter_batches(MEASURED, row_groups=groups[:1], use_threads=False)
    return min([BATCH_ENTITIES, *(_fitting(table) for table in islice(measured, 1))])


def _small_enough(table: Any) -> Iterator[Any]:
    """The table in parts that are not much larger than a batch should be, however much its entities differ in size."""
    sizes = _sizes(table)
    if sizes.size and sizes.max() > LONGEST_ENTITY:
        raise ValueError(f"an entity is longer than {LONGEST_ENTITY} bytes")
    ends, start = np.cumsum(sizes), 0
    while start < table.num_rows:
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield table.slice(start, end - start)
        start = end


def _fitting(table: Any) -> int:
    """How many entities like these are a batch."""
    return max(1, int(BATCH_BYTES * table.num_rows // max(1, _sizes(table).sum())))


def _sizes(table: Any) -> Any:
    """The bytes of each entity once its texts are read; of other values, the mean."""
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if pa.types.is_dictionary(column.type) and _holds_texts(column.type):
            lengths = compute.call_function("binary_length", [column.dictionary])
            taken = compute.call_function("take", [lengths, column.indices])
            sizes += compute.call_function("coalesce", [taken, pa.scalar(0, taken.type)]).to_numpy(zero_copy_only=False)
        else:
            sizes += column.nbytes // max(1, table.num_rows)
    return sizes


def _holds_texts(kind: Any) -> bool:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    of_texts = pa.types.is_dictionary(kind) and _holds_texts(kind.value_type)
    return of_texts or any(is_text(kind) for is_text in texts)


def _batch_of(table: Any, first: int) -> Batch:
    """The table's entities, vectors left as they are in memory."""
    matrices: dict[str, Any] = {}
    columns: dict[str, list[Any]] = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        matrix = _matrix(column)
        if matrix is None:
            columns[name] = _values(column)
        else:
            matrices[name] = matrix
    return Batch(first, _transposed(columns, table.num_rows), matrices=matrices)


def _transposed(columns: dict[str, list[Any]], count: int) -> list[Entity | Unreadable]:
    if not columns:
        return [{} for _ in range(count)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _matrix(column: Any) -> Any:
    """A column of equally long lists of numbers as one array; None for any other."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return None
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return None
    if column.null_count or not len(column):
        return None
    values = column.flatten()
    lengths = np.unique(compute.call_function("list_value_length", [column]).to_numpy(zero_copy_only=False))
    if values.null_count or len(lengths) != 1:
        return None
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _values(column: Any) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if each is None else each.decode(errors="surrogateescape") for each in raw]
    if pa.types.is_map(kind):
        return [None if each is None else dict(each) for each in values]
    return values


# Arrays


@dataclass(frozen=True)
class _Array:
    """An array in a file, behind its header. `name` is its column, or empty when its elements have named parts."""

    name: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: Any

    @property
    def entity_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def read(self, count: int) -> Any:
        """The next lines of the array."""
        data = self.stream.read(count * self.entity_bytes)
        return np.frombuffer(data, self.dtype).reshape((count, *self.shape[1:]))


def _npy(file: BinaryIO, resume_from: int, unnamed: str) -> Source:
    return _from_arrays([_array(unnamed, file)], resume_from)


def _npz(file: BinaryIO, resume_from: int, _: str) -> Source:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    return _from_arrays([_array(name.removesuffix(".npy"), archive.open(name)) for name in names], resume_from)


def _array(name: str, stream: IO[bytes]) -> _Array:
    version = np.lib.format.read_magic(stream)
    if version not in {(1, 0), (2, 0)}:
        raise ValueError(f"version {version} of the format is not known")
    header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    size = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > LONGEST_HEADER:  # numpy would take that much memory first
        raise ValueError(f"array {name!r} has a header of {length} bytes")
    shape, in_columns, dtype = header(io.BytesIO(size + stream.read(length)))
    if dtype.hasobject:
        raise ValueError(f"array {name!r} holds Python objects, which are not read")
    if not 1 <= len(shape) <= 2 or (in_columns and len(shape) > 1):  # noqa: PLR2004  # lines and columns
        raise ValueError(f"array {name!r} is no C-ordered list or matrix; it has the shape {shape}")
    array = _Array("" if dtype.names else name, stream, shape, dtype)
    if array.entity_bytes == 0:
        raise ValueError(f"array {name!r} of shape {shape} and type {dtype} has lines without a value")
    if min(shape) < 0 or array.entity_bytes > LONGEST_ENTITY:
        raise ValueError(f"array {name!r} of shape {shape} has lines of more than {LONGEST_ENTITY} bytes")
    return array


def _from_arrays(arrays: list[_Array], resume_from: int) -> Source:
    totals = {array.shape[0] for array in arrays}
    if len(totals) != 1:
        raise ValueError(f"it needs arrays of one length; there are lengths {sorted(totals)}")
    (total,) = totals
    for array in arrays:
        array.stream.seek(min(resume_from, total) * array.entity_bytes, io.SEEK_CUR)
    return Source(_array_batches(arrays, resume_from, total), total)


def _array_batches(arrays: list[_Array], resume_from: int, total: int) -> Iterator[Batch]:
    at_once = BATCH_BYTES // max(1, sum(array.entity_bytes for array in arrays))
    at_once = max(1, min(BATCH_ENTITIES, at_once))
    for first in range(resume_from, total, at_once):
        count = min(at_once, total - first)
        matrices: dict[str, Any] = {}
        columns: dict[str, list[Any]] = {}
        for name, values in _named(arrays, count):
            if values.ndim > 1 and values.dtype.kind in "fiu":
                matrices[name] = values
            else:
                columns[name] = _listed(values)
        yield Batch(first, _transposed(columns, count), matrices=matrices)


def _named(arrays: list[_Array], count: int) -> Iterator[tuple[str, Any]]:
    for array in arrays:
        values = array.read(count)
        if array.name:
            yield array.name, values
        else:
            yield from ((name, values[name]) for name in array.dtype.names)


def _listed(values: Any) -> list[Any]:
    match values.dtype.kind:
        case "S":
            return [each.decode(errors="surrogateescape") for each in values.tolist()]
        case "M":
            return values.astype("datetime64[us]").tolist()
        case _:
            return values.tolist()


READERS: dict[Format, Callable[[BinaryIO, int, str], Source]] = {
    Format.JSONL: _json_lines,
    Format.JSON: _json,
    Format.CSV: _csv,
    Format.PARQUET: _parquet,
    Format.NPY: _npy,
    Format.NPZ: _npz,
}
