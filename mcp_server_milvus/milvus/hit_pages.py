"""The pages of a search: the first one request, the others by walking on; of two searches fused, or of every match."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_server_milvus.errors import LimitExceeded
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW
from mcp_server_milvus.milvus.exact import ExactScores, require_exact
from mcp_server_milvus.milvus.paging import Hit, Position, admitted, best_after, hits_after
from mcp_server_milvus.milvus.results import Page
from mcp_server_milvus.milvus.searching import Search, fused
from mcp_server_milvus.milvus.waiting import ReportProgress

SMALLEST_HIT = 24
"""Bytes that a hit takes at least, as JSON."""

WIDER_SCAN = "narrow the filter; or the operator starts the server with a larger --max-scan"


@dataclass(frozen=True)
class Turn:
    """The page to fill, where it begins, its most hits, and how many entities may be looked at for it."""

    page: Page
    position: Position
    limit: int
    max_scan: int
    report_progress: ReportProgress

    @property
    def walked_limit(self) -> int:
        """Hits that a page looks for: as many as can fit, and one more."""
        return min(self.limit, self.page.max_bytes // SMALLEST_HIT) + 1


@dataclass(frozen=True)
class Turned:
    """What a page has been given, whether there is more, how the hits were found, and what is to be said of it."""

    given: list[Hit]
    more: bool
    why: str = ""
    notes: Sequence[str] = ()


async def first_page(search: Search, turn: Turn, grouping: Mapping[str, Any]) -> Turned:
    """The one request that most searches are. Where hits are many, or may be large, it asks for their keys."""
    position = turn.position
    is_small = turn.limit * (search.group_size or 1) <= search.fields.at_once
    found = await search.found(
        turn.limit if grouping else position.first - position.given,
        list(search.source.output_fields) if is_small else [search.schema.primary_key.name],
        offset=position.given or None,
        **grouping,
    )
    more = not grouping and len(found) >= min(turn.limit + 1, MAX_WINDOW - position.given)
    shown = found if grouping else found[: turn.limit]
    hits = [Hit(hit.key, search.target.sign * hit.score, by_score=False) for hit in shown]
    if is_small:
        given = await admitted(turn.page, hits, {hit.key: hit.entity for hit in shown})
    else:
        given = await search.fields.fill(turn.page, hits)
    return Turned(hits[:given], more or given < len(hits))


async def fused_page(by_meaning: Search, by_words: Search, turn: Turn) -> Turned:
    """A page of the ranking of two searches, which ends where their candidates do."""
    position, fields = turn.position, by_meaning.fields
    are_small = fields.come_with(2 * position.first)
    asked = list(fields.source.output_fields) if are_small else [fields.schema.primary_key.name]
    ranking = await fused(by_meaning, by_words, position.first, asked)
    hits = ranking.hits[position.given :]
    shown = hits[: turn.limit]
    given = await (admitted(turn.page, shown, ranking.entities) if are_small else fields.fill(turn.page, shown))
    end = f"fused over the best {position.first} of each leg; mode: dense (or bm25) goes on to the end"
    return Turned(shown[:given], given < len(hits), notes=() if given < len(hits) or ranking.is_whole else (end,))


async def later_page(search: Search, turn: Turn) -> Turned:
    """A page after the first of a search in an index.

    Raises:
        LimitExceeded: it would be too far from the first.
    """
    if search.target.is_ranked_whole:
        return await _page_by_offset(search, turn, turn.position.given)
    hits = await hits_after(
        turn.position,
        turn.walked_limit,
        nearest=search.keys_and_scores,
        read=search.read,
        primary_key=search.schema.primary_key,
        direction=search.target.direction,
    )
    return await _walked(search, turn, hits)


async def exact_page(search: Search, turn: Turn) -> Turned:
    """A page of every match, scored here.

    Raises:
        NotSupported: only Milvus can score it.
        LimitExceeded: too many match.
    """
    require_exact(search.target)
    await _require_scannable(search, turn.max_scan)
    skipped = turn.position.given if turn.position.last is None else 0
    exact = ExactScores(search.target, search.schema.primary_key.name, search.read)
    scores = search.within_range(exact, turn.report_progress)
    direction = search.target.direction
    hits = await best_after(turn.position.last, skipped + turn.walked_limit, scores, direction=direction)
    but = f" but {exact.left_out}, whose vectors have no finite score" if exact.left_out else ""
    return await _walked(search, turn, hits[skipped:], f"exact: every match was scored{but}")


async def _page_by_offset(search: Search, turn: Turn, offset: int) -> Turned:
    if offset + turn.walked_limit > turn.max_scan:
        raise LimitExceeded(
            f"cursor: {offset} hits were given; this server goes no further than {turn.max_scan}", hint=WIDER_SCAN
        )
    found = await search.keys_and_scores("", turn.walked_limit, offset=offset or None)
    return await _walked(search, turn, [Hit(key, score, by_score=False) for key, score in found])


async def _require_scannable(search: Search, most: int) -> None:
    source = search.source
    count = await search.client.count_matching(
        source.collection_name, source.matching, search.schema, source.partition_names
    )
    if count > most:
        raise LimitExceeded(f"{count} entities match; this server reads at most {most} in one call", hint=WIDER_SCAN)


async def _walked(search: Search, turn: Turn, hits: list[Hit], why: str = "") -> Turned:
    """The page of these hits, of which one may be more than it shows, with their fields read by key."""
    shown = hits[: turn.limit]
    given = await search.fields.fill(turn.page, shown)
    return Turned(shown[:given], given < len(hits), why)
