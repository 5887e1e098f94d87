"""The filter, leg by leg: what each condition leaves, and what is stored where one leaves nothing."""

from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

import anyio.to_thread

from mcp_server_milvus.diagnosing.findings import Findings, State, shown_filter, shown_value
from mcp_server_milvus.diagnosing.near_values import Near, near_values, value_at
from mcp_server_milvus.diagnosing.reading import Reading
from mcp_server_milvus.milvus.filter_help import near_misses
from mcp_server_milvus.milvus.filter_legs import Comparison, comparisons, legs_of

MOST_LEGS = 8
"""Legs that are counted; of a filter with more, none is."""

LONGEST_TAKEN_APART = 16_384
"""Characters of a filter that is taken apart: a longer one is a list of keys."""

LOOKED_INTO = 3
"""Legs, and comparisons of a leg, whose stored values are looked at."""

SHOWN_NAMES = 5
"""Names of the dynamic field that a finding tells."""

SELECTIVE = 100
"""Of so many entities one matches, where a graph index begins to return too few hits."""


@dataclass(frozen=True)
class Filter:
    """A filter, its legs, and what joins them."""

    text: str
    joined: str
    legs: list[str]

    def without(self, place: int) -> str:
        """The filter without one of its legs."""
        return f" {self.joined} ".join(leg for each, leg in enumerate(self.legs) if each != place)

    def with_leg(self, place: int, leg: str) -> str:
        """The filter with another leg in a place."""
        if len(self.legs) == 1:
            return leg
        return f" {self.joined} ".join(leg if each == place else old for each, old in enumerate(self.legs))


def taken_apart(text: str) -> Filter:
    """The filter with its legs."""
    joined, legs = legs_of(text) if len(text) <= LONGEST_TAKEN_APART else ("and", [text])
    return Filter(text, joined, legs if len(legs) <= MOST_LEGS else [text])


async def check_filter(findings: Findings, reading: Reading, filter_: Filter, total: int) -> int | None:
    """How many entities match; None where the filter cannot be used."""
    if not filter_.text or not total:
        return total
    counts: list[int] = []
    matched: int | None = None
    with findings.refused("filter", reading.schema):
        matched = await reading.count(filter_.text)
        counts = [await reading.count(leg) for leg in filter_.legs] if len(filter_.legs) > 1 else [matched]
    if matched is None or not counts:
        return matched
    told = [_told(filter_, counts, matched, total), *near_misses(reading.schema, filter_.text, None)]
    findings.tell("filter", _state(filter_, counts, matched, total), "; ".join(told))
    if not matched and total:
        await _explain_nothing(findings, reading, filter_, counts)
    return matched


def _state(filter_: Filter, counts: list[int], matched: int, total: int) -> State:
    if not matched:
        return State.PROBLEM
    idle = len(counts) > 1 and (total in counts if filter_.joined == "and" else 0 in counts)
    return State.WARNING if idle or matched * SELECTIVE < total else State.OK


def _told(filter_: Filter, counts: list[int], matched: int, total: int) -> str:
    told = f"{matched} of {total} entities match"
    if len(counts) == 1:
        return told
    remarks = {0: " (nothing)", total: " (everything)"}
    legs = [
        f"leg {number} {shown_filter(leg)} {count}{remarks.get(count, '')}"
        for number, (leg, count) in enumerate(zip(filter_.legs, counts, strict=True), start=1)
    ]
    return f"{told}, joined by {filter_.joined}: {', '.join(legs)}"


async def _explain_nothing(findings: Findings, reading: Reading, filter_: Filter, counts: list[int]) -> None:
    """What is stored where a leg matches nothing; or without which leg the others match something."""
    empty = [place for place, count in enumerate(counts) if not count]
    for place in empty[:LOOKED_INTO]:
        await _explain_leg(findings, reading, filter_, place)
    if len(filter_.legs) == 1:
        findings.search_with(State.PROBLEM, "search without the filter", filter=None, filter_params=None)
    elif filter_.joined == "and":
        await _advise_without(findings, reading, filter_, empty)


async def _advise_without(findings: Findings, reading: Reading, filter_: Filter, empty: list[int]) -> None:
    """The search without the one leg that leaves nothing, or whose absence leaves the most."""
    if len(empty) > 1:
        findings.search_with(State.PROBLEM, "search without the filter", filter=None, filter_params=None)
        return
    places = empty or range(len(filter_.legs))
    left = {place: await reading.count(filter_.without(place)) for place in places}
    best = max(left, key=lambda place: left[place])
    if left[best]:
        do = f"search without leg {best + 1}: {left[best]} match"
        findings.search_with(State.PROBLEM, do, filter=filter_.without(best), filter_params=None)


async def _explain_leg(findings: Findings, reading: Reading, filter_: Filter, place: int) -> None:
    leg = filter_.legs[place]
    for comparison in islice(comparisons(leg), LOOKED_INTO):
        stored, sampled = await _stored(reading, comparison)
        if stored:
            near = await anyio.to_thread.run_sync(near_values, comparison, stored)
        else:
            near = Near(await _nothing_stored(reading, comparison))
        lacking = f"; {sampled - len(stored)} of {sampled} sampled have none" if 0 < len(stored) < sampled else ""
        told = f"{shown_filter(leg)} matches nothing: {near.told}{lacking}"
        findings.tell("stored values", State.PROBLEM, told)
        if near.meant is not None and comparison.end:
            better = filter_.with_leg(place, comparison.replaced(leg, near.meant))
            findings.search_with(State.PROBLEM, "search for what is stored", filter=better, filter_params=None)


async def _stored(reading: Reading, comparison: Comparison) -> tuple[list[Any], int]:
    """The values of a sample that are compared, without nulls, and how many entities the sample has."""
    entities = await reading.sample([comparison.field])
    values = [value_at(entity.get(comparison.field), comparison.path) for entity in entities]
    return [value for value in values if value is not None], len(entities)


async def _nothing_stored(reading: Reading, comparison: Comparison) -> str:
    """What there is instead of a field in which no sampled entity has a value."""
    told = f"no sampled entity has a value in {comparison.name}"
    if comparison.field in reading.schema.by_name or not reading.schema.enable_dynamic_field:
        return told
    names: dict[str, None] = {}
    for entity in await reading.sample(["$meta"]):
        names |= dict.fromkeys(name for name in entity if name not in reading.schema.by_name and name != "$meta")
    if not names:
        return told
    likest = sorted(names, key=lambda name: -SequenceMatcher(None, name.lower(), comparison.field.lower()).ratio())
    return f"{told}; the dynamic field has {', '.join(shown_value(name) for name in likest[:SHOWN_NAMES])}"
