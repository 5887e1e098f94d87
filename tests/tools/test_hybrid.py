"""Hybrid search: several searches become one ranking, and a filter holds for each of them."""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server_milvus.milvus.capabilities import FEATURES, Feature, Support
from tests.agent import Agent, agent_on, keys
from tests.milvus.conftest import watching

pytestmark = pytest.mark.anyio

TEXTS = ["compress a file with gzip", "parse a date from text", "parse a date, then another", "the quick brown fox"]
LEGS: list[dict[str, Any]] = [
    {"vector": [3.1, 1]},
    {"text": "parse a date", "anns_field": "words"},
    {
        "vector": {"1": 1.0, "3": 0.1},
        "anns_field": "weights",
        "filter": "number < {most}",
        "filter_params": {"most": 9},
    },
]


@pytest.fixture(scope="module")
async def notes(agent: Agent) -> str:
    """Twelve notes of two tenants, with a dense vector, a sparse one, and a text."""
    await agent.call(
        "create_collection",
        collection_name="notes",
        fields=[
            {"name": "id", "type": "INT64", "is_primary": True},
            {"name": "tenant", "type": "VARCHAR", "max_length": 9},
            {"name": "number", "type": "INT64"},
            {"name": "body", "type": "VARCHAR", "max_length": 200, "enable_analyzer": True},
            {"name": "dense", "type": "FLOAT_VECTOR", "dim": 2},
            {"name": "words", "type": "SPARSE_FLOAT_VECTOR"},
            {"name": "weights", "type": "SPARSE_FLOAT_VECTOR"},
        ],
        functions=[{"name": "bm25", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["words"]}],
        indexes=[{"field_name": "dense", "metric_type": "L2"}],
    )
    data = [
        {
            "id": number,
            "tenant": "ab"[number % 2],
            "number": number,
            "body": TEXTS[number % 4] + " again" * number,
            "dense": [number * 0.7, 1],
            "weights": {"1": number + 0.5, "3": number * number},
        }
        for number in range(12)
    ]
    await agent.call("insert", collection_name="notes", data=data)
    return "notes"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"k": 3.5, "legs": LEGS[:2]},
        {"ranker": "weighted", "weights": [0.7, 0.2, 0.4]},
        {"offset": 2, "limit": 3},
        {"legs": [LEGS[0] | {"limit": 2}, LEGS[1] | {"limit": 1}]},
        {"filter": 'tenant == "a"', "output_fields": ["tenant", "dense"]},
        {"partition_names": ["_default"], "consistency_level": "Strong"},
    ],
)
async def test_milvus_and_this_server_fuse_alike(
    agent: Agent, notes: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    question = {"collection_name": notes, "legs": LEGS, "limit": 6} | how
    inside = await agent.call("hybrid_search", **question)
    monkeypatch.setitem(FEATURES, Feature.HYBRID_SEARCH, Support((2, 4, 0), lite=False))
    here = await agent.call("hybrid_search", **question)
    assert (inside.pop("fused_by"), here.pop("fused_by")) == ("milvus", "this server")
    assert inside["hits"]
    assert by_score(here) == by_score(inside)


def by_score(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Equal scores have no order in Milvus Lite."""
    return sorted(result["hits"], key=lambda hit: (-hit["score"], hit["id"]))


@pytest.mark.parametrize("fused_by", ["milvus", "this server"])
async def test_the_outer_filter_reaches_every_leg(
    agent: Agent, notes: str, fused_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused_by == "this server":
        monkeypatch.setitem(FEATURES, Feature.HYBRID_SEARCH, Support((2, 4, 0), lite=False))
    for tenant in "ab":
        found = await agent.call(
            "hybrid_search",
            collection_name=notes,
            legs=[*LEGS, {"vector": [0, 0], "filter": "number >= 0 or number < 0"}],
            filter="tenant == {tenant} or tenant == {tenant}",
            filter_params={"tenant": tenant},
            limit=20,
        )
        assert found["fused_by"] == fused_by
        assert len(found["hits"]) == 6
        assert {hit["fields"]["tenant"] for hit in found["hits"]} == {tenant}


async def test_a_leg_s_own_filter_is_its_own(agent: Agent, notes: str) -> None:
    far = {"vector": [0.0, 1.0], "filter": "number > 9"}
    found = await agent.call("hybrid_search", collection_name=notes, legs=[far])
    assert keys(found["hits"]) == [10, 11]
    found = await agent.call("hybrid_search", collection_name=notes, legs=[far, {"vector": [0, 1], "limit": 1}])
    assert sorted(keys(found["hits"])) == [0, 10, 11]


async def test_hits_are_grouped_and_ranked_by_a_function_where_milvus_can(agent: Agent, notes: str) -> None:
    grouped = await agent.call("hybrid_search", collection_name=notes, legs=LEGS, group_by_field="tenant")
    assert sorted(hit["fields"]["tenant"] for hit in grouped["hits"]) == ["a", "b"]
    decay = {"reranker": "decay", "function": "gauss", "origin": 10, "scale": 1, "decay": 0.1}
    found = await agent.call(
        "hybrid_search",
        collection_name=notes,
        legs=LEGS[:1],
        ranker="function",
        function={"input_field_names": ["number"], "params": decay},
    )
    assert keys(found["hits"])[0] == 10


async def test_a_result_that_is_too_large_says_how_to_go_on(agent: Agent, collection: str) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        {"name": "body", "type": "VARCHAR", "max_length": 9000},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields, enable_dynamic_field=True)
    data = [{"id": number, "vector": [number, 1], "body": "x" * 8000} for number in range(8)]
    await agent.call("insert", collection_name=collection, data=data)
    question: dict[str, Any] = {"collection_name": collection, "legs": [{"vector": [1, 1]}], "output_fields": ["body"]}
    first = await agent.call("hybrid_search", **question)
    assert 0 < len(first["hits"]) < 8
    assert f"offset: {len(first['hits'])}" in first["applied_limits"][0]
    legs = [{"vector": [1, 1], "filter": "boddy == 1"}]
    note = (await agent.call("hybrid_search", collection_name=collection, legs=legs))["applied_limits"][0]
    assert "'boddy'" in note
    assert "body?" in note


@pytest.mark.parametrize("fused_by", ["milvus", "this server"])
async def test_only_the_hits_that_are_shown_are_read(
    lite: str, agent: Agent, collection: str, fused_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused_by == "this server":
        monkeypatch.setitem(FEATURES, Feature.HYBRID_SEARCH, Support((2, 4, 0), lite=False))
    index = [{"field_name": "vector", "metric_type": "L2"}]
    await agent.call("create_collection", collection_name=collection, dimension=2, indexes=index)
    data = [{"id": number, "vector": [number, 1], "body": f"b{number}" * 100} for number in range(400)]
    await agent.call("insert", collection_name=collection, data=data)
    legs: list[dict[str, Any]] = [{"vector": [0, 1], "limit": 400}]
    asked = "HybridSearch" if fused_by == "milvus" else "Search"
    with watching() as wire:
        async with agent_on(lite) as watched:
            found = await watched.call("hybrid_search", collection_name=collection, legs=legs, limit=300, offset=7)
            assert (wire.sent[asked], wire.sent["Query"]) == (1, 1)
            assert list(wire.last[asked].output_fields) == ["id"]
            shown = found["hits"]
            assert keys(shown) == list(range(7, 7 + len(shown)))
            assert 0 < len(shown) < 256
            assert all(hit["fields"] == {"body": f"b{hit['id']}" * 100} for hit in shown)
            assert f"offset: {7 + len(shown)}" in found["applied_limits"][0]
            few = await watched.call("hybrid_search", collection_name=collection, legs=legs, limit=3, offset=7)
            assert few["hits"] == shown[:3]
            if fused_by == "milvus":
                assert wire.sent["Query"] == 1
            else:
                assert wire.last["Query"].expr == "id in [7, 8, 9]"


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ({"legs": []}, "invalid_argument", "legs"),
        ({"legs": [{}]}, "invalid_argument", "legs.0"),
        ({"legs": [LEGS[0], {"text": "a", "vector": [1]}]}, "invalid_argument", "legs.1"),
        ({"legs": [{"vector": [1, 2, 3]}]}, "invalid_argument", "dense FLOAT_VECTOR(2)"),
        ({"legs": [{"vector": [1, 2], "anns_field": "body"}]}, "invalid_argument", "body"),
        ({"legs": [{"vector": [1, 2], "params": {"nprob": 3}}]}, "invalid_argument", "did you mean nprobe"),
        ({"legs": [{"vector": [1, 2], "params": {"radius": 3}}]}, "not_supported", "radius"),
        ({"legs": [{"vector": [1, 2], "limit": 0}]}, "invalid_argument", "legs.0.limit"),
        ({"legs": [{"vector": [1, 2], "filter": "numbr > 3"}]}, "invalid_filter", "number INT64"),
        ({"filter": 'tenant == "a'}, "invalid_filter", "not closed"),
        ({"filter": 'tenant == "a") or (number > 0'}, "invalid_filter", "closes nothing"),
        ({"weights": [1.0, 1.0, 1.0]}, "invalid_argument", "weighted"),
        ({"ranker": "weighted", "weights": [1.0]}, "invalid_argument", "3 legs"),
        ({"ranker": "weighted", "weights": [1.0, 2.0, 0.0]}, "invalid_argument", "weights"),
        ({"ranker": "function"}, "invalid_argument", "function"),
        ({"function": {"params": {}}}, "invalid_argument", "function"),
        ({"ranker": "function", "function": {"parameters": {}}}, "invalid_argument", "input_field_names"),
        ({"ranker": "best"}, "invalid_argument", "ranker"),
        ({"k": 0}, "invalid_argument", "k"),
        ({"limit": 16_000, "offset": 400}, "invalid_argument", "16400"),
        ({"group_size": 2}, "invalid_argument", "group_by_field"),
        ({"group_by_field": "tenant", "group_size": 0}, "invalid_argument", "group_size"),
        ({"group_by_field": "decade"}, "not_found", "decade"),
        ({"group_by_field": "dense"}, "invalid_argument", "dense is FLOAT_VECTOR"),
    ],
)
async def test_a_hybrid_search_that_cannot_be_says_why(
    agent: Agent, notes: str, how: dict[str, Any], code: str, said: str
) -> None:
    error = await agent.fails("hybrid_search", **{"collection_name": notes, "legs": LEGS} | how)
    assert (error["code"], said in error["message"]) == (code, True), error


async def test_an_analyzer_shows_its_words(agent: Agent, notes: str) -> None:
    stop = {"tokenizer": "standard", "filter": [{"type": "stop", "stop_words": ["the"]}]}
    for how, tokens in (
        ({}, ["the", "quick", "fox"]),
        ({"analyzer_params": stop}, ["quick", "fox"]),
        ({"collection_name": notes, "field_name": "body"}, ["the", "quick", "fox"]),
    ):
        found = await agent.call("run_analyzer", texts=["The quick fox!", ""], **how)
        assert found == {"tokens": [tokens, []]}
    for wrong, said in (
        ({"analyzer_params": {"tokenizer": "icu"}}, "'standard', 'jieba'"),
        ({"collection_name": notes}, "field_name"),
        ({"collection_name": notes, "field_name": "tenant"}, "tenant VARCHAR(9)"),
        ({"collection_name": notes, "field_name": "body", "analyzer_params": {}}, "not both"),
    ):
        error = await agent.fails("run_analyzer", texts=["a"], **wrong)
        assert (error["code"], said in error["message"]) == ("invalid_argument", True), error


ANALYZING = """
import sys, anyio
from tests.agent import agent_on

def imported(*parts):
    return [name for name in sys.modules if name.startswith("milvus_lite") and any(part in name for part in parts)]

async def use():
    async with agent_on(sys.argv[1]) as agent:
        await agent.call("list_collections")
        print(imported(""))
        print((await agent.call("run_analyzer", texts=["The fox"]))["tokens"])
        print(imported("adapter", "grpc"), sys.modules["milvus_lite.server_manager"].server_manager_instance._servers)

anyio.run(use)
"""


async def test_the_analyzer_of_milvus_lite_is_imported_when_it_is_used_and_starts_no_engine_here(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", ANALYZING, str(tmp_path / "own.db")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = await anyio.run_process(command, env=environment, stderr=None)
    assert ran.stdout.decode().splitlines() == ["[]", "[['the', 'fox']]", "[] {}"]
