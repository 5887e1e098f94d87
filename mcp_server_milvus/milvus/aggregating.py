"""Counts, sums, averages, extremes and distinct values of entities, all together or by group: exact, in bounded memory.

As in SQL, nulls are left out of everything but `count` and are a group of their own, and what has no values is null.
Whole numbers are added without a bound, other numbers without rounding: only the result is rounded, once.
"""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

from mcp_server_milvus.errors import InvalidArgument, LimitExceeded
from mcp_server_milvus.milvus.ordering import directed, rank_of
from mcp_server_milvus.milvus.paths import Path, Scalar, parsed_path
from mcp_server_milvus.milvus.results import plain_value
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.vocabulary import DataType

FUNCTIONS = ("count", "sum", "avg", "min", "max", "distinct")
CALL = re.compile(rf"({'|'.join(FUNCTIONS)})\s*(?:\((.*)\))?", re.IGNORECASE | re.DOTALL)
DISTINCT = re.compile(r"distinct\s+", re.IGNORECASE)
COUNT = "count"

HELD_BYTES = 64 * 1024 * 1024
"""Memory for groups and distinct values, by the estimates below."""

GROUP_BYTES, STATE_BYTES, VALUE_BYTES = 400, 200, 120
"""What Python needs for a group, for an aggregate in a group, and for a distinct value, texts aside."""

DIGESTED = 64
"""Characters of a text from which on a digest of 16 bytes stands for it among distinct values."""

SHOWN_LENGTH = 80
"""Characters of what a caller wrote that a message repeats."""

Values = Sequence[Any]


@dataclass(frozen=True)
class Aggregate:
    """One thing to compute. `text` is what the caller called it; without a path, it counts entities."""

    text: str
    function: str
    path: Path | None

    @classmethod
    def parsed(cls, schema: CollectionSchema, text: str) -> "Aggregate":
        """From `count`, `sum(price)`, `count(distinct author)` and the like.

        Raises:
            InvalidArgument: it is none, or the field has no such values.
            NotFound: there is no such field.
        """
        found = CALL.fullmatch(text.strip())
        function = found[1].lower() if found else ""
        inner = (found[2] or "").strip() if found else ""
        if function == COUNT and (distinct := DISTINCT.match(inner)):
            function, inner = "distinct", inner[distinct.end() :]
        if function == COUNT and inner in {"", "*"}:
            return cls(text, COUNT, None)
        if not function or inner in {"", "*"}:
            raise InvalidArgument(
                f"aggregates: {text[:SHOWN_LENGTH]!r} is none",
                hint="count, or count, sum, avg, min, max or distinct of a field: sum(price)",
            )
        path = parsed_path(schema, inner, argument="aggregates")
        if function in {"sum", "avg"} and not (path.is_json or _is_number(path)):
            raise InvalidArgument(f"aggregates: {text[:SHOWN_LENGTH]}: {path} has no numbers to add")
        return cls(text, function, path)

    def plain(self, value: Any) -> Any:
        """The result as JSON has it."""
        known = self.path.field if self.path and self.function in {"min", "max"} else None
        return plain_value(known, value)


class State(Protocol):
    """What is known of one aggregate in one group."""

    def add(self, values: Values) -> None: ...

    @property
    def result(self) -> Any: ...


@dataclass
class Memory:
    """The bytes that may still be held."""

    left: int

    def take(self, size: int) -> bool:
        """Whether there was so much left; if so, it is taken."""
        taken = size <= self.left
        self.left -= size if taken else 0
        return taken


@dataclass
class _Count:
    result: int = 0

    def add(self, values: Values) -> None:
        self.result += len(values)


@dataclass
class _Sum:
    """Whole numbers, and partial sums of the others whose sum is theirs exactly."""

    name: str
    whole: int | None = None
    parts: list[float] = field(default_factory=list[float])

    def add(self, values: Values) -> None:
        _require_numbers(self.name, values)
        whole = [value for value in values if isinstance(value, int)]
        if whole:
            self.whole = (self.whole or 0) + sum(whole)
        if len(whole) < len(values):
            self.parts = _exact_parts([*self.parts, *(value for value in values if isinstance(value, float))])

    @property
    def total(self) -> Fraction | int | None:
        """The sum, exactly; None of nothing."""
        if not self.parts:
            return self.whole
        return sum(map(Fraction, self.parts), Fraction(self.whole or 0))

    @property
    def result(self) -> int | float | None:
        total = self.total
        return _rounded(total) if isinstance(total, Fraction) else total


