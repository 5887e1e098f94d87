"""Paging through the hits of one search to the last, without state: no entity twice, none left out, little memory.

The order that pages follow is the same whichever server makes a page. First come the hits of the first page's own
search; then those of larger searches that were not among them, since an index that is approximate finds more when it
is asked for more; then, beyond what one search can return, every other entity by score and key. Those are found by
searching one range of keys after the other, each with no more entities than one search can return: a bound on the
score would not do, for any number of entities may have the same.
"""

import json
import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio.to_thread

from mcp_server_milvus.compact import compact
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW
from mcp_server_milvus.milvus.exact import entities_at_once
from mcp_server_milvus.milvus.filters import both, checked_key, keys_filter, literal, portable_key
from mcp_server_milvus.milvus.ranking import Key, Scored, best_of
from mcp_server_milvus.milvus.results import Page, plain_score
from mcp_server_milvus.milvus.scanning import Source, largest_entity, largest_page
from mcp_server_milvus.milvus.schema import CollectionSchema, Field

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

WINDOWS = (1_024, 4_096, MAX_WINDOW)
"""Hits of the larger searches."""

READ_AT_ONCE = 256
"""Entities of one request while a page fills up: few requests, and little read in vain when the bytes run out."""

READ_SHARE = 8
"""What part of the bytes of a scan's largest page these may have."""

CANDIDATE_BYTES = 2**20
"""Bytes up to which candidates, most of which are not shown, come with their fields. Reading the fields of those that
are shown costs one request more: 1 ms on Milvus Lite, where 100 texts of 30 KB, read in vain, cost 7."""

PASSAGE_CHARACTERS = 30_000
"""Text in which passages are looked for at once: it takes some 10 ms."""

LARGEST_OFFSET = 2**31
"""More than any backend holds in one collection that can be paged so far."""

ReadAfter = Callable[[Key | None, int, list[str]], Awaitable[list[dict[str, Any]]]]
"""The matching entities after a key, in the order of keys: at most so many, with these fields; none at the end."""

Nearest = Callable[[str, int], Awaitable[list[Scored]]]
"""The best hits, best first, of those entities that a filter matches besides the call's own: at most so many."""


@dataclass(frozen=True)
class Position:
    """How far a caller is. `first` is what the first search asked for, `given` the hits before this position.

    Beyond the windows, and always in an exact search, `last` is the last hit that was given.
    """

    first: int
    given: int
    last: Scored | None = None

    def moved(self, hits: list["Hit"]) -> "Position":
        """The position after these hits."""
        last = next(((hit.key, hit.score) for hit in reversed(hits) if hit.by_score), self.last)
        return Position(self.first, self.given + len(hits), last)

    def encoded(self) -> str:
        """As a cursor holds it."""
        last = None if self.last is None else [portable_key(self.last[0]), self.last[1]]
        return compact([self.first, self.given, last])


class Hit(NamedTuple):
    """A hit, and whether it stands where it does by its score and key alone."""

    key: Key
    score: float
    by_score: bool


