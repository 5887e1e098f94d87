"""What is searched for, in which vector field, by which metric: decided from the schema before any request."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from mcp_server_milvus.errors import Conflict, InvalidArgument
from mcp_server_milvus.milvus.capabilities import Backend
from mcp_server_milvus.milvus.entities import checked_vector, reads_text
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.vocabulary import DataType, MetricType

ASCENDING = frozenset({MetricType.L2, MetricType.HAMMING, MetricType.JACCARD})
"""Metrics of which a smaller score is better."""

EXACT_INDEXES = frozenset({"FLAT", "BRUTE_FORCE", "BIN_FLAT", "GPU_BRUTE_FORCE", "SPARSE_INVERTED_INDEX"})
"""Indexes that miss nothing, whatever the filter. SPARSE_WAND and a sparse index with a drop ratio are approximate."""

GROWING_PARAMS = frozenset({"ef", "search_list", "reorder_k"})
"""Search parameters that must not be smaller than the number of hits asked for."""

LITE_GRAPHS = frozenset({"AUTOINDEX", "HNSW", "HNSW_SQ"})
LITE_EF = 64
"""Entities that Milvus Lite looks at in these indexes unless told otherwise, even when more are asked for: it then
returns too few, and most of them far away."""

GROUPED_REACH = 10
"""Hits that Milvus Lite ranks for each that a group shows."""

LARGEST_EF = 131_072

Sought = str | list[float] | dict[str, float]
"""A text, a dense vector or a sparse vector, as a caller gives it."""


@dataclass(frozen=True)
class Target:
    """What is searched for, where and how. `sign` is -1 where the backend's scores have the wrong one."""

    field: Field
    data: Any
    metric_type: str
    params: Mapping[str, Any]
    index_type: str = ""
    sign: int = 1
    is_lite: bool = False

    @property
    def direction(self) -> int:
        """1 where a smaller score is better, else -1: times a score it is what hits are sorted by."""
        return 1 if self.metric_type in ASCENDING else -1

    @property
    def is_approximate(self) -> bool:
        """Whether the index may miss hits."""
        return self.index_type not in EXACT_INDEXES or bool(self.params.get("drop_ratio_search"))

    @property
    def is_ranked_whole(self) -> bool:
        """Whether the backend ranks every match of a text, whatever is asked for: then any offset can be had.

        Milvus Lite does; and a filter of ours would change its BM25 scores, which depend on what else matches.
        """
        return self.sign < 0

    def within(self, radius: float | None, range_filter: float | None) -> Self:
        """The same, with only those hits whose scores are between these bounds."""
        bounds = {"radius": radius, "range_filter": range_filter}
        bounded = {name: self.sign * bound for name, bound in bounds.items() if bound is not None}
        return replace(self, params=dict(self.params) | bounded) if bounded else self

    def search_params(self, reach: int) -> dict[str, Any]:
        """What a search sends that must look at so many entities."""
        params = {
            name: max(value, reach) if name in GROWING_PARAMS and isinstance(value, int) else value
            for name, value in self.params.items()
        }
        if self.is_lite and self.index_type in LITE_GRAPHS and reach > LITE_EF and self.field.dim:
            params["ef"] = min(max(reach, int(params.get("ef", 0))), LARGEST_EF)
        return {"metric_type": self.metric_type, "params": params}


@dataclass(frozen=True)
class Leg:
    """One search of a hybrid search: its target, its filter, how many hits it adds, and looks at for that."""

    target: Target
    matching: str
    limit: int
    reach: int


def target_of(schema: CollectionSchema, field: Field, data: Any, params: Mapping[str, Any], backend: Backend) -> Target:
    """The target of a search in this field; `data` is what the backend takes.

    Raises:
        Conflict: the field has no index.
        InvalidArgument: a parameter is none of a search here, or out of its range.
    """
    index = schema.index_of(field.name)
    if index is None:
        raise Conflict(f"{field} has no index", hint="call build_index first")
    backend.check_params(params)
    metric = index.metric_type
    if params.get("metric_type", metric) != metric:
        raise InvalidArgument(f"params: metric_type must be that of the index, {metric}; leave it out")
    sign = -1 if backend.is_lite and metric == MetricType.BM25 else 1
    own = {name: value for name, value in params.items() if name != "metric_type"}
    return Target(field, data, metric, own, index.index_type.upper(), sign, backend.is_lite)


def packed(field: Field, sought: Sought, argument: str = "vector") -> Any:
    """What is searched for as pymilvus sends it.

    Raises:
        InvalidArgument: it does not fit the field.
    """
    return sought if isinstance(sought, str) else checked_vector(field, sought, argument=argument)


def as_sought(stored: Any) -> Any:
    """A stored vector as a search takes it: a queried entity has one of bytes in a list."""
    if isinstance(stored, list):
        values = cast("list[Any]", stored)
        return values[0] if values and isinstance(values[0], bytes) else values
    return stored


def vector_field(
    schema: CollectionSchema, sought: Sought | None, anns_field: str | None, bound: Collection[str] = ()
) -> Field:
    """The field to search: the one that is named, or the only one that fits. None fits all: an entity's id is sought.

    `bound` are the fields whose vectors an embedder of this server makes of texts: a text fits them too.

    Raises:
        NotFound: there is no such field.
        InvalidArgument: none fits, or more than one does.
    """
    if anns_field:
        field = schema.require(anns_field)
        if not field.type.is_vector or not _fits(schema, field, sought, bound):
            told = choices(schema, bound)
            raise InvalidArgument(f"anns_field: {field} cannot be searched with {_given(sought)}; {told}")
        return field
    fitting = [field for field in schema.vector_fields if _fits(schema, field, sought, bound)]
    if len(fitting) > 1:
        fitting = [field for field in fitting if _fits_best(field, sought, bound)] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        problem, hint = "more than one field", "name one of them in anns_field"
    else:
        problem, hint = "no field", "search with what one of the fields takes"
    raise InvalidArgument(
        f"{problem} of {schema.name} can be searched with {_given(sought)}; {choices(schema, bound)}", hint=hint
    )


def choices(schema: CollectionSchema, bound: Collection[str] = ()) -> str:
    """The vector fields of a collection and what each is searched with, for messages."""
    told = [f"{field} ({_taken(schema, field, bound)})" for field in schema.vector_fields]
    return f"vector fields: {', '.join(told)}"


def _fits(schema: CollectionSchema, field: Field, sought: Sought | None, bound: Collection[str]) -> bool:
    if sought is None:
        return True
    if isinstance(sought, str):
        return reads_text(schema, field) or field.name in bound
    sparse = field.type is DataType.SPARSE_FLOAT_VECTOR
    return sparse == isinstance(sought, dict) and not (sparse and reads_text(schema, field))


def _fits_best(field: Field, sought: Sought | None, bound: Collection[str]) -> bool:
    """Whether it is the likelier one of several: by its dimensions; for an entity's id, the one of its meaning."""
    match sought:
        case list():
            return field.dim == len(sought)
        case None:
            return field.name in bound
        case _:
            return True


def _given(sought: Sought | None) -> str:
    match sought:
        case None:
            return "an id"
        case str():
            return "text"
        case dict():
            return "a sparse vector"
        case _:
            return "a dense vector"


def _taken(schema: CollectionSchema, field: Field, bound: Collection[str]) -> str:
    if field.name in bound:
        return "text or vector"
    return "text" if reads_text(schema, field) else "vector"
