"""Aggregates: what NumPy and Python compute from the same entities, to the last digit, and what bounds say."""

import math
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymilvus import DataType as PymilvusDataType
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

from mcp_server_milvus.errors import LimitExceeded
from mcp_server_milvus.milvus.aggregating import Aggregate, Aggregation
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.vocabulary import DataType
from tests.agent import Agent, agent_on
from tests.fake_milvus import FakeMilvus, fake_milvus
from tests.milvus.conftest import Wire, eventually, watching

pytestmark = pytest.mark.anyio

COUNT = 3_000
FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    {"name": "year", "type": "INT16"},
    {"name": "views", "type": "INT64"},
    {"name": "price", "type": "FLOAT"},
    {"name": "rating", "type": "DOUBLE"},
    {"name": "author", "type": "VARCHAR", "max_length": 64},
    {"name": "sold", "type": "BOOL"},
    {"name": "meta", "type": "JSON"},
]


def sample(count: int = COUNT) -> list[dict[str, Any]]:
    """Books, in disorder, with sums that neither 64 bits nor a float can hold."""
    random = np.random.default_rng(7)
    return [
        {
            "id": int(key) * 5 - 4_000,
            "vector": [0.5, 1],
            "year": int(random.integers(1950, 1975)),
            "views": int(random.integers(-(2**62), 2**63 - 2)),
            "price": float(np.float32(random.random() * 100)),
            "rating": float(random.normal() * 10.0 ** random.integers(-9, 9)),
            "author": f"{'Äöz🙂a'[key % 5]}{random.integers(0, 300)}",
            "sold": bool(random.integers(0, 2)),
            "meta": {"pages": int(random.integers(1, 9)), "tag": {"a b": f"t{key % 3}"}},
            "shelf": int(random.integers(0, 4)),
        }
        for key in random.permutation(count)
    ]


async def fill(agent: Agent, collection_name: str) -> list[dict[str, Any]]:
    """A new collection of the sample."""
    await agent.call("create_collection", collection_name=collection_name, fields=FIELDS, enable_dynamic_field=True)
    entities = sample()
    await agent.call("insert", collection_name=collection_name, data=entities)
    return entities


@pytest.fixture(scope="module")
async def books(agent: Agent) -> list[dict[str, Any]]:
    return await fill(agent, "agg_books")


@pytest.fixture
async def wired(lite: str) -> AsyncIterator[tuple[Agent, Wire]]:
    with watching() as wire:
        async with agent_on(lite) as each:
            await each.call("list_databases")
            yield each, wire


async def aggregated(agent: Agent, collection_name: str, *aggregates: str, **arguments: Any) -> list[dict[str, Any]]:
    result = await agent.call("aggregate", collection_name=collection_name, aggregates=[*aggregates], **arguments)
    assert "applied_limits" not in result
    return result["groups"]


def portable(number: int) -> int | str:
    return str(number) if abs(number) > 2**53 - 1 else number


async def all_against_numpy(agent: Agent, name: str, books: list[dict[str, Any]]) -> None:
    functions = ("count", "sum", "avg", "min", "max", "distinct")
    asked = [f"{function}({field})" for field in ("year", "views", "price", "rating") for function in functions]
    (found,) = await aggregated(agent, name, "count", *asked, "min(author)", "max(author)", "distinct(sold)")
    assert list(found)[:3] == ["count", "count(year)", "sum(year)"]
    for field in ("year", "views", "price", "rating"):
        values = np.array([book[field] for book in books])
        assert found[f"count({field})"] == len(values)
        assert found[f"distinct({field})"] == len(np.unique(values))
        exact = sum(map(Fraction, values.tolist()))
        assert found[f"avg({field})"] == float(exact / len(values))
        if values.dtype.kind == "i":
            assert found[f"sum({field})"] == portable(int(exact))
            assert found[f"min({field})"] == portable(int(values.min()))
            assert found[f"max({field})"] == portable(int(values.max()))
        else:
            assert found[f"sum({field})"] == math.fsum(values.tolist())
            assert found[f"avg({field})"] == pytest.approx(values.mean(), rel=1e-9)
            kind = np.float32 if field == "price" else np.float64
            assert kind(found[f"min({field})"]) == values.min().astype(kind)
            assert kind(found[f"max({field})"]) == values.max().astype(kind)
    authors = sorted(book["author"] for book in books)
    assert (found["min(author)"], found["max(author)"]) == (authors[0], authors[-1])
    assert (found["count"], found["distinct(sold)"]) == (COUNT, 2)


