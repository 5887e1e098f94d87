"""The search itself: how many hits there are, and whether radius or the index is why there are not more."""

from dataclasses import replace

from mcp_server_milvus.diagnosing.findings import Findings, State, shown_score
from mcp_server_milvus.milvus.searching import Search

BOUNDS = frozenset({"radius", "range_filter"})


def unbounded(search: Search) -> Search:
    """The search without radius and range_filter."""
    params = {name: value for name, value in search.target.params.items() if name not in BOUNDS}
    return replace(search, target=replace(search.target, params=params))


async def check_radius(findings: Findings, search: Search) -> None:
    """Whether the bounds leave any score, and the best score that there is."""
    sign, direction = search.target.sign, search.target.direction
    radius, best = (search.target.params.get(name) for name in ("radius", "range_filter"))
    if radius is None:
        return
    radius, best = sign * radius, None if best is None else sign * best
    order = f"{search.target.metric_type}, where {'smaller' if direction > 0 else 'larger'} is better"
    if best is not None and direction * best >= direction * radius:
        told = f"no score is worse than range_filter {shown_score(best)} and better than radius {shown_score(radius)}"
        findings.tell("radius", State.PROBLEM, f"{told}: {order}")
        findings.search_with(State.PROBLEM, "exchange the bounds", radius=best, range_filter=radius)
        return
    if await search.keys_and_scores("", 1):
        findings.tell("radius")
        return
    found = await unbounded(search).keys_and_scores("", 1)
    if not found:
        findings.tell("radius", State.OK, "it excludes nothing: there is no hit without it either")
        return
    told = f"the best score is {shown_score(found[0][1])}, which radius {shown_score(radius)} or range_filter excludes"
    findings.tell("radius", State.PROBLEM, f"{told}: {order}")
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
