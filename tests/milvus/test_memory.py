"""What a collection takes in memory: against figures computed by hand, and against what Faiss builds."""

from typing import Any

import numpy as np
import pytest

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.index_sizes import FORMULAS, Vectors, meant
from mcp_server_milvus.milvus.memory import Reckoning, mean_sizes, readable
from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Index
from mcp_server_milvus.vocabulary import DataType

MILLION, DIM = 1_000_000, 128
GRAPH = MILLION * 2 * 16 * 4


def memory(index_type: str, *, count: int = MILLION, each: float = 4 * DIM, **params: Any) -> float:
    return FORMULAS[index_type](Vectors(count, DIM, each, params)).memory


@pytest.mark.parametrize(
    ("index_type", "params", "expected"),
    [
        ("FLAT", {}, 512_000_000),
        (
            "IVF_FLAT",
            {"nlist": 2_000},
            512_000_000 + 1_024_000 + 8_000_000,
        ),  # Milvus's documentation: 515 MB, with 2 bytes for a number
        ("IVF_SQ8", {"nlist": "2000"}, 128_000_000 + 1_024_000 + 8_000_000),
        ("IVF_PQ", {"nlist": 2_000, "m": 8}, 8_000_000 + 256 * 512 + 1_024_000 + 8_000_000),
        ("SCANN", {"nlist": 2_000, "with_raw_data": False}, 32_000_000 + 1_024_000 + 8_000_000),
        ("SCANN", {"nlist": 2_000}, 32_000_000 + 512_000_000 + 1_024_000 + 8_000_000),
        ("HNSW", {"M": 16}, 512_000_000 + 128_000_000),  # 640 MB
        ("HNSW_SQ", {"M": 16}, 128_000_000 + GRAPH),
        ("HNSW_SQ", {"M": 16, "sq_type": "SQ6", "refine": True, "refine_type": "FP16"}, 96e6 + 256e6 + GRAPH),
        ("HNSW_PQ", {"M": 16, "m": 8}, 8_000_000 + 256 * 512 + GRAPH),  # 136 MB
        ("HNSW_PRQ", {"M": 16, "m": 8, "nrq": 3}, 24_000_000 + 3 * 256 * 512 + GRAPH),
        ("DISKANN", {}, 512_000_000 * 0.225),
        ("GPU_CAGRA", {}, 921_600_000),
    ],
)
def test_an_index_of_a_million_vectors(index_type: str, params: dict[str, Any], expected: float) -> None:
    assert memory(index_type, **params) == pytest.approx(expected)


def test_vectors_of_other_types_are_smaller() -> None:
    assert memory("BIN_FLAT", each=DIM / 8) == 16_000_000
    assert memory("BIN_IVF_FLAT", each=DIM / 8, nlist=128) == 16_000_000 + 128 * 16 + 8_000_000
    assert memory("HNSW", each=2 * DIM, M=16) == 256_000_000 + GRAPH
    assert FORMULAS["DISKANN"](Vectors(MILLION, DIM, 512, {})).disk == 512_000_000 + MILLION * 56 * 4


@pytest.mark.parametrize("wrong", [0, -1, "x", True, [], 1e300, float("nan"), "1_0x"])
def test_a_parameter_that_is_no_number_is_refused(wrong: Any) -> None:
    for index_type, name in (("HNSW", "M"), ("IVF_FLAT", "nlist"), ("IVF_PQ", "m"), ("DISKANN", "max_degree")):
        with pytest.raises(InvalidArgument, match=name):
            memory(index_type, **{name: wrong})
    with pytest.raises(InvalidArgument, match="nbits"):
        memory("IVF_PQ", m=8, nbits=60_000)
    with pytest.raises(InvalidArgument, match="sq_type"):
        memory("HNSW_SQ", sq_type=str(wrong))


