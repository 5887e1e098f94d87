"""Aggregates and orders that Milvus 3.0 computes itself: only where its results are exact.

Built from its source and documentation, and unverified. Milvus adds INT64 in 64 bits without noticing when that
overflows, so the range of the values is asked for beside a sum. With a limit it stops counting at that many groups, so
none is given: its own bound on the size of an answer holds. Descending, it puts nulls first, so no field with nulls is
ordered there. Nothing is left to it of FLOAT and DOUBLE: it rounds with every addition, and NaN is a value to it.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from mcp_server_milvus.milvus.aggregating import Aggregate, Group
from mcp_server_milvus.milvus.answers import COUNT
from mcp_server_milvus.milvus.capabilities import Backend, Feature
from mcp_server_milvus.milvus.filters import any_key, both, literal
from mcp_server_milvus.milvus.ordering import Order, Ranked
from mcp_server_milvus.milvus.paths import Path, Scalar
from mcp_server_milvus.milvus.scanning import Source
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.vocabulary import DataType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

LARGEST_INT64 = 2**63 - 1

Row = Mapping[str, Any]


async def aggregated_by_milvus(
    client: "Client",
    schema: CollectionSchema,
    source: Source,
    aggregates: Sequence[Aggregate],
    group_by: Sequence[Path],
) -> list[Group] | None:
    """Every group, or None where Milvus cannot compute them, or not exactly."""
    pushed = all(map(_is_computed, aggregates)) and all(map(_is_grouped, group_by))
    if not pushed or not client.backend.has(Feature.QUERY_AGGREGATION):
        return None
    names = [path.name for path in group_by]
    parts = [part for each in aggregates for part in _parts(each)]
    rows = await client.read_matching(
        source.collection_name,
        source.matching or any_key(schema.primary_key),
        schema,
        output_fields=list(dict.fromkeys([*names, COUNT, *parts])),
        partition_names=source.partition_names,
        group_by_fields=names,
    )
    if any(_may_overflow(row, each) for row in rows for each in aggregates):
        return None
    if not rows and not group_by:
        return [Group((), 0, [0 if each.function == "count" else None for each in aggregates])]
    return [
        Group(tuple(row[name] for name in names), row[COUNT], [_result(row, each) for each in aggregates])
        for row in rows
    ]


def is_ordered_by_milvus(backend: Backend, order: Order) -> bool:
    """Whether Milvus itself can put entities into this order."""
    fields = [path.field for path, _ in order.terms]
    return backend.has(Feature.QUERY_ORDER) and all(
        field and not field.nullable and (field.type.is_integer or field.type is DataType.VARCHAR) for field in fields
    )


async def pages_in_order(
    client: "Client", schema: CollectionSchema, source: Source, order: Order, after: Ranked | None, *, at_once: int
) -> AsyncGenerator[list[dict[str, Any]]]:
    """The entities that come after a place in the order, so many at a time, with the fields that decide it."""
    terms = [*((path.name, descending) for path, descending in order.terms), (schema.primary_key.name, False)]
    while True:
        following = "" if after is None else _after(terms, after[1])
        entities = await client.read_matching(
            source.collection_name,
            both(source.matching, following) or any_key(schema.primary_key),
            schema,
            output_fields=list(dict.fromkeys([*source.output_fields, *order.fields])),
            partition_names=source.partition_names,
            consistency_level=source.consistency_level,
            limit=at_once,
            order_by=[f"{name}:{'desc' if descending else 'asc'}" for name, descending in terms],
        )
        if entities:
            yield entities
        if len(entities) < at_once:
            return
        (after,) = order.ranked(entities[-1:])


def _after(terms: Sequence[tuple[str, bool]], values: Sequence[Scalar | None]) -> str:
    """The filter for what comes after these values: by the first field that differs."""
    (name, descending), value = terms[0], literal(values[0])
    beyond = f"{name} {'<' if descending else '>'} {value}"
    return beyond if len(terms) == 1 else f"{beyond} or ({name} == {value} and ({_after(terms[1:], values[1:])}))"


def _is_computed(aggregate: Aggregate) -> bool:
    if aggregate.path is None or aggregate.function == "distinct":
        return aggregate.path is None
    if aggregate.function == "count" and _type(aggregate.path) is DataType.BOOL:
        return True
    return _is_integer(aggregate.path) or _type(aggregate.path) is DataType.VARCHAR


def _is_grouped(path: Path) -> bool:
    """Grouping by the primary key would give every entity at once."""
    return (
        not path.is_json
        and not (path.field and path.field.is_primary)
        and (_type(path) is DataType.VARCHAR or _is_integer(path))
    )


def _parts(aggregate: Aggregate) -> Iterator[str]:
    """What Milvus is asked for."""
    if aggregate.path is None:
        yield COUNT
        return
    match aggregate.function:
        case "sum" | "avg":
            yield from (_call(function, aggregate.path) for function in ("sum", "count"))
            if _type(aggregate.path) is DataType.INT64:
                yield from (_call(function, aggregate.path) for function in ("min", "max"))
        case function:
            yield _call(function, aggregate.path)


def _may_overflow(row: Row, aggregate: Aggregate) -> bool:
    if (
        aggregate.function not in {"sum", "avg"}
        or aggregate.path is None
        or _type(aggregate.path) is not DataType.INT64
    ):
        return False
    least, most = row[_call("min", aggregate.path)] or 0, row[_call("max", aggregate.path)] or 0
    return max(abs(least), abs(most)) * row[_call("count", aggregate.path)] > LARGEST_INT64


def _result(row: Row, aggregate: Aggregate) -> Any:
    if aggregate.path is None:
        return row[COUNT]
    if aggregate.function not in {"sum", "avg"}:
        return row[_call(aggregate.function, aggregate.path)]
    count = row[_call("count", aggregate.path)]
    total = row[_call("sum", aggregate.path)] if count else None
    return float(Fraction(total) / count) if aggregate.function == "avg" and total is not None else total


def _call(function: str, path: Path) -> str:
    return f"{function}({path.name})"


def _type(path: Path) -> DataType | None:
    return path.field.type if path.field else None


def _is_integer(path: Path) -> bool:
    return path.field is not None and path.field.type.is_integer
