"""Entities in an order of the caller's choice: several fields, each up or down, nulls last, ties by primary key.

Where JSON holds values of several types, numbers come before texts and texts before booleans.
"""

import hashlib
import heapq
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, cast

from mcp_server_milvus.errors import Conflict, InvalidArgument, LimitExceeded
from mcp_server_milvus.milvus.filters import checked_key, portable_key
from mcp_server_milvus.milvus.paths import Path, Scalar, parsed_path
from mcp_server_milvus.milvus.schema import CollectionSchema, Field

DIRECTION = re.compile(r"[\s:](asc|desc)$", re.IGNORECASE)

LONGEST_POSITION = 256
"""Characters of the values in a cursor; in place of more there is only the entity's key."""

HELD_BYTES = 64 * 1024 * 1024
"""Memory for the texts of the entities that come first."""

Rank = tuple[Any, ...]
"""What is compared in place of an entity's values."""

Ranked = tuple[Rank, list[Scalar | None]]
"""A rank and the values it is made of, the primary key last."""


@dataclass(frozen=True)
class Reference:
    """The entity in a place of an order. The digest tells whether it still has the values of that place."""

    key: int | str
    digest: str


def directed(text: str) -> tuple[str, bool]:
    """What an entry of order_by names, and whether it descends: `year`, `year desc`, `year:desc`."""
    text = text.strip()
    found = DIRECTION.search(text)
    if found is None:
        return text, False
    return text[: found.start()].rstrip(" \t\n:"), found[1].lower() == "desc"


def rank_of(value: Scalar | None, *, descending: bool) -> Rank:
    """What compares as the value is to be ordered; nulls come last in both directions."""
    if value is None:
        return (1,)
    kind = 1 if isinstance(value, str) else 2 if isinstance(value, bool) else 0
    if not descending:
        return (0, kind, value)
    return (0, -kind, _Reversed(value) if isinstance(value, str) else -value)


@dataclass(frozen=True)
class Order:
    """The fields that decide, the most important first, and which of them descend."""

    terms: tuple[tuple[Path, bool], ...]
    primary_key: Field

    @classmethod
    def parsed(cls, schema: CollectionSchema, order_by: Sequence[str]) -> "Order":
        """From the entries of order_by.

        Raises:
            NotFound: one names no field.
            InvalidArgument: one names a field that has no order.
        """
        parts = map(directed, order_by)
        return cls(
            tuple((parsed_path(schema, text, argument="order_by"), descending) for text, descending in parts),
            schema.primary_key,
        )

    @property
    def is_by_key(self) -> bool:
        """Whether this is the order in which Milvus gives entities anyway."""
        return not self.terms or (self.terms[0][0].field is self.primary_key and not self.terms[0][1])

    @property
    def fields(self) -> list[str]:
        """What must be read of an entity to rank it."""
        return list(dict.fromkeys([self.primary_key.name, *(path.name for path, _ in self.terms)]))

    def ranked(self, entities: Iterable[Mapping[str, Any]]) -> Iterator[Ranked]:
        """The entities' ranks and values."""
        for entity in entities:
            values = [path.value_in(entity) for path, _ in self.terms]
            yield self._with_rank([*values, entity[self.primary_key.name]])

    def position(self, values: Sequence[Scalar | None]) -> str:
        """A place in this order, as a cursor holds it."""
        key = portable_key(cast("int | str", values[-1]))
        whole = json.dumps([*values[:-1], key], separators=(",", ":"))
        if len(whole) <= LONGEST_POSITION:
            return whole
        return json.dumps({"key": key, "digest": _digest(values)}, separators=(",", ":"))

    def ranked_position(self, text: int | str) -> Ranked | Reference:
        """The place inside a cursor, which anybody can have written.

        Raises:
            InvalidArgument: it is none.
        """
        try:
            values = json.loads(str(text))
        except (ValueError, RecursionError):
            values = None
        match values:
            case [*terms, int() | str() as key] if len(terms) == len(self.terms) and all(map(_is_scalar, terms)):
                return self._with_rank([*terms, checked_key(self.primary_key, key)])
            case {"key": int() | str() as key, "digest": str() as digest}:
                return Reference(checked_key(self.primary_key, key), digest)
            case _:
                raise InvalidArgument("cursor: not one that continues this call", hint="leave it out to start again")

    def ranked_reference(self, reference: Reference, entities: Iterable[Mapping[str, Any]]) -> Ranked:
        """The place of an entity that was read by its key.

        Raises:
            Conflict: it has gone, or has other values now.
        """
        for ranked in self.ranked(entities):
            if _digest(ranked[1]) == reference.digest:
                return ranked
        raise Conflict(
            f"cursor: the last page ended at {str(reference.key)[:80]!r}, which was changed or deleted meanwhile",
            hint="leave the cursor out to start again",
        )

    def _with_rank(self, values: list[Scalar | None]) -> Ranked:
        ranks = (rank_of(value, descending=down) for value, (_, down) in zip(values, self.terms, strict=False))
        return (*ranks, values[-1]), values


@dataclass
class FirstEntities:
    """The first `count` entities of an order, after a place in it, out of any number that are added."""

    order: Order
    count: int
    after: Ranked | None = None
    found: list[Ranked] = field(default_factory=list[Ranked])
    """In their order."""

    def add(self, entities: Iterable[Mapping[str, Any]]) -> None:
        """Keeps those that are among the first.

        Raises:
            LimitExceeded: their texts take too much memory.
        """
        ranked = self.order.ranked(entities)
        if self.after is not None:
            floor = self.after[0]
            ranked = (each for each in ranked if each[0] > floor)
        self.found = heapq.nsmallest(self.count, chain(self.found, ranked), key=itemgetter(0))
        texts = (value for _, values in self.found for value in values if isinstance(value, str))
        if sum(map(sys.getsizeof, texts)) > HELD_BYTES:
            raise LimitExceeded(
                f"order_by: the texts that decide the order of {self.count} entities take more than {HELD_BYTES} bytes",
                hint="ask for fewer with limit, follow next_cursor, or order by a shorter field",
            )


class _Reversed:
    """A text that compares the other way round."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __lt__(self, other: "_Reversed") -> bool:
        return other.text < self.text


def _digest(values: Sequence[Scalar | None]) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=12).hexdigest()


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
