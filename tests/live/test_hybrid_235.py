"""Hybrid search, exact search, paging and filter help on the real Milvus 2.3.5, which has none of them itself."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from mcp_server_milvus.milvus import paging
from mcp_server_milvus.milvus.ranking import Ranker
from tests.agent import Agent, agent_on, keys

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

NUMBERS = itertools.count(1)
ID = {"name": "id", "type": "INT64", "is_primary": True}
BITS = np.random.default_rng(3).integers(0, 2, size=(300, 16))
MANY = 17_000


@pytest.fixture(scope="module")
async def agent(milvus_235: str) -> AsyncIterator[Agent]:
    async with agent_on(milvus_235, max_result_bytes=2_000_000) as agent:
        yield agent


@pytest.fixture
def collection() -> str:
    return f"hybrid_{next(NUMBERS)}"


@pytest.fixture(scope="module")
async def many(agent: Agent) -> str:
    """More entities than one search can return, of two tenants, a third of them with the same vector."""
    tenant = {"name": "tenant", "type": "VARCHAR", "max_length": 4}
    await agent.call(
        "create_collection",
        collection_name="hybrid_many",
        fields=[ID, tenant, {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}],
        indexes=[{"field_name": "vector", "metric_type": "L2", "index_type": "FLAT"}],
    )
    for start in range(0, MANY, 8_500):
        numbers = range(start, start + 8_500)
        columns = {
            "id": list(numbers),
            "tenant": ["ab"[number % 2] for number in numbers],
            "vector": [[number / 8 if number % 3 else 500.0, 1.0] for number in numbers],
        }
        await agent.call("insert", collection_name="hybrid_many", data=columns)
    return "hybrid_many"


async def test_legs_are_fused_by_this_server_and_no_tenant_sees_another_s(agent: Agent, many: str) -> None:
    legs = [{"vector": [3.1, 1], "limit": 40}, {"vector": [9.7, 1], "filter": "id < 90 or id > 100", "limit": 30}]
    rankers: list[dict[str, Any]] = [{}, {"ranker": "weighted", "weights": [0.25, 1.0]}]
    for tenant, how in zip("ab", rankers, strict=True):
        question: dict[str, Any] = {"filter": "tenant == {tenant} or id < 0", "filter_params": {"tenant": tenant}}
        fused = await agent.call("hybrid_search", collection_name=many, legs=legs, limit=20, **question, **how)
        assert fused["fused_by"] == "this server"
        assert {hit["fields"]["tenant"] for hit in fused["hits"]} == {tenant}
        alone = [
            await agent.call(
                "search",
                collection_name=many,
                vector=leg["vector"],
                limit=leg["limit"],
                filter=f'tenant == "{tenant}" and ({leg.get("filter", "id >= 0")})',
            )
            for leg in legs
        ]
        scored = [[(hit["id"], hit["score"]) for hit in each["hits"]] for each in alone]
        expected = Ranker(weights=tuple(how.get("weights", ()))).fused(scored, ["L2", "L2"])[:20]
        assert {hit["id"]: hit["score"] for hit in fused["hits"]} == pytest.approx(dict(expected), rel=1e-4)
        rest = await agent.call("hybrid_search", collection_name=many, legs=legs, limit=3, offset=17, **question, **how)
        assert keys(rest["hits"]) == keys(fused["hits"])[17:]


async def test_what_2_3_5_lacks_of_them_is_refused_with_its_version(agent: Agent, many: str) -> None:
    legs = [{"vector": [3.1, 1]}]
    for tool, how, since in (
        ("hybrid_search", {"group_by_field": "tenant"}, "2.4.0"),
        ("hybrid_search", {"ranker": "function", "function": {"params": {"reranker": "decay"}}}, "2.6.0"),
        ("run_analyzer", {"texts": ["a"]}, "2.5.11"),
    ):
        more = {"collection_name": many, "legs": legs} if tool == "hybrid_search" else {}
        error = await agent.fails(tool, **more, **how)
        assert error["code"] == "not_supported"
        assert "Milvus 2.3.5" in error["message"]
        assert since in error["message"]


async def test_pages_lead_beyond_what_one_search_can_return(agent: Agent, many: str) -> None:
    question: dict[str, Any] = {"collection_name": many, "vector": [0, 1], "output_fields": ["id"], "limit": 9_000}
    hits = [hit async for page in agent.pages("search", **question) for hit in page["hits"]]
    assert len(hits) == MANY
    assert set(keys(hits)) == set(range(MANY))
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores)


@pytest.mark.parametrize(("metric_type", "index_type"), [("HAMMING", "BIN_FLAT"), ("JACCARD", "BIN_IVF_FLAT")])
async def test_bits_are_scored_exactly_and_paged_though_most_are_equally_near(
    agent: Agent, collection: str, metric_type: str, index_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = {"field_name": "bits", "metric_type": metric_type, "index_type": index_type}
    fields = [ID, {"name": "bits", "type": "BINARY_VECTOR", "dim": 16}]
    await agent.call("create_collection", collection_name=collection, fields=fields, indexes=[index])
    data = [{"id": number, "bits": bits.tolist()} for number, bits in enumerate(BITS)]
    await agent.call("insert", collection_name=collection, data=data)
    sought = BITS[7]
    differing = (sought != BITS).sum(axis=1)
    scores = differing if metric_type == "HAMMING" else differing / (BITS | sought).sum(axis=1)
    question: dict[str, Any] = {"collection_name": collection, "vector": sought.tolist(), "filter": "id % 3 == 1"}
    exact = await agent.call("search", exact=True, limit=200, **question)
    expected = {number: float(scores[number]) for number in range(1, 300, 3)}
    assert {hit["id"]: hit["score"] for hit in exact["hits"]} == pytest.approx(expected, rel=1e-5)
    by_index = await agent.call("search", limit=200, params={"nprobe": 128}, **question)
    assert {hit["id"]: hit["score"] for hit in by_index["hits"]} == pytest.approx(expected, rel=1e-5)
    assert ("plan" in by_index) == (index_type == "BIN_IVF_FLAT")
    monkeypatch.setattr(paging, "WINDOWS", (16, 30))
    monkeypatch.setattr(paging, "MAX_WINDOW", 30)
    hits = [
        hit
        async for page in agent.pages("search", limit=17, params={"nprobe": 128}, **question)
        for hit in page["hits"]
    ]
    assert sorted(keys(hits)) == list(expected)
    assert [hit["score"] for hit in hits] == sorted(hit["score"] for hit in hits)


@pytest.mark.parametrize("metric_type", ["COSINE", "IP"])
async def test_exact_scores_are_those_of_the_index_and_it_misses_nothing(
    agent: Agent, collection: str, metric_type: str
) -> None:
    vectors = np.random.default_rng(5).normal(size=(500, 4)).astype(np.float32)
    index = {"field_name": "vector", "index_type": "HNSW", "metric_type": metric_type}
    fields = [ID, {"name": "vector", "type": "FLOAT_VECTOR", "dim": 4}]
    await agent.call("create_collection", collection_name=collection, fields=fields, indexes=[index])
    data = [{"id": number, "vector": vector.tolist()} for number, vector in enumerate(vectors)]
    await agent.call("insert", collection_name=collection, data=data)
    sought = np.array([0.5, -1.0, 0.25, 2.0], dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(sought) if metric_type == "COSINE" else 1
    scores = vectors @ sought / lengths
    expected = [int(number) for number in np.argsort(-scores) if number % 7 == 2][:20]
    question: dict[str, Any] = {"collection_name": collection, "vector": sought.tolist(), "filter": "id % 7 == 2"}
    exact = await agent.call("search", exact=True, limit=20, **question)
    assert keys(exact["hits"]) == expected
    by_index = await agent.call("search", limit=500, **question)
    assert "approximate" in by_index["plan"]["why"]
    indexed = {hit["id"]: hit["score"] for hit in by_index["hits"]}
    assert {hit["id"]: hit["score"] for hit in exact["hits"]} == pytest.approx(
        {number: indexed[number] for number in expected}, rel=1e-4
    )


@pytest.mark.parametrize(
    ("wrong", "at", "hint"),
    [
        ("tenat == 'a'", "tenat", "perhaps: tenant == 'a'"),
        ("id = 3", "= 3", "perhaps: id == 3"),
        ("id > 3 AND tenant == 'a'", "AND", "perhaps: id > 3 and tenant == 'a'"),
        ("tenant == a", "a", 'perhaps: tenant == "a"'),
        ("id between 1 and 3", "between", "a filter reads like"),
    ],
)
async def test_a_wrong_filter_is_pointed_at(agent: Agent, many: str, wrong: str, at: str, hint: str) -> None:
    for tool, how in (("count", {}), ("search", {"vector": [0, 1]})):
        error = await agent.fails(tool, collection_name=many, filter=wrong, **how)
        assert error["code"] == "invalid_filter"
        _, text, caret, fields = error["message"].split("\n")
        assert text[caret.index("^") :].startswith(at)
        assert fields == "fields: id INT64, tenant VARCHAR(4)"
        assert error["hint"].startswith(hint)
