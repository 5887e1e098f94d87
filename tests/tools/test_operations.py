"""Operations on Milvus Lite: what it has, and what is refused in words, before anything is asked of it."""

from typing import Any

import pytest

from tests.agent import Agent

pytestmark = pytest.mark.anyio

ENTITIES = [{"id": number, "vector": [number, 1]} for number in range(5)]


@pytest.fixture
async def filled(agent: Agent, collection: str) -> str:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    await agent.call("insert", collection_name=collection, data=ENTITIES)
    return collection


async def test_server_info_tells_what_the_embedded_engine_has_and_where_nothing_is(agent: Agent, lite: str) -> None:
    info = await agent.call("server_info")
    assert info["backend"].startswith("Milvus Lite 3.")
    assert (info["kind"], info["healthy"], info["default_database"]) == ("embedded", True, "default")
    assert "default" in info["databases"]
    assert "text_match" in info["supported"]
    assert {"users and roles", "snapshots", "compaction on demand"} <= set(info["not_supported"])
    assert set(info["supported"]).isdisjoint(info["not_supported"])
    assert (info["functions"], "GEOMETRY" in info["types"]) == (["BM25"], False)
    assert lite not in str(info)
    assert "/" not in str(info)


async def test_a_collection_is_counted_loaded_and_released(agent: Agent, filled: str) -> None:
    loaded = await agent.call("collection_stats", collection_name=filled)
    assert (loaded["loaded"], loaded["entity_count"], loaded["row_count"]) == (True, 5, 5)
    (index,) = loaded["indexes"]
    assert (index["field_name"], index["state"]) == ("vector", "finished")
    assert "segments" not in loaded
    await agent.call("release_collection", collection_name=filled)
    released = await agent.call("collection_stats", collection_name=filled)
    assert (released["loaded"], released["row_count"], "entity_count" in released) == (False, 5, False)


async def test_flushing_says_what_is_stored_and_what_is_not_there(agent: Agent, filled: str) -> None:
    assert await agent.call("flush", collection_name=filled) == {"flushed": True, "row_count": 5}
    assert await agent.call("flush") == {"flushed": True}
    for tool in ("flush", "collection_stats"):
        assert (await agent.fails(tool, collection_name="nowhere"))["code"] == "not_found"


@pytest.mark.parametrize(
    ("tool", "arguments", "instead"),
    [
        ("compact", {}, "after each flush"),
        ("list_segments", {}, "collection_stats"),
        ("optimize", {}, "compact"),
        ("describe_replica", {}, "one copy"),
        ("transfer_replica", {"source": "a", "target": "b", "num_replica": 1}, "one copy"),
    ],
)
async def test_what_milvus_lite_lacks_is_refused_with_what_works_instead(
    agent: Agent, filled: str, tool: str, arguments: dict[str, Any], instead: str
) -> None:
    error = await agent.fails(tool, collection_name=filled, **arguments)
    assert error["code"] == "not_supported"
    assert "Milvus Lite 3." in error["message"]
    assert instead in error["hint"]


@pytest.mark.parametrize("job_id", ["", "-1", "x", "9223372036854775808", "\u0661"])
async def test_a_job_that_is_no_number_is_refused(agent: Agent, job_id: str) -> None:
    error = await agent.fails("compaction_state", job_id=job_id)
    assert (error["code"], "number of a job" in error["message"]) == ("invalid_argument", True)
