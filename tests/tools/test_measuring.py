"""Recall and memory, measured and reckoned on the embedded engine."""

from typing import Any

import numpy as np
import pytest

from mcp_server_milvus.milvus.memory import readable
from tests.agent import Agent, agent_on

pytestmark = pytest.mark.anyio

ENTITIES, DIM = 3_000, 16


async def points(agent: Agent, name: str, vectors: Any, index: dict[str, Any], metric: str = "L2") -> dict[str, Any]:
    """A collection whose vectors are in an index. Its entities have a `number`, which is their key."""
    await agent.call(
        "create_collection",
        collection_name=name,
        fields=[
            {"name": "id", "type": "INT64", "is_primary": True},
            {"name": "number", "type": "INT64"},
            {"name": "vector", "type": "FLOAT_VECTOR", "dim": len(vectors[0]) if len(vectors) else DIM},
        ],
        indexes=[{"field_name": "vector", "metric_type": metric, **index}],
    )
    data = [{"id": n, "number": n, "vector": [float(x) for x in vector]} for n, vector in enumerate(vectors)]
    if data:
        await agent.call("insert", collection_name=name, data=data)
        await agent.call("flush", collection_name=name)
        await agent.call("release_collection", collection_name=name)
    return {"collection_name": name}


def spread(count: int = ENTITIES) -> Any:
    return np.random.default_rng(11).normal(size=(count, DIM)).astype(np.float32)


COARSE: dict[str, Any] = {"index_type": "IVF_FLAT", "params": {"nlist": 256}}


@pytest.fixture(scope="module")
async def coarse(agent: Agent) -> dict[str, Any]:
    """An index that misses much."""
    return await points(agent, "measured_coarse", spread(), COARSE)


async def test_recall_rises_with_what_a_bad_index_looks_at(agent: Agent, coarse: dict[str, Any]) -> None:
    told = await agent.call("measure_recall", **coarse, sample=40)
    assert told["loaded"] is True
    assert (told["index_type"], told["metric_type"], told["anns_field"]) == ("IVF_FLAT", "L2", "vector")
    assert (told["sample"], told["entity_count"], told["limit"]) == (40, ENTITIES, 10)
    recalls = {point["params"].get("nprobe"): point["recall"] for point in told["measured"]}
    assert list(recalls) == [None, 1, 4, 16, 64, 256]
    assert 0 < recalls[1] < 0.6 < recalls[64] < recalls[256] == 1
    assert list(recalls.values())[1:] == sorted(list(recalls.values())[1:])
    assert all(0 < point["median_ms"] <= point["p95_ms"] for point in told["measured"])
    enough = next(nprobe for nprobe, recall in recalls.items() if recall >= 0.95)
    assert f"{{'nprobe': {enough}}}" in told["advice"]
    poor = await agent.call("measure_recall", **coarse, params_list=[{"nprobe": 1}, {"nprobe": 2}])
    assert [point["params"] for point in poor["measured"]] == [{"nprobe": 1}, {"nprobe": 2}]
    assert "no setting finds 95%" in poor["advice"]
    assert "nlist" in poor["advice"]


