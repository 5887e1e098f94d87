"""Vectors that a metric makes little of: of no length, of another length than the one sought, all alike."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import anyio.to_thread

from mcp_server_milvus.diagnosing.findings import Findings, State, shown_score
from mcp_server_milvus.diagnosing.reading import Reading
from mcp_server_milvus.milvus.searching import Search
from mcp_server_milvus.vocabulary import DataType, MetricType

VECTORS = 200
"""Vectors of a sample."""

UNIT, UNLIKE = 0.01, 1.5
"""How far from 1 a normalised vector's length may be; and how many times as long others make a difference."""

MOST_ALIKE = 0.2
"""Share of a sample that may have the same vector without a word."""


async def check_vectors(findings: Findings, reading: Reading, search: Search) -> None:
    """The lengths of the vector that is searched for and of a sample of the stored ones, by the index's metric."""
    field = search.target.field
    if isinstance(search.target.data, str) or field.name in reading.schema.masked or field.is_function_output:
        return
    entities = await reading.sample([field.name], VECTORS)
    stored = [entity[field.name] for entity in entities if entity.get(field.name) is not None]
    if field.type is DataType.SPARSE_FLOAT_VECTOR:
        said = _sparse_remarks(search, stored)
    else:
        said = await anyio.to_thread.run_sync(_dense_remarks, search, stored)
    if missing := len(entities) - len(stored):
        said.append(f"{missing} of {len(entities)} sampled entities have no vector")
    findings.tell("vector", State.WARNING if said else State.OK, "; ".join(said))
    if said:
        findings.advise(
            State.WARNING, f"make vectors of {field.name} by one model, alike for what is stored and sought"
        )


def _sparse_remarks(search: Search, stored: Sequence[Any]) -> list[str]:
    sharing = sum(1 for vector in stored if vector.keys() & search.target.data.keys())
    if sharing or not stored:
        return []
    return [f"it shares a dimension with none of {len(stored)} sampled vectors, so they cannot be hits"]


def _dense_remarks(search: Search, stored: Sequence[Any]) -> list[str]:
    from mcp_server_milvus.milvus.vectors import lengths, most_alike

    kind, metric = search.target.field.type, search.target.metric_type
    (own,) = lengths(kind, [search.target.data])
    others = lengths(kind, stored)
    finite = [length for length in others if math.isfinite(length)]
    told = [
        *(["the vector that is searched for is all zeros: it is near to nothing"] if not own else []),
        *([f"{others.count(0.0)} of {len(others)} sampled vectors are all zeros"] if 0.0 in others else []),
        *([f"{len(others) - len(finite)} sampled vectors have NaN or infinity"] if len(finite) < len(others) else []),
    ]
    alike = most_alike(kind, stored)
    if len(stored) > 1 and alike > max(1, MOST_ALIKE * len(stored)):
        told.append(f"{alike} of {len(stored)} sampled entities have the same vector")
    nonzero = [length for length in finite if length]
    return told + (_lengths_matter(metric, own, nonzero) if own and nonzero else [])


def _lengths_matter(metric: str, own: float, others: Sequence[float]) -> list[str]:
    """What a metric that compares lengths too makes of these."""
    shortest, longest, usual = min(others), max(others), median(others)
    span = f"sampled vectors are {shown_score(shortest)} to {shown_score(longest)} long"
    if metric == MetricType.IP and longest > shortest * (1 + UNIT):
        return [f"metric IP and {span}: long ones win; COSINE compares directions alone"]
    if metric == MetricType.L2 and max(own, usual) > UNLIKE * min(own, usual):
        told = f"metric L2, and the vector that is searched for is {shown_score(own)} long while {span}"
        return [f"{told}: normalise both alike, or use COSINE"]
    return []
