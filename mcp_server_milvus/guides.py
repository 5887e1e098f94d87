"""Short guides for a model, true for the backend: filters, index types, schema design, errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcp_server_milvus.errors import Error
from mcp_server_milvus.milvus.capabilities import FEATURES, Backend, Feature, shown
from mcp_server_milvus.vocabulary import DataType, FunctionType

FILTERS = """\
# Filters
An expression over the fields of a collection; texts in quotes; `and`, `or`, `not`, brackets.
- compare: `year > 2020`, `score >= 0 and score < 1`, `title == "Dune"`, `genre != "poetry"`
- one of several: `genre in ["novel", "essay"]`, `id not in [1, 2]`
- texts by their beginning: `title like "Du%"`; {parts}
- JSON and the dynamic field: `meta["lang"] == "en"`, `exists meta["lang"]`; in the dynamic field, by name: `page > 3`
- arrays: `array_contains(tags, "new")`, `array_contains_any(tags, ["a", "b"])`, `array_length(tags) == 3`
- missing values: {nulls}
- arithmetic: `year / 10 == 203`; only numbers that are not zero can divide

Values of a user go into filter_params, never into the text: filter `author == {{name}}` with filter_params
{{"name": "O'Brien"}}. Comparing is exact: case matters, and `5` is no `"5"`. A filter that does not parse is answered
with the place, the fields with their types, and what was probably meant.

A collection's own fields: describe_collection. How many entities match: count with the filter."""

PARTS, NO_PARTS = 'by its end or a part: `title like "%une"`', "not by its end or a part on {backend}"
NULLS, NO_NULLS = "`note is null`, `note is not null`", "there are none on {backend}: every field has a value"

INDEX_TYPES = """\
# Index types
- AUTOINDEX: the backend chooses; right unless something was measured.
- FLAT: exact; time grows with the entities. Up to some 10,000 of them, or when nothing may be missed.
- HNSW: fast and accurate, most memory. M (16) and efConstruction (200) when it is built; ef when it is searched, at
  least the limit: more finds more and takes longer.
- IVF_FLAT, IVF_SQ8: less memory, quicker to build. nlist when built (some 4 x the root of the entities); nprobe when
  searched: more finds more and takes longer.
- SPARSE_INVERTED_INDEX: sparse vectors and BM25.
- INVERTED: scalar fields in filters.
{here}
Metrics: COSINE for embeddings of text, IP for normalised or learned ones, L2 for distances in space, BM25 for words,
HAMMING and JACCARD for bits. The metric belongs to the index; another one means building it anew.

search with exact: true scores every match, to compare with. params of a search: {{"ef": 100}} or {{"nprobe": 32}}."""

SCHEMA_DESIGN = """\
# Schema design
- Text to be found by meaning or words: create_collection with text_field, and metadata for what filters will ask.
- Declare each field that filters, orders or groups often; the dynamic field takes the rest, without types.
- Primary key: INT64 with auto_id, or a VARCHAR that means something and never changes, so that upsert replaces.
- VARCHAR: max_length in bytes of UTF-8. Whole numbers beyond 2^53 travel as strings.
- Many tenants in one collection: a field with is_partition_key, and a filter on it in every call.
- The dimension, the metric and the embedder of a vector field are fixed once entities are in it: to change them, make a
  new collection, fill it, and point an alias at it (alter_alias). Programs that read by the alias notice nothing.
- Long texts: insert with chunk_size; each piece knows its source_id.
Field types here: {types}."""

ERRORS = """\
# Errors
A failed call returns {{code, message, hint, retriable}}. The hint says what to do next; retriable says whether the same
call may succeed later. A write whose outcome is unknown says so: look before repeating it.
{codes}"""


@dataclass(frozen=True)
class Guide:
    """A text and what it is about. `None` as the backend: a Milvus server of which nothing is known yet."""

    title: str
    text: Callable[[Backend | None], str]


def filters(backend: Backend | None) -> str:
    """How to write a filter."""
    parts = _here_or_not(backend, Feature.PARTS_OF_TEXTS, PARTS, NO_PARTS)
    return FILTERS.format(parts=parts, nulls=_here_or_not(backend, Feature.NULLABLE, NULLS, NO_NULLS))


def _here_or_not(backend: Backend | None, feature: Feature, there: str, absent: str) -> str:
    if backend is None:
        return f"{there}, from Milvus {shown(FEATURES[feature].since or (0, 0, 0))} on"
    return there if backend.has(feature) else absent.format(backend=backend)


def index_types(backend: Backend | None) -> str:
    """Which index to build."""
    return INDEX_TYPES.format(here=_here(backend))


def _here(backend: Backend | None) -> str:
    dense = backend and backend.index_types(DataType.FLOAT_VECTOR)
    if not backend or not dense:
        return "A server says itself which of them it has; also DISKANN, SCANN, IVF_PQ, GPU indexes.\n"
    sparse, scalar = (backend.index_types(kind) or () for kind in (DataType.SPARSE_FLOAT_VECTOR, DataType.INT64))
    return (
        f"Here there are {', '.join(dense)}; for sparse vectors {', '.join(sparse)}; for scalars {', '.join(scalar)}.\n"
    )


def schema_design(backend: Backend | None) -> str:
    """How to lay out a collection."""
    types = ", ".join(backend.types if backend else DataType)
    words = backend is None or FunctionType.BM25 in backend.functions
    return SCHEMA_DESIGN.format(types=types) + (
        "" if words else f"\n{backend} has no BM25: texts are found by meaning."
    )


def errors(_: Backend | None) -> str:
    """What the codes of errors mean."""
    told = (f"- {each.code}{' (retriable)' if each.retriable else ''}: {_meaning(each)}" for each in _codes())
    return ERRORS.format(codes="\n".join(told))


def _codes() -> list[type[Error]]:
    """Of the errors with one code, the first, in the order of the tree."""
    found: dict[str, type[Error]] = {}
    waiting = list(Error.__subclasses__())
    while waiting:
        each = waiting.pop(0)
        found.setdefault(each.code, each)
        waiting[:0] = each.__subclasses__()
    return list(found.values())


def _meaning(error: type[Error]) -> str:
    return (error.__doc__ or "").strip().partition("\n")[0]


GUIDES: Mapping[str, Guide] = {
    "filters": Guide("How to write a filter", filters),
    "index-types": Guide("Which index to build, and its parameters", index_types),
    "schema-design": Guide("How to lay out a collection", schema_design),
    "errors": Guide("What the codes of errors mean", errors),
}
