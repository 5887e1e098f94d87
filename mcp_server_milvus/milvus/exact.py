"""Every entity that matches a filter, scored here: what an index would say if it missed nothing.

Entities are streamed in the order of their keys, some megabytes at a time, and only the best are kept.
"""

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from mcp_server_milvus.errors import NotSupported
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW
from mcp_server_milvus.milvus.ranking import Key, Scored
from mcp_server_milvus.milvus.schema import Field
from mcp_server_milvus.vocabulary import DataType, MetricType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.paging import ReadAfter
    from mcp_server_milvus.milvus.targets import Target

NUMBERS_AT_ONCE = 1_000_000
"""Numbers of one request; Python needs 32 bytes for each while it unpacks them."""

SPARSE_NUMBERS = 128
"""Weights that a sparse vector is taken to have."""


def require_exact(target: "Target") -> None:
    """Nothing, if the target can be scored here.

    Raises:
        NotSupported: it is a text, which only Milvus can score.
    """
    if target.metric_type == MetricType.BM25:
        raise NotSupported(
            "exact: BM25 scores come from word statistics that only Milvus has",
            hint="leave exact out: a BM25 search scores every match already",
        )
    if isinstance(target.data, str):
        raise NotSupported(
            f"exact: only Milvus can turn a text into a vector of {target.field}", hint="search with a vector, or an id"
        )


@dataclass
class ExactScores:
    """The keys and scores of all entities that `read` gives. `left_out` are those whose score is not finite."""

    target: "Target"
    key_name: str
    read: "ReadAfter"
    left_out: int = 0

    async def batches(self) -> AsyncGenerator[list[Scored]]:
        """In the order of the keys."""
        after: Key | None = None
        field = self.target.field
        at_once = entities_at_once(field)
        while entities := await self.read(after, at_once, [self.key_name, field.name]):
            keys = [entity[self.key_name] for entity in entities]
            vectors = [entity[field.name] for entity in entities]
            scores, left_out = await anyio.to_thread.run_sync(partial(scored, self.target, keys, vectors))
            self.left_out += left_out
            yield scores
            after = keys[-1]


def entities_at_once(field: Field) -> int:
    """How many entities to read in one request."""
    return max(1, min(NUMBERS_AT_ONCE // (field.dim or SPARSE_NUMBERS), MAX_WINDOW))


def scored(target: "Target", keys: Sequence[Key], vectors: Sequence[Any]) -> tuple[list[Scored], int]:
    """The finite scores, and how many are not: those of vectors that another program wrote with NaN or infinity.

    Nulls have no score and, as in an index, sparse vectors without a common dimension.
    """
    scores = _scores(target, keys, vectors)
    finite = [each for each in scores if math.isfinite(each[1])]
    return finite, len(scores) - len(finite)


def _scores(target: "Target", keys: Sequence[Key], vectors: Sequence[Any]) -> list[Scored]:
    if target.field.type is DataType.SPARSE_FLOAT_VECTOR:
        return [
            (key, sum(vector[index] * target.data[index] for index in common))
            for key, vector in zip(keys, vectors, strict=True)
            if vector and (common := sorted(vector.keys() & target.data.keys()))
        ]
    from mcp_server_milvus.milvus.vectors import distances

    given = [(key, vector) for key, vector in zip(keys, vectors, strict=True) if vector is not None]
    scores = distances(target.field.type, target.metric_type, target.data, [vector for _, vector in given])
    return [(key, score) for (key, _), score in zip(given, scores, strict=True)]
