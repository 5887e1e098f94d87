"""Paging: every entity once, in the order of the keys, from whichever server the next page is asked."""

import base64
import json
from typing import Any

import pytest

from tests.agent import Agent, agent_on, keys

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def numbers(agent: Agent) -> str:
    """1,050 entities, inserted in disorder, with keys on both sides of zero."""
    await agent.call("create_collection", collection_name="numbers", dimension=2)
    order = [(number * 607) % 1050 for number in range(1050)]
    data = [{"id": n - 500, "vector": [n, 1], "even": n % 2 == 0, "text": "x" * 100} for n in order]
    await agent.call("insert", collection_name="numbers", data=data)
    return "numbers"


@pytest.mark.parametrize("limit", [100, 350, 999, 1050])
async def test_1050_entities_are_all_read_once_in_order(agent: Agent, numbers: str, limit: int) -> None:
    pages = [page async for page in agent.pages("query", collection_name=numbers, limit=limit, output_fields=["id"])]
    assert [key for page in pages for key in keys(page["entities"])] == list(range(-500, 550))
    assert len(pages) == -(-1050 // limit)
    assert [len(page["entities"]) for page in pages[:-1]] == [limit] * (len(pages) - 1)


async def test_pages_of_a_filter_are_complete(agent: Agent, numbers: str) -> None:
    pages = [
        page
        async for page in agent.pages(
            "query", collection_name=numbers, filter="even == {even} or id == 1", filter_params={"even": True}, limit=64
        )
    ]
    expected = sorted([*range(-500, 550, 2), 1])
    assert [key for page in pages for key in keys(page["entities"])] == expected


async def test_pages_that_are_cut_by_their_bytes_are_complete_too(lite: str, numbers: str) -> None:
    async with agent_on(lite, max_result_bytes=16_384) as short_spoken:
        pages = [page async for page in short_spoken.pages("query", collection_name=numbers, limit=1000)]
    assert [key for page in pages for key in keys(page["entities"])] == list(range(-500, 550))
    assert len(pages) > 5
    assert "next_cursor" in pages[0]["applied_limits"][0]


async def test_string_keys_are_paged_in_their_order(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, id_type="string")
    names = [f"key {number}" for number in range(300)] + ['q"uote', "back\\slash", "'", "ä", "🙂", "Z", "z", "a'b\"c\\"]
    data = [{"id": name, "vector": [0, 1]} for name in names]
    await agent.call("insert", collection_name=collection, data=data)
    for limit in (1, 7, 100):
        pages = [page async for page in agent.pages("query", collection_name=collection, limit=limit)]
        assert [key for page in pages for key in keys(page["entities"])] == sorted(names)


async def test_another_server_continues_where_the_first_stopped(lite: str, agent: Agent, numbers: str) -> None:
    first = await agent.call("query", collection_name=numbers, limit=10)
    async with agent_on(lite) as another:
        second = await another.call("query", collection_name=numbers, limit=10, cursor=first["next_cursor"])
    assert keys(second["entities"]) == list(range(-490, -480))


async def test_a_page_may_have_another_length_than_the_one_before(agent: Agent, numbers: str) -> None:
    first = await agent.call("query", collection_name=numbers, limit=3)
    second = await agent.call("query", collection_name=numbers, limit=5, cursor=first["next_cursor"])
    assert keys(second["entities"]) == list(range(-497, -492))


async def test_entities_that_come_or_go_between_pages_move_no_others(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    data = [{"id": n, "vector": [n, 1]} for n in range(0, 40, 2)]
    await agent.call("insert", collection_name=collection, data=data)
    first = await agent.call("query", collection_name=collection, limit=10)
    await agent.call("delete", collection_name=collection, ids=[0, 18, 20])
    await agent.call("insert", collection_name=collection, data=[{"id": n, "vector": [n, 1]} for n in (1, 21)])
    second = await agent.call("query", collection_name=collection, limit=20, cursor=first["next_cursor"])
    assert keys(second["entities"]) == [21, *range(22, 40, 2)]
    assert "next_cursor" not in second


async def test_the_last_page_has_no_cursor_even_when_it_is_full(agent: Agent, numbers: str) -> None:
    page = await agent.call("query", collection_name=numbers, filter="id >= 540", limit=10)
    assert len(page["entities"]) == 10
    assert "next_cursor" not in page


async def test_a_cursor_of_another_question_is_refused(agent: Agent, numbers: str) -> None:
    question: dict[str, Any] = {"collection_name": numbers, "filter": "id > {low}", "filter_params": {"low": 0}}
    cursor = (await agent.call("query", limit=5, **question))["next_cursor"]
    for other in ({"filter_params": {"low": 1}}, {"filter": "id >= {low}"}, {"partition_names": ["_default"]}):
        error = await agent.fails("query", cursor=cursor, **question | other)
        assert error["code"] == "invalid_argument"
        assert "cursor" in error["message"]
    error = await agent.fails("list_collections", cursor=cursor)
    assert error["code"] == "invalid_argument"


async def test_a_cursor_that_is_broken_or_made_up_is_refused(agent: Agent, numbers: str) -> None:
    cursor = (await agent.call("query", collection_name=numbers, limit=5))["next_cursor"]
    fingerprint, _ = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))

    def forged(*position: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps([fingerprint, *position]).encode()).decode().rstrip("=")

    made_up = [
        *("x", "%%%", "é", cursor[:-1], cursor[:-4], cursor[4:], cursor + "AAAA", cursor[::-1]),
        *map(forged, ([1], {"id": 1}, "1 or id < 9", None, 1.5, True, 2**70)),
        *(forged(), forged(1, 2)),
    ]
    for wrong in made_up:
        error = await agent.fails("query", collection_name=numbers, limit=5, cursor=wrong)
        assert error["code"] == "invalid_argument", wrong
