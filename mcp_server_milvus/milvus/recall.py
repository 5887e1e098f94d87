"""What an index misses: the answers of a search for stored vectors, held against those of a look at every entity.

A stored vector is not counted among its own hits. A hit counts if no more than `limit` entities have a better score:
of several with the same score, any will do.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import anyio.to_thread

from mcp_server_milvus.errors import LimitExceeded, NotSupported
from mcp_server_milvus.milvus.exact import NUMBERS_AT_ONCE, SPARSE_NUMBERS, entities_at_once
from mcp_server_milvus.milvus.filters import keys_filter
from mcp_server_milvus.milvus.ranking import Key
from mcp_server_milvus.milvus.scanning import Entity, Scan, Source, pages_in_key_order
from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Index
from mcp_server_milvus.milvus.targets import Target, as_sought
from mcp_server_milvus.milvus.waiting import ReportProgress
from mcp_server_milvus.vocabulary import DataType, MetricType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.answers import Found
    from mcp_server_milvus.milvus.client import Client

ENOUGH = 0.95
"""The recall from which on an index is taken to be good."""

KEPT_HITS = 50_000
"""Hits of one setting that are kept: fewer vectors are sampled where more hits are asked for."""

SAME_SCORE, SAME_SIZE = 1e-6, 1e-12
"""Scores that differ less are the same, for indexes that count with 32 bits: a part of the score, and of the square of
the vector's length."""

MEASURABLE = frozenset(
    {MetricType.COSINE, MetricType.IP, MetricType.L2, MetricType.HAMMING, MetricType.JACCARD},
)

EF, NPROBE, SEARCH_LIST = (1, 2, 4, 8, 16), (1, 4, 16, 64, 256), (1, 2, 4, 8)
"""Values of the parameter by which an index looks at more: of ef and search_list, as multiples of the limit."""

LARGEST_NPROBE = 65_536
SEARCH_LIST_BOUND = 200
"""Up to here DISKANN's search_list may be for any limit; above it, to 10 times the limit. Source: its documentation."""

LARGER_GRAPH = "build the index again with larger M and efConstruction"
FINER_CODES = "its codes lose what no search parameter brings back: use HNSW or IVF_FLAT, or search with exact: true"
REBUILDS = {
    "HNSW": LARGER_GRAPH,
    "AUTOINDEX": "build an HNSW index with larger M and efConstruction than its own",
    "HNSW_SQ": f"{LARGER_GRAPH}, or HNSW: {FINER_CODES}",
    "IVF_FLAT": "search with a larger nprobe, or build the index again with a smaller nlist, or use HNSW",
    "BIN_IVF_FLAT": "search with a larger nprobe, or build the index again with a smaller nlist",
    "DISKANN": "build it again with larger max_degree and search_list_size",
    "SCANN": "search with larger nprobe and reorder_k, or use HNSW",
}
"""What to do where no parameter is enough, by index type."""


def settings_of(target: Target, index: Index, limit: int) -> list[dict[str, Any]]:
    """The search parameters to compare, those of the server first, then by how much is looked at."""
    kind = target.index_type
    if kind.startswith("HNSW") or kind == "AUTOINDEX":
        tried = [{"ef": limit * times} for times in EF]
    elif "IVF" in kind:
        tried = [{"nprobe": number} for number in _probes(index)]
    elif kind == "SCANN":
        tried = [{"nprobe": number, "reorder_k": 4 * limit} for number in _probes(index)]
    elif kind == "DISKANN":
        most = max(SEARCH_LIST_BOUND, 10 * limit)
        tried = [{"search_list": limit * times} for times in SEARCH_LIST if limit * times <= most]
    elif kind.startswith("SPARSE") and not target.is_lite:
        tried = [{"drop_ratio_search": ratio} for ratio in (0.2, 0.4)]
    else:
        tried = list[dict[str, Any]]()
    return [{}, *tried]


def _probes(index: Index) -> list[int]:
    """How many clusters to look into: a few, more, and all of them, with which only codes can still lose a hit."""
    told = str(index.params.get("nlist", ""))
    nlist = int(told) if told.isdecimal() else 128
    return [*(number for number in NPROBE if number < nlist), min(nlist, LARGEST_NPROBE)]


def require_measurable(schema: CollectionSchema, target: Target) -> None:
    """Nothing, if the field's vectors can be read, and scored here.

    Raises:
        NotSupported: they cannot.
    """
    if schema.text_source_of(target.field.name):
        raise NotSupported(
            f"{target.field} is made inside Milvus, which does not return its vectors",
            hint="name another vector field in anns_field; a BM25 search scores every match anyway",
        )
    if target.metric_type not in MEASURABLE:
        known = ", ".join(sorted(MEASURABLE))
        raise NotSupported(f"{target.field}: {target.metric_type} cannot be computed here; only {known}", hint="")


@dataclass(frozen=True)
class Sampled:
    """A stored vector as a search takes it, and whose it is."""

    key: Key
    vector: Any