async def groups_against_numpy(agent: Agent, name: str, books: list[dict[str, Any]]) -> None:
    found = await aggregated(agent, name, "count", "avg(price)", "sum(views)", group_by=["year", "sold"])
    counts = Counter((book["year"], book["sold"]) for book in books)
    ordered = sorted(counts, key=lambda group: (-counts[group], group))
    assert [(group["year"], group["sold"]) for group in found] == ordered
    for group in found:
        members = [book for book in books if (book["year"], book["sold"]) == (group["year"], group["sold"])]
        assert group["count"] == len(members)
        assert group["avg(price)"] == float(sum(Fraction(each["price"]) for each in members) / len(members))
        assert group["sum(views)"] == portable(sum(each["views"] for each in members))


async def paths_into_json(agent: Agent, name: str, books: list[dict[str, Any]]) -> None:
    asked = ['sum(meta["pages"])', "max(shelf)", "count(nowhere)", "min(meta['pages'])", "sum(nowhere)"]
    found = await aggregated(agent, name, *asked, group_by=['meta["tag"]["a b"]'], order_by=['meta["tag"]["a b"]'])
    for tag, group in zip(("t0", "t1", "t2"), found, strict=True):
        members = [book for book in books if book["meta"]["tag"]["a b"] == tag]
        pages = [book["meta"]["pages"] for book in members]
        assert list(group.values()) == [tag, sum(pages), max(b["shelf"] for b in members), 0, min(pages), None]


async def test_all_aggregates_are_what_numpy_computes(agent: Agent, books: list[dict[str, Any]]) -> None:
    await all_against_numpy(agent, "agg_books", books)


async def test_groups_are_what_python_computes_the_largest_first(agent: Agent, books: list[dict[str, Any]]) -> None:
    await groups_against_numpy(agent, "agg_books", books)


async def test_values_in_json_and_in_the_dynamic_field_are_aggregated(
    agent: Agent, books: list[dict[str, Any]]
) -> None:
    await paths_into_json(agent, "agg_books", books)
    for aggregate, said in (('sum(meta["tag"]["a b"])', "is no number"), ('max(meta["tag"])', "an object")):
        error = await agent.fails("aggregate", collection_name="agg_books", aggregates=[aggregate])
        assert error["code"] == "invalid_argument"
        assert said in error["message"]


async def test_a_filter_decides_which_entities_count_and_nothing_is_a_result_too(
    agent: Agent, books: list[dict[str, Any]]
) -> None:
    some: dict[str, Any] = {"filter": "year >= {low} and sold == true", "filter_params": {"low": 1970}}
    (found,) = await aggregated(agent, "agg_books", "max(rating)", "count", **some)
    members = [book["rating"] for book in books if book["year"] >= 1970 and book["sold"]]
    assert found == {"max(rating)": max(members), "count": len(members)}
    asked = ["count", "count(year)", "sum(year)", "avg(year)"]
    nothing = await aggregated(agent, "agg_books", *asked, filter="year > 3000")
    assert nothing == [{"count": 0, "count(year)": 0, "sum(year)": None, "avg(year)": None}]
    assert await aggregated(agent, "agg_books", "count", filter="year > 3000", group_by=["year"]) == []
    error = await agent.fails("aggregate", collection_name="agg_books", aggregates=["count"], filter="year >")
    assert error["code"] == "invalid_filter"
    error = await agent.fails("aggregate", collection_name="agg_books", partition_names=["nowhere"])
    assert error["code"] == "not_found"


