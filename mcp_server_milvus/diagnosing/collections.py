"""The collection itself: its indexes, its partitions, its entities, and whether all that was written is seen."""

from typing import TYPE_CHECKING

from mcp_server_milvus.diagnosing.findings import Findings, State
from mcp_server_milvus.diagnosing.reading import Reading
from mcp_server_milvus.vocabulary import ConsistencyLevel

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.schema import CollectionSchema, Index

SHOWN_PARTITIONS = 10
"""Partitions that a finding names."""


def check_indexes(findings: Findings, schema: "CollectionSchema", field_names: list[str]) -> bool:
    """Whether each of these vector fields has an index, without which nothing can be searched, or even loaded."""
    missing = [name for name in field_names if schema.index_of(name) is None]
    for name in missing:
        findings.tell("index", State.PROBLEM, f"{schema.by_name[name]} has no index")
        findings.advise(State.PROBLEM, "build the index", "build_index", field_name=name)
    unfinished = [index for index in schema.indexes if index.field_name in field_names and _problem(index)]
    for index in unfinished:
        failed = index.state == "failed"
        findings.tell("index", State.PROBLEM if failed else State.WARNING, f"on {index.field_name}: {_problem(index)}")
        if failed:
            arguments = {"field_name": index.field_name, "replace": True}
            findings.advise(State.PROBLEM, "build it again", "build_index", **arguments)
    if not missing and not unfinished:
        findings.tell("index")
    return not missing


def _problem(index: "Index") -> str:
    """What is wrong with an index; empty if nothing is."""
    if index.state == "failed":
        return f"it could not be built: {index.failure}"
    if index.state in {"waiting", "building"}:
        counted = index.total_entities is not None
        done = f", {index.indexed_entities} of {index.total_entities} entities are done" if counted else ""
        return f"{index.state}{done}: the others are searched one by one, which is slower"
    return ""


def check_partitions(findings: Findings, schema: "CollectionSchema", partition_names: list[str] | None) -> bool:
    """Whether the collection has every partition that is named."""
    known = schema.partition_names
    if missing := [name for name in partition_names or () if known and name not in known]:
        there = ", ".join(known[:SHOWN_PARTITIONS])
        findings.tell("partitions", State.PROBLEM, f"there is no partition {missing[0]!r}; partitions: {there}")
        findings.search_with(State.PROBLEM, "search in all partitions", partition_names=None)
    return not missing


async def check_consistency(findings: Findings, reading: Reading, seen: int) -> int:
    """How many entities there are that a search does not see yet. Milvus Lite shows all at once."""
    level = reading.schema.consistency_level or ConsistencyLevel.BOUNDED
    is_strong = reading.client.backend.is_lite or level == ConsistencyLevel.STRONG
    unseen = 0 if is_strong else await reading.count_written() - seen
    if not unseen:
        findings.tell("consistency")
        return 0
    told = f"{abs(unseen)} {'fewer' if unseen > 0 else 'more'} entities are seen than there are"
    findings.tell("consistency", State.PROBLEM, f"{told}: others wrote a moment ago, and reads at level {level} lag")
    findings.search_with(State.PROBLEM, "see every write", consistency_level=ConsistencyLevel.STRONG.value)
    return max(0, unseen)


async def check_entities(findings: Findings, reading: Reading, seen: int, unseen: int) -> None:
    """Whether there is anything that a search can find."""
    if seen:
        findings.tell("entities", State.OK, f"{seen}{' in these partitions' if reading.partition_names else ''}")
    elif unseen:
        findings.tell("entities", State.PROBLEM, f"none is seen yet, of {unseen}")
    elif reading.partition_names and (found := await reading.where("")):
        findings.tell("entities", State.PROBLEM, f"these partitions are empty; entities are in {_counts(found)}")
        findings.search_with(State.PROBLEM, "search where entities are", partition_names=[found[0][0]])
    else:
        reach = "" if reading.client.counts_all else ", as far as this caller sees"
        findings.tell("entities", State.PROBLEM, f"there are none{reach}")
        findings.advise(State.PROBLEM, "insert entities first; or it is another collection", "list_collections")


async def check_whereabouts(findings: Findings, reading: Reading, matching: str, matched: int) -> None:
    """Where the matches are, if not in the partitions that are named."""
    if not reading.partition_names:
        return
    if matched or not (found := await reading.where(matching)):
        findings.tell("partitions")
        return
    findings.tell("partitions", State.PROBLEM, f"none of these has a match; matches are in {_counts(found)}")
    findings.search_with(State.PROBLEM, "search where the matches are", partition_names=[found[0][0]])


def _counts(found: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in found[:SHOWN_PARTITIONS])
