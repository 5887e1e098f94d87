"""Exact search against NumPy, and paging through a search to its last hit."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import anyio
import numpy as np
import pytest
from pymilvus import MilvusClient

from mcp_server_milvus.milvus import exact, paging
from mcp_server_milvus.milvus.capabilities import FEATURES, Feature, Support
from mcp_server_milvus.milvus.ranking import Key
from tests.agent import Agent, agent_on, keys

pytestmark = pytest.mark.anyio

ENTITIES, DIM = 3_000, 8
SOUGHT = [0.3, -0.2, 0.9, 0.1, 0.0, 0.5, -0.7, 0.2]
SELECTIVE: dict[str, Any] = {"filter": "number in {few}", "filter_params": {"few": list(range(5, ENTITIES, 97))}}


def vectors() -> Any:
    return np.random.default_rng(7).normal(size=(ENTITIES, DIM)).astype(np.float32)


def scores_of(metric_type: str, stored: Any) -> Any:
    sought = np.array(SOUGHT, dtype=np.float32)
    match metric_type:
        case "L2":
            return ((stored - sought) ** 2).sum(axis=1)
        case "IP":
            return stored @ sought
        case _:
            return stored @ sought / (np.linalg.norm(stored, axis=1) * np.linalg.norm(sought))


def nearest(metric_type: str, limit: int, keep: Any) -> dict[int, float]:
    """NumPy's answer among the entities whose numbers `keep` has."""
    scores = scores_of(metric_type, vectors())
    ordered = sorted((score if metric_type == "L2" else -score, number) for number, score in enumerate(scores))
    return {number: float(scores[number]) for _, number in [each for each in ordered if each[1] in keep][:limit]}


