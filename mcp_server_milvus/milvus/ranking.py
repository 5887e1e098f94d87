"""The hits of several searches as one ranking, by the arithmetic of Milvus itself."""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mcp_server_milvus.vocabulary import MetricType

Key = int | str
Scored = tuple[Key, float]
"""An entity's primary key and its score."""

RRF_K = 60


@dataclass(frozen=True)
class Ranker:
    """How legs become one ranking: by weights, one for each leg, by a function inside Milvus, or else by rank."""

    k: float = RRF_K
    weights: tuple[float, ...] = ()
    function: Mapping[str, Any] | None = None

    def fused(self, legs: Sequence[Sequence[Scored]], metric_types: Sequence[str]) -> list[Scored]:
        """The ranking of legs whose hits are best first. A function is not computed here."""
        if self.weights:
            return weighted(legs, metric_types, self.weights)
        return rrf([[key for key, _ in leg] for leg in legs], self.k)


def rrf(legs: Sequence[Sequence[Key]], k: float = RRF_K) -> list[Scored]:
    """Reciprocal rank fusion: of each leg, best first, a key gets 1 / (k + rank), counted from 1."""
    scores: dict[Key, float] = {}
    for leg in legs:
        for rank, key in enumerate(leg, start=1):
            scores[key] = scores.get(key, 0.0) + 1 / (k + rank)
    return _best_first(scores)


def weighted(legs: Sequence[Sequence[Scored]], metric_types: Sequence[str], weights: Sequence[float]) -> list[Scored]:
    """The weighted sum of each leg's normalised scores; a leg that has not found a key adds nothing to it."""
    scores: dict[Key, float] = {}
    for leg, metric_type, weight in zip(legs, metric_types, weights, strict=True):
        for key, score in leg:
            scores[key] = scores.get(key, 0.0) + weight * normalised(score, metric_type)
    return _best_first(scores)


def normalised(score: float, metric_type: str) -> float:
    """The score between 0 and 1, larger being better. Source: `getNormalizeFunc` of Milvus's proxy, as Lite has it."""
    match metric_type:
        case MetricType.COSINE:
            return (1 + score) / 2
        case MetricType.IP:
            return 0.5 + math.atan(score) / math.pi
        case MetricType.BM25:
            return 2 * math.atan(score) / math.pi
        case _:
            return 1 - 2 * math.atan(score) / math.pi


def best_of(limit: int, kept: Iterable[Scored], others: Iterable[Scored], *, direction: int) -> list[Scored]:
    """The best, in order; those of equal score by key. `direction` is 1 where a smaller score is better, else -1.

    A score that is not finite, as a vector with NaN has it, is none: there is no order with it.
    """
    finite = (each for each in chain(kept, others) if math.isfinite(each[1]))
    return heapq.nsmallest(limit, finite, key=lambda each: (direction * each[1], each[0]))


def _best_first(scores: Mapping[Key, float]) -> list[Scored]:
    return best_of(len(scores), scores.items(), (), direction=-1)
