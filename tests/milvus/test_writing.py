"""Many entities, in batches: in order, in ranges that add up, and honest about what is in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_milvus.errors import DeadlineExceeded, Error, InvalidArgument, MilvusFailed, PartialWrite, Unavailable
from mcp_server_milvus.milvus.entities import BATCH_ENTITIES
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.writing import Outcome, Write, _gaps, _numbered
from mcp_server_milvus.vocabulary import DataType
from tests.milvus.conftest import Agent, LiteServer, agent

RANGES = st.lists(st.integers(1, 5), min_size=1, max_size=8)

# A server whose second insert is the last one that it answers.
DIES_AT_THE_SECOND_INSERT = """
import os, signal
from milvus_lite.adapter.grpc.servicer import MilvusServicer

plain, seen = MilvusServicer.Insert, []

def counted(self, request, context):
    seen.append(request)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, request, context)

MilvusServicer.Insert = counted
"""


@given(RANGES)
def test_batches_are_numbered_without_a_gap(sizes: list[int]) -> None:
    numbered = _numbered([[{}] * size for size in sizes])
    assert [number for (first, last), _ in numbered for number in range(first, last + 1)] == list(range(sum(sizes)))
    assert [last - first + 1 for (first, last), _ in numbered] == sizes


@given(RANGES, st.data())
def test_what_is_not_written_is_all_that_is_neither_written_nor_unknown(sizes: list[int], data: st.DataObject) -> None:
    ranges = [batch for batch, _ in _numbered([[{}] * size for size in sizes])]
    touched = data.draw(st.lists(st.sampled_from(ranges), unique=True))
    gaps = _gaps(touched, sum(sizes))
    assert sorted(numbers(touched) + numbers(gaps)) == list(range(sum(sizes)))


def test_keys_come_in_the_order_of_the_entities() -> None:
    outcome = Outcome(written={(2, 3): [12, 13], (0, 1): [10, 11]})
    assert (outcome.count, outcome.ids) == (4, [10, 11, 12, 13])


@pytest.mark.parametrize("failure", [InvalidArgument("no"), MilvusFailed("no"), Unavailable("no")])
def test_when_nothing_is_in_the_failure_itself_is_raised(failure: Error) -> None:
    assert explained(Outcome(failure=failure), total=3) is failure


def test_when_some_are_in_the_ranges_say_which() -> None:
    outcome = Outcome(written={(0, 9): []}, unknown=[(20, 29)], failure=DeadlineExceeded("time was up"))
    error = explained(outcome, total=35)
    assert isinstance(error, PartialWrite)
    assert error.as_dict() | {"hint": "", "message": ""} == {
        "code": "partial_write",
        "message": "",
        "hint": "",
        "retriable": False,
        "insert_count": 10,
        "written": [(0, 9)],
        "outcome_unknown": [(20, 29)],
        "not_written": [(10, 19), (30, 34)],
    }
    assert "10 of 35" in error.message
    assert "time was up" in error.message


@pytest.mark.anyio
async def test_thousands_of_entities_arrive_once_each_and_in_order(lite: Agent) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True, "auto_id": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        {"name": "number", "type": "INT64"},
    ]
    await lite.call("create_collection", collection_name="w_many", fields=fields)
    total = 2 * BATCH_ENTITIES + 10
    data = [{"vector": [1, number], "number": number} for number in range(total)]
    written = await lite.call("insert", collection_name="w_many", data=data)
    assert written["insert_count"] == total
    last = (await lite.call("get", collection_name="w_many", ids=[written["ids"][1_500]]))["entities"]
    assert [each["number"] for each in last] == [1_500]
    assert await lite.call("count", collection_name="w_many") == {"count": total}


@pytest.mark.anyio
async def test_a_server_that_dies_between_two_batches_leaves_a_report_that_is_true(lite_server: LiteServer) -> None:
    total = 3 * BATCH_ENTITIES
    async with agent(uri=lite_server.uri, timeout=5.0) as each:
        await each.call("create_collection", collection_name="w_dies", dimension=2)
        lite_server.kill()
        lite_server.start(before=DIES_AT_THE_SECOND_INSERT)
        await each.client.call_tool("query", {"collection_name": "w_dies"})
        data = [{"id": number, "vector": [1, number]} for number in range(total)]
        refusal = await each.refused("insert", collection_name="w_dies", data=data)
        lite_server.kill()
        lite_server.start()
    assert refusal["code"] == "partial_write"
    assert refusal["written"] == [[0, BATCH_ENTITIES - 1]]
    assert refusal["outcome_unknown"] == [[BATCH_ENTITIES, 2 * BATCH_ENTITIES - 1]]
    assert refusal["not_written"] == [[2 * BATCH_ENTITIES, total - 1]]
    async with agent(uri=lite_server.uri) as after:
        count = (await after.call("count", collection_name="w_dies"))["count"]
        assert count == refusal["insert_count"] == BATCH_ENTITIES


def numbers(ranges: list[tuple[int, int]]) -> list[int]:
    return [number for first, last in ranges for number in range(first, last + 1)]


def explained(outcome: Outcome, *, total: int) -> Error:
    nothing: Any = None
    assert outcome.failure
    key = Field("id", DataType.INT64, is_primary=True)
    schema = CollectionSchema("c", fields=(key,), functions=(), indexes=(), enable_dynamic_field=False)
    return Write("insert", nothing, "", "", "", schema, nothing)._explained(outcome, outcome.failure, total)
