"""Fusing here is fusing as Milvus does it."""

import math

import pytest
from milvus_lite.function.dataframe import DataFrame
from milvus_lite.function.ops.merge_op import MergeOp
from milvus_lite.function.types import ID_FIELD, SCORE_FIELD, STAGE_L2_RERANK, FuncContext

from mcp_server_milvus.milvus.ranking import Ranker, Scored, best_of, normalised

LEGS: list[list[Scored]] = [
    [(1, 0.9), (2, 0.5), (3, -0.25)],
    [(4, 12.5), (2, 7.0), (5, 0.5)],
    [(5, 0.0), (1, 1.5), (6, 40.0)],
]
METRICS = ["COSINE", "BM25", "L2"]


def by_lite(strategy: str, **how: object) -> dict[object, float]:
    """What Milvus Lite's own merging makes of the legs."""
    frames = [DataFrame([[{ID_FIELD: key, SCORE_FIELD: score} for key, score in leg]]) for leg in LEGS]
    merged = MergeOp(strategy, **how).execute_multi(FuncContext(STAGE_L2_RERANK), frames)
    return {row[ID_FIELD]: row[SCORE_FIELD] for row in merged.chunk(0)}


@pytest.mark.parametrize("k", [60, 1, 3.5])
def test_ranks_are_fused_as_milvus_fuses_them(k: float) -> None:
    assert dict(Ranker(k=k).fused(LEGS, METRICS)) == pytest.approx(by_lite("rrf", rrf_k=k))


@pytest.mark.parametrize("metrics", [METRICS, ["IP", "COSINE", "BM25"], ["L2", "JACCARD", "HAMMING"]])
def test_scores_are_normalised_and_weighed_as_milvus_does(metrics: list[str]) -> None:
    weights = (0.5, 1.0, 0.25)
    expected = by_lite("weighted", weights=list(weights), metric_types=metrics, normalize=True)
    assert dict(Ranker(weights=weights).fused(LEGS, metrics)) == pytest.approx(expected)


def test_a_normalised_score_is_better_the_larger_it_is() -> None:
    for metric, worse, better in (("COSINE", -1, 1), ("IP", -9, 9), ("BM25", 0, 9), ("L2", 9, 0), ("HAMMING", 9, 0)):
        assert 0 <= normalised(worse, metric) < normalised(better, metric) <= 1
    assert math.isclose(normalised(0, "IP"), 0.5)


def test_equal_scores_stand_in_the_order_of_their_keys() -> None:
    assert Ranker().fused([[(9, 1.0), (1, 0.5)], [(1, 1.0), (9, 0.5)]], ["IP", "IP"]) == [
        (1, pytest.approx(1 / 61 + 1 / 62)),
        (9, pytest.approx(1 / 61 + 1 / 62)),
    ]
    hits = [("b", 1.0), ("a", 1.0), ("c", 0.5)]
    assert best_of(2, hits[:1], hits[1:], direction=-1) == [("a", 1.0), ("b", 1.0)]
    assert best_of(2, hits[:1], hits[1:], direction=1) == [("c", 0.5), ("a", 1.0)]


def test_a_score_that_is_no_number_has_no_rank() -> None:
    hits: list[Scored] = [(1, 3.0), (2, math.nan), (3, 1.0), (4, math.inf), (5, 2.0), (6, -math.inf)]
    for given in (hits, hits[::-1], hits[2:] + hits[:2]):
        assert best_of(9, given[:3], given[3:], direction=1) == [(3, 1.0), (5, 2.0), (1, 3.0)]
        assert best_of(2, [], given, direction=-1) == [(1, 3.0), (5, 2.0)]
