"""A filter that is wrong: where, what fields there are, and how it was probably meant."""

from typing import Any

import pytest

from mcp_server_milvus.errors import InvalidFilter
from mcp_server_milvus.milvus.filter_help import corrected, explained, near_misses
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.vocabulary import DataType
from tests.agent import Agent

FIELDS = (
    Field("id", DataType.INT64, is_primary=True),
    Field("year", DataType.INT32),
    Field("title", DataType.VARCHAR, max_length=50),
    Field("extra", DataType.JSON),
    Field("vector", DataType.FLOAT_VECTOR, dim=2),
)
FILMS = CollectionSchema("films", FIELDS, (), (), enable_dynamic_field=False)
LOOSE = CollectionSchema("films", FIELDS, (), (), enable_dynamic_field=True)


@pytest.fixture(scope="module")
async def films(agent: Agent) -> str:
    fields = [{"name": "id", "type": "INT64", "is_primary": True}, {"name": "year", "type": "INT32"}]
    fields += [
        {"name": "title", "type": "VARCHAR", "max_length": 50},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    await agent.call("create_collection", collection_name="filtered", fields=fields)
    data = [{"id": n, "year": 1990 + n, "title": f"t{n}", "vector": [n, 1]} for n in range(3)]
    await agent.call("insert", collection_name="filtered", data=data)
    return "filtered"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("tool", "more"),
    [
        ("query", {}),
        ("query", {"limit": 1}),
        ("count", {}),
        ("delete", {}),
        ("search", {"vector": [1, 1]}),
        ("search", {"id": 1}),
        ("search", {"vector": [1, 1], "exact": True}),
        ("hybrid_search", {"legs": [{"vector": [1, 1]}]}),
    ],
)
async def test_every_tool_that_takes_a_filter_explains_it(
    agent: Agent, films: str, tool: str, more: dict[str, Any]
) -> None:
    error = await agent.fails(tool, collection_name=films, filter='title == "t1" and yeer > 1990', **more)
    assert error["code"] == "invalid_filter"
    assert error["hint"] == 'perhaps: title == "t1" and year > 1990'
    reason, text, caret, fields = error["message"].split("\n")
    assert "yeer" in reason
    assert text[caret.index("^") :].startswith("yeer")
    assert fields == "fields: id INT64, year INT32, title VARCHAR(50)"
    assert await agent.count(films) == 3


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("year = 3", "year == 3"),
        ("year=3 & title=='a'", "year==3 and title=='a'"),
        ("year > 3 AND NOT title IN ['a']", "year > 3 and not title in ['a']"),
        ("year <> 3 | year =< 2", "year != 3 or year <= 2"),
        ("yeer > 3 or tittle == 'a'", "year > 3 or title == 'a'"),
        ("Year > 3", "year > 3"),
        ("title == abc", 'title == "abc"'),
        ("title like 5", 'title like "5"'),
        ('year == "1990"', "year == 1990"),
        ("title == 'year = 3 & yeer'", "title == 'year = 3 & yeer'"),
        ('extra["yeer"] == 3', 'extra["yeer"] == 3'),
        ("title == year", "title == year"),
        ("json_contains(extra, 1) && length(year) > 1", "json_contains(extra, 1) && length(year) > 1"),
        ("director == 3", "director == 3"),
        ('year == "abc"', 'year == "abc"'),
        ("year = NULL or year != null", "year is null or year is not null"),
        ("title in ('a', 'b') and year IN (1, 2);", "title in ['a', 'b'] and year in [1, 2]"),
        ("title == 'in (1) == null;'", "title == 'in (1) == null;'"),
    ],
)
def test_what_is_plainly_meant_is_suggested_and_nothing_else(wrong: str, right: str) -> None:
    assert corrected(wrong, FILMS) == right


@pytest.mark.parametrize(
    ("text", "said", "at"),
    [
        ("yeer > 3", "error: field yeer not exist", "yeer > 3"),
        ("year = 3", "error: line 1:5 token recognition error at: '= '", "= 3"),
        ('year > 3 AND title == "x"', 'error: invalid expression: year > 3 AND title == "x"', 'AND title == "x"'),
        ("year between 1 and 3", "error: invalid expression: year between 1 and 3", "between 1 and 3"),
        ("year > 3 year < 4", "error: invalid expression: year > 3 year < 4", "year < 4"),
        ("year >> 3", "error: shift is not supported: year>>3", ">> 3"),
        ('year == "abc"', "error: comparisons between Int32 and VarChar are not supported", '"abc"'),
        ("yeer > 3 and", "error: line 1:12 mismatched input '<EOF>' expecting {'(', '['}", ""),
    ],
)
def test_what_milvus_2_3_5_says_is_pointed_at(text: str, said: str, at: str) -> None:
    error = explained(InvalidFilter(f"cannot parse expression: {text}, {said}", hint="like this"), FILMS)
    reason, shown, caret, fields = error.message.split("\n")
    assert shown.strip() == text
    assert shown[caret.index("^") :] == at
    assert "expecting {" not in reason
    assert "year INT32" in fields
    assert not error.hint.endswith("and")


def test_conditions_that_this_server_adds_are_not_shown() -> None:
    said = "cannot parse expression: (yeer > 3) and (id > 77), error: field yeer not exist"
    assert explained(InvalidFilter(said), FILMS).message.split("\n")[1:3] == ["  yeer > 3", "  ^"]


def test_a_long_filter_is_shown_around_the_place() -> None:
    text = "year > 3 and " * 40 + "yeer > 4" + " and year > 5" * 40
    _, shown, caret, _ = explained(
        InvalidFilter(f"cannot parse expression: {text}, error: field yeer not exist"), FILMS
    ).message.split("\n")
    assert len(shown) < 140
    assert shown[caret.index("^") :].startswith("yeer")


def test_a_message_in_other_words_keeps_them_and_gains_the_fields() -> None:
    error = explained(InvalidFilter("no idea", hint="try"), LOOSE)
    assert error.message.startswith("no idea\nfields: id INT64")
    assert "dynamic field" in error.message
    assert error.hint == "try"


def test_a_name_like_a_field_s_is_noted_where_a_dynamic_field_would_swallow_it() -> None:
    filter_ = "yeer > 3 and note == 'yeer' and title == 'x' and json_contains(extra, 1)"
    notes = near_misses(LOOSE, filter_, ["titel", "other", "*", "title"])
    assert [note.split(" is ")[0] for note in notes] == ["filter: 'yeer'", "output_fields: 'titel'"]
    assert "title?" in notes[1]
    assert near_misses(FILMS, filter_, ["titel"]) == []
