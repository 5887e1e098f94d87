"""What a reader gets: exact where it matters, within its bytes, and told what was cut."""

import base64
import json
import math
import struct
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.results import (
    ENVELOPE_BYTES,
    TRIMMED_LENGTH,
    Page,
    cursor_fingerprint,
    decode_cursor,
    encode_cursor,
    json_size,
    masked,
    plain_score,
    plain_value,
)
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.vectors import vector_bytes, vector_numbers
from mcp_server_milvus.vocabulary import DataType

FIELDS = (
    Field("id", DataType.INT64, is_primary=True),
    Field("title", DataType.VARCHAR, max_length=60_000),
    Field("price", DataType.FLOAT),
    Field("vector", DataType.FLOAT_VECTOR, dim=4),
)
SCHEMA = CollectionSchema("c", FIELDS, functions=(), indexes=(), enable_dynamic_field=True)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
PRICE, VECTOR = FIELDS[2], FIELDS[3]


@given(FLOAT32)
def test_a_float32_is_shown_with_the_fewest_digits_that_are_the_same_number(number: float) -> None:
    shown = plain_value(PRICE, number)
    assert struct.pack("f", shown) == struct.pack("f", number)
    assert significant_digits(shown) <= max(6, significant_digits(float(str(np.float32(number)))))


def test_a_tenth_is_a_tenth() -> None:
    tenth = struct.unpack("f", struct.pack("f", 0.1))[0]
    assert plain_value(PRICE, tenth) == 0.1
    assert plain_value(VECTOR, [tenth, 0.5]) == [0.1, 0.5]
    assert plain_value(Field("s", DataType.SPARSE_FLOAT_VECTOR), {7: tenth}) == {"7": 0.1}
    assert plain_value(Field("a", DataType.ARRAY, element_type=DataType.FLOAT), [tenth]) == [0.1]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_is_shown_exactly(number: float) -> None:
    assert plain_value(Field("d", DataType.DOUBLE), number) == number


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integer_survives_a_reader_that_has_only_doubles(number: int) -> None:
    shown = json.loads(
        json.dumps(plain_value(Field("n", DataType.INT64), number)), parse_int=lambda text: int(float(text))
    )
    assert int(shown) == number


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null(number: float) -> None:
    assert plain_value(PRICE, number) is None
    assert plain_value(None, {"a": [number]}) == {"a": [None]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_value_becomes_strict_json(value: Any) -> None:
    text = json.dumps(plain_value(None, value), allow_nan=False)
    assert json.loads(text) == json.loads(text)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (DataType.FLOAT16_VECTOR, st.floats(width=16, allow_nan=False, allow_infinity=False)),
        (DataType.INT8_VECTOR, st.integers(-128, 127)),
        (DataType.BINARY_VECTOR, st.integers(0, 1)),
        (DataType.BFLOAT16_VECTOR, st.sampled_from([0.0, 1.0, -2.5, 0.5, 1e30])),
    ],
)
def test_a_packed_vector_comes_back_as_its_numbers(kind: DataType, numbers: st.SearchStrategy[float]) -> None:
    @given(st.lists(numbers, min_size=8, max_size=8))
    def comes_back(vector: list[float]) -> None:
        unpacked = vector_numbers(kind, [vector_bytes(kind, vector)])
        if kind is DataType.BFLOAT16_VECTOR:
            assert np.allclose(unpacked, vector, rtol=2**-8)
        else:
            precision = "e" if kind is DataType.FLOAT16_VECTOR else "f"
            assert [struct.pack(precision, each) for each in unpacked] == [
                struct.pack(precision, each) for each in vector
            ]

    comes_back()


def test_a_score_has_six_digits() -> None:
    assert plain_score(0.12345678) == 0.123457
    assert plain_score(-1234567.0) == -1234570.0


@given(st.text(), st.integers() | st.text())
def test_a_cursor_continues_where_it_was_made(question: str, position: int | str) -> None:
    fingerprint = cursor_fingerprint(question)
    assert decode_cursor(encode_cursor(fingerprint, position), fingerprint) == position


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_other_text_is_refused_as_a_cursor(text: str) -> None:
    with pytest.raises(InvalidArgument, match="cursor"):
        decode_cursor(text, cursor_fingerprint("question"))


