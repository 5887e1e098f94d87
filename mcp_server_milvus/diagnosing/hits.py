"""The search itself: how many hits there are, and whether radius or the index is why there are not more."""

from dataclasses import replace

from mcp_server_milvus.diagnosing.findings import Findings, State, shown_score
from mcp_server_milvus.milvus.searching import Search

BOUNDS = frozenset({"radius", "range_filter"})


def unbounded(search: Search) -> Search:
    """The search without radius and range_filter."""
    params = {name: value for name, value in search.target.params.items() if name not in BOUNDS}
    return replace(search, target=replace(search.target, params=params))


def is_within_bounds(search: Search, score: float) -> bool:
    """Whether radius and range_filter leave a hit of this score."""
    sign, direction = search.target.sign, search.target.direction
    radius, best = (search.target.params.get(name) for name in ("radius", "range_filter"))
    is_near = radius is None or direction * score < direction * sign * radius
    return is_near and (best is None or direction * score >= direction * sign * best)


async def check_bounds(findings: Findings, search: Search) -> None:
    """Whether radius and range_filter leave any score, and the best score that there is."""
    bounds = {name: search.target.sign * value for name, value in search.target.params.items() if name in BOUNDS}
    if not bounds:
        return
    if await search.keys_and_scores("", 1) or not (found := await unbounded(search).keys_and_scores("", 1)):
        findings.tell("radius")
        return
    better = "smaller" if search.target.direction > 0 else "larger"
    told = f"the best score is {shown_score(found[0][1])} ({search.target.metric_type}, {better} is better)"
    excluding = " and ".join(f"{name} {shown_score(bound)}" for name, bound in bounds.items())
    findings.tell("radius", State.PROBLEM, f"{told}; no hit is within {excluding}")
    findings.search_with(State.PROBLEM, "search without bounds", radius=None, range_filter=None)


async def check_hits(findings: Findings, searches: list[Search], limit: int, matched: int) -> None:
    """How many hits each search has, of those that it could have."""
    told: list[str] = []
    state = State.OK
    for search in searches:
        found = len(await search.keys_and_scores("", limit))
        name = search.target.field.name
        told.append(f"{name}: {found} hits")
        if not found and matched:
            state = State.PROBLEM
        elif found < min(limit, matched) and search.target.field.dim and "radius" not in search.target.params:
            told[-1] += f" of {min(limit, matched)}: the index misses some"
            state = State.WARNING if state is State.OK else state
            findings.search_with(State.PROBLEM, "score every match", exact=True)
    findings.tell("search", state, ", ".join(told))
