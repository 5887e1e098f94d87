"""The hits of several searches as one ranking: by the arithmetic of Milvus itself, or by that of a text search."""

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
LEXICAL_WEIGHT = 0.2
"""What BM25 counts for beside the dense leg. 0.2 and 0.3 rank the Cranfield collection better than the dense leg alone
(nDCG@10 .40 and .40; .38) and still put every paraphrase first; 0.1 does not find codes that only words find, and 0.4
loses paraphrases (recall@1 .93). Source: MiniLM in 8 bits, 50 candidates a leg, stop words left out of the query;
`python tools/bench.py quality` repeats the chosen one. Ranks instead of scores (RRF) lose a tenth of them."""


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


def meaning_and_words(dense: Sequence[Scored], lexical: Sequence[Scored], *, metric_type: str) -> list[Scored]:
    """The hits of a dense and of a BM25 leg by both: 1 is a text that says the same in the same words.

    Of the dense leg counts how much of the way from its worst hit to an identical vector a hit has come, so that a leg
    that has found nothing near does not outvote an exact word, nor a common word one that has; and so that what all
    vectors of a model have in common does not matter. BM25 counts as a share of its best hit.
    """
    near, matched = _nearness(dense, metric_type), _shares(lexical)
    scores = {key: near.get(key, 0.0) + LEXICAL_WEIGHT * matched.get(key, 0.0) for key in near | matched}
    return _best_first({key: score / (1 + LEXICAL_WEIGHT) for key, score in scores.items()})


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


def _nearness(leg: Sequence[Scored], metric_type: str) -> dict[Key, float]:
    """From 0 for the worst hit to 1 for cosine 1; the cosine where no hit is worse than another.

    The vectors have length 1; if not, 1 is the best hit.
    """
    cosines = {
        key: 1 - score / 2 if metric_type == MetricType.L2 else score for key, score in leg if math.isfinite(score)
    }
    worst, best = min(cosines.values(), default=0.0), max(cosines.values(), default=0.0)
    if worst == best:
        return {key: min(max(cosine, 0.0), 1.0) for key, cosine in cosines.items()}
    return {key: (cosine - worst) / (max(best, 1.0) - worst) for key, cosine in cosines.items()}


def _shares(leg: Sequence[Scored]) -> dict[Key, float]:
    """Of the best score; nothing where that is not above 0."""
    scores = {key: max(score, 0.0) for key, score in leg if math.isfinite(score)}
    best = max(scores.values(), default=0.0)
    return {key: score / best if best else 0.0 for key, score in scores.items()}