@pytest.mark.parametrize(
    "decoded", [None, 1, [], {}, ["{f}"], ["{f}", None], ["{f}", True], ["{f}", 1.5], ["{f}", [1]], ["{f}", 1, 2]]
)
def test_a_cursor_of_another_form_is_refused(decoded: Any) -> None:
    fingerprint = cursor_fingerprint("question")
    text = json.dumps(decoded).replace("{f}", fingerprint)
    cursor = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    with pytest.raises(InvalidArgument):
        decode_cursor(cursor, fingerprint)


def test_a_cursor_of_another_question_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        decode_cursor(encode_cursor(cursor_fingerprint("db", "a"), 1), cursor_fingerprint("db", "b"))
    assert cursor_fingerprint("a", "bc") != cursor_fingerprint("ab", "c")


def test_a_deeply_nested_cursor_is_refused() -> None:
    cursor = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    with pytest.raises(InvalidArgument):
        decode_cursor(cursor, "x")


@pytest.mark.parametrize(
    "key", ["api_key", "apiKey", "API-KEY", "openai.api_key", "access_token", "password", "passwd", "client_secret"]
)
def test_a_value_whose_key_looks_like_a_secret_s_is_masked_at_any_depth(key: str) -> None:
    assert masked({key: "hidden", "a": {key: {"b": "hidden"}, "kept": 1}}) == {
        key: "***",
        "a": {key: "***", "kept": 1},
    }
    assert "hidden" not in str(masked({"list": [{key: "hidden"}]}))


@given(st.lists(st.text(max_size=400), max_size=12), st.integers(1_024, 4_096))
def test_a_page_never_exceeds_its_bytes(titles: list[str], max_bytes: int) -> None:
    page = Page(SCHEMA, max_bytes)
    admitted = list(takewhile(page.admit, ({"id": number, "title": title} for number, title in enumerate(titles))))
    assert json_size(page.entities) <= max_bytes - ENVELOPE_BYTES + 2
    assert [entity["id"] for entity in page.entities] == list(range(len(admitted)))


@given(st.text(min_size=1, max_size=20).map(lambda text: (text * 9_000)[:9_000]))
@example("é" * 9_000)
@example('"' * 9_000)
@example("\0" * 9_000)
def test_an_entity_that_is_larger_than_the_page_is_shortened_and_said_to_be(title: str) -> None:
    page = Page(SCHEMA, 1_024, asked=frozenset({"title"}))
    assert page.admit({"id": 2**60, "title": title, "vector": [0.123456] * 4})
    assert page.entities[0]["id"] == str(2**60)
    assert json_size(page.entities) <= 1_024
    (said,) = page.limits() or [""]
    assert "1024 bytes" in said
    assert "name fewer output_fields" in said


def test_long_text_is_trimmed_unless_it_was_asked_for() -> None:
    title = "x" * (TRIMMED_LENGTH + 1)
    page, whole = Page(SCHEMA, 32_768), Page(SCHEMA, 32_768, asked=frozenset({"title"}))
    page.admit({"id": 1, "title": title})
    whole.admit({"id": 1, "title": title})
    assert page.entities[0]["title"] == "x" * TRIMMED_LENGTH + "…"
    assert "title" in (page.limits() or [""])[0]
    assert (whole.entities[0]["title"], whole.limits()) == (title, None)


def test_a_long_key_is_never_trimmed() -> None:
    key = Field("id", DataType.VARCHAR, is_primary=True, max_length=60_000)
    page = Page(CollectionSchema("c", (key, VECTOR), (), (), enable_dynamic_field=False), 32_768)
    page.admit({"id": "k" * 5_000})
    assert page.entities[0]["id"] == "k" * 5_000


def test_what_surrounds_a_hit_is_counted_too() -> None:
    page = Page(SCHEMA, 1_024)
    while page.admit({"title": "x" * 50}, id=1, score=0.5):
        pass
    assert json_size(page.entities) <= 1_024 - ENVELOPE_BYTES + 2
    assert page.limits(stopped="go on") == [f"1024 bytes reached after {len(page.entities)}: go on"]


def test_a_value_whose_name_is_empty_is_shown() -> None:
    page = Page(SCHEMA, 1_024)
    page.admit({"id": 1, "": "nameless"})
    page.admit({"id": 2, "": "nameless"}, id=2, score=0.5)
    assert page.entities == [{"id": 1, "": "nameless"}, {"id": 2, "score": 0.5, "fields": {"": "nameless"}}]


def significant_digits(number: float) -> int:
    return len(f"{number!r}".partition("e")[0].replace(".", "").replace("-", "").strip("0"))