@dataclass(frozen=True)
class Measured:
    """One setting: the hits of each sampled vector, and the milliseconds of each search."""

    params: Mapping[str, Any]
    found: list[list[Key]] = field(default_factory=list[list[Key]])
    milliseconds: list[float] = field(default_factory=list[float])

    @property
    def median(self) -> float:
        """Of the milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def p95(self) -> float:
        """The milliseconds within which 95 of 100 searches were answered."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


@dataclass
class Progress:
    """How far a measurement is: keys read, then searches made, then vectors scored."""

    report: ReportProgress
    total: int = 0
    done: int = 0

    async def read(self, scanned: float, _: float | None, message: str | None) -> None:
        """What the scan says that reads the keys, which is the beginning."""
        self.done = int(scanned)
        await self.report(self.done, self.total or None, message)

    async def advance(self, steps: int, message: str) -> None:
        """So many more are done."""
        self.done += steps
        await self.report(self.done, max(self.total, self.done), message)


@dataclass(frozen=True)
class Measuring:
    """What is measured: searches in one field for `limit` hits among the entities of a source."""

    client: "Client"
    schema: CollectionSchema
    source: Source
    field: Field
    limit: int
    max_scan: int
    progress: Progress

    async def count(self) -> int:
        """How many entities match.

        Raises:
            LimitExceeded: they are more than may be read in one call.
        """
        source = self.source
        count = await self.client.count_matching(source.collection_name, source.matching, self.schema, None)
        if count > self.max_scan:
            raise LimitExceeded(
                f"{count} entities match; this server reads at most {self.max_scan} in one call",
                hint="measure under a filter that fewer match; or the operator starts the server with a larger"
                " --max-scan",
            )
        return count

    async def sampled(self, count: int, asked: int) -> list[Sampled]:
        """Vectors of entities that are as far apart as can be, in the order of the keys: at most so many."""
        numbers = self.field.dim or SPARSE_NUMBERS
        most = max(1, min(asked, count, NUMBERS_AT_ONCE // numbers, KEPT_HITS // self.limit))
        key = self.schema.primary_key.name
        places = sorted({int((number + 0.5) * count / most) for number in range(most)})
        keys: list[Key] = []
        scan = Scan(self.client, self.schema, self._reading(key), self.max_scan, self.progress.read)
        async with aclosing(scan.pages()) as pages:
            async for entities in pages:
                first, last = scan.scanned, scan.scanned + len(entities)
                keys += [entities[place - first][key] for place in places if first <= place < last]
        return await self._vectors_of(keys) if keys else []

    async def _vectors_of(self, keys: list[Key]) -> list[Sampled]:
        key, name = self.schema.primary_key.name, self.field.name
        found = await self.client.read_matching(
            self.source.collection_name, keys_filter(self.schema, keys), self.schema, output_fields=[key, name]
        )
        vectors = {entity[key]: as_sought(entity.get(name)) for entity in found}
        return [Sampled(each, vectors[each]) for each in keys if vectors.get(each) is not None]

    async def warm_up(self, target: Target, sampled: Sequence[Sampled]) -> None:
        """Makes one search that does not count: the first waits for what the others find done."""
        for each in sampled[:1]:
            await self._nearest(each.vector, target.search_params(self.limit + 1))

    async def measured(self, targets: Sequence[Target], sampled: Sequence[Sampled]) -> list[Measured]:
        """The answers of the index, one search after the other, by setting.

        Each vector is searched for with every setting before the next one: what changes meanwhile, as an index that is
        still being built, changes for all of them.
        """
        searches = [target.search_params(self.limit + 1) for target in targets]  # the entity itself is found too
        measured = [Measured(search["params"]) for search in searches]
        for each in sampled:
            for search, setting in zip(searches, measured, strict=True):
                started = time.perf_counter()
                hits = await self._nearest(each.vector, search)
                setting.milliseconds.append(1000 * (time.perf_counter() - started))
                setting.found.append([hit.key for hit in hits if hit.key != each.key][: self.limit])
                await self.progress.advance(1, "searching the index")
        return measured

    async def _nearest(self, vector: Any, search_params: Mapping[str, Any]) -> list["Found"]:
        return await self.client.search_nearest(
            self.source.collection_name,
            vector,
            self.schema,
            anns_field=self.field.name,
            matching=self.source.matching,
            limit=self.limit + 1,
            output_fields=[self.schema.primary_key.name],
            search_params=search_params,
            partition_names=None,
            consistency_level=None,
        )

    async def compare(self, answers: "ExactAnswers") -> None:
        """Gives every matching entity to the exact answers, some megabytes at a time."""
        at_once = entities_at_once(self.field)
        reading = self._reading(self.schema.primary_key.name, self.field.name)
        async with aclosing(
            pages_in_key_order(self.client, self.schema, reading, first=at_once, most=at_once)
        ) as pages:
            async for entities in pages:
                await anyio.to_thread.run_sync(answers.add, entities, limiter=self.client.computing)
                await self.progress.advance(len(entities), "scoring every entity")

    def _reading(self, *names: str) -> Source:
        return Source(self.source.collection_name, self.source.matching, names)


@dataclass
class ExactAnswers:
    """The best scores of each sampled vector among all entities that are added, and the scores of the hits.

    Scores are kept with the sign with which a smaller one is better.
    """

    target: Target
    key_name: str
    sampled: Sequence[Sampled]
    found: Sequence[Sequence[Sequence[Key]]]
    """By setting and sampled vector, the hits whose scores are wanted."""
    limit: int
    scores: list[dict[Key, float]] = field(init=False)
    best: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.scores = [{} for _ in self.sampled]
        self.best = [[] for _ in self.sampled]

    @cached_property
    def _wanted(self) -> dict[Key, set[int]]:
        """By key, the sampled vectors for which it was found, or whose own it is."""
        wanted: dict[Key, set[int]] = {each.key: {line} for line, each in enumerate(self.sampled)}
        for setting in self.found:
            for line, keys in enumerate(setting):
                for key in keys:
                    wanted.setdefault(key, set()).add(line)
        return wanted

    def add(self, entities: Sequence[Entity]) -> None:
        """Takes the scores of some entities."""
        name = self.target.field.name
        given = [each for each in entities if each.get(name) is not None]
        if not given or not self.sampled:
            return
        scores = self._scores([as_sought(each[name]) for each in given])
        for column, entity in enumerate(given):
            key = entity[self.key_name]
            for line in self._wanted.get(key, ()):
                self.scores[line][key] = float(scores[line, column])
                if key == self.sampled[line].key:
                    scores[line, column] = float("inf")
        for line, kept in enumerate(self.best):
            self.best[line] = _smallest([*kept, *_first(scores[line], self.limit)], self.limit)

    def _scores(self, stored: Sequence[Any]) -> Any:
        """With infinity in place of what is no score."""
        import numpy as np

        from mcp_server_milvus.milvus.vectors import score_matrix, sparse_score_matrix

        kind, sought = self.target.field.type, [each.vector for each in self.sampled]
        if kind is DataType.SPARSE_FLOAT_VECTOR:
            scores = sparse_score_matrix(sought, stored)
        else:
            scores = score_matrix(kind, self.target.metric_type, sought, stored)
        scores = self.target.direction * scores
        return np.where(np.isfinite(scores), scores, np.inf)

    def recall(self, measured: Measured) -> float | None:
        """The part of the exact answers that a setting found, on average; None where there were none to find."""
        parts = [part for line, keys in enumerate(measured.found) if (part := self._recall_of(line, keys)) is not None]
        return statistics.fmean(parts) if parts else None

    def _recall_of(self, line: int, keys: Sequence[Key]) -> float | None:
        best = self.best[line]
        if not best:
            return None
        worst = best[-1] + SAME_SCORE * abs(best[-1]) + SAME_SIZE * _square(self.sampled[line].vector)
        right = {key for key in keys if self.scores[line].get(key, float("inf")) <= worst}
        return min(len(right), len(best)) / len(best)


def _square(vector: Any) -> float:
    """The square of its length; of packed bytes, nothing: their scores are whole numbers, or far apart."""
    if isinstance(vector, bytes):
        return 0.0
    numbers = cast("dict[int, float]", vector).values() if isinstance(vector, dict) else vector
    return sum(float(number) ** 2 for number in cast("Sequence[float]", numbers))


def _first(line: Any, count: int) -> list[float]:
    """The smallest scores of one line, in no order."""
    import numpy as np

    return [float(score) for score in (line if len(line) <= count else np.partition(line, count - 1)[:count])]


def _smallest(scores: Sequence[float], count: int) -> list[float]:
    return sorted(score for score in scores if score != float("inf"))[:count]


def advice(target: Target, points: Sequence[tuple[Mapping[str, Any], float, float]], *, own: bool) -> str:
    """What to do, in a sentence. A point is a setting, its recall and its median; `own` are a caller's settings."""
    if not points:
        return "nothing to measure: fewer than two entities match"
    if not target.is_approximate and all(recall == 1 for _, recall, _ in points):
        return f"the index is exact ({target.index_type}): nothing is missed, and there is nothing to tune"
    good = [each for each in points if each[1] >= ENOUGH]
    if good:
        params, recall, _ = min(good, key=lambda each: each[2]) if own else good[0]
        told = f"params {dict(params)}" if params else "no params at all (the server's own)"
        return f"search with {told}: the cheapest of these that finds {ENOUGH:.0%} or more ({recall:.1%})"
    params, recall, _ = max(points, key=lambda each: each[1])
    rebuild = REBUILDS.get(target.index_type, FINER_CODES)
    return f"no setting finds {ENOUGH:.0%}; the best is {dict(params)} with {recall:.1%}: {rebuild}"
