"""Fusing by ranks and weights is fusing as Milvus does it; that of a text search keeps what either leg knows."""

import math

import pytest
from milvus_lite.function.dataframe import DataFrame
from milvus_lite.function.ops.merge_op import MergeOp
from milvus_lite.function.types import ID_FIELD, SCORE_FIELD, STAGE_L2_RERANK, FuncContext

from mcp_server_milvus.milvus.ranking import LEXICAL_WEIGHT, Ranker, Scored, best_of, meaning_and_words, normalised

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


DENSE: list[Scored] = [(1, 0.8), (2, 0.7), (3, 0.5), (4, 0.3)]
WHOLE = 1 + LEXICAL_WEIGHT


def fused_keys(dense: list[Scored], lexical: list[Scored], metric_type: str = "COSINE") -> list[int | str]:
    return [key for key, _ in meaning_and_words(dense, lexical, metric_type=metric_type)]


def test_meaning_counts_by_the_way_from_the_worst_hit_to_the_same_text_and_words_as_a_share_of_the_best() -> None:
    assert meaning_and_words(DENSE, [(3, 8.0), (2, 4.0), (9, 2.0)], metric_type="COSINE") == [
        (1, pytest.approx((0.5 / 0.7) / WHOLE)),
        (2, pytest.approx((0.4 / 0.7 + LEXICAL_WEIGHT / 2) / WHOLE)),
        (3, pytest.approx((0.2 / 0.7 + LEXICAL_WEIGHT) / WHOLE)),
        (9, pytest.approx((LEXICAL_WEIGHT / 4) / WHOLE)),
        (4, 0.0),
    ]


def test_the_same_text_has_a_score_of_one() -> None:
    assert meaning_and_words([(1, 1.0), (2, 0.4)], [(1, 3.0)], metric_type="IP")[0] == (1, pytest.approx(1.0))


def test_a_lexical_trap_does_not_outvote_the_dense_leg_as_it_does_by_ranks() -> None:
    dense: list[Scored] = [(1, 0.6), (5, 0.31), (2, 0.3), (3, 0.2)]
    lexical: list[Scored] = [(5, 9.0), (3, 8.0)]
    assert fused_keys(dense, lexical)[0] == 1
    assert Ranker().fused([dense, lexical], ["COSINE", "BM25"])[0][0] == 5


def test_a_code_that_only_words_find_comes_first_where_nothing_is_near() -> None:
    nothing_near: list[Scored] = [(1, 0.21), (2, 0.2), (3, 0.18), (4, 0.15)]
    assert fused_keys(nothing_near, [(9, 6.0)]) == [9, 1, 2, 3, 4]


@pytest.mark.parametrize("common", [0.0, 0.5, 0.9])
def test_what_all_vectors_of_a_model_have_in_common_does_not_matter(common: float) -> None:
    lexical: list[Scored] = [(4, 8.0), (2, 3.0)]
    crowded: list[Scored] = [(key, common + (1 - common) * score) for key, score in DENSE]
    louder: list[Scored] = [(key, 1000 * score) for key, score in lexical]
    found = meaning_and_words(crowded, louder, metric_type="COSINE")
    for one, other in zip(found, meaning_and_words(DENSE, lexical, metric_type="COSINE"), strict=True):
        assert one == (other[0], pytest.approx(other[1]))


def test_squared_distances_rank_as_the_cosines_of_the_same_vectors() -> None:
    distances: list[Scored] = [(key, 2 - 2 * cosine) for key, cosine in DENSE]
    lexical: list[Scored] = [(4, 8.0), (9, 2.0)]
    assert fused_keys(distances, lexical, "L2") == fused_keys(DENSE, lexical) == [1, 2, 3, 4, 9]


def test_products_of_longer_vectors_count_by_their_best() -> None:
    assert meaning_and_words([(1, 30.0), (2, 20.0), (3, 10.0)], [], metric_type="IP") == [
        (1, pytest.approx(1 / WHOLE)),
        (2, pytest.approx(0.5 / WHOLE)),
        (3, 0.0),
    ]


def test_one_leg_alone_keeps_its_order() -> None:
    assert fused_keys(DENSE, []) == [1, 2, 3, 4]
    assert meaning_and_words([], [(7, 4.0), (8, 1.0)], metric_type="COSINE") == [
        (7, pytest.approx(LEXICAL_WEIGHT / WHOLE)),
        (8, pytest.approx(LEXICAL_WEIGHT / 4 / WHOLE)),
    ]
    assert meaning_and_words([], [], metric_type="COSINE") == []


def test_hits_that_are_all_as_near_stand_by_words_then_by_key() -> None:
    assert fused_keys([(3, 0.5), (2, 0.5), (1, 0.5)], [(2, 1.0)]) == [2, 1, 3]
    assert meaning_and_words([(1, 0.6)], [], metric_type="COSINE") == [(1, pytest.approx(0.6 / WHOLE))]


@pytest.mark.parametrize("worthless", [0.0, -2.0])
def test_words_that_weigh_nothing_change_nothing(worthless: float) -> None:
    alone = meaning_and_words(DENSE, [], metric_type="COSINE")
    assert meaning_and_words(DENSE, [(4, worthless)], metric_type="COSINE") == alone
    assert (9, 0.0) in meaning_and_words(DENSE, [(9, worthless)], metric_type="COSINE")


def test_a_hit_whose_score_is_no_number_counts_in_neither_leg() -> None:
    odd: list[Scored] = [(5, math.nan), (6, math.inf), (7, -math.inf)]
    lexical: list[Scored] = [(2, 4.0)]
    clean = meaning_and_words(DENSE, lexical, metric_type="COSINE")
    assert meaning_and_words([*odd, *DENSE], [*odd, *lexical], metric_type="COSINE") == clean
    assert meaning_and_words([*DENSE, (2, math.nan)], lexical, metric_type="COSINE") == clean
