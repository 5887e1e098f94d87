"""Filters taken apart: legs, and what each compares."""

import time
from typing import Any

import pytest

from mcp_server_milvus.milvus.filter_legs import comparisons, legs_of


@pytest.mark.parametrize(
    ("text", "joined", "legs"),
    [
        ("", "and", [""]),
        ("a == 1", "and", ["a == 1"]),
        ('a == 1 AND (b == "x and y" or c > 2) && not (d == 1 and e == 2)', "and",
         ["a == 1", '(b == "x and y" or c > 2)', "not (d == 1 and e == 2)"]),
        ("a == 1 or b == 2 and c == 3 || d in [1, 2]", "or", ["a == 1", "b == 2 and c == 3", "d in [1, 2]"]),
        ('((a == 1 and m["or"] == 2))', "and", ["a == 1", 'm["or"] == 2']),
        ("(a == 1) or (b == 2)", "or", ["(a == 1)", "(b == 2)"]),
        ("and a == 1", "and", ["and a == 1"]),
        ("a == 1; drop", "and", ["a == 1; drop"]),
        ("(a == 1", "and", ["(a == 1"]),
    ],
)  # fmt: skip
def test_legs_are_what_and_or_or_joins_outside_of_brackets_and_texts(text: str, joined: str, legs: list[str]) -> None:
    assert legs_of(text) == (joined, legs)


@pytest.mark.parametrize(
    ("leg", "expected"),
    [
        ('color == "a\\"b"', [("color", "==", ('a"b',))]),
        ("(year >= -5 and x < 1.5)", [("year", ">=", (-5,)), ("x", "<", (1.5,))]),
        ('m["a"]["b"][0] in ["x", "y"]', [('m["a"]["b"][0]', "in", ("x", "y"))]),
        ('$meta["k"] == TRUE', [("k", "==", (True,))]),
        ('body like "a%"', [("body", "like", ("a%",))]),
        ("a in [1, b]", []),
        ("a == b", []),
        ('text_match(body, "x")', []),
        ("not (a == 1)", []),
        ("a not in [1]", []),
        ("a != 1", []),
        ("a in", []),
        ("a == -", []),
        ("a[", []),
    ],
)
def test_plain_comparisons_are_read_and_all_else_is_left(leg: str, expected: list[tuple[str, str, Any]]) -> None:
    assert [(each.name, each.operator, each.values) for each in comparisons(leg)] == expected


def test_a_value_is_replaced_where_it_stands() -> None:
    (one,) = comparisons('(color in ["Red"])')
    assert one.replaced('(color in ["Red"])', 'b"lue') == '(color in ["b\\"lue"])'
    (two,) = comparisons("year == -5")
    assert two.replaced("year == -5", 7) == "year == 7"
    (several,) = comparisons('color in ["a", "b"]')
    assert several.end == 0


def test_no_filter_takes_long_to_take_apart() -> None:
    started = time.monotonic()
    for text in ("(" * 8_000 + "a" + ")" * 8_000, "a in [" * 2_000 + "]" * 2_000, "a == 1 and " * 1_400 + "b == 2"):
        _, legs = legs_of(text)
        assert len([each for leg in legs[:9] for each in comparisons(leg)]) <= 9
    assert time.monotonic() - started < 5
