"""Search with text on the real Milvus 2.3.5, which has no BM25: by the meaning alone, and it says so."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.agent import Agent, agent_on, keys
from tests.tools.test_text_search import LONG, MODEL, PAIRS

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

STORE = "text_search_store"


@pytest.fixture(scope="module")
async def text_agent(milvus_235: str, minilm: dict[str, Any]) -> AsyncIterator[Agent]:
    async with agent_on(milvus_235, **minilm) as agent:
        tenant = {"name": "tenant", "type": "VARCHAR", "max_length": 9}
        await agent.call(
            "create_collection", collection_name=STORE, text_field="body", id_type="int", metadata=[tenant]
        )
        texts = [text for _, answer, trap in PAIRS for text in (answer, trap)] + [LONG]
        texts += [f"Weather report number {number}: rain" for number in range(60)]
        data = [{"id": number, "body": text, "tenant": "ab"[number % 2]} for number, text in enumerate(texts)]
        await agent.call("insert", collection_name=STORE, data=data)
        yield agent


async def test_a_text_is_found_by_its_meaning_alone_and_the_plan_says_so(text_agent: Agent) -> None:
    for number, (question, _, _) in enumerate(PAIRS):
        found = await text_agent.call("search", collection_name=STORE, text=question, limit=3)
        assert keys(found["hits"])[0] == 2 * number
        assert found["plan"] == {
            "mode": "dense",
            "fields": ["vector"],
            "metric_type": "COSINE",
            "embedder": MODEL,
            "why": "Milvus 2.3.5 has no BM25 function",
        }
    for mode in ("bm25", "hybrid", "function"):
        error = await text_agent.fails("search", collection_name=STORE, text="cat", mode=mode)
        assert error["code"] == "invalid_argument"
        assert "vector (dense)" in error["message"]


async def test_filters_bounds_passages_and_exact_scores_work_with_text(text_agent: Agent) -> None:
    question: dict[str, Any] = {"collection_name": STORE, "text": PAIRS[0][0], "limit": 5}
    exact = await text_agent.call("search", exact=True, **question)
    assert "every match was scored" in exact["plan"]["why"]
    for tenant in "ab":
        found = await text_agent.call("search", filter=f'tenant == "{tenant}"', **question)
        assert {hit["fields"]["tenant"] for hit in found["hits"]} == {tenant}
        assert "approximate" in found["plan"]["why"]
    near = await text_agent.call("search", radius=0.4, **question)
    assert keys(near["hits"]) == [hit["id"] for hit in exact["hits"] if hit["score"] > 0.4]
    assert near["hits"]
    found = await text_agent.call("search", collection_name=STORE, text="airship zeppelin wind tunnel", limit=1)
    assert found["hits"][0]["id"] == 2 * len(PAIRS)
    assert "**zeppelin**" in found["hits"][0]["snippet"]
    assert "body" not in found["hits"][0]["fields"]
    legs = [{"text": PAIRS[0][0]}, {"text": PAIRS[1][0]}]
    fused = await text_agent.call("hybrid_search", collection_name=STORE, legs=legs, limit=4)
    assert {0, 2} <= set(keys(fused["hits"]))
    assert fused["fused_by"] == "this server"


async def test_pages_lead_to_the_last_text(text_agent: Agent) -> None:
    question: dict[str, Any] = {"collection_name": STORE, "text": "rain", "limit": 25, "output_fields": ["id"]}
    shown = [key async for page in text_agent.pages("search", **question) for key in keys(page["hits"])]
    assert sorted(shown) == list(range(2 * len(PAIRS) + 61))


async def test_without_an_embedder_there_is_no_other_way(milvus_235: str, text_agent: Agent) -> None:
    assert text_agent
    async with agent_on(milvus_235) as plain:
        error = await plain.fails("search", collection_name=STORE, text="cat")
        assert error["code"] == "not_supported"
        assert "vector is made from body by fastembed" in error["message"]
        assert "--embedder" in error["hint"]
        assert "bm25" not in error["hint"]
        assert (await plain.call("search", collection_name=STORE, id=0, limit=1))["anns_field"] == "vector"
