"""What files of entities hold, whatever their format: entities in batches, of which nothing is checked yet."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.entities import Entity

LONGEST_ENTITY = 8 * 1024 * 1024
"""Bytes of one entity in a file. A vector of Milvus's largest dimension takes a tenth of that."""


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


def transposed(columns: dict[str, list[Any]], count: int) -> list[Entity | Unreadable]:
    """The entities of these columns, each of which has `count` values."""
    if not columns:
        return [{} for _ in range(count)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
