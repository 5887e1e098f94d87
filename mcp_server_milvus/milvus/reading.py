"""Entities read from files a batch at a time, in memory that does not grow with the file: nothing is checked yet."""

# pyright: reportUnknownVariableType=false
# pyarrow has no types.

import csv
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.formats import Batch, Format, Source
from mcp_server_milvus.milvus.reading_arrays import npy, npz
from mcp_server_milvus.milvus.reading_parquet import parquet
from mcp_server_milvus.milvus.reading_texts import csv_table, json_array, json_lines

READERS: dict[Format, Callable[[BinaryIO, int, str], Source]] = {
    Format.JSONL: json_lines,
    Format.JSON: json_array,
    Format.CSV: csv_table,
    Format.PARQUET: parquet,
    Format.NPY: npy,
    Format.NPZ: npz,
}
"""By format: what reads a file from some entity on, and names a column that has no name."""

BROKEN: tuple[type[Exception], ...] = (
    *(ValueError, OSError, EOFError, KeyError, NotImplementedError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, csv.Error, pa.ArrowException, tokenize.TokenError),
)
"""What the readers raise for a file of another format, or one that is damaged."""


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
