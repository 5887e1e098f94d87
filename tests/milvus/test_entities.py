"""Entities are checked against the schema, and what is wrong is named, before anything is sent."""

import math
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.entities import (
    BATCH_BYTES,
    BATCH_ENTITIES,
    MAX_PROBLEMS,
    as_entities,
    batches,
    checked_entities,
    checked_vector,
)
from mcp_server_milvus.milvus.filters import KEY_RANGE
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.vocabulary import DataType

KEY = Field("id", DataType.INT64, is_primary=True)
VECTOR = Field("vector", DataType.FLOAT_VECTOR, dim=2)
GOOD = {"id": 1, "vector": [1.0, 2.0]}
COLUMN = st.lists(st.integers(), min_size=3, max_size=3)


@given(st.dictionaries(st.text(), COLUMN, min_size=1, max_size=5))
def test_columns_become_entities(columns: dict[str, list[int]]) -> None:
    entities = as_entities(columns)
    assert len(entities) == 3
    assert {name: [entity[name] for entity in entities] for name in columns} == columns


@given(st.lists(st.dictionaries(st.text(), st.integers())))
def test_a_list_of_entities_is_what_it_is(entities: list[dict[str, int]]) -> None:
    assert as_entities(entities) == entities


def test_an_object_with_a_value_that_is_no_column_is_one_entity() -> None:
    assert as_entities(GOOD) == [GOOD]


