"""The entity that should have been found: whether it is there, matches, can be scored, and where it ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from mcp_server_milvus.diagnosing.filters import Filter
from mcp_server_milvus.diagnosing.findings import EXPECTED, Findings, State, shown_filter, shown_score, shown_value
from mcp_server_milvus.diagnosing.hits import is_within_bounds, unbounded
from mcp_server_milvus.diagnosing.reading import Reading
from mcp_server_milvus.diagnosing.sought import Leg
from mcp_server_milvus.errors import InvalidFilter
from mcp_server_milvus.milvus.exact import scored
from mcp_server_milvus.milvus.filters import keys_filter, names_in, understood
from mcp_server_milvus.milvus.ranking import Key, Scored
from mcp_server_milvus.milvus.searching import CANDIDATES, Search, fused

WINDOW = 1_024
"""Hits among which the entity's rank is looked for."""

SHOWN_FIELDS = 4
"""Fields of the entity that a finding shows beside a leg that it does not match."""

NPROBE, EF = 64, 256
"""Parameters with which an index looks further than by itself."""


@dataclass(frozen=True)
class Expected:
    """An entity, by its key, and the search that should find it."""

    reading: Reading
    findings: Findings
    key: Key
    filter: Filter
    legs: Sequence[Leg]
    searches: Sequence[Search]
    limit: int
    matched: int
    own_key: Key | None

    @property
    def name(self) -> str:
        """As findings call it."""
        return f"entity {shown_value(self.key)}"

    def problem(self, finding: str) -> None:
        """Puts down why it is not found."""
        self.findings.tell(EXPECTED, State.PROBLEM, f"{self.name} {finding}")


async def check_expected(expected: Expected) -> None:
    """Why the entity is no hit, or which one it is."""
    if not (await _is_there(expected) and await _is_in_reach(expected)):
        return
    if expected.key == expected.own_key:
        expected.problem("is the one that others are sought for, which is no hit of its own search")
        return
    if not expected.searches:
        expected.findings.tell(EXPECTED, State.OK, f"{expected.name} is there and matches")
        return
    await _tell_blank_text(expected)
    await (_tell_rank(expected) if len(expected.searches) == 1 else _tell_fused_rank(expected))


async def _tell_blank_text(expected: Expected) -> None:
    """A text with nothing in it has a vector that means nothing, and no words."""
    names = {leg.text_field for leg in expected.legs} - {"", *expected.reading.schema.masked}
    entity = await expected.reading.entity(expected.key, sorted(names)) if names else {}
    for name in sorted(names):
        if not str(entity.get(name) or "").strip():
            told = f"{expected.name} has nothing in {name}, the text that it would be found by"
            expected.findings.tell(EXPECTED, State.WARNING, told)


async def _is_there(expected: Expected) -> bool:
    """Whether there is such an entity, as far as a read sees that: by now it sees what others have just written."""
    if await expected.reading.entity(expected.key, [expected.reading.schema.primary_key.name]):
        return True
    expected.problem("is not in the collection")
    expected.findings.advise(State.PROBLEM, "insert it; or look for it by what it holds", "query", limit=5)
    return False


async def _is_in_reach(expected: Expected) -> bool:
    """Whether it is in the partitions that are named, and matches the filter."""
    reading, key = expected.reading, expected.key
    mine = reading.partition_names
    if mine and not await reading.count(_only(expected)):
        found = await reading.where(_only(expected))
        expected.problem(f"is in partition {found[0][0] if found else 'of another name'}, which is not searched")
        changes = {"partition_names": [found[0][0]] if found else None}
        expected.findings.search_with(State.PROBLEM, "search where it is", **changes)
        return False
    if not expected.filter.text or await reading.matches(key, expected.filter.text):
        return True
    legs = expected.filter.legs
    failed = [place for place, leg in enumerate(legs) if not await reading.matches(key, leg)]
    told = [f"leg {place + 1} {shown_filter(legs[place])}" if len(legs) > 1 else "the filter" for place in failed]
    values = await _values(expected, [legs[place] for place in failed])
    expected.problem(f"is filtered out by {' and '.join(told) or 'the filter'}{f': it has {values}' if values else ''}")
    rest = expected.filter.without(failed[0]) if len(failed) == 1 and expected.filter.joined == "and" else ""
    do = f"search without leg {failed[0] + 1}" if rest else "search without the filter"
    expected.findings.search_with(State.PROBLEM, do, filter=rest or None, filter_params=None)
    return False


def _only(expected: Expected) -> str:
    return keys_filter(expected.reading.schema, [expected.key])


async def _values(expected: Expected, legs: Sequence[str]) -> str:
    """What the entity holds in the fields that these legs ask for. A filter by a masked field was refused before."""
    try:
        names = sorted({name for leg in legs for name in names_in(understood(leg))})
    except InvalidFilter:
        return ""
    schema = expected.reading.schema
    known = [name for name in names if name in schema.by_name or schema.enable_dynamic_field][:SHOWN_FIELDS]
    if not known:
        return ""
    entity = await expected.reading.entity(expected.key, known)
    return ", ".join(f"{name}: {shown_value(entity.get(name))}" for name in known)