async def test_the_spellings_of_sql_are_understood(agent: Agent, books: list[dict[str, Any]]) -> None:
    asked = ["COUNT(*)", "Count", "count( distinct  author )", "AVG( year )", "MAX(year)"]
    (found,) = await aggregated(agent, "agg_books", *asked)
    years = [book["year"] for book in books]
    authors = len({book["author"] for book in books})
    assert list(found) == asked
    assert list(found.values()) == [COUNT, COUNT, authors, sum(years) / COUNT, max(years)]
    some: dict[str, Any] = {"group_by": ["author"], "filter": "year > 1970", "limit": 2_000}
    order_by = ["MAX(year) desc", "count", "author:desc"]
    best = await aggregated(agent, "agg_books", "max(year)", "count", order_by=order_by, **some)
    by_name = sorted(best, key=lambda group: group["author"], reverse=True)
    assert best == sorted(by_name, key=lambda group: (-group["max(year)"], group["count"]))
    assert len(best) == len({book["author"] for book in books if book["year"] > 1970})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"aggregates": ["median(price)"]}, "median(price)"),
        ({"aggregates": ["sum"]}, "sum"),
        ({"aggregates": ["sum(*)"]}, "sum(*)"),
        ({"aggregates": ["sum(author)"]}, "author VARCHAR(64) has no numbers"),
        ({"aggregates": ["sum(sold)"]}, "sold BOOL has no numbers"),
        ({"aggregates": ["max(vector)"]}, "vector FLOAT_VECTOR(2)"),
        ({"aggregates": ["count(year) or 1"]}, "count(year) or 1"),
        ({"aggregates": ["max(" + " " * 100_000]}, "max("),
        ({"aggregates": ["count"], "order_by": [" " * 50_000 + "x" + " \t:" * 50_000]}, "not in"),
        ({"aggregates": [f"max(year){' ' * number}" for number in range(40)]}, "at most 32"),
        ({"aggregates": ["max(year"]}, "max(year"),
        ({"aggregates": ['max(year["a"])']}, "year INT16"),
        ({"aggregates": ["count"], "group_by": ["vector"]}, "vector"),
        ({"aggregates": ["count"], "group_by": ["year or 1"]}, "names no field"),
        ({"aggregates": ["count"], "order_by": ["price"]}, "not in the result"),
        ({"aggregates": ["count"], "group_by": ["count"]}, "is a field and an aggregate"),
    ],
)
async def test_what_cannot_be_aggregated_is_refused_before_anything_is_read(
    wired: tuple[Agent, Wire], books: list[dict[str, Any]], arguments: dict[str, Any], said: str
) -> None:
    assert books
    agent, wire = wired
    error = await agent.fails("aggregate", collection_name="agg_books", **arguments)
    assert (error["code"], said in error["message"]) == ("invalid_argument", True), error
    assert wire.sent["Query"] == 0


async def test_nulls_are_left_out_and_a_group_of_their_own(agent: Agent, collection: str) -> None:
    fields = [*FIELDS[:2], {"name": "score", "type": "INT64", "nullable": True}]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    scores = [3, None, 5, None, None, 5]
    data = [{"id": key, "vector": [1, 0], "score": score} for key, score in enumerate(scores)]
    await agent.call("insert", collection_name=collection, data=data)
    functions = ["count", "sum", "avg", "min", "max", "distinct"]
    (found,) = await aggregated(agent, collection, "count", *(f"{name}(score)" for name in functions))
    assert list(found.values()) == [6, 3, 13, 13 / 3, 3, 5, 2]
    groups = await aggregated(agent, collection, "count", "avg(score)", group_by=["score"], order_by=["score"])
    assert [list(group.values()) for group in groups] == [[3, 1, 3.0], [5, 2, 5.0], [None, 3, None]]
    with_error = await agent.fails("aggregate", collection_name=collection, aggregates=["max(nowhere)"])
    assert with_error["code"] == "not_found"
    assert "score INT64" in with_error["message"]


