"""What a new collection is to be: completed with defaults, held against the backend and against what exists."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mcp_server_milvus.errors import Conflict, InvalidArgument, NotSupported
from mcp_server_milvus.milvus.capabilities import LITE_ANALYZERS, Backend, Feature
from mcp_server_milvus.milvus.entities import INT64_DIGITS, value_problem
from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Index
from mcp_server_milvus.vocabulary import DataType, FunctionType, MetricType

MAX_DIMENSION = 32_768
"""Source: Milvus `proxy.maxDimension`; a BINARY_VECTOR may have eight times as many bits."""

DEFAULT_MAX_LENGTH = 65_535
"""Bytes of a VARCHAR. Source: Milvus `proxy.maxVarCharLength`."""

DEFAULT_MAX_CAPACITY = 4_096
"""Elements of an ARRAY. Source: Milvus `proxy.maxArrayCapacity`."""

RESERVED = frozenset({"and", "exists", "false", "in", "is", "like", "not", "null", "or", "true"})
"""Words of the filter language: a primary key of such a name could never be asked for."""

NO_ELEMENTS = frozenset({DataType.ARRAY, DataType.JSON, DataType.TEXT, DataType.GEOMETRY, DataType.TIMESTAMPTZ})

METRICS = {
    DataType.BINARY_VECTOR: (MetricType.HAMMING, MetricType.JACCARD),
    DataType.SPARSE_FLOAT_VECTOR: (MetricType.IP,),
}
DENSE_METRICS = (MetricType.COSINE, MetricType.IP, MetricType.L2)


def completed(wanted: CollectionSchema, backend: Backend) -> CollectionSchema:
    """The definition with the sizes that were left out, and an index on every vector field.

    Raises:
        InvalidArgument: the definition contradicts itself.
    """
    outputs = {name for function in wanted.functions for name in function.outputs}
    fields = tuple(_sized(replace(each, is_function_output=each.name in outputs)) for each in wanted.fields)
    sized = replace(wanted, fields=fields)
    _require_consistent(sized)
    missing = [each for each in sized.vector_fields if not sized.index_of(each.name)]
    indexes = (*sized.indexes, *(Index(each.name, "", "AUTOINDEX", "") for each in missing))
    return replace(sized, indexes=tuple(completed_index(sized, index, backend) for index in indexes))


def completed_index(schema: CollectionSchema, index: Index, backend: Backend) -> Index:
    """The index with the type and metric that fit its field where none was given.

    Raises:
        NotFound: there is no such field.
        InvalidArgument: the metric does not fit the field, or a parameter is out of range.
        NotSupported: the backend cannot build or load an index of this type.
    """
    each = schema.require(index.field_name)
    index = replace(index, index_type=index.index_type.upper() or "AUTOINDEX")
    allowed = backend.index_types(each.type)
    if allowed and index.index_type not in allowed:
        raise NotSupported(
            f"{backend} cannot load an index of type {index.index_type} on {each}; it can: {', '.join(allowed)}",
            hint="AUTOINDEX chooses one",
        )
    backend.check_params(index.params)
    if index.index_type == "AUTOINDEX":
        index = replace(index, index_type=_chosen_type(each, backend))
    index = replace(index, params={**backend.index_defaults(index.index_type), **index.params})
    return (
        replace(index, metric_type=_metric(schema, each, index.metric_type))
        if each.type.is_vector
        else replace(index, metric_type="")
    )


def completed_field(added: Field, backend: Backend) -> Field:
    """The definition of a field that is added to an existing collection, with the sizes that were left out.

    Raises:
        InvalidArgument: the definition contradicts itself, or gives entities that are there already no value.
        NotSupported: the backend cannot keep such a field.
    """
    sized = _sized(added)
    _require_consistent_field(sized)
    if sized.is_primary or not sized.may_be_absent:
        raise InvalidArgument(f"field {sized.name}: an added field needs nullable: true or a default_value")
    _require_supported_field(sized, backend)
    return sized


def require_supported(wanted: CollectionSchema, backend: Backend) -> None:
    """Nothing, if the backend can keep the collection exactly as defined.

    Raises:
        NotSupported: it cannot; the message names what it can. A 2.3.5 server would crash, or drop it silently.
    """
    for each in wanted.fields:
        _require_supported_field(each, backend)
    for function in wanted.functions:
        if function.type not in backend.functions:
            can = ", ".join(backend.functions) or "no functions"
            raise NotSupported(
                f"function {function.name}: {function.type} is not supported by {backend}, which has: {can}"
            )
    if wanted.num_shards > 1:
        backend.require(Feature.NUM_SHARDS, where="num_shards")


def differences(wanted: CollectionSchema, existing: CollectionSchema) -> list[str]:
    """In what the existing collection is not the wanted one; empty when it is."""
    found = [
        f"field {name}: {_told(existing.by_name.get(name))} exists, {_told(wanted.by_name.get(name))} was asked for"
        for name in dict.fromkeys([*existing.by_name, *wanted.by_name])
        if not _same(existing.by_name.get(name), wanted.by_name.get(name))
    ]
    if existing.enable_dynamic_field != wanted.enable_dynamic_field:
        found.append(
            f"enable_dynamic_field is {existing.enable_dynamic_field}, {wanted.enable_dynamic_field} was asked for"
        )
    if {_core(function) for function in existing.functions} != {_core(function) for function in wanted.functions}:
        found.append(
            f"functions are {[each.name for each in existing.functions]}, "
            f"{[each.name for each in wanted.functions]} were asked for"
        )
    if wanted.consistency_level and wanted.consistency_level != existing.consistency_level:
        found.append(f"consistency_level is {existing.consistency_level}, {wanted.consistency_level} was asked for")
    return found + list(_index_differences(wanted, existing))


def require_same(wanted: CollectionSchema, existing: CollectionSchema, also: Iterable[str] = ()) -> None:
    """Nothing, if the existing collection is the wanted one; `also` are differences that only the caller knows of.

    Raises:
        Conflict: it is not; the message lists the differences.
    """
    found, also = differences(wanted, existing), list(also)
    if found or also:
        ways = "use it as it is (describe_collection), choose another name, or drop_collection first"
        raise Conflict(
            f"collection {wanted.name!r} exists and is different: {'; '.join([*found, *also])}",
            hint=ways
            if found
            else "choose another name, or the operator configures the embedder that made its vectors",
        )


def _sized(each: Field) -> Field:
    strings = each.type.is_string or (each.element_type and each.element_type.is_string)
    return replace(
        each,
        max_length=each.max_length or DEFAULT_MAX_LENGTH if strings else None,
        max_capacity=each.max_capacity or DEFAULT_MAX_CAPACITY if each.type is DataType.ARRAY else None,
        enable_analyzer=each.enable_analyzer or each.enable_match or bool(each.analyzer_params),
        default_value=_sized_default(each),
        struct_fields=tuple(map(_sized, each.struct_fields)),
    )


def _sized_default(each: Field) -> Any:
    """Digits in a string are an INT64, as in an entity."""
    text = each.default_value
    return int(text) if isinstance(text, str) and each.type is DataType.INT64 and INT64_DIGITS.fullmatch(text) else text


def _require_consistent(wanted: CollectionSchema) -> None:
    keys = [each for each in wanted.fields if each.is_primary]
    if len(keys) != 1 or keys[0].type not in {DataType.INT64, DataType.VARCHAR}:
        raise InvalidArgument(
            "fields: exactly one field is the primary key (is_primary: true), of type INT64 or VARCHAR"
        )
    if not wanted.vector_fields:
        raise InvalidArgument("fields: a collection needs at least one vector field")
    if len(wanted.by_name) < len(wanted.fields):
        raise InvalidArgument("fields: two fields have the same name")
    for each in wanted.fields:
        if each.name.lower() in RESERVED:
            raise InvalidArgument(f"field {each.name}: a word of the filter language cannot be the name of a field")
        _require_consistent_field(each)
    for function in wanted.functions:
        for name in (*function.inputs, *function.outputs):
            wanted.require(name)
        source = wanted.by_name[function.inputs[0]]
        if function.type is FunctionType.BM25 and not (source.type is DataType.VARCHAR and source.enable_analyzer):
            raise InvalidArgument(
                f"function {function.name}: its input {source} must be a VARCHAR with enable_analyzer: true"
            )
        output = wanted.by_name[function.outputs[0]]
        if function.type is FunctionType.BM25 and output.type is not DataType.SPARSE_FLOAT_VECTOR:
            raise InvalidArgument(f"function {function.name}: its output {output} must be a SPARSE_FLOAT_VECTOR")


def _require_consistent_field(each: Field) -> None:
    largest = MAX_DIMENSION * (8 if each.type is DataType.BINARY_VECTOR else 1)
    if each.type.is_vector and each.type is not DataType.SPARSE_FLOAT_VECTOR and not 1 <= (each.dim or 0) <= largest:
        raise InvalidArgument(f"field {each.name}: a {each.type} needs dim between 1 and {largest}")
    if each.type is DataType.BINARY_VECTOR and (each.dim or 0) % 8:
        raise InvalidArgument(f"field {each.name}: the dim of a BINARY_VECTOR is a multiple of 8")
    if each.type is DataType.ARRAY and each.element_type is None:
        raise InvalidArgument(f"field {each.name}: an ARRAY needs element_type")
    if each.element_type and (each.element_type.is_vector or each.element_type in NO_ELEMENTS):
        raise InvalidArgument(f"field {each.name}: {each.element_type} cannot be the element_type of an ARRAY")
    if each.type is DataType.STRUCT:
        raise InvalidArgument(f"field {each.name}: STRUCT is an element_type of ARRAY")
    _require_consistent_members(each)
    if each.auto_id and not each.is_primary:
        raise InvalidArgument(f"field {each.name}: auto_id is for the primary key")
    if each.is_primary and (each.nullable or each.default_value is not None):
        raise InvalidArgument(f"field {each.name}: the primary key has neither nullable nor default_value")
    if each.default_value is not None and (problem := value_problem(each, each.default_value)):
        raise InvalidArgument(f"field {each.name}: default_value: {problem}; expected {each}")


def _require_consistent_members(each: Field) -> None:
    if (each.element_type is DataType.STRUCT) != bool(each.struct_fields):
        raise InvalidArgument(f"field {each.name}: an ARRAY of STRUCT, and nothing else, has struct_fields")
    if len({member.name for member in each.struct_fields}) < len(each.struct_fields):
        raise InvalidArgument(f"field {each.name}: two of its struct_fields have the same name")
    for member in each.struct_fields:
        if member.type in NO_ELEMENTS:
            raise InvalidArgument(f"field {each.name}: {member.name}: {member.type} cannot be in a struct")
        _require_consistent_field(member)


def _require_supported_field(each: Field, backend: Backend) -> None:
    kinds = [each.type, each.element_type] if each.element_type else [each.type]
    for kind in kinds:
        if kind is DataType.STRUCT:
            backend.require(Feature.STRUCT_ARRAY, where=f"field {each.name}")
        elif kind not in backend.types:
            raise NotSupported(
                f"field {each.name}: {kind} is not supported by {backend}, which has: {', '.join(backend.types)}"
            )
    asked = {
        Feature.NULLABLE: each.nullable,
        Feature.DEFAULT_VALUE: each.default_value is not None,
        Feature.CLUSTERING_KEY: each.is_clustering_key,
        Feature.ANALYZER: each.enable_analyzer,
        Feature.TEXT_MATCH: each.enable_match,
    }
    for feature in (feature for feature, wanted in asked.items() if wanted):
        backend.require(feature, where=f"field {each.name}")
    if backend.is_lite and each.auto_id and each.type.is_string:
        raise NotSupported(f"field {each.name}: {backend} generates only INT64 keys", hint="give string keys yourself")
    if (
        backend.is_lite
        and each.analyzer_params
        and not any(f'"{name}"' in each.analyzer_params for name in LITE_ANALYZERS)
    ):
        raise NotSupported(f"field {each.name}: {backend} has only the analyzers {', '.join(LITE_ANALYZERS)}")


def _chosen_type(each: Field, backend: Backend) -> str:
    if each.type is DataType.BINARY_VECTOR:
        return "BIN_FLAT"
    if backend.is_lite and each.type is DataType.SPARSE_FLOAT_VECTOR:
        return "SPARSE_INVERTED_INDEX"
    if not each.type.is_vector and (backend.is_lite or backend.version >= (2, 4, 0)):
        return "INVERTED" if backend.is_lite else "AUTOINDEX"
    if not each.type.is_vector:
        return "Trie" if each.type.is_string else "STL_SORT"
    return "AUTOINDEX"


def _metric(schema: CollectionSchema, each: Field, asked: str) -> str:
    source = schema.text_source_of(each.name)
    fitting: Sequence[MetricType] = METRICS.get(each.type, DENSE_METRICS)
    if source and source.type is FunctionType.BM25:
        fitting = (MetricType.BM25,)
    if asked and asked not in fitting:
        raise InvalidArgument(f"metric_type {asked} does not fit {each}; fitting: {', '.join(fitting)}")
    return asked or fitting[0]


def _index_differences(wanted: CollectionSchema, existing: CollectionSchema) -> Iterator[str]:
    for index in wanted.indexes:
        there = existing.index_of(index.field_name)
        if there is None:
            yield f"{index.field_name} has no index, {index.index_type} was asked for"
        elif index.index_type not in {there.index_type, "AUTOINDEX"}:
            yield f"the index on {index.field_name} is {there.index_type}, {index.index_type} was asked for"
        elif any(str(there.params.get(key)) != str(value) for key, value in index.params.items()):
            yield f"the index on {index.field_name} has {dict(there.params)}, {dict(index.params)} was asked for"
        if there and there.metric_type and index.metric_type and there.metric_type != index.metric_type:
            yield f"the index on {index.field_name} has metric {there.metric_type}, {index.metric_type} was asked for"


def _same(existing: Field | None, wanted: Field | None) -> bool:
    """Descriptions and memory mapping are not compared: Milvus Lite does not keep them."""
    if existing is None or wanted is None:
        return existing is wanted
    plain: dict[str, Any] = {"description": "", "mmap_enabled": None, "analyzer_params": ""}
    if existing.type is DataType.ARRAY and existing.max_length is None:  # Milvus Lite does not keep this either
        plain["max_length"] = None
    return replace(existing, **plain) == replace(wanted, **plain)


def _told(each: Field | None) -> str:
    if each is None:
        return "no such field"
    flags = [
        name
        for name in ("is_primary", "auto_id", "nullable", "is_partition_key", "enable_analyzer", "enable_match")
        if getattr(each, name)
    ]
    return " ".join([str(each), *flags])


def _core(function: object) -> tuple[object, ...]:
    return tuple(getattr(function, name) for name in ("type", "inputs", "outputs"))
