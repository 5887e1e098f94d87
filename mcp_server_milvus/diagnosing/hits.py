"""The search itself: how many hits there are, and whether radius or the index is why there are not more."""

from dataclasses import replace

from mcp_server_milvus.diagnosing.findings import Findings, State, shown_score
from mcp_server_milvus.milvus.searching import Search


def unbounded(search: Search) -> Search:
    """The search without a radius."""
    params = {name: value for name, value in search.target.params.items() if name != "radius"}
    return replace(search, target=replace(search.target, params=params))


async def check_radius(findings: Findings, search: Search) -> None:
    """Whether the bound leaves any score, and the best score that there is."""
    radius = search.target.params.get("radius")
    if radius is None:
        return
    if await search.keys_and_scores("", 1) or not (found := await unbounded(search).keys_and_scores("", 1)):
        findings.tell("radius")
        return
    bound, better = search.target.sign * radius, "smaller" if search.target.direction > 0 else "larger"
    told = f"the best score is {shown_score(found[0][1])} ({search.target.metric_type}, {better} is better)"
    findings.tell("radius", State.PROBLEM, f"{told}, which radius {shown_score(bound)} excludes")
    findings.search_with(State.PROBLEM, "search without radius", radius=None)


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