async def test_a_released_collection_is_loaded_first_and_that_is_said(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    await agent.call("insert", collection_name=collection, data={"id": [1, 2], "vector": [[1, 0], [0, 1]], "n": [5, 6]})
    for tool, arguments in (("aggregate", {"aggregates": ["sum(n)"]}), ("query", {"order_by": ["n desc"]})):
        await agent.call("release_collection", collection_name=collection)
        result = await agent.call(tool, collection_name=collection, **arguments)
        assert result["loaded"]
        assert "loaded" not in await agent.call(tool, collection_name=collection, **arguments)


async def test_the_bound_on_entities_is_said_when_it_is_reached(lite: str, books: list[dict[str, Any]]) -> None:
    by_key = sorted(books, key=lambda book: book["id"])
    for most in (1, 1_500, COUNT - 1):
        async with agent_on(lite, max_scan=most) as bounded:
            result = await bounded.call("aggregate", collection_name="agg_books", aggregates=["count", "max(views)"])
        assert result["groups"] == [{"count": most, "max(views)": portable(max(b["views"] for b in by_key[:most]))}]
        assert f"only the first {most} matching entities" in result["applied_limits"][0]
    async with agent_on(lite, max_scan=COUNT) as bounded:
        assert await aggregated(bounded, "agg_books", "count") == [{"count": COUNT}]


async def test_groups_beyond_the_limit_or_the_bytes_are_counted(lite: str, books: list[dict[str, Any]]) -> None:
    authors = len({book["author"] for book in books})
    async with agent_on(lite, max_result_bytes=4_096) as short_spoken:
        asked: dict[str, Any] = {"collection_name": "agg_books", "aggregates": ["count"], "group_by": ["author"]}
        few = await short_spoken.call("aggregate", limit=7, **asked)
        assert few["applied_limits"] == [
            f"groups: the first 7 of {authors} (limit); order_by, filter or limit show others"
        ]
        many = await short_spoken.call("aggregate", limit=10_000, **asked)
    assert many["groups"][:7] == few["groups"]
    assert 50 < len(many["groups"]) < authors
    assert f"of {authors} (4096 bytes)" in many["applied_limits"][-1]


async def test_a_cancelled_aggregate_reads_no_further(wired: tuple[Agent, Wire], books: list[dict[str, Any]]) -> None:
    assert books
    agent, wire = wired
    reached, reported = anyio.Event(), list[float]()

    async def stop_at_the_second_page(name: str, _: Any) -> None:
        if name == "Query" and wire.sent["Query"] == 2:
            reached.set()
            await anyio.sleep_forever()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del total, message
        reported.append(progress)

    wire.before = stop_at_the_second_page
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            await agent.client.call_tool("aggregate", {"collection_name": "agg_books"}, progress_callback=note)

        tasks.start_soon(call)
        with anyio.fail_after(10):
            await reached.wait()
        tasks.cancel_scope.cancel()
    await eventually(lambda: bool(reported))
    assert reported == [1_024]
    assert await agent.call("list_databases")
    assert wire.sent["Query"] == 2


ITEMS = CollectionSchema(
    name="items",
    fields=(Field("id", DataType.INT64, is_primary=True), Field("x", DataType.DOUBLE), Field("t", DataType.VARCHAR)),
    functions=(),
    indexes=(),
    enable_dynamic_field=False,
)


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=20), max_size=6))
def test_sums_are_rounded_once_whatever_the_order_and_the_pages(pages: list[list[float]]) -> None:
    aggregation = Aggregation([Aggregate.parsed(ITEMS, text) for text in ("sum(x)", "avg(x)")], [])
    for page in pages:
        aggregation.add([{"id": 1, "x": value} for value in page])
    values = [Fraction(value) for page in pages for value in page]
    (group,) = aggregation.groups
    exact = sum(values)
    assert group.results == ([float(exact), float(exact / len(values))] if values else [None, None])


def test_true_is_not_one_and_what_is_no_number_is_null() -> None:
    schema = replace(ITEMS, fields=(*ITEMS.fields, Field("j", DataType.JSON)))
    path = Aggregate.parsed(schema, "distinct(j)")
    aggregation = Aggregation([path, Aggregate.parsed(schema, "max(j)"), Aggregate.parsed(schema, "min(j)")], [])
    values: list[Any] = [True, 1, 1.0, "1", False, math.nan, math.inf, None]
    aggregation.add([{"id": 1, "j": value} for value in values])
    assert aggregation.groups[0].results == [4, True, 1]
    grouped = Aggregation([], [path.path] if path.path else [])
    grouped.add([{"id": 1, "j": value} for value in values])
    assert sorted(group.entities for group in grouped.groups) == [1, 1, 1, 2, 3]


def test_memory_is_bounded_by_refusing_groups_and_by_saying_at_least_for_distinct_values() -> None:
    distinct = Aggregate.parsed(ITEMS, "distinct(t)")
    entities = [{"id": number, "t": f"{number}" * 1_000} for number in range(100)]
    aggregation = Aggregation([distinct], [], held_bytes=8_000)
    aggregation.add(entities)
    (reached,) = aggregation.groups[0].results
    assert 20 < reached < 100
    assert "distinct(t): at least so many" in aggregation.limits[0]
    assert distinct.path
    with pytest.raises(LimitExceeded, match="groups"):
        Aggregation([distinct], [distinct.path], held_bytes=100_000).add(entities)
    with pytest.raises(LimitExceeded):
        Aggregation([Aggregate.parsed(ITEMS, "max(t)")], [], held_bytes=1_500).add(entities)


