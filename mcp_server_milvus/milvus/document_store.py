"""A document store: the collection that keeps texts, with everything that finds them on its backend."""

from collections.abc import Iterable

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.capabilities import Backend, Feature
from mcp_server_milvus.milvus.definition import DEFAULT_MAX_LENGTH
from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Function
from mcp_server_milvus.vocabulary import DataType, FunctionType

KEY, SPARSE, VECTOR = "id", "sparse", "vector"
"""The fields that it has beside the text and the metadata."""


def document_store(
    name: str, key: Field, text_field: str, metadata: Iterable[Field], dim: int | None, backend: Backend
) -> CollectionSchema:
    """Its definition, without indexes: BM25 where the backend has it, and a vector field of `dim` if there is one.

    Raises:
        InvalidArgument: the text field or the metadata take a name that it needs, or a metadata field is no metadata.
    """
    by_words = FunctionType.BM25 in backend.functions
    text = Field(
        text_field,
        DataType.VARCHAR,
        max_length=DEFAULT_MAX_LENGTH,
        enable_analyzer=by_words,
        enable_match=by_words and backend.is_lite,  # a server builds one more index for it
    )
    metadata = tuple(metadata)
    for each in metadata:
        _require_metadata(each)
    _require_free_names([text_field, *(each.name for each in metadata)])
    fields = [key, text, *metadata]
    if by_words:
        fields.append(Field(SPARSE, DataType.SPARSE_FLOAT_VECTOR))
    if dim:
        fields.append(Field(VECTOR, DataType.FLOAT_VECTOR, dim=dim))
    functions = (Function("bm25", FunctionType.BM25, (text_field,), (SPARSE,)),) if by_words else ()
    return CollectionSchema(name, tuple(fields), functions, (), enable_dynamic_field=True)


def can_be_null(each: Field, backend: Backend) -> bool:
    """Whether entities can leave a metadata field out."""
    keys = each.is_partition_key or each.is_clustering_key
    return backend.has(Feature.NULLABLE) and not keys and each.element_type is not DataType.STRUCT


def _require_metadata(each: Field) -> None:
    if each.type.is_vector:
        raise InvalidArgument(f"metadata: {each.name} is a vector field", hint="fields defines a collection with such")
    if each.is_primary:
        raise InvalidArgument(f"metadata: {each.name} cannot be the primary key, which is {KEY}; id_type is its type")


def _require_free_names(names: list[str]) -> None:
    if taken := [name for name in names if name in {KEY, SPARSE, VECTOR}]:
        raise InvalidArgument(
            f"text_field and metadata: {taken[0]!r} is a field that the collection gets anyway; choose another name"
        )
    if len(set(names)) < len(names):
        raise InvalidArgument("text_field and metadata: two fields have the same name")
