"""What a server has answered, in the shape in which it is used. A server that lies, or is another's, may send any."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mcp_server_milvus.errors import MilvusFailed

COUNT = "count(*)"
"""The field that counts entities."""


def entities_in(rows: Iterable[dict[str, Any]], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The entities of an answer, which pymilvus unpacks only now. It gives the same names to each of them.

    Raises:
        MilvusFailed: they have no values of these names, or other values than their types say.
    """
    entities = _unpacked(rows)
    if missing := [name for name in names if entities and name not in entities[0]]:
        raise _senseless(f"entities without {missing[0]!r}")
    return entities


def hits_in(found: Sequence[Iterable[Any]]) -> list[Any]:
    """The hits of the one search that was asked for, unpacked.

    Raises:
        MilvusFailed: the answer is to no search, or has other values than their types say.
    """
    if not found:
        raise _senseless("no result of the search")
    return _unpacked(found[0])


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