# Milvus 3.0 computes aggregates itself. No such server can run here: what is sent is looked at, and answered as told.


async def asked_of_milvus(
    version: str, columns: dict[str, list[Any]] | None, **arguments: Any
) -> tuple[FakeMilvus, dict[str, Any]]:
    async with fake_milvus(version) as fake:
        fake.schema.add_field("price", PymilvusDataType.DOUBLE)
        empty = milvus_pb2.QueryResults(fields_data=[numbers("id", [])])
        answers = milvus_pb2.QueryResults(fields_data=[numbers(*each) for each in (columns or {}).items()])

        def answer(request: Any) -> Any:
            return answers if "count(*)" in request.output_fields else empty

        fake.answers["Query"] = answer
        async with agent_on(fake.uri) as agent:
            return fake, await agent.call("aggregate", collection_name="docs", **arguments)


def numbers(name: str, values: list[Any]) -> Any:
    if values and isinstance(values[0], str):
        scalars = schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=values))
        return schema_pb2.FieldData(type=schema_pb2.DataType.VarChar, field_name=name, scalars=scalars)
    scalars = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=values))
    return schema_pb2.FieldData(type=schema_pb2.DataType.Int64, field_name=name, scalars=scalars)


def parameters(request: Any) -> dict[str, str]:
    return {pair.key: pair.value for pair in request.query_params}


async def test_milvus_3_computes_the_aggregates_itself() -> None:
    columns = {"title": ["a", "b"], "count(*)": [2, 3], "sum(id)": [5, 7], "count(id)": [2, 3]}
    columns |= {"min(id)": [2, 1], "max(id)": [3, 4]}
    asked: dict[str, Any] = {"aggregates": ["avg(id)", "max(id)"], "group_by": ["title"], "filter": "id > 0"}
    fake, result = await asked_of_milvus("3.0.0", columns, **asked)
    assert result["groups"] == [
        {"title": "b", "avg(id)": 7 / 3, "max(id)": 4},
        {"title": "a", "avg(id)": 2.5, "max(id)": 3},
    ]
    (request,) = fake.requests("Query")
    assert request.expr == "id > 0"
    assert list(request.output_fields) == ["title", "count(*)", "sum(id)", "count(id)", "min(id)", "max(id)"]
    assert parameters(request)["group_by_fields"] == "title"
    assert "limit" not in parameters(request)


@pytest.mark.parametrize(
    ("version", "columns", "arguments"),
    [
        ("2.6.4", None, {"aggregates": ["count"], "group_by": ["title"]}),
        ("3.0.0", None, {"aggregates": ["distinct(title)"]}),
        ("3.0.0", None, {"aggregates": ["count"], "group_by": ["id"]}),
        ("3.0.0", None, {"aggregates": ["sum(price)"]}),
        ("3.0.0", None, {"aggregates": ["avg(price)", "count"]}),
        ("3.0.0", None, {"aggregates": ["min(price)"]}),
        ("3.0.0", None, {"aggregates": ["count(price)"]}),
        (
            "3.0.0",
            {"count(*)": [2], "sum(id)": [-2], "count(id)": [2], "min(id)": [1], "max(id)": [2**63 - 1]},
            {"aggregates": ["sum(id)"]},
        ),
    ],
    ids=[
        *("older", "distinct", "group for each entity", "sum of floats", "average of floats", "extreme of floats"),
        *("floats that may be NaN", "sum beyond 64 bits"),
    ],
)
async def test_what_milvus_would_not_compute_exactly_is_computed_here(
    version: str, columns: dict[str, list[Any]] | None, arguments: dict[str, Any]
) -> None:
    fake, result = await asked_of_milvus(version, columns, **arguments)
    assert len(result["groups"]) == (0 if "group_by" in arguments else 1)
    last = parameters(fake.requests("Query")[-1])
    assert (last["iterator"], last["limit"]) == ("True", "1024")
