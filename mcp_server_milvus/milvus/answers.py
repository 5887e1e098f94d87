"""What a server has answered, in the shape in which it is used. A server that lies, or is another's, may send any."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# protobuf and pymilvus have no types; what leaves this file has.

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pymilvus import DataType
from pymilvus.client.search_result import SearchResult

from mcp_server_milvus.errors import MilvusFailed

COUNT = "count(*)"
"""The field that counts entities."""


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
"""Where an answer has the values of a field as they are. All others are unpacked by pymilvus, which takes some 3 us for
each entity."""


class Found(NamedTuple):
    """A hit as Milvus tells it: its key, its score, and the fields that were asked for."""

    key: int | str
    score: float
    entity: dict[str, Any]


def entities_in(rows: Iterable[dict[str, Any]], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The entities of an answer, which pymilvus unpacks only now. It gives the same names to each of them.

    Raises:
        MilvusFailed: they have no values of these names, or other values than their types say.
    """
    entities = _unpacked(rows)
    if missing := [name for name in names if entities and name not in entities[0]]:
        raise _senseless(f"entities without {missing[0]!r}")
    return entities


def hits_in(found: Sequence[Iterable[Any]]) -> list[Found]:
    """The hits of the one search that was asked for, unpacked by pymilvus.

    Raises:
        MilvusFailed: the answer is to no search, or has other values than their types say.
    """
    if not found:
        raise _senseless("no result of the search")
    return [Found(hit.id, hit.distance, hit["entity"]) for hit in _unpacked(found[0])]


def hits_of(answer: Any) -> list[Found]:
    """The hits in Milvus's answer to one search, best first.

    Raises:
        MilvusFailed: the answer is to no search, or has other values than their types say.
    """
    results = answer.results
    kind = results.ids.WhichOneof("id_field")
    keys = getattr(results.ids, kind).data if kind else ()
    if list(results.topks) != [len(keys)] or len(results.scores) != len(keys):
        raise _senseless("something else than the hits of one search")
    entities = plain_entities(results.fields_data, len(keys))
    if entities is None:
        return hits_in(SearchResult(results, status=answer.status))
    return list(map(Found, keys, results.scores, entities))


def plain_entities(columns: Iterable[Any], count: int) -> list[dict[str, Any]] | None:
    """So many entities, of columns of plain values; None where a column has other values, or more or less of them."""
    entities: list[dict[str, Any]] = [{} for _ in range(count)]
    for column in columns:
        if column.is_dynamic and all(text == b"{}" for text in column.scalars.json_data.data):
            continue
        values = plain_values(column)
        if len(values) != count:
            return None
        name = column.field_name
        for entity, value in zip(entities, values, strict=True):
            entity[name] = value
    return entities


def plain_values(column: Any) -> Sequence[Any]:
    """The values of a column that has them as they are, else none."""
    if column.type not in PLAIN or column.valid_data:
        return ()
    return getattr(column.scalars, PLAIN[column.type]).data


def counted(rows: Iterable[Mapping[str, Any]]) -> int:
    """The number in an answer to `count(*)`.

    Raises:
        MilvusFailed: there is none.
    """
    match _unpacked(rows):
        case [{"count(*)": int(count)}] if count >= 0:
            return count
        case _:
            raise _senseless("no count")


def _unpacked(answer: Iterable[Any]) -> list[Any]:
    try:
        return list(answer)
    except (AttributeError, IndexError, TypeError):
        raise _senseless("values that are not of their types") from None


def _senseless(what: str) -> MilvusFailed:
    return MilvusFailed(f"Milvus has answered with {what}", hint="check that the uri is that of a Milvus")
