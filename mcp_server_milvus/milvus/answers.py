"""What a server has answered, in the shape in which it is used. A server that lies, or is another's, may send any."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mcp_server_milvus.errors import MilvusFailed

COUNT = "count(*)"
"""The field that counts entities."""


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
        raise senseless(f"entities without {missing[0]!r}")
    return entities


def hits_in(found: Iterable[Iterable[Any]]) -> list[Found]:
    """The hits of the one search that was asked for, unpacked by pymilvus.

    Raises:
        MilvusFailed: the answer is to no search, or has other values than their types say.
    """
    searches = _unpacked(found)
    if not searches:
        raise senseless("no result of the search")
    return [Found(hit.id, hit.distance, hit["entity"]) for hit in _unpacked(searches[0])]


def counted(rows: Iterable[Mapping[str, Any]]) -> int:
    """The number in an answer to `count(*)`.

    Raises:
        MilvusFailed: there is none.
    """
    match _unpacked(rows):
        case [{"count(*)": int(count)}] if count >= 0:
            return count
        case _:
            raise senseless("no count")


def _unpacked(answer: Iterable[Any]) -> list[Any]:
    try:
        return list(answer)
    except (AttributeError, IndexError, TypeError):
        raise senseless("values that are not of their types") from None


def senseless(what: str) -> MilvusFailed:
    """The error of an answer that makes no sense."""
    return MilvusFailed(f"Milvus has answered with {what}", hint="check that the uri is that of a Milvus")
