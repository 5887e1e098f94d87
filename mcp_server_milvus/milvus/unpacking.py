"""Entities and hits of an answer: columns of plain values are unpacked at once, all others by pymilvus."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# protobuf and pymilvus have no types; what leaves this file has.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pymilvus import DataType
from pymilvus.client.search_result import SearchResult

from mcp_server_milvus.milvus.answers import Found, hits_in, senseless

PLAIN: Mapping[int, str] = {
    DataType.BOOL: "bool_data",
    DataType.INT8: "int_data",
    DataType.INT16: "int_data",
    DataType.INT32: "int_data",
    DataType.INT64: "long_data",
    DataType.FLOAT: "float_data",
    DataType.DOUBLE: "double_data",
    DataType.VARCHAR: "string_data",
}
"""Where an answer has the values of a field as they are."""


def hits_of(answer: Any) -> list[Found]:
    """The hits in Milvus's answer to one search, best first.

    Raises:
        MilvusFailed: the answer is to no search, or has other values than their types say.
    """
    results = answer.results
    kind = results.ids.WhichOneof("id_field")
    keys = getattr(results.ids, kind).data if kind else ()
    if list(results.topks) != [len(keys)] or len(results.scores) != len(keys):
        raise senseless("something else than the hits of one search")
    entities = plain_entities(results.fields_data, len(keys))
    if entities is None:
        return hits_in(_by_pymilvus(results))
    return list(map(Found, keys, results.scores, entities))


def _by_pymilvus(results: Any) -> Iterator[Any]:
    yield from SearchResult(results)


def plain_entities(columns: Iterable[Any], count: int) -> list[dict[str, Any]] | None:
    """So many entities, of columns of plain values; None where a column has other values, or more or less of them."""
    names: list[str] = []
    lists: list[Sequence[Any]] = []
    for column in columns:
        if column.is_dynamic and set(column.scalars.json_data.data) <= {b"{}"}:
            continue
        values = plain_values(column)
        if len(values) != count:
            return None
        names.append(column.field_name)
        lists.append(values)
    if not lists:
        return [{} for _ in range(count)]
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]


def plain_values(column: Any) -> Sequence[Any]:
    """The values of a column that has them as they are, else none."""
    if column.type not in PLAIN or column.valid_data:
        return ()
    return getattr(column.scalars, PLAIN[column.type]).data
