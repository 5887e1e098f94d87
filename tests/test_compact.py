"""JSON as it goes out: what Python's own reader reads back, without a byte too many."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_server_milvus.compact import compact, json_size

TEXTS = st.text(st.characters(codec="utf-8"))
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_back_the_same(value: Any) -> None:
    text = compact(value)
    assert json.loads(text) == value
    assert json_size(value) == len(text.encode())


def test_nothing_is_written_that_need_not_be() -> None:
    assert compact({"a": [1, 2.5, "é\n"], "b": None}) == '{"a":[1,2.5,"é\\n"],"b":null}'


def test_half_a_surrogate_pair_is_written_as_it_is_and_counts_as_one_byte() -> None:
    assert compact({"a": "x\ud800"}) == '{"a":"x\ud800"}'
    assert json_size("x\ud800") == len('"x?"')


def test_a_value_of_many_levels_is_written_too() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert compact(deep) == "[" * 301 + "]" * 301
