"""Why a search finds nothing, where only a server has the cause: writes of others, half of a collection, bits."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.agent import Agent, agent_on, keys
from tests.tools.test_diagnosis import HAS_IT, findings, first_advice

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

NAMED = {"collection_name": "diagnosed_235"}
SOUGHT = {"vector": [1.0, 0.5]}


@pytest.fixture(scope="module")
async def server(milvus_235: str) -> AsyncGenerator[Agent]:
    async with agent_on(milvus_235, **HAS_IT) as each:
        yield each


@pytest.fixture
async def divided(server: Agent) -> AsyncGenerator[Agent]:
    """Forty entities in `_default`, one in `z`."""
    await server.call("create_collection", **NAMED, dimension=2, consistency_level="Bounded")
    await server.call("create_partition", **NAMED, partition_name="z")
    data = [{"id": n, "vector": [1, n / 10], "color": "red"} for n in range(40)]
    await server.call("insert", **NAMED, data=data)
    await server.call("insert", **NAMED, data=[{"id": 99, "vector": [1, 9], "color": "Blue"}], partition_name="z")
    yield server
    await server.call("drop_collection", **NAMED)


async def test_legs_partitions_and_ranks_are_told_as_on_the_embedded_engine(divided: Agent) -> None:
    asked: dict[str, Any] = {**NAMED, **SOUGHT}
    case = await divided.call("diagnose_search", **asked, filter='color == "blue" and id > 2')
    assert 'leg 1 `color == "blue"` 0 (nothing), leg 2 `id > 2` 38' in findings(case)["filter"]
    assert findings(case)["stored values"] == '`color == "blue"` matches nothing: stored is "Blue", not "blue"'
    assert keys((await first_advice(divided, case))["hits"]) == [99]
    elsewhere = await divided.call("diagnose_search", **asked, filter="id < 9", partition_names=["z"], expected_id=5)
    assert findings(elsewhere)["partitions"] == "none of these has a match; matches are in _default (9)"
    assert "is in partition _default, which is not searched" in findings(elsewhere)["expected_id"]
    assert (await first_advice(divided, elsewhere))["hits"]
    cut = await divided.call("diagnose_search", **asked, expected_id=39)
    assert "rank 40 of 41 in vector; limit is 10" in findings(cut)["expected_id"]
    assert 39 in keys((await first_advice(divided, cut))["hits"])
    wrong = await divided.call("diagnose_search", **asked, filter="nothing here", radius=5)
    assert "cannot parse" in findings(wrong)["filter"] or "filter:" in findings(wrong)["filter"]


@pytest.mark.usefixtures("divided")
async def test_what_another_process_has_just_written_is_told_to_be_unseen(milvus_235: str) -> None:
    async with agent_on(milvus_235, **HAS_IT) as writer, agent_on(milvus_235, **HAS_IT) as reader:
        await writer.call("insert", **NAMED, data=[{"id": 1000, "vector": [1, 0.5]}])
        lagging = await reader.call("diagnose_search", **NAMED, **SOUGHT, expected_id=1000)
        assert "reads at level Bounded lag" in findings(lagging)["consistency"]
        assert 1000 in keys((await first_advice(reader, lagging))["hits"])
        assert "consistency" not in findings(await reader.call("diagnose_search", **NAMED, **SOUGHT))


async def test_a_collection_that_is_loaded_in_part_or_cannot_be_loaded_is_told(milvus_235: str, divided: Agent) -> None:
    await divided.call("release_partitions", **NAMED, partition_names=["_default"])
    async with agent_on(milvus_235, **HAS_IT, auto_load=False) as strict:
        partly = await strict.call("diagnose_search", **NAMED, **SOUGHT)
        assert "not loaded: _default" in findings(partly)["load"]
        named = await strict.call("diagnose_search", **NAMED, **SOUGHT, partition_names=["z"], filter="id == 5")
        assert "load" not in findings(named), named
        assert findings(named).get("filter", named) == "0 of 1 entities match"
    loaded = await divided.call("diagnose_search", **NAMED, **SOUGHT)
    assert findings(loaded)["load"] == "_default was not loaded; this call has loaded it"
    await divided.call("release_collection", **NAMED)
    await divided.call("drop_index", **NAMED, index_name="vector")
    bare = await divided.call("diagnose_search", **NAMED, **SOUGHT)
    assert "has no index" in findings(bare)["index"]
    only_filter = await divided.call("diagnose_search", **NAMED, filter="id == 1")
    assert only_filter["next"][0] == {"do": "call build_index first"}
    await divided.call(bare["next"][0]["tool"], **bare["next"][0]["arguments"])
    assert (await divided.call("diagnose_search", **NAMED, **SOUGHT))["checks"][1] == {"check": "index", "state": "ok"}


async def test_bits_are_looked_at_too(server: Agent) -> None:
    named = {"collection_name": "diagnosed_bits_235"}
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "bits", "type": "BINARY_VECTOR", "dim": 8},
    ]
    await server.call("create_collection", **named, fields=fields)
    data = [{"id": n, "bits": [int(bit) for bit in f"{n:08b}"]} for n in range(20)]
    await server.call("insert", **named, data=data)
    asked = {**named, "vector": [0, 0, 0, 0, 0, 0, 0, 1], "limit": 3}
    found = await server.call("diagnose_search", **asked, expected_id=15)
    assert "1 of 20 sampled vectors are all zeros" in findings(found)["vector"]
    assert "has score" in findings(found)["expected_id"]
    assert 15 in keys((await first_advice(server, found))["hits"])
    await server.call("drop_collection", **named)