def test_columns_of_different_lengths_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"'id': 2.*'vector': 1"):
        as_entities({"id": [1, 2], "vector": [[1, 2]]})


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        (Field("x", DataType.INT8), 128, "out of range"),
        (Field("x", DataType.INT8), True, "bool True"),
        (Field("x", DataType.INT32), "1", "str '1'"),
        (Field("x", DataType.INT64), 2**63, "out of range"),
        (Field("x", DataType.INT64), 1.0, "float 1.0"),
        (Field("x", DataType.INT64), "1.5", "str"),
        (Field("x", DataType.INT64), "٣", "str"),
        (Field("x", DataType.FLOAT), 1e39, "1e+39"),
        (Field("x", DataType.DOUBLE), math.nan, "nan"),
        (Field("x", DataType.DOUBLE), True, "bool"),
        (Field("x", DataType.BOOL), 1, "int 1"),
        (Field("x", DataType.VARCHAR, max_length=3), "éé", "4 bytes"),
        (Field("x", DataType.VARCHAR, max_length=3), 1, "int 1"),
        (Field("x", DataType.VARCHAR, max_length=9), "\ud800", "str"),
        (Field("x", DataType.JSON), math.nan, "not JSON"),
        (Field("x", DataType.JSON), "x" * 70_000, "65536"),
        (Field("x", DataType.ARRAY, element_type=DataType.INT8, max_capacity=1), [1, 2], "2 elements"),
        (Field("x", DataType.ARRAY, element_type=DataType.INT8, max_capacity=2), [1, 200], "element 1"),
        (Field("x", DataType.ARRAY, element_type=DataType.INT8, max_capacity=2), 1, "int 1"),
        (Field("x", DataType.FLOAT_VECTOR, dim=2), [1.0], "1 dimensions"),
        (Field("x", DataType.FLOAT_VECTOR, dim=2), [1.0, math.inf], "dimension 1"),
        (Field("x", DataType.FLOAT_VECTOR, dim=2), [1.0, "2"], "dimension 1"),
        (Field("x", DataType.FLOAT_VECTOR, dim=2), "ab", "not a list"),
        (Field("x", DataType.FLOAT16_VECTOR, dim=2), [1.0, 70_000.0], "dimension 1"),
        (Field("x", DataType.INT8_VECTOR, dim=2), [1, 128], "dimension 1"),
        (Field("x", DataType.BINARY_VECTOR, dim=8), [0, 1, 2, 0, 0, 0, 0, 0], "dimension 2"),
        (Field("x", DataType.SPARSE_FLOAT_VECTOR), {}, "at least one weight"),
        (Field("x", DataType.SPARSE_FLOAT_VECTOR), {"a": 1.0}, "index"),
        (Field("x", DataType.SPARSE_FLOAT_VECTOR), {"1": -1.0}, "negative"),
        (Field("x", DataType.SPARSE_FLOAT_VECTOR), {"4294967295": 1.0}, "index"),
        (Field("x", DataType.SPARSE_FLOAT_VECTOR), {"1": math.nan}, "weight of index 1"),
        (Field("x", DataType.INT64), None, "not nullable"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_entity_and_field(field: Field, value: Any, told: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        checked(schema(field), [GOOD | {"x": 1 if field.type is DataType.INT64 else value}, GOOD | {"x": value}])
    assert "entity 1" in raised.value.message or "entity 0" in raised.value.message
    assert "field 'x'" in raised.value.message
    assert told in raised.value.message
    assert "nothing was written" in raised.value.hint


def test_a_field_that_is_missing_unknown_or_generated_is_told() -> None:
    generated = Field("id", DataType.INT64, is_primary=True, auto_id=True)
    with pytest.raises(InvalidArgument, match="'vector' is missing"):
        checked(schema(), [{"id": 1}])
    with pytest.raises(InvalidArgument, match="no field 'vectr' \\(did you mean vector\\?\\)"):
        checked(schema(), [GOOD | {"vectr": 1}])
    with pytest.raises(InvalidArgument, match="generated"):
        checked(schema(key=generated), [GOOD])
    with pytest.raises(InvalidArgument, match="'id' is missing"):
        checked_entities(schema(key=generated), [{"vector": [1.0, 2.0]}], keys_required=True)


def test_no_more_problems_are_told_than_help() -> None:
    with pytest.raises(InvalidArgument) as raised:
        checked(schema(), [{}] * 1_000)
    assert raised.value.message.count("is missing") == MAX_PROBLEMS


@pytest.mark.parametrize("name", ["$meta", "", "\ud800"])
def test_a_name_that_the_dynamic_field_cannot_keep_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="dynamic field"):
        checked(schema(dynamic=True), [GOOD | {name: 1}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(float("nan")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.sampled_from(["id", "vector", "text", "extra", "$x", ""]), JSON), max_size=3))
def test_any_entities_are_packed_or_refused(entities: list[dict[str, Any]]) -> None:
    text = Field("text", DataType.VARCHAR, max_length=10, nullable=True)
    try:
        packed = checked(schema(text, dynamic=True), entities)
    except InvalidArgument:
        return
    assert len(packed) == len(entities)


def test_an_upsert_says_outright_what_is_absent() -> None:
    text = Field("text", DataType.VARCHAR, max_length=10, nullable=True)
    state = Field("state", DataType.INT64, default_value=7)
    whole = checked_entities(schema(text, state), [GOOD], keys_required=True)
    packed = {"id": 1, "vector": array("f", [1.0, 2.0])}
    assert whole == [packed | {"text": None, "state": 7}]
    assert checked(schema(text, state), [GOOD]) == [packed]


def test_a_big_key_may_come_as_a_string() -> None:
    assert checked(schema(), [GOOD | {"id": str(KEY_RANGE[1])}])[0]["id"] == KEY_RANGE[1]


@pytest.mark.parametrize("key", [-(2**63), 2**63 - 1, str(2**63 - 1)])
def test_a_key_that_could_never_be_read_again_is_refused(key: int | str) -> None:
    with pytest.raises(InvalidArgument, match="range of keys"):
        checked(schema(), [GOOD | {"id": key}])


def test_a_vector_to_search_with_is_checked_as_one_to_store() -> None:
    assert checked_vector(VECTOR, [1, 2], argument="vector") == array("f", [1.0, 2.0])
    with pytest.raises(InvalidArgument, match="vector: 3 dimensions; vector FLOAT_VECTOR\\(2\\)") as refused:
        checked_vector(VECTOR, [1, 2, 3], argument="vector")
    assert "the model that made the vectors" in refused.value.hint


@given(st.lists(st.integers(0, 3 * BATCH_BYTES // 2), max_size=30))
def test_batches_keep_order_and_size(sizes: list[int]) -> None:
    entities = [{"id": number, "blob": bytes(size)} for number, size in enumerate(sizes)]
    made = batches(entities)
    assert [entity for batch in made for entity in batch] == entities
    assert all(batch for batch in made)
    for batch in made:
        assert len(batch) == 1 or sum(len(entity["blob"]) for entity in batch) <= BATCH_BYTES


def test_a_batch_has_at_most_so_many_entities() -> None:
    assert [len(batch) for batch in batches([{"id": 1}] * (2 * BATCH_ENTITIES + 1))] == [BATCH_ENTITIES] * 2 + [1]
    assert batches([]) == []


def checked(of: CollectionSchema, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return checked_entities(of, entities, keys_required=False)


def schema(*fields: Field, key: Field = KEY, dynamic: bool = False) -> CollectionSchema:
    return CollectionSchema("c", (key, VECTOR, *fields), functions=(), indexes=(), enable_dynamic_field=dynamic)
