"""Queries in an order of the caller's choice: what Python sorts, page by page to the end."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from pymilvus import DataType
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

from mcp_server_milvus.milvus import ordering
from mcp_server_milvus.milvus.results import decode_cursor, encode_cursor
from tests.agent import Agent, agent_on, keys
from tests.fake_milvus import fake_milvus
from tests.milvus.conftest import watching
from tests.tools.test_aggregates import FIELDS, fill, numbers, parameters

pytestmark = pytest.mark.anyio

ORDERS: list[tuple[list[str], Callable[[dict[str, Any]], Any]]] = [
    (["year desc", "price"], lambda book: (-book["year"], book["price"], book["id"])),
    (["sold desc", "year", "views desc"], lambda book: (not book["sold"], book["year"], -book["views"], book["id"])),
    (["rating"], lambda book: (book["rating"], book["id"])),
    (["year:DESC"], lambda book: (-book["year"], book["id"])),
    (['meta["pages"]', "shelf desc"], lambda book: (book["meta"]["pages"], -book["shelf"], book["id"])),
    (["author", "id desc"], lambda book: (book["author"], -book["id"])),
    (["id desc"], lambda book: -book["id"]),
    (["id", "year desc"], lambda book: book["id"]),
]


@pytest.fixture(scope="module")
async def books(agent: Agent) -> list[dict[str, Any]]:
    return await fill(agent, "ord_books")


async def all_orders(agent: Agent, name: str, books: list[dict[str, Any]]) -> None:
    for order_by, key in ORDERS:
        expected = [book["id"] for book in sorted(books, key=key)]
        asked: dict[str, Any] = {"collection_name": name, "order_by": order_by, "output_fields": ["year"]}
        first = await agent.call("query", limit=7, **asked)
        assert keys(first["entities"]) == expected[:7], order_by
        second = await agent.call("query", limit=9, cursor=first["next_cursor"], **asked)
        assert keys(second["entities"]) == expected[7:16], order_by
    by_author = sorted(sorted(books, key=lambda book: book["id"]), key=lambda book: book["author"], reverse=True)
    every = [
        page
        async for page in agent.pages(
            "query", collection_name=name, order_by=["author desc"], limit=1_300, output_fields=["author"]
        )
    ]
    assert len(every) > 2
    assert [entity for page in every for entity in page["entities"]] == [
        {"id": book["id"], "author": book["author"]} for book in by_author
    ]


async def test_every_order_is_what_python_sorts(agent: Agent, books: list[dict[str, Any]]) -> None:
    await all_orders(agent, "ord_books", books)


async def test_entities_come_whole_and_only_those_that_match(agent: Agent, books: list[dict[str, Any]]) -> None:
    found = await agent.call(
        "query", collection_name="ord_books", order_by=["views desc"], filter="year == {y}", filter_params={"y": 1960}
    )
    expected = sorted((book for book in books if book["year"] == 1960), key=lambda book: -book["views"])[:20]
    assert [(each["id"], each["author"], each["meta"], each["shelf"]) for each in found["entities"]] == [
        (book["id"], book["author"], book["meta"], book["shelf"]) for book in expected
    ]
    assert all("vector" not in each for each in found["entities"])


async def test_a_page_that_is_cut_by_its_bytes_is_continued(lite: str, books: list[dict[str, Any]]) -> None:
    async with agent_on(lite, max_result_bytes=8_192) as short_spoken:
        some = {"collection_name": "ord_books", "filter": "year > 1972", "order_by": ["price desc"], "limit": 500}
        every = [page async for page in short_spoken.pages("query", **some)]
    assert "next_cursor" in every[0]["applied_limits"][0]
    expected = sorted((book for book in books if book["year"] > 1972), key=lambda book: -book["price"])
    assert [key for page in every for key in keys(page["entities"])] == [book["id"] for book in expected]


async def test_nulls_come_last_in_both_directions(agent: Agent, collection: str) -> None:
    nullable: dict[str, Any] = {"name": "score", "type": "INT64", "nullable": True}
    await agent.call("create_collection", collection_name=collection, fields=[*FIELDS[:2], nullable])
    data = [{"id": key, "vector": [1, 0], "score": score} for key, score in enumerate([3, None, 5, None, 4])]
    await agent.call("insert", collection_name=collection, data=data)
    for order_by, expected in ((["score"], [0, 4, 2, 1, 3]), (["score desc"], [2, 4, 0, 1, 3])):
        for limit in (1, 2, 4, 5):
            every = [
                page async for page in agent.pages("query", collection_name=collection, order_by=order_by, limit=limit)
            ]
            assert [key for page in every for key in keys(page["entities"])] == expected


async def test_numbers_come_before_texts_and_texts_before_booleans_in_json(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    values: list[Any] = ["b", 2, True, None, 1.5, "a", False, -3]
    data = [{"id": key, "vector": [1, 0], "any": value} for key, value in enumerate(values)]
    await agent.call("insert", collection_name=collection, data=data)
    for order_by, expected in (
        (["any"], [7, 4, 1, 5, 0, 6, 2, 3]),
        (['$meta["any"] desc'], [2, 6, 0, 5, 1, 4, 7, 3]),
    ):
        every = [page async for page in agent.pages("query", collection_name=collection, order_by=order_by, limit=3)]
        assert [key for page in every for key in keys(page["entities"])] == expected
    await agent.call("insert", collection_name=collection, data=[{"id": 9, "vector": [1, 0], "any": [1]}])
    error = await agent.fails("query", collection_name=collection, order_by=["any"])
    assert (error["code"], "an array" in error["message"]) == ("invalid_argument", True)


async def test_the_bound_on_entities_is_said_when_it_is_reached(lite: str, books: list[dict[str, Any]]) -> None:
    first = sorted(books, key=lambda book: book["id"])[:1_100]
    async with agent_on(lite, max_scan=1_100) as bounded:
        found = await bounded.call("query", collection_name="ord_books", order_by=["price"], limit=5)
        assert keys(found["entities"]) == [book["id"] for book in sorted(first, key=lambda book: book["price"])[:5]]
        assert "only the first 1100 matching entities" in found["applied_limits"][0]
        by_key = await bounded.call("query", collection_name="ord_books", order_by=["id"], limit=5)
        assert "applied_limits" not in by_key


async def test_an_order_that_there_is_not_is_refused_before_anything_is_read(
    lite: str, books: list[dict[str, Any]]
) -> None:
    assert books
    with watching() as wire:
        async with agent_on(lite) as agent:
            for order_by in ("vector", "year desc desc", "meta[", "year; drop", ""):
                error = await agent.fails("query", collection_name="ord_books", order_by=[order_by])
                assert (error["code"], "order_by" in error["message"]) == ("invalid_argument", True), order_by
    assert wire.sent["Query"] == 0


async def test_a_cursor_continues_its_own_order_only(agent: Agent, books: list[dict[str, Any]]) -> None:
    assert books
    asked: dict[str, Any] = {"collection_name": "ord_books", "order_by": ["year desc"], "limit": 2}
    cursor = (await agent.call("query", **asked))["next_cursor"]
    for other in ({"order_by": ["year"]}, {"order_by": ["year desc", "price"]}, {"order_by": []}):
        assert (await agent.fails("query", cursor=cursor, **asked | other))["code"] == "invalid_argument"
    fingerprint = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))[0]
    assert json.loads(str(decode_cursor(cursor, fingerprint)))[0] == 1974
    wrong = ("[]", "[1]", "[1974,1.5]", '[1974,"x"]', "[[1974],1]", '[{"a":1},1]', "x", "[1974,null]", "[" * 9_999)
    for made_up in wrong:
        forged = encode_cursor(fingerprint, made_up)
        assert (await agent.fails("query", cursor=forged, **asked))["code"] == "invalid_argument", made_up
    for odd in ('["1974",5]', "[null,5]", "[true,5]", "[1e400,5]", "[NaN,5]"):
        assert await agent.call("query", cursor=encode_cursor(fingerprint, odd), **asked)


async def test_milvus_3_orders_entities_itself() -> None:
    async with fake_milvus("3.0.0") as fake:
        rows = [(9, "b"), (4, "a"), (5, "a")]

        def answer(request: Any) -> Any:
            some = rows[len(fake.requests("Query")) - 1 :][: int(parameters(request)["limit"])]
            texts = schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=[title for _, title in some]))
            numbers = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=[key for key, _ in some]))
            return milvus_pb2.QueryResults(
                fields_data=[
                    schema_pb2.FieldData(type=schema_pb2.DataType.Int64, field_name="id", scalars=numbers),
                    schema_pb2.FieldData(type=schema_pb2.DataType.VarChar, field_name="title", scalars=texts),
                ]
            )

        fake.answers["Query"] = answer
        async with agent_on(fake.uri) as agent:
            asked: dict[str, Any] = {"collection_name": "docs", "order_by": ["title desc"], "limit": 1}
            every = [page async for page in agent.pages("query", output_fields=["id"], **asked)]
    assert [page["entities"] for page in every] == [[{"id": 9}], [{"id": 4}], [{"id": 5}]]
    requests = fake.requests("Query")
    assert all(parameters(request)["order_by_fields"] == "title:desc,id:asc" for request in requests)
    assert [request.expr for request in requests] == [
        "id > 0 or id <= 0",
        'title < "b" or (title == "b" and (id > 9))',
        'title < "a" or (title == "a" and (id > 4))',
    ]


async def test_milvus_3_does_not_order_floats_which_may_be_nan() -> None:
    async with fake_milvus("3.0.0") as fake:
        fake.schema.add_field("price", DataType.DOUBLE)
        fake.answers["Query"] = milvus_pb2.QueryResults(fields_data=[numbers("id", [])])
        async with agent_on(fake.uri) as agent:
            await agent.call("query", collection_name="docs", order_by=["price"])
    requests = fake.requests("Query")
    assert [parameters(request)["iterator"] for request in requests] == ["True"]
    assert "order_by_fields" not in parameters(requests[0])


@pytest.fixture
async def novels(agent: Agent, collection: str) -> str:
    """Entities with long titles, some of them equal, and short years."""
    fields = [*FIELDS[:3], {"name": "title", "type": "VARCHAR", "max_length": 60_000}]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    data = [{"id": n, "vector": [1, 0], "year": n, "title": "é" + "abc"[n % 3] * 25_000} for n in range(9)]
    await agent.call("insert", collection_name=collection, data=data)
    return collection


async def test_a_cursor_is_short_however_long_the_texts_are(agent: Agent, novels: str) -> None:
    asked: dict[str, Any] = {"collection_name": novels, "limit": 2, "output_fields": ["id"]}
    for order_by, expected in (
        (["title desc", "year desc"], [8, 5, 2, 7, 4, 1, 6, 3, 0]),
        (["title", "id desc"], [6, 3, 0, 7, 4, 1, 8, 5, 2]),
    ):
        every = [page async for page in agent.pages("query", order_by=order_by, **asked)]
        assert [key for page in every for key in keys(page["entities"])] == expected
        assert all(len(page.get("next_cursor", "")) < 500 for page in every)


async def test_a_page_after_an_entity_that_has_changed_is_refused(agent: Agent, novels: str) -> None:
    asked: dict[str, Any] = {"collection_name": novels, "order_by": ["title"], "limit": 2, "output_fields": ["id"]}
    first = await agent.call("query", **asked)
    assert keys(first["entities"]) == [0, 3]
    again: dict[str, Any] = asked | {"cursor": first["next_cursor"]}
    assert keys((await agent.call("query", **again))["entities"]) == [6, 1]
    new = {"id": 3, "vector": [1, 0], "year": 3, "title": "z"}
    for change in (
        {"upsert": {"collection_name": novels, "data": [new]}},
        {"delete": {"collection_name": novels, "ids": [3]}},
    ):
        for tool, arguments in change.items():
            await agent.call(tool, **arguments)
        error = await agent.fails("query", **again)
        assert (error["code"], "start again" in error["hint"]) == ("conflict", True)


async def test_texts_that_take_too_much_memory_are_refused_with_what_to_do(
    agent: Agent, novels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "HELD_BYTES", 200_000)
    asked: dict[str, Any] = {"collection_name": novels, "order_by": ["title"], "output_fields": ["id"]}
    error = await agent.fails("query", limit=8, **asked)
    assert (error["code"], "limit" in error["hint"]) == ("limit_exceeded", True)
    assert keys((await agent.call("query", limit=2, **asked))["entities"]) == [0, 3]