async def _tell_rank(expected: Expected) -> None:
    """Where it stands in the one search, and what would bring it among the hits."""
    (search,), (leg,) = expected.searches, expected.legs
    findings, limit = expected.findings, expected.limit
    standing = await _standing(expected, search, leg)
    told = f"{standing}{f' of {expected.matched}' if standing.rank else ''} in {search.target.field.name}"
    hits = [key for key, _ in await search.keys_and_scores("", limit)]
    if expected.key in hits:
        findings.tell(EXPECTED, State.OK, f"{expected.name} is hit {hits.index(expected.key) + 1}: {told}")
    elif standing.lacks:
        expected.problem(told)
    elif standing.score is not None and not is_within_bounds(search, standing.score):
        expected.problem(f"{told}: radius or range_filter excludes that")
        findings.search_with(State.PROBLEM, "search without bounds", radius=None, range_filter=None)
    elif 0 < standing.rank <= limit:
        expected.problem(f"{told}, but the index misses it among {limit} hits")
        findings.search_with(State.PROBLEM, "score every match", exact=True)
        findings.search_with(State.PROBLEM, "let the index look further", **_further(search, limit))
    elif standing.rank:
        expected.problem(f"{told}; limit is {limit}")
        findings.search_with(State.PROBLEM, "ask for more hits", limit=standing.rank)
    else:
        expected.problem(f"{told}; limit is {limit}")
        findings.advise(State.PROBLEM, "search with words nearer to what it says, or narrow the filter")


def _further(search: Search, limit: int) -> dict[str, Any]:
    """The change of a search that makes its index look at more entities."""
    ivf = search.target.index_type.startswith("IVF")
    return {"params": {"nprobe": NPROBE} if ivf else {"ef": max(EF, 4 * limit)}}


@dataclass(frozen=True)
class _Standing:
    """Where it stands in a search without bounds: its score and rank, 0 beyond the window; or what it `lacks`."""

    metric_type: str
    score: float | None = None
    rank: int = 0
    lacks: str = ""

    def __str__(self) -> str:
        """`has score 0.42 (COSINE), rank 7`."""
        if self.lacks:
            return self.lacks
        rank = f"rank {self.rank}" if self.rank else f"no rank among the first {WINDOW}"
        return rank if self.score is None else f"has score {shown_score(self.score)} ({self.metric_type}), {rank}"


async def _standing(expected: Expected, search: Search, leg: Leg) -> _Standing:
    metric = search.target.metric_type
    found = await unbounded(search).keys_and_scores("", WINDOW)
    for rank, (key, score) in enumerate(found, start=1):
        if key == expected.key:
            return _Standing(metric, score, rank)
    if leg.by_words and len(found) < WINDOW:
        return _Standing(metric, lacks=f"has none of the words (in {leg.text_field})")
    if isinstance(search.target.data, str) or search.target.field.name in expected.reading.schema.masked:
        return _Standing(metric)
    return await _standing_by_score(expected, search, found)


async def _standing_by_score(expected: Expected, search: Search, found: Sequence[Scored]) -> _Standing:
    """By its own vector: it is among the first hits, or would be if the index had not missed it."""
    metric, name = search.target.metric_type, search.target.field.name
    vector = (await expected.reading.entity(expected.key, [name])).get(name)
    if vector is None:
        return _Standing(metric, lacks="has no vector")
    scores, _ = await anyio.to_thread.run_sync(scored, search.target, [expected.key], [vector])
    if not scores:
        return _Standing(metric, lacks="has a vector without a score: it shares no dimension, or holds no numbers")
    score, direction = scores[0][1], search.target.direction
    better = sum(1 for _, other in found if direction * other < direction * score)
    return _Standing(metric, score, better + 1 if better < len(found) or len(found) < WINDOW else 0)


async def _tell_fused_rank(expected: Expected) -> None:
    """Where it stands in the ranking of two searches, and in each of them."""
    by_meaning, by_words = expected.searches
    depth = max(CANDIDATES, expected.limit)
    ranking = await fused(by_meaning, by_words, depth, [expected.reading.schema.primary_key.name])
    rank = next((place for place, hit in enumerate(ranking.hits, start=1) if hit.key == expected.key), 0)
    standings = [
        f"in {search.target.field.name} it {await _standing(expected, search, leg)}"
        for search, leg in zip(expected.searches, expected.legs, strict=True)
    ]
    told = "; ".join([f"is {f'rank {rank}' if rank else 'not'} among {depth} candidates of each leg", *standings])
    if 0 < rank <= expected.limit:
        expected.findings.tell(EXPECTED, State.OK, f"{expected.name} {told}")
        return
    expected.problem(f"{told}; limit is {expected.limit}")
    if rank:
        expected.findings.search_with(State.PROBLEM, "ask for more hits", limit=rank)
    else:
        expected.findings.search_with(State.PROBLEM, "search by meaning alone, to any depth", mode="dense")
        expected.findings.search_with(State.PROBLEM, "search by words alone, to any depth", mode="bm25")