@dataclass(frozen=True)
class FieldsByKey:
    """The fields of hits, read by key and only as far as they are shown: memory does not grow with a limit."""

    client: "Client"
    schema: CollectionSchema
    source: Source

    @property
    def at_once(self) -> int:
        """How many entities to read in one request, however large their values may be."""
        known = [self.schema.by_name[name] for name in self.source.output_fields if name in self.schema.by_name]
        vectors = [entities_at_once(field) for field in known if field.type.is_vector]
        largest = largest_page(self.schema, self.client.backend, self.source.output_fields)
        return min(READ_AT_ONCE, max(1, largest // READ_SHARE), *vectors)

    def come_with(self, candidates: int) -> bool:
        """Whether so many candidates come with their fields, which are small whatever is in them."""
        most = CANDIDATE_BYTES // largest_entity(self.schema, self.source.output_fields)
        return candidates <= min(self.at_once, most)

    async def fill(self, page: Page, hits: Sequence[Hit]) -> int:
        """Puts hits on the page until it is full. Returns how many, with those that were deleted meanwhile."""
        given = 0
        while given < len(hits):
            some = hits[given : given + self.at_once]
            taken = await admitted(page, some, await self._entities(some))
            given += taken
            if taken < len(some):
                break
        return given

    async def _entities(self, hits: Sequence[Hit]) -> dict[Key, dict[str, Any]]:
        entities = await self.client.read_matching(
            self.source.collection_name,
            keys_filter(self.schema, [portable_key(hit.key) for hit in hits]),
            self.schema,
            output_fields=list(self.source.output_fields),
            partition_names=self.source.partition_names,
            consistency_level=self.source.consistency_level,
        )
        return {entity[self.schema.primary_key.name]: entity for entity in entities}


async def admitted(page: Page, hits: Sequence[Hit], entities: Mapping[Key, Mapping[str, Any]]) -> int:
    """How many of the hits the page has taken, or passed over because they have no entity any more."""
    if page.passage_characters(entities[hit.key] for hit in hits if hit.key in entities) > PASSAGE_CHARACTERS:
        return await anyio.to_thread.run_sync(_admitted, page, hits, entities)
    return _admitted(page, hits, entities)


def _admitted(page: Page, hits: Sequence[Hit], entities: Mapping[Key, Mapping[str, Any]]) -> int:
    for number, hit in enumerate(hits):
        entity = entities.get(hit.key)
        if entity is not None and not page.admit(entity, id=hit.key, score=plain_score(hit.score)):
            return number
    return len(hits)


def decoded_position(text: int | str, primary_key: Field, *, exact: bool) -> Position:
    """The position inside a cursor, which anybody can have written. Only an exact search has no first window.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        parts = json.loads(str(text))
    except (ValueError, RecursionError):
        parts = None
    match parts:
        case [first, given, None] if _are_counts(first, given, exact=exact):
            return Position(first, given)
        case [first, given, [int() | str() as key, float() | int() as score]] if _are_counts(first, given, exact=exact):
            if abs(cast("float", score)) < math.inf:  # of an integer of any length, too
                return Position(first, given, (checked_key(primary_key, key), cast("float", score)))
        case _:
            pass
    raise InvalidArgument("cursor: not one that a search returned", hint="leave it out to start again")


def _are_counts(first: Any, given: Any, *, exact: bool) -> bool:
    if type(first) is not int or type(given) is not int:
        return False
    return (first == 0 if exact else 1 <= first <= MAX_WINDOW) and 0 <= given <= LARGEST_OFFSET


async def hits_after(
    position: Position, limit: int, *, nearest: Nearest, read: ReadAfter, primary_key: Field, direction: int
) -> list[Hit]:
    """The next hits of a search in an index: at most `limit`, and fewer only at the end."""
    shown: set[Key] = set()
    hits: list[Hit] = []
    for size in (position.first, *(window for window in WINDOWS if window > position.first)):
        nearest_ones = await nearest("", size)
        found = [each for each in nearest_ones if each[0] not in shown]
        if position.last is None:
            hits += [Hit(*each, by_score=False) for each in found[max(0, position.given - len(shown)) :]]
        shown |= {key for key, _ in found}
        if len(hits) >= limit or len(nearest_ones) < size:
            return hits[:limit]
    ranges = _in_key_ranges(nearest, read, primary_key)
    rest = best_after(position.last, limit - len(hits), ranges, direction=direction, but=shown)
    return hits + await rest


async def best_after(
    last: Scored | None,
    limit: int,
    batches: AsyncIterable[list[Scored]],
    *,
    direction: int,
    but: set[Key] | frozenset[Key] = frozenset(),
) -> list[Hit]:
    """The best hits that come after the last one in the order of scores and keys, but for some."""
    kept: list[Scored] = []
    floor = None if last is None else (direction * last[1], last[0])
    async for batch in batches:
        fitting = (
            (key, score)
            for key, score in batch
            if key not in but and (floor is None or (direction * score, key) > floor)
        )
        kept = best_of(limit, kept, fitting, direction=direction)
    return [Hit(key, score, by_score=True) for key, score in kept]


async def _in_key_ranges(nearest: Nearest, read: ReadAfter, primary_key: Field) -> AsyncGenerator[list[Scored]]:
    """Every hit there is, one range of keys after the other."""
    name = primary_key.name
    after: Key | None = None
    while entities := await read(after, MAX_WINDOW, [name]):
        until = entities[-1][name]
        above = "" if after is None else f"{name} > {literal(after)}"
        yield await nearest(both(above, f"{name} <= {literal(until)}"), MAX_WINDOW)
        after = until
