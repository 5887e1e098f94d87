"""Entities read from Parquet, vectors left as they are in memory."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeArgument=false
# pyarrow has no types.

from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow.parquet import ParquetFile

from mcp_server_milvus.milvus.entities import BATCH_BYTES, BATCH_ENTITIES
from mcp_server_milvus.milvus.formats import LONGEST_ENTITY, Batch, Source, transposed

MEASURED = 16
"""Entities that the size of the others is estimated from."""

PAGE_BUFFER = 1024 * 1024


def parquet(file: BinaryIO, resume_from: int, _: str) -> Source:
    """Columns in groups of entities."""
    opened = ParquetFile(file, pre_buffer=False, buffer_size=PAGE_BUFFER)
    if texts := [each.name for each in opened.schema_arrow if _holds_texts(each.type)]:
        # Each text is in memory once, however many entities have it: it takes next to nothing in the file.
        opened = ParquetFile(
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
    return Batch(first, transposed(columns, table.num_rows), matrices=matrices)


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
