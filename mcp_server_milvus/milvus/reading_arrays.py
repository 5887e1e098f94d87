"""Entities read from NumPy's arrays: one, or several of one length."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeArgument=false
# numpy's types are unknown where its arrays come from files.

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import numpy as np

from mcp_server_milvus.milvus.entities import BATCH_BYTES, BATCH_ENTITIES
from mcp_server_milvus.milvus.formats import LONGEST_ENTITY, Batch, Source, transposed

LONGEST_HEADER = 10_000
"""Bytes of what describes an array: numpy reads no longer ones."""


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


def npy(file: BinaryIO, resume_from: int, unnamed: str) -> Source:
    """One array; `unnamed` is its column, unless its elements have named parts."""
    return _from_arrays([_array(unnamed, file)], resume_from)


def npz(file: BinaryIO, resume_from: int, _: str) -> Source:
    """Several arrays, each a column."""
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
        yield Batch(first, transposed(columns, count), matrices=matrices)


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