FIELDS = (
    Field("id", DataType.VARCHAR, is_primary=True, max_length=64),
    Field("flag", DataType.BOOL),
    Field("tags", DataType.ARRAY, element_type=DataType.INT64, max_capacity=10),
    Field("meta", DataType.JSON),
    Field("vector", DataType.FLOAT16_VECTOR, dim=8),
    Field("words", DataType.SPARSE_FLOAT_VECTOR),
)
SCHEMA = CollectionSchema("c", FIELDS, (), (), enable_dynamic_field=True)
ENTITIES = [
    {"id": "äb", "flag": True, "tags": [1, 2], "meta": {"a": 1}, "vector": [], "words": {1: 0.5, 9: 2.0}, "n": 1},
    {"id": "ä", "flag": True, "tags": [], "meta": None, "vector": [], "words": {}},
]


def test_every_kind_of_field_is_counted() -> None:
    means = mean_sizes(SCHEMA, ENTITIES)
    assert means == {"id": 2.5, "tags": 8, "meta": 3.5, "words": 8, "$meta": 3.5}
    found = {each.name: each for each in Reckoning(SCHEMA, 1_000, {}, means, {"meta"}).fields()}
    sizes = {name: each.memory for name, each in found.items()}
    assert sizes == {
        "id": 2_500,
        "flag": 1_000,
        "tags": 8_000,
        "meta": 0,
        "vector": 16_000,
        "words": 8_000,
        "$meta": 3_500,
        "RowID, Timestamp": 16_000,
    }
    assert found["meta"].disk == 3_500
    unread = Reckoning(SCHEMA, 1_000, {}, {})
    assert [(each.name, each.memory) for each in unread.fields()][:3] == [
        ("id", 32_000),
        ("flag", 1_000),
        ("tags", 40_000),
    ]
    assert "id, tags, meta, words, $meta" in unread.assumed()[0]
    assert mean_sizes(SCHEMA, []) == {}


def test_autoindex_is_what_the_backend_makes_of_it() -> None:
    vector, words = FIELDS[4:]
    auto = Index("vector", "vector", "autoindex", "L2")
    assert [meant(vector, auto, is_lite=lite).params["M"] for lite in (True, False)] == [16, 18]
    assert meant(words, auto, is_lite=True).index_type == "SPARSE_INVERTED_INDEX"
    for field, wrong in ((vector, "SPARSE_WAND"), (words, "HNSW"), (vector, "BIN_FLAT"), (vector, "NOPE")):
        with pytest.raises(InvalidArgument, match="index_type"):
            meant(field, Index("f", "f", wrong, ""), is_lite=False)


def test_sizes_are_readable() -> None:
    sizes = [readable(size) for size in (0, 999, 1_500, 2_000_000, 3.25e9, 1e13)]
    assert sizes == ["0 bytes", "999 bytes", "1.5 kB", "2.0 MB", "3.2 GB", "10.0 TB"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("index_type", "params", "factory"),
    [
        ("FLAT", {}, "Flat"),
        ("HNSW", {"M": 16}, "HNSW16"),
        ("HNSW_SQ", {"M": 32}, "HNSW32_SQ8"),
        ("IVF_FLAT", {"nlist": 64}, "IVF64,Flat"),
        ("IVF_SQ8", {"nlist": 64}, "IVF64,SQ8"),
        ("IVF_PQ", {"nlist": 64, "m": 16, "nbits": 4}, "IVF64,PQ16x4"),
    ],
)
def test_what_is_reckoned_is_what_faiss_builds(index_type: str, params: dict[str, Any], factory: str) -> None:
    """Faiss is what both Milvus Lite and Milvus search with."""
    faiss: Any = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)  # more than one wait for each other on a busy machine
    count = 4_000
    index = faiss.index_factory(DIM, factory)
    vectors = np.random.default_rng(1).normal(size=(count, DIM)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    built = len(faiss.serialize_index(index))
    assert memory(index_type, count=count, **params) == pytest.approx(built, rel=0.12)
