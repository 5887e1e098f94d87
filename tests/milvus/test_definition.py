"""A definition is completed, held against the backend, and compared with what exists."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_milvus.errors import Conflict, InvalidArgument, NotFound, NotSupported
from mcp_server_milvus.milvus.capabilities import Backend, Feature
from mcp_server_milvus.milvus.definition import (
    DEFAULT_MAX_CAPACITY,
    DEFAULT_MAX_LENGTH,
    completed,
    completed_index,
    differences,
    require_same,
    require_supported,
)
from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Function, Index
from mcp_server_milvus.vocabulary import DataType, FunctionType

LITE = Backend.from_version_text("milvus_lite-3.2.2")
OLD = Backend.from_version_text("v2.3.5-lite")
NEW = Backend.from_version_text("3.0.0")
KEY = Field("id", DataType.INT64, is_primary=True)
VECTOR = Field("vector", DataType.FLOAT_VECTOR, dim=4)
BODY = Field("body", DataType.VARCHAR, enable_analyzer=True)
SPARSE = Field("sparse", DataType.SPARSE_FLOAT_VECTOR)
BM25 = Function("bm25", FunctionType.BM25, ("body",), ("sparse",))


def test_sizes_that_were_left_out_are_the_largest() -> None:
    array = Field("tags", DataType.ARRAY, element_type=DataType.VARCHAR)
    whole = completed(schema(BODY, array), LITE)
    assert whole.by_name["body"].max_length == DEFAULT_MAX_LENGTH
    assert whole.by_name["tags"].max_capacity == DEFAULT_MAX_CAPACITY
    assert whole.by_name["tags"].max_length == DEFAULT_MAX_LENGTH
    assert whole.by_name["id"].max_length is None


def test_every_vector_field_gets_an_index_with_a_metric_that_fits() -> None:
    whole = completed(schema(BODY, SPARSE, functions=(BM25,)), LITE)
    assert [(index.field_name, index.index_type, index.metric_type) for index in whole.indexes] == [
        ("vector", "AUTOINDEX", "COSINE"),
        ("sparse", "SPARSE_INVERTED_INDEX", "BM25"),
    ]
    assert whole.by_name["sparse"].is_function_output


@pytest.mark.parametrize(
    "fields",
    [
        (VECTOR,),
        (KEY, replace(KEY, name="other"), VECTOR),
        (Field("id", DataType.FLOAT, is_primary=True), VECTOR),
        (KEY,),
        (KEY, VECTOR, VECTOR),
        (KEY, Field("vector", DataType.FLOAT_VECTOR)),
        (KEY, Field("vector", DataType.FLOAT_VECTOR, dim=40_000)),
        (KEY, Field("vector", DataType.BINARY_VECTOR, dim=12)),
        (KEY, VECTOR, Field("tags", DataType.ARRAY)),
        (KEY, VECTOR, Field("tags", DataType.STRUCT)),
        (KEY, VECTOR, Field("number", DataType.INT64, auto_id=True)),
        (replace(KEY, nullable=True), VECTOR),
    ],
)
def test_a_definition_that_contradicts_itself_is_refused(fields: tuple[Field, ...]) -> None:
    with pytest.raises(InvalidArgument):
        completed(CollectionSchema("c", fields, (), (), enable_dynamic_field=False), NEW)


def test_a_function_needs_fields_that_exist_and_text_to_read() -> None:
    with pytest.raises(NotFound):
        completed(schema(SPARSE, functions=(BM25,)), LITE)
    with pytest.raises(InvalidArgument, match="enable_analyzer"):
        completed(schema(replace(BODY, enable_analyzer=False), SPARSE, functions=(BM25,)), LITE)


@pytest.mark.parametrize("kind", [kind for kind in DataType if kind not in {DataType.ARRAY, DataType.STRUCT}])
@pytest.mark.parametrize("backend", [LITE, OLD, NEW], ids=str)
def test_a_type_is_supported_exactly_where_the_table_says_so(kind: DataType, backend: Backend) -> None:
    wanted = schema(Field("x", kind, dim=8 if kind.is_vector else None))
    if kind in backend.types:
        require_supported(wanted, backend)
    else:
        with pytest.raises(NotSupported, match=kind):
            require_supported(wanted, backend)
    in_array = schema(Field("x", DataType.ARRAY, element_type=kind, max_capacity=2))
    if kind not in backend.types:
        with pytest.raises(NotSupported):
            require_supported(in_array, backend)


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({"nullable": True}, OLD),
        ({"default_value": 1}, OLD),
        ({"is_clustering_key": True}, LITE),
        ({"is_clustering_key": True}, OLD),
        ({"enable_analyzer": True}, OLD),
        ({"enable_match": True}, OLD),
        ({"enable_analyzer": True, "analyzer_params": '{"type": "english"}'}, LITE),
    ],
)
def test_an_option_that_the_backend_drops_is_refused(options: dict[str, Any], backend: Backend) -> None:
    with pytest.raises(NotSupported):
        require_supported(schema(Field("x", DataType.VARCHAR, max_length=9, **options)), backend)


def test_what_milvus_lite_drops_is_refused() -> None:
    struct = Field("x", DataType.ARRAY, element_type=DataType.STRUCT, max_capacity=2, struct_fields=(KEY,))
    with pytest.raises(NotSupported) as raised:
        require_supported(schema(struct), LITE)
    assert "JSON" in raised.value.hint
    with pytest.raises(NotSupported):
        require_supported(replace(schema(), num_shards=2), LITE)
    with pytest.raises(NotSupported):
        require_supported(schema(BODY, SPARSE, functions=(replace(BM25, type=FunctionType.TEXTEMBEDDING),)), LITE)


@given(st.text(max_size=20) | st.sampled_from(["NOPE", "DISKANN", "SCANN", "IVF_PQ", "hnsw", "flat"]))
def test_any_index_type_is_one_that_milvus_lite_loads_or_is_refused(index_type: str) -> None:
    allowed = LITE.index_types(DataType.FLOAT_VECTOR) or ()
    if (index_type.upper() or "AUTOINDEX") in allowed:
        assert completed_index(schema(), Index("vector", "", index_type, ""), LITE).index_type in allowed
    else:
        with pytest.raises(NotSupported, match="HNSW"):
            completed_index(schema(), Index("vector", "", index_type, ""), LITE)


def test_a_metric_that_does_not_fit_the_field_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="COSINE, IP, L2"):
        completed_index(schema(), Index("vector", "", "", "HAMMING"), LITE)
    with pytest.raises(InvalidArgument, match="BM25"):
        completed_index(schema(BODY, SPARSE, functions=(BM25,)), Index("sparse", "", "", "IP"), LITE)
    with pytest.raises(NotFound):
        completed_index(schema(), Index("nowhere", "", "", ""), LITE)


def test_an_index_type_is_read_in_any_case() -> None:
    assert completed_index(schema(), Index("vector", "", "hnsw", "L2"), LITE).index_type == "HNSW"


@pytest.mark.parametrize("backend", [LITE, OLD, NEW], ids=str)
@pytest.mark.parametrize("kind", [DataType.INT64, DataType.VARCHAR, DataType.BINARY_VECTOR, DataType.FLOAT_VECTOR])
def test_the_automatic_index_is_one_that_the_backend_can_build(kind: DataType, backend: Backend) -> None:
    each = Field("x", kind, dim=8 if kind.is_vector else None)
    index = completed_index(schema(each), Index("x", "", "AUTOINDEX", ""), backend)
    allowed = backend.index_types(kind)
    if kind in backend.types:
        assert allowed is None or index.index_type in allowed
    assert bool(index.metric_type) == kind.is_vector


def test_the_same_definition_has_no_differences() -> None:
    wanted = completed(schema(BODY, SPARSE, functions=(BM25,)), LITE)
    described = tuple(replace(each, description="", mmap_enabled=None) for each in wanted.fields)
    require_same(wanted, replace(wanted, fields=described, description="other"))


@pytest.mark.parametrize(
    ("existing", "told"),
    [
        ({"fields": (KEY, replace(VECTOR, dim=5))}, "vector FLOAT_VECTOR\\(5\\)"),
        ({"fields": (KEY, VECTOR, BODY)}, "body"),
        ({"fields": (replace(KEY, auto_id=True), VECTOR)}, "auto_id"),
        ({"enable_dynamic_field": True}, "enable_dynamic_field is True, False was asked for"),
        ({"functions": (BM25,)}, "bm25"),
        ({"indexes": (Index("vector", "", "FLAT", "IP"),)}, "metric IP, COSINE"),
    ],
)
def test_a_different_collection_is_a_conflict_that_lists_the_differences(existing: dict[str, Any], told: str) -> None:
    wanted = completed(schema(), LITE)
    with pytest.raises(Conflict, match=told):
        require_same(wanted, replace(wanted, **existing))
    assert len(differences(wanted, replace(wanted, **existing))) == 1


def test_an_index_of_another_type_is_no_difference() -> None:
    wanted = completed(schema(), LITE)
    assert differences(wanted, replace(wanted, indexes=(Index("vector", "", "HNSW", "COSINE"),))) == []


def schema(*fields: Field, functions: tuple[Function, ...] = ()) -> CollectionSchema:
    return CollectionSchema("c", (KEY, VECTOR, *fields), functions, indexes=(), enable_dynamic_field=False)


@pytest.mark.parametrize(
    ("text", "shown", "has_25", "has_30"),
    [
        ("milvus_lite-3.2.2", "Milvus Lite 3.2.2", True, False),
        ("v2.3.5-lite", "Milvus 2.3.5", False, False),
        ("v2.5.10", "Milvus 2.5.10", True, False),
        ("2.6-20260404-31fb3fc", "Milvus 2.6", True, False),
        ("Zilliz Cloud Vector Database(Compatible with Milvus 2.5)", "Milvus 2.5", True, False),
        ("unknown-20260608-7ea6e3526", "Milvus 2.6", True, False),
        ("3.0.0", "Milvus 3.0.0", True, True),
    ],
)
def test_a_version_is_read_from_what_a_server_tells(text: str, shown: str, *, has_25: bool, has_30: bool) -> None:
    backend = Backend.from_version_text(text)
    assert str(backend) == shown
    assert backend.has(Feature.NULLABLE) is has_25
    assert backend.has(Feature.QUERY_AGGREGATION) is has_30
