"""Recall and memory on the real Milvus 2.3.5, with index types that Milvus Lite does not have."""

from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest

from tests.agent import Agent, agent_on

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

ENTITIES, DIM = 4_000, 32


@pytest.fixture(scope="module")
async def server(milvus_235: str) -> AsyncGenerator[Agent]:
    async with agent_on(milvus_235) as each:
        yield each


async def filled(server: Agent, index_type: str, **params: Any) -> dict[str, Any]:
    named = {"collection_name": f"measured_{index_type}"}
    await server.call(
        "create_collection",
        **named,
        fields=[
            {"name": "id", "type": "VARCHAR", "max_length": 16, "is_primary": True},
            {"name": "vector", "type": "FLOAT_VECTOR", "dim": DIM},
        ],
        indexes=[{"field_name": "vector", "index_type": index_type, "metric_type": "L2", "params": params}],
    )
    vectors = np.random.default_rng(2).normal(size=(ENTITIES, DIM)).astype(np.float32).tolist()
    data = [{"id": f"k{n:05}", "vector": vector} for n, vector in enumerate(vectors)]
    await server.call("insert", **named, data=data)
    return named


async def test_recall_of_a_poor_graph_rises_with_ef(server: Agent) -> None:
    named = await filled(server, "HNSW", M=4, efConstruction=8)
    await server.call("flush", **named)
    await server.call("release_collection", **named)  # what is loaded again has the index
    told = await server.call("measure_recall", **named, sample=25, limit=5)
    assert (told["sample"], told["entity_count"], told["loaded"]) == (25, ENTITIES, True)
    assert told["measured"][0]["params"] == {}
    points = [(each["params"]["ef"], each["recall"]) for each in told["measured"][1:]]
    assert points == sorted(points)
    assert points[0][1] < points[-1][1] - 0.1
    under = await server.call("measure_recall", **named, filter='id < "k00500"', sample=20, params_list=[{"ef": 64}])
    assert (under["entity_count"], under["sample"], len(under["measured"])) == (500, 20, 1)


async def test_an_exact_index_is_found_to_be_exact_and_memory_is_estimated(server: Agent) -> None:
    named = await filled(server, "FLAT")
    told = await server.call("measure_recall", **named, sample=20)
    assert [each["recall"] for each in told["measured"]] == [1]
    assert "the index is exact" in told["advice"]
    sizes = await server.call("estimate_memory", **named, index_type="AUTOINDEX", entity_count=10_000_000)
    assert {each["field_name"]: each["bytes"] for each in sizes["fields"]} == {
        "id": 60_000_000,
        "vector": 10_000_000 * (4 * DIM + 2 * 18 * 4),
        "RowID, Timestamp": 160_000_000,
    }
    assert sizes["total"] == "2.9 GB"


async def test_binary_vectors_are_measured(server: Agent) -> None:
    named = {"collection_name": "measured_bits"}
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "bits", "type": "BINARY_VECTOR", "dim": 64},
    ]
    index = {"field_name": "bits", "index_type": "BIN_FLAT", "metric_type": "JACCARD"}
    await server.call("create_collection", **named, fields=fields, indexes=[index])
    drawn = np.random.default_rng(4).integers(0, 2, size=(ENTITIES, 64)).tolist()
    await server.call("insert", **named, data=[{"id": n, "bits": bits} for n, bits in enumerate(drawn)])
    told = await server.call("measure_recall", **named, sample=20, limit=30)
    assert [(each["params"], each["recall"]) for each in told["measured"]] == [({}, 1)]