async def test_a_caller_sees_how_far_it_is(agent: Agent, coarse: dict[str, Any]) -> None:
    heard: list[tuple[float, float | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        assert message
        heard.append((progress, total))

    await agent.client.call_tool("measure_recall", coarse | {"sample": 7}, progress_callback=hear)
    assert heard == sorted(heard)
    assert heard[-1] == (2 * ENTITIES + 6 * 7, 2 * ENTITIES + 6 * 7)


async def test_what_is_measured_is_what_numpy_computes(agent: Agent, coarse: dict[str, Any]) -> None:
    """Every entity that matches is sampled: their recall is that of searches one by one."""
    few = {"filter": "number in {few}", "filter_params": {"few": list(range(0, ENTITIES, 60))}}
    told = await agent.call("measure_recall", **coarse, **few, sample=200, limit=3, params_list=[{"nprobe": 40}])
    assert (told["sample"], told["entity_count"]) == (50, 50)
    vectors, right = spread()[::60].astype(np.float64), 0
    for line, vector in enumerate(vectors):
        distances = ((vectors - vector) ** 2).sum(axis=1)
        nearest = {60 * int(number) for number in np.argsort(distances)[1:4]}
        found = await agent.call("search", **coarse, **few, id=60 * line, limit=3, params={"nprobe": 40})
        right += len(nearest & {hit["id"] for hit in found["hits"]})
    assert 0.05 < told["measured"][0]["recall"] < 0.95
    assert told["measured"][0]["recall"] == pytest.approx(right / 150, abs=1e-4)


@pytest.mark.parametrize("metric", ["COSINE", "L2", "IP"])
async def test_an_exact_index_misses_nothing_however_many_scores_are_the_same(agent: Agent, metric: str) -> None:
    """A tenth of the vectors, each ten times: which of the ten are found is chance."""
    vectors = np.repeat(spread(100), 10, axis=0)
    named = await points(agent, f"measured_flat_{metric}", vectors, {"index_type": "FLAT"}, metric)
    told = await agent.call("measure_recall", **named, limit=5)
    assert [point["recall"] for point in told["measured"]] == [1]
    assert told["sample"] == 50
    assert "the index is exact" in told["advice"]
    graph = await points(agent, f"measured_hnsw_{metric}", vectors, {"index_type": "HNSW"}, metric)
    told = await agent.call("measure_recall", **graph, limit=20)
    assert [point["params"].get("ef") for point in told["measured"]] == [None, 21, 40, 80, 160, 320]
    assert told["measured"][-1]["recall"] == 1


async def test_a_collection_with_less_than_what_is_asked_for_is_measured(agent: Agent) -> None:
    named = await points(agent, "measured_few", spread(6), {"index_type": "HNSW"})
    told = await agent.call("measure_recall", **named, limit=100)
    assert (told["sample"], told["measured"][0]["recall"]) == (6, 1)
    alone = await agent.call("measure_recall", **named, filter="number == 3")
    assert (alone["entity_count"], alone["sample"], alone["measured"]) == (1, 0, [])
    assert "nothing to measure" in alone["advice"]
    empty = await points(agent, "measured_empty", [], {"index_type": "HNSW"})
    assert (await agent.call("measure_recall", **empty))["measured"] == []


async def test_sparse_vectors_are_measured(agent: Agent) -> None:
    await agent.call(
        "create_collection",
        collection_name="measured_sparse",
        fields=[
            {"name": "id", "type": "VARCHAR", "max_length": 8, "is_primary": True},
            {"name": "words", "type": "SPARSE_FLOAT_VECTOR"},
        ],
    )
    drawn = np.random.default_rng(3).integers(0, 50, size=(300, 6))
    data = [{"id": f"k{n}", "words": {str(w): 1 + n % 7 for w in line}} for n, line in enumerate(drawn.tolist())]
    await agent.call("insert", collection_name="measured_sparse", data=data)
    told = await agent.call("measure_recall", collection_name="measured_sparse")
    assert told["measured"][0] == told["measured"][0] | {"params": {}, "recall": 1}
    sizes = await agent.call("estimate_memory", collection_name="measured_sparse")
    weights = sum(len(each["words"]) for each in data)
    assert {each["field_name"]: each["bytes"] for each in sizes["fields"]}["words"] == pytest.approx(
        8 * weights, rel=0.05
    )


async def test_what_cannot_be_measured_is_refused_in_words(agent: Agent, coarse: dict[str, Any], lite: str) -> None:
    for wrong, code, part in (
        ({"anns_field": "number"}, "invalid_argument", "vector FLOAT_VECTOR(16)"),
        ({"anns_field": "nothing"}, "not_found", "nothing"),
        ({"filter": "number >"}, "invalid_filter", ""),
        ({"params_list": [{"radius": 3}]}, "invalid_argument", "radius"),
        ({"params_list": [{"nprobe": 0}]}, "invalid_argument", "nprobe"),
        ({"sample": 201}, "invalid_argument", "sample"),
    ):
        error = await agent.fails("measure_recall", **coarse, **wrong)
        assert error["code"] == code
        assert part in error["message"]
    async with agent_on(lite, toolsets="all", max_scan=1_000) as small:
        error = await small.fails("measure_recall", **coarse)
        assert (error["code"], "--max-scan" in error["hint"]) == ("limit_exceeded", True)
        narrow = await small.call("measure_recall", **coarse, filter="number < 900")
        assert narrow["entity_count"] == 900
    async with agent_on(lite, toolsets="all", mask_fields="vector") as masked:
        assert (await masked.fails("measure_recall", **coarse))["code"] == "denied"
    text = [
        {"name": "id", "type": "INT64", "is_primary": True, "auto_id": True},
        {"name": "body", "type": "VARCHAR", "max_length": 100, "enable_analyzer": True},
        {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
    ]
    bm25 = {"name": "f", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["sparse"]}
    await agent.call("create_collection", collection_name="measured_text", fields=text, functions=[bm25])
    error = await agent.fails("measure_recall", collection_name="measured_text")
    assert (error["code"], "inside Milvus" in error["message"]) == ("not_supported", True)


async def test_memory_is_estimated_as_it_is_and_as_it_might_be(agent: Agent) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "title", "type": "VARCHAR", "max_length": 1_000},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 128},
    ]
    named = {"collection_name": "measured_size"}
    await agent.call("create_collection", **named, fields=fields, enable_dynamic_field=True)
    data = [{"id": n, "title": "ü" * 20, "vector": [0.5] * 128, "year": 1999} for n in range(100)]
    await agent.call("insert", **named, data=data)
    now = await agent.call("estimate_memory", **named)
    sizes = {each["field_name"]: each["bytes"] for each in now["fields"]}
    # 512 bytes of vector and 2 x 16 links of 4 bytes; {"year":1999} is 13 bytes
    assert sizes == {"id": 800, "title": 4_000, "vector": 64_000, "$meta": 1_300, "RowID, Timestamp": 1_600}
    assert (now["entity_count"], now["total_bytes"], now["total"]) == (100, 71_700, "71.7 kB")
    more = await agent.call(
        "estimate_memory",
        **named,
        entity_count=10_000_000,
        index_type="IVF_SQ8",
        params={"nlist": 1024},
        replica_number=2,
    )
    vector = next(each for each in more["fields"] if each["field_name"] == "vector")
    assert vector["bytes"] == 10_000_000 * (128 + 8) + 1024 * 512
    assert more["total_bytes"] == 2 * (vector["bytes"] + 10_000_000 * (8 + 40 + 13 + 16))
    assert more["total"] == readable(more["total_bytes"])
    disk = await agent.call("estimate_memory", **named, index_type="DISKANN", entity_count=1_000)
    assert disk["disk_bytes"] == 1_000 * (512 + 56 * 4)
    await agent.call("release_collection", **named)
    unread = await agent.call("estimate_memory", **named, entity_count=10)
    assert {each["field_name"]: each["bytes"] for each in unread["fields"]}["title"] == 5_000
    assert "title" in unread["assumed"][0]
    for wrong in ({"index_type": "NOPE"}, {"index_type": "IVF_PQ"}, {"index_type": "HNSW", "params": {"M": -1}}):
        assert (await agent.fails("estimate_memory", **named, **wrong))["code"] == "invalid_argument"
    assert (await agent.fails("estimate_memory", **named, params={"M": 3}))["code"] == "invalid_argument"
