"""How many bytes an index takes, by its type, its parameters and what it is built of. Pure: reads nothing.

Sources. [index] Milvus's documentation, "Index Explained", section on memory usage: raw vectors, IVF, PQ, SQ8.
[faiss] Faiss's wiki, "Guidelines to choose an index": HNSW takes d * 4 + M * 2 * 4 bytes a vector. [hnsw-sq],
[hnsw-pq], [rabitq], [scann], [diskann], [gpu], [sparse]: the pages of these indexes in Milvus's documentation. [yaml]
the defaults in Milvus's milvus.yaml.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.schema import Field, Index
from mcp_server_milvus.vocabulary import DataType

WEIGHT_BYTES = 8
"""Of one weight in a sparse vector: its dimension and its value, 32 bits each. Source: [sparse]."""

LINK_BYTES, NUMBER_BYTES = 4, 8
"""Of a link in a graph, and of a vector's number in the list of its cluster. Sources: [faiss]; Faiss's inverted lists,
whose numbers have 64 bits. ([index] counts 2: 6 MB less for a million vectors.)"""

CODE_BYTES = {"SQ4U": 0.5, "SQ6": 0.75, "SQ8": 1.0, "BF16": 2.0, "FP16": 2.0, "FP32": 4.0}
"""Of one number in a scalar-quantised vector, by `sq_type` and `refine_type`. Source: [hnsw-sq]."""

LARGEST = 65_536
"""Of what a parameter of an index may be here."""


@dataclass(frozen=True)
class Cost:
    """Bytes in memory, bytes on disk besides, and the formula in words."""

    memory: float
    formula: str
    disk: float = 0.0


@dataclass(frozen=True)
class Vectors:
    """What an index is built of: how many vectors, of how many numbers and bytes, with which parameters."""

    count: int
    dim: int
    each: float
    params: Mapping[str, Any]

    @property
    def raw(self) -> float:
        """Bytes of the vectors themselves. Source: [index]."""
        return self.count * self.each

    def number(self, name: str, default: float | None = None, least: float = 1) -> float:
        """A parameter of the index.

        Raises:
            InvalidArgument: it is none, out of range, or missing where it has no default.
        """
        given = self.params.get(name, default)
        if given is None:
            raise InvalidArgument(f"params: {name} is needed to tell the size of this index")
        try:
            number = float(str(given))
        except ValueError:
            number = math.nan
        if not least <= number <= LARGEST:
            raise InvalidArgument(f"params: {name} is {str(given)[:40]!r}; it is a number from {least:g} to {LARGEST}")
        return number

    def word(self, name: str, default: str) -> str:
        """A parameter of the index that names a kind of code.

        Raises:
            InvalidArgument: it names none.
        """
        given = str(self.params.get(name, default)).upper()
        if given not in CODE_BYTES:
            raise InvalidArgument(f"params: {name} is {given[:40]!r}; it is one of {', '.join(CODE_BYTES)}")
        return given


def _flat(vectors: Vectors) -> Cost:
    """Source: [index]."""
    return Cost(vectors.raw, "raw vectors")


def _clusters(vectors: Vectors, codes: float, told: str) -> Cost:
    """Codes in clusters: a centroid as large as a vector for each, and a number for each vector. Source: [index]."""
    nlist = min(vectors.number("nlist", 128), max(1, vectors.count))
    size = codes + nlist * vectors.each + vectors.count * NUMBER_BYTES
    return Cost(size, f"{told} + nlist {nlist:g} centroids + {NUMBER_BYTES} bytes a vector")


def _ivf_flat(vectors: Vectors) -> Cost:
    """Source: [index]; nlist 128 by default: the page of IVF_FLAT."""
    return _clusters(vectors, vectors.raw, "raw vectors")


def _ivf_sq8(vectors: Vectors) -> Cost:
    """Source: [index]: one byte a number."""
    return _clusters(vectors, vectors.count * vectors.dim, "1 byte a number")


def _product_codes(vectors: Vectors, parts: float = 1) -> tuple[float, str]:
    """Codes of `m` parts of `nbits` bits, and the codebooks: 2^nbits vectors of 32-bit floats. Source: [index]."""
    m, nbits = vectors.number("m"), vectors.number("nbits", 8)
    if nbits > 24:  # noqa: PLR2004  # the most of IVF_PQ, whose page says 1 to 24
        raise InvalidArgument(f"params: nbits is {nbits:g}; it is at most 24")
    codes = vectors.count * math.ceil(m * parts * nbits / 8)
    return codes + parts * 2**nbits * vectors.dim * 4, f"{m * parts:g} codes of {nbits:g} bits a vector + codebooks"


def _ivf_pq(vectors: Vectors) -> Cost:
    """Source: [index]."""
    return _clusters(vectors, *_product_codes(vectors))


def _ivf_rabitq(vectors: Vectors) -> Cost:
    """Source: [rabitq]: one bit a number; 8 bytes of factors a vector are Faiss's."""
    codes, told = _refined(vectors, vectors.count * (vectors.dim / 8 + 8), "1 bit a number")
    return _clusters(vectors, codes, told)


def _scann(vectors: Vectors) -> Cost:
    """4-bit codes of every two numbers, beside the raw vectors unless with_raw_data is false. Source: [scann]."""
    with_raw = str(vectors.params.get("with_raw_data", True)).lower() != "false"
    codes = vectors.count * vectors.dim / 4
    told = "4 bits for every 2 numbers"
    return (
        _clusters(vectors, codes + vectors.raw, f"{told} + raw vectors")
        if with_raw
        else _clusters(vectors, codes, told)
    )