@dataclass
class _Average:
    sum: _Sum
    count: int = 0

    def add(self, values: Values) -> None:
        self.sum.add(values)
        self.count += len(values)

    @property
    def result(self) -> float | None:
        total = self.sum.total
        return None if total is None else _rounded(Fraction(total) / self.count)


@dataclass
class _Extreme:
    """The first of all values in one direction."""

    descending: bool
    memory: Memory
    result: Scalar | None = None

    def add(self, values: Values) -> None:
        if not values:
            return
        known = [] if self.result is None else [self.result]
        best = min([*known, *values], key=lambda value: rank_of(value, descending=self.descending))
        if isinstance(best, str) and not self.memory.take(len(best) - len(str(self.result or ""))):
            raise _too_much()
        self.result = best


@dataclass
class _Distinct:
    """How many values differ. When the memory is used up, at least so many do, and `complete` is false."""

    memory: Memory
    complete: bool = True
    seen: set[Any] = field(default_factory=set[Any])

    def add(self, values: Values) -> None:
        for value in {_told_apart(value) for value in values} - self.seen:
            if not self.memory.take(VALUE_BYTES):
                self.complete = False
                return
            self.seen.add(value)

    @property
    def result(self) -> int:
        return len(self.seen)


@dataclass(frozen=True)
class Group:
    """The entities that have the same values, how many they are, and the aggregates' results."""

    values: tuple[Scalar | None, ...]
    entities: int
    results: list[Any]


@dataclass
class _OpenGroup:
    values: tuple[Scalar | None, ...]
    states: list[State]
    entities: int = 0


class Aggregation:
    """All aggregates of all groups, while entities are added."""

    def __init__(
        self, aggregates: Sequence[Aggregate], group_by: Sequence[Path], *, held_bytes: int = HELD_BYTES
    ) -> None:
        self.aggregates = aggregates
        self.group_by = group_by
        self._memory = Memory(held_bytes)
        self._groups: dict[tuple[Any, ...], _OpenGroup] = {} if group_by else {(): self._new_group(())}

    @property
    def fields(self) -> list[str]:
        """What must be read of an entity besides its key."""
        paths = [*self.group_by, *(each.path for each in self.aggregates if each.path)]
        return list(dict.fromkeys(path.name for path in paths))

    def add(self, entities: Sequence[Mapping[str, Any]]) -> None:
        """Counts the entities in.

        Raises:
            InvalidArgument: one has a value that cannot be added or compared.
            LimitExceeded: there are too many groups.
        """
        columns = [_column(each.path, entities) if each.path else None for each in self.aggregates]
        for key, places in self._places(entities).items():
            group = self._groups[key]
            group.entities += len(places)
            for state, column in zip(group.states, columns, strict=True):
                if column is None:
                    state.add(places)
                else:
                    state.add([value for place in places if (value := column[place]) is not None])

    @property
    def groups(self) -> list[Group]:
        """The results so far."""
        return [
            Group(group.values, group.entities, [state.result for state in group.states])
            for group in self._groups.values()
        ]

    @property
    def limits(self) -> list[str]:
        """What the memory has cut, in sentences."""
        cut = {
            place
            for group in self._groups.values()
            for place, state in enumerate(group.states)
            if isinstance(state, _Distinct) and not state.complete
        }
        return [
            f"{self.aggregates[place].text}: at least so many; more cannot be told apart here: narrow the filter"
            for place in sorted(cut)
        ]

    def _places(self, entities: Sequence[Mapping[str, Any]]) -> Mapping[tuple[Any, ...], Sequence[int]]:
        """Which of the entities are in which group."""
        if not self.group_by:
            return {(): range(len(entities))}
        columns = [_column(path, entities) for path in self.group_by]
        places: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        for place, values in enumerate(zip(*columns, strict=True)):
            key = tuple(map(_hashed, values))
            if key not in self._groups:
                self._groups[key] = self._new_group(values)
            places[key].append(place)
        return places

    def _new_group(self, values: tuple[Scalar | None, ...]) -> _OpenGroup:
        texts = sum(len(value) for value in values if isinstance(value, str))
        if not self._memory.take(GROUP_BYTES + STATE_BYTES * len(self.aggregates) + texts):
            raise _too_much()
        return _OpenGroup(values, [_state(aggregate, self._memory) for aggregate in self.aggregates])


