"""Aggregates and orders on the real Milvus 2.3.5, against NumPy and Python."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.agent import Agent, agent_on, keys
from tests.tools.test_aggregates import (
    COUNT,
    FIELDS,
    aggregated,
    all_against_numpy,
    fill,
    groups_against_numpy,
    paths_into_json,
)
from tests.tools.test_order_by import all_orders

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]


@pytest.fixture(scope="module")
async def server(milvus_235: str) -> AsyncGenerator[Agent]:
    async with agent_on(milvus_235) as each:
        yield each


@pytest.fixture(scope="module")
async def books(server: Agent) -> list[dict[str, Any]]:
    return await fill(server, "ag_books")


async def test_aggregates_are_what_numpy_computes(server: Agent, books: list[dict[str, Any]]) -> None:
    await all_against_numpy(server, "ag_books", books)
    await groups_against_numpy(server, "ag_books", books)
    await paths_into_json(server, "ag_books", books)


async def test_orders_are_what_python_sorts(server: Agent, books: list[dict[str, Any]]) -> None:
    await all_orders(server, "ag_books", books)


async def test_entities_with_the_same_key_count_once(server: Agent, books: list[dict[str, Any]]) -> None:
    assert len(books) == COUNT
    await server.call("create_collection", collection_name="ag_twice", dimension=2)
    for _ in range(2):
        data = [{"id": key, "vector": [1, key], "n": key} for key in range(1, 2_001)]
        await server.call("insert", collection_name="ag_twice", data=data)
    assert await aggregated(server, "ag_twice", "count", "sum(n)") == [{"count": 2_000, "sum(n)": 2_001_000}]
    ordered = await server.call("query", collection_name="ag_twice", order_by=["n desc"], limit=3)
    assert [entity["id"] for entity in ordered["entities"]] == [2_000, 1_999, 1_998]


async def test_a_cursor_is_short_however_long_the_texts_are(server: Agent) -> None:
    fields = [*FIELDS[:3], {"name": "title", "type": "VARCHAR", "max_length": 60_000}]
    await server.call("create_collection", collection_name="ag_novels", fields=fields)
    data = [{"id": n, "vector": [1, 0], "year": n, "title": "abc"[n % 3] * 50_000} for n in range(6)]
    await server.call("insert", collection_name="ag_novels", data=data)
    asked: dict[str, Any] = {"collection_name": "ag_novels", "order_by": ["title desc", "year desc"], "limit": 3}
    first = await server.call("query", output_fields=["id"], **asked)
    assert keys(first["entities"]) == [5, 2, 4]
    assert len(first["next_cursor"]) < 500
    second = await server.call("query", output_fields=["id"], cursor=first["next_cursor"], **asked)
    assert keys(second["entities"]) == [1, 3, 0]
    await server.call("delete", collection_name="ag_novels", ids=[4])
    gone = await server.fails("query", output_fields=["id"], cursor=first["next_cursor"], **asked)
    assert (gone["code"], "start again" in gone["hint"]) == ("conflict", True)