def _graph(vectors: Vectors, codes: float, told: str) -> Cost:
    """Codes and the links between them. Sources: [faiss]; [index] has 32 links of 4 bytes, which is M = 16."""
    m = vectors.number("M", 30)
    return Cost(
        codes + vectors.count * 2 * m * LINK_BYTES, f"{told} + 2 x M {m:g} links of {LINK_BYTES} bytes a vector"
    )


def _hnsw(vectors: Vectors) -> Cost:
    """Sources: [faiss], [index]; M 30 by default: the page of HNSW."""
    return _graph(vectors, vectors.raw, "raw vectors")


def _refined(vectors: Vectors, codes: float, told: str) -> tuple[float, str]:
    """With more precise copies for the last choice, if `refine` asks for them. Source: [hnsw-sq]."""
    if str(vectors.params.get("refine", False)).lower() != "true":
        return codes, told
    kind = vectors.word("refine_type", "FP32")
    return codes + vectors.count * vectors.dim * CODE_BYTES[kind], f"{told} + {kind} to refine"


def _hnsw_sq(vectors: Vectors) -> Cost:
    """Source: [hnsw-sq]; SQ8 by default."""
    kind = vectors.word("sq_type", "SQ8")
    return _graph(vectors, *_refined(vectors, vectors.count * vectors.dim * CODE_BYTES[kind], f"{kind} codes"))


def _hnsw_pq(vectors: Vectors) -> Cost:
    """Source: [hnsw-pq]."""
    return _graph(vectors, *_refined(vectors, *_product_codes(vectors)))


def _hnsw_prq(vectors: Vectors) -> Cost:
    """As HNSW_PQ, `nrq` times; 2 by default. Source: the page of HNSW_PRQ."""
    return _graph(vectors, *_refined(vectors, *_product_codes(vectors, vectors.number("nrq", 2))))


def _diskann(vectors: Vectors) -> Cost:
    """Codes and a cache in memory, both a part of the raw size; the graph and the vectors on disk.

    Source: [diskann] and [yaml]: pq_code_budget_gb_ratio 0.125, search_cache_budget_gb_ratio 0.1, max_degree 56.
    """
    codes, cache = (
        vectors.number("pq_code_budget_gb_ratio", 0.125, least=0),
        vectors.number("search_cache_budget_gb_ratio", 0.1, least=0),
    )
    links = vectors.count * vectors.number("max_degree", 56) * LINK_BYTES
    told = f"{codes:g} of the raw vectors as codes + {cache:g} as a cache; on disk: graph and raw vectors"
    return Cost(vectors.raw * (codes + cache), told, vectors.raw + links)


def _cagra(vectors: Vectors) -> Cost:
    """Source: [gpu]: about 1.8 times the raw vectors."""
    return Cost(1.8 * vectors.raw, "1.8 x raw vectors")


def _sparse(vectors: Vectors) -> Cost:
    """Every weight once, in the list of its dimension. Source: [sparse]."""
    return Cost(vectors.raw, f"{WEIGHT_BYTES} bytes a weight")


FORMULAS: Mapping[str, Callable[[Vectors], Cost]] = {
    "FLAT": _flat,
    "BRUTE_FORCE": _flat,
    "BIN_FLAT": _flat,
    "IVF_FLAT": _ivf_flat,
    "BIN_IVF_FLAT": _ivf_flat,
    "IVF_SQ8": _ivf_sq8,
    "IVF_PQ": _ivf_pq,
    "IVF_RABITQ": _ivf_rabitq,
    "SCANN": _scann,
    "HNSW": _hnsw,
    "HNSW_SQ": _hnsw_sq,
    "HNSW_PQ": _hnsw_pq,
    "HNSW_PRQ": _hnsw_prq,
    "DISKANN": _diskann,
    "GPU_BRUTE_FORCE": _flat,
    "GPU_IVF_FLAT": _ivf_flat,
    "GPU_IVF_PQ": _ivf_pq,
    "GPU_CAGRA": _cagra,
    "SPARSE_INVERTED_INDEX": _sparse,
    "SPARSE_WAND": _sparse,
}

AUTOINDEX_M = {True: 16, False: 18}
"""M of the HNSW that AUTOINDEX is: on Milvus Lite, as of any HNSW there, and on a server. Sources: Milvus Lite 3.2.2
was read; [yaml]."""


def meant(field: Field, index: Index, *, is_lite: bool) -> Index:
    """The index itself, or what AUTOINDEX means on a field of this type.

    Raises:
        InvalidArgument: there is no such index, or none on such a field.
    """
    kind, params = index.index_type.upper(), index.params
    sparse = field.type is DataType.SPARSE_FLOAT_VECTOR
    if kind == "AUTOINDEX" and (sparse or field.type is DataType.BINARY_VECTOR):
        kind = "SPARSE_INVERTED_INDEX" if sparse else "BIN_FLAT"
    elif kind == "AUTOINDEX" or (kind == "HNSW" and is_lite):
        kind, params = "HNSW", {"M": AUTOINDEX_M[is_lite], **params}
    if kind not in FORMULAS:
        raise InvalidArgument(f"index_type: {kind[:40]!r} is none whose size is known; known: {', '.join(FORMULAS)}")
    if sparse != kind.startswith("SPARSE") or (field.type is DataType.BINARY_VECTOR) != kind.startswith("BIN_"):
        raise InvalidArgument(f"index_type: {field} cannot have an index of type {kind}")
    return Index(index.field_name, index.index_name, kind, index.metric_type, params)