def in_order(groups: Sequence[Group], columns: Sequence[str], order_by: Sequence[str]) -> list[Group]:
    """The groups sorted by what is in the columns, by default those with the most entities first; ties by values.

    Raises:
        InvalidArgument: an entry of order_by names no column.
    """
    places = {_spelling(name): place for place, name in enumerate(columns)}
    terms = [(places.get(_spelling(text)), text, descending) for text, descending in map(directed, order_by)]
    for place, text, _ in terms:
        if place is None and _spelling(text) != COUNT:
            raise InvalidArgument(
                f"order_by: {text[:SHOWN_LENGTH]!r} is not in the result",
                hint=f"name one of: {', '.join([*columns, COUNT])}",
            )

    def rank(group: Group) -> tuple[Any, ...]:
        values = [*group.values, *group.results]
        ranks = [
            rank_of(group.entities if place is None else values[place], descending=descending)
            for place, _, descending in terms or [(None, COUNT, True)]
        ]
        return (*ranks, *(rank_of(value, descending=False) for value in group.values))

    return sorted(groups, key=rank)


def _state(aggregate: Aggregate, memory: Memory) -> State:
    makers: dict[str, Callable[[], State]] = {
        "count": _Count,
        "sum": lambda: _Sum(aggregate.text),
        "avg": lambda: _Average(_Sum(aggregate.text)),
        "min": lambda: _Extreme(descending=False, memory=memory),
        "max": lambda: _Extreme(descending=True, memory=memory),
        "distinct": lambda: _Distinct(memory),
    }
    return makers[aggregate.function]()


def _spelling(text: str) -> str:
    return "".join(text.split()).lower()


def _column(path: Path, entities: Iterable[Mapping[str, Any]]) -> list[Scalar | None]:
    return [path.value_in(entity) for entity in entities]


def _is_number(path: Path) -> bool:
    return path.field is not None and (
        path.field.type.is_integer or path.field.type in {DataType.FLOAT, DataType.DOUBLE}
    )


def _require_numbers(name: str, values: Values) -> None:
    if not set(map(type, values)) <= {int, float}:
        wrong = next(value for value in values if type(value) not in {int, float})
        raise InvalidArgument(
            f"{name[:SHOWN_LENGTH]}: {str(wrong)[:SHOWN_LENGTH]!r} is no number",
            hint="filter the entities without numbers out",
        )


def _exact_parts(numbers: list[float]) -> list[float]:
    """A few numbers with exactly the sum of the given ones, each the rounded rest of those before it.

    Raises:
        InvalidArgument: the sum is beyond the largest number.
    """
    parts: list[float] = []
    try:
        while rest := math.fsum([*numbers, *(-part for part in parts)]):
            parts.append(rest)
    except OverflowError:
        raise InvalidArgument("the sum of these numbers is beyond the largest number") from None
    return parts or [0.0]


def _rounded(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf


def _hashed(value: Scalar | None) -> Any:
    """Python takes true for 1; JSON does not."""
    return (value,) if isinstance(value, bool) else value


def _told_apart(value: Scalar) -> Any:
    """Something small that differs where the values differ."""
    if isinstance(value, str) and len(value) > DIGESTED:
        return hashlib.blake2b(value.encode(errors="surrogatepass"), digest_size=16).digest()
    return _hashed(value)


def _too_much() -> LimitExceeded:
    return LimitExceeded(
        "there are more groups than can be held here", hint="group by a field with fewer values, or narrow the filter"
    )