@pytest.fixture(scope="module", params=["COSINE", "L2", "IP"])
async def points(agent: Agent, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A collection with an index that misses much, and its metric."""
    name, metric = f"points_{request.param}", request.param
    await agent.call(
        "create_collection",
        collection_name=name,
        fields=[
            {"name": "id", "type": "INT64", "is_primary": True},
            {"name": "number", "type": "INT64"},
            {"name": "vector", "type": "FLOAT_VECTOR", "dim": DIM},
        ],
        indexes=[{"field_name": "vector", "index_type": "FLAT", "metric_type": metric}],
    )
    data = [{"id": n, "number": n, "vector": vector.tolist()} for n, vector in enumerate(vectors())]
    await agent.call("insert", collection_name=name, data=data)
    await agent.call("flush", collection_name=name)
    coarse: dict[str, Any] = {"index_type": "IVF_FLAT", "params": {"nlist": 256}, "replace": True}
    await agent.call("build_index", collection_name=name, field_name="vector", **coarse)
    return name, metric


async def test_an_exact_search_misses_nothing_that_a_selective_filter_leaves(
    agent: Agent, points: tuple[str, str]
) -> None:
    name, metric = points
    question: dict[str, Any] = {"collection_name": name, "vector": SOUGHT, "limit": 8} | SELECTIVE
    expected = nearest(metric, 8, range(5, ENTITIES, 97))
    found = await agent.call("search", exact=True, **question)
    assert scores(found) == pytest.approx(expected, rel=1e-4)
    assert keys(found["hits"]) == list(expected)
    assert "exact" in found["plan"]["why"]
    by_index = await agent.call("search", params={"nprobe": 1}, **question)
    assert keys(by_index["hits"]) != list(expected)
    assert "approximate" in by_index["plan"]["why"]
    everything = await agent.call("search", params={"nprobe": 256}, **question)
    assert scores(everything) == pytest.approx(expected, rel=1e-4)
    unfiltered = await agent.call("search", collection_name=name, vector=SOUGHT)
    assert "plan" not in unfiltered


def scores(result: Mapping[str, Any]) -> dict[int, float]:
    return {hit["id"]: hit["score"] for hit in result["hits"]}


async def test_an_exact_search_has_bounds_offsets_pages_and_ids(agent: Agent, points: tuple[str, str]) -> None:
    name, metric = points
    question: dict[str, Any] = {"collection_name": name, "exact": True, "output_fields": ["id"]} | SELECTIVE
    expected = list(nearest(metric, 31, range(5, ENTITIES, 97)).items())
    found = await agent.call("search", vector=SOUGHT, offset=3, limit=4, **question)
    assert keys(found["hits"]) == [key for key, _ in expected[3:7]]
    paged = [hit async for page in agent.pages("search", vector=SOUGHT, limit=7, **question) for hit in page["hits"]]
    assert keys(paged) == [key for key, _ in expected]
    radius, best = expected[20][1], expected[10][1]
    found = await agent.call("search", vector=SOUGHT, radius=radius, range_filter=best, limit=99, **question)
    assert set(keys(found["hits"])) - {expected[10][0], expected[20][0]} == {key for key, _ in expected[11:20]}
    own = expected[0][0]
    found = await agent.call("search", id=own, limit=99, **question)
    assert own not in keys(found["hits"])
    assert len(found["hits"]) == len(expected) - 1


async def test_sparse_vectors_are_scored_exactly_too(agent: Agent, collection: str) -> None:
    fields = [
        {"name": "id", "type": "VARCHAR", "max_length": 9, "is_primary": True},
        {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    data = [{"id": f"k{n}", "sparse": {str(n % 7): n + 0.5, "100": 1.0, str(200 + n): 1.0}} for n in range(40)]
    await agent.call("insert", collection_name=collection, data=data)
    question: dict[str, Any] = {"collection_name": collection, "vector": {"3": 2.0, "4": 1.0}, "limit": 50}
    by_index, found = [await agent.call("search", exact=exactly, **question) for exactly in (False, True)]
    assert len(found["hits"]) == 12
    assert scores(found) == scores(by_index)


@pytest.mark.parametrize("metric_type", ["L2", "COSINE", "IP"])
async def test_a_vector_that_is_no_vector_is_no_hit_and_hides_none(
    agent: Agent,
    another_program: MilvusClient,
    collection: str,
    metric_type: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Milvus Lite takes NaN and infinity from other programs."""
    index = [{"field_name": "vector", "metric_type": metric_type}]
    await agent.call("create_collection", collection_name=collection, dimension=2, indexes=index)
    await agent.call("insert", collection_name=collection, data=[{"id": n, "vector": [n + 1.0, 1.0]} for n in range(9)])
    odd = [{"id": n, "vector": [float(number), 0.0]} for n, number in ((1, "nan"), (3, "inf"), (5, "nan"), (99, "nan"))]
    await anyio.to_thread.run_sync(another_program.upsert, collection, odd)
    question: dict[str, Any] = {"collection_name": collection, "vector": [1.0, 0.5], "output_fields": ["id"]}
    stored = np.array([[n + 1.0, 1.0] for n in (0, 2, 4, 6, 7, 8)])
    sought = np.array(question["vector"])
    expected = {
        "L2": ((stored - sought) ** 2).sum(axis=1),
        "IP": -(stored @ sought),
        "COSINE": -(stored @ sought) / np.linalg.norm(stored, axis=1),
    }[metric_type]
    ordered = [(0, 2, 4, 6, 7, 8)[place] for place in np.argsort(expected, kind="stable")]
    found = [page async for page in agent.pages("search", exact=True, limit=4, **question)]
    assert [key for page in found for key in keys(page["hits"])] == ordered
    assert "but 4" in found[0]["plan"]["why"]
    assert all(hit["score"] is not None for page in found for hit in page["hits"])
    monkeypatch.setitem(FEATURES, Feature.HYBRID_SEARCH, Support((2, 4, 0), lite=False))
    legs = [{"vector": question["vector"]}, {"vector": [2.0, 1.0]}]
    how: dict[str, Any] = {"ranker": "weighted", "weights": [0.5, 0.5], "output_fields": ["id"]}
    fused = await agent.call("hybrid_search", collection_name=collection, legs=legs, **how)
    assert sorted(keys(fused["hits"])) == sorted(ordered)


async def test_what_cannot_be_scored_exactly_is_refused_in_words(agent: Agent, lite: str, collection: str) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "body", "type": "VARCHAR", "max_length": 99, "enable_analyzer": True},
        {"name": "words", "type": "SPARSE_FLOAT_VECTOR"},
        {"name": "dense", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    bm25 = {"name": "bm25", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["words"]}
    await agent.call("create_collection", collection_name=collection, fields=fields, functions=[bm25])
    data = [{"id": n, "body": f"word {n}", "dense": [n, 1]} for n in range(5)]
    await agent.call("insert", collection_name=collection, data=data)
    for how, code, said in (
        ({"text": "word"}, "not_supported", "BM25"),
        ({"vector": [1, 1], "params": {"ef": 9}}, "invalid_argument", "params"),
        ({"vector": [1, 1], "group_by_field": "id"}, "invalid_argument", "group_by_field"),
    ):
        error = await agent.fails("search", collection_name=collection, exact=True, **how)
        assert (error["code"], said in error["message"]) == (code, True), error
    async with agent_on(lite, max_scan=4) as careful:
        question: dict[str, Any] = {"collection_name": collection, "vector": [1, 1], "exact": True}
        assert (await careful.fails("search", **question))["code"] == "limit_exceeded"
        assert keys((await careful.call("search", filter="id < 3", **question))["hits"]) == [1, 2, 0]


async def test_an_exact_search_reads_little_at_a_time_tells_its_progress_and_can_be_cancelled(
    agent: Agent, points: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = points
    monkeypatch.setattr(exact, "NUMBERS_AT_ONCE", 500 * DIM)
    question: dict[str, Any] = {"collection_name": name, "vector": SOUGHT, "exact": True}
    scored: list[float] = []

    async def noted(progress: float, total: float | None, message: str | None) -> None:
        assert (total, message) == (None, f"scored {int(progress)} entities")
        scored.append(progress)
        if len(scored) == 8:
            running.cancel()

    with anyio.CancelScope() as running:
        whole = await agent.client.call_tool("search", question, progress_callback=noted)
        assert not whole.is_error
        await agent.client.call_tool("search", question, progress_callback=noted)
    assert running.cancelled_caught
    assert scored == [500, 1000, 1500, 2000, 2500, 3000, 500, 1000]
    assert len((await agent.call("search", **question))["hits"]) == 10


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one search can return, as if it were little: pages go beyond it soon."""
    monkeypatch.setattr(paging, "WINDOWS", (16, 40))
    monkeypatch.setattr(paging, "MAX_WINDOW", 40)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("metric_type", "index_type", "id_type"),
    [("L2", "HNSW", "string"), ("IP", "FLAT", "int"), ("COSINE", "AUTOINDEX", "string")],
)
async def test_pages_lead_to_the_last_hit_and_show_none_twice(
    agent: Agent, collection: str, metric_type: str, index_type: str, id_type: str
) -> None:
    """Many entities are alike, more than one search can return, so scores alone do not tell where a page ends."""
    await agent.call(
        "create_collection",
        collection_name=collection,
        dimension=2,
        id_type=id_type,
        metric_type=metric_type,
        indexes=[{"field_name": "vector", "index_type": index_type, "metric_type": metric_type}],
    )
    named = (lambda number: f"{number:04}") if id_type == "string" else (lambda number: number)
    directions = [[1.0, 0.25], [0.5, 1.0], [-1.0, 0.5]]
    data = [{"id": named(n), "vector": directions[0] if n < 90 else [*directions[n % 3]]} for n in range(200)]
    data += [{"id": named(n), "vector": [n / 100, 1.0]} for n in range(200, 260)]
    await agent.call("insert", collection_name=collection, data=data)
    for filter_, expected in (
        ("", range(260)),
        ('id >= "0050"' if id_type == "string" else "id >= 50", range(50, 260)),
    ):
        hits: list[dict[str, Any]] = []
        question = {"collection_name": collection, "vector": [0.6, 0.8], "filter": filter_, "output_fields": ["id"]}
        async for page in agent.pages("search", limit=23, **question):
            assert len(page["hits"]) == 23 or "next_cursor" not in page
            hits += page["hits"]
        shown: list[Key] = keys(hits)
        assert sorted(shown) == [named(n) for n in expected]
        ordered = sorted((hit["score"] for hit in hits), reverse=metric_type != "L2")
        assert [hit["score"] for hit in hits] == ordered


@pytest.mark.usefixtures("small_windows")
async def test_pages_of_words_lead_to_the_last_hit_too(agent: Agent, collection: str) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "body", "type": "VARCHAR", "max_length": 900, "enable_analyzer": True},
        {"name": "words", "type": "SPARSE_FLOAT_VECTOR"},
    ]
    bm25 = {"name": "bm25", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["words"]}
    await agent.call("create_collection", collection_name=collection, fields=fields, functions=[bm25])
    data = [{"id": n, "body": "fox " * (1 + n % 5) + "and dog " * (n % 3)} for n in range(150)]
    data += [{"id": n, "body": "dog"} for n in range(150, 160)]
    await agent.call("insert", collection_name=collection, data=data)
    hits: list[dict[str, Any]] = []
    async for page in agent.pages("search", collection_name=collection, text="fox", limit=19, output_fields=["id"]):
        hits += page["hits"]
    assert sorted(keys(hits)) == list(range(150))
    found = [hit["score"] for hit in hits]
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0


@pytest.mark.usefixtures("small_windows")
async def test_pages_stay_within_radius_and_range_filter(agent: Agent, collection: str) -> None:
    """Milvus Lite itself looks for a range among five times as many entities as are asked for."""
    await agent.call("create_collection", collection_name=collection, dimension=2, metric_type="L2")
    data = [{"id": n, "vector": [n / 8, 0]} for n in range(400)]
    await agent.call("insert", collection_name=collection, data=data)
    bounds = {"radius": (350 / 8) ** 2, "range_filter": (200 / 8) ** 2}
    question: dict[str, Any] = {"collection_name": collection, "vector": [0, 0], "output_fields": ["id"], **bounds}
    shown = [key async for page in agent.pages("search", limit=33, **question) for key in keys(page["hits"])]
    assert shown == list(range(200, 350))


async def test_a_page_that_is_too_large_goes_on_where_it_ended(
    lite: str, agent: Agent, points: tuple[str, str]
) -> None:
    name, _ = points
    question: dict[str, Any] = {"collection_name": name, "vector": SOUGHT, "limit": 200, "params": {"nprobe": 256}}
    async with agent_on(lite, max_result_bytes=2_000) as brief:
        first = await brief.call("search", **question)
        second = await brief.call("search", cursor=first["next_cursor"], **question)
    assert 0 < len(first["hits"]) < 200
    assert "next_cursor" in first["applied_limits"][0]
    whole = await agent.call("search", **question)
    both_pages = keys(first["hits"]) + keys(second["hits"])
    assert both_pages == keys(whole["hits"])[: len(both_pages)]


async def test_a_cursor_of_another_search_or_made_up_is_refused(agent: Agent, points: tuple[str, str]) -> None:
    name, _ = points
    question: dict[str, Any] = {"collection_name": name, "vector": SOUGHT, "limit": 5}
    cursor = (await agent.call("search", **question))["next_cursor"]
    fingerprint, _ = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))

    def forged(*position: Any) -> str:
        parts = json.dumps([fingerprint, json.dumps(position)])
        return base64.urlsafe_b64encode(parts.encode()).decode().rstrip("=")

    made_up = [forged(*parts) for parts in ((), (1,), (1, -1, None), (10**9, 0, None), (1, 1, ["1 or id < 9", 1.0]))]
    made_up += [forged(*parts) for parts in ((1, 1, [1, float("nan")]), (True, 1, None), (1, 1, [1.5, 1.0]))]
    made_up += ["x", cursor[:-4]]
    for wrong in made_up:
        error = await agent.fails("search", cursor=wrong, **question)
        assert error["code"] == "invalid_argument", wrong
    for other in ({"filter": "id > 0"}, {"vector": SOUGHT[::-1]}, {"exact": True}, {"offset": 1}):
        error = await agent.fails("search", cursor=cursor, **question | other)
        assert "cursor" in error["message"]
    shorter = await agent.call("search", cursor=cursor, **question | {"limit": 2, "output_fields": ["id"]})
    assert len(shorter["hits"]) == 2


async def test_a_flushed_graph_index_returns_as_many_as_are_asked_for_and_the_nearest(
    agent: Agent, collection: str
) -> None:
    """Milvus Lite looks at 64 entities of such an index: of 300 hits, a third was missing and another far away."""
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": DIM},
    ]
    index = {"field_name": "vector", "metric_type": "L2", "index_type": "FLAT"}
    await agent.call("create_collection", collection_name=collection, fields=fields, indexes=[index])
    data = [{"id": n, "vector": vector.tolist()} for n, vector in enumerate(vectors())]
    await agent.call("insert", collection_name=collection, data=data)
    await agent.call("flush", collection_name=collection)
    graph = {"field_name": "vector", "index_type": "HNSW", "params": {"M": 16}, "replace": True}
    await agent.call("build_index", collection_name=collection, **graph)
    question: dict[str, Any] = {"collection_name": collection, "vector": SOUGHT, "output_fields": ["id"]}
    expected = list(nearest("L2", ENTITIES, range(ENTITIES)))
    for limit, how, hits in (
        (300, {}, expected[:300]),
        (200, {"offset": 100}, expected[100:300]),
        (200, {"radius": float(scores_of("L2", vectors())[expected[150]])}, expected[:150]),
    ):
        found = keys((await agent.call("search", limit=limit, **how, **question))["hits"])
        assert len(found) == len(hits)
        assert len(set(found) & set(hits)) > 0.9 * len(hits)
    fused = await agent.call("hybrid_search", collection_name=collection, legs=[{"vector": SOUGHT}], limit=300)
    assert len(set(keys(fused["hits"])) & set(expected[:300])) > 270
    walked = [page async for page in agent.pages("search", limit=700, **question)]
    assert "plan" not in walked[0]
    assert "early" in walked[1]["plan"]["why"]
    ranged = {"radius": 1e9, "range_filter": float(scores_of("L2", vectors())[expected[900]]), "limit": 3}
    assert keys((await agent.call("search", **ranged, **question))["hits"])[1:] == expected[901:903]
    grouped = (await agent.call("search", group_by_field="id", **ranged, **question))["hits"]
    assert len(grouped) <= 3
    paged = [key for page in walked for key in keys(page["hits"])]
    assert len(paged) == len(set(paged)) > 0.99 * ENTITIES
