"""One search in one vector field: by its index, or through everything that matches."""

import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from mcp_server_milvus.errors import NotFound
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW
from mcp_server_milvus.milvus.exact import ExactScores
from mcp_server_milvus.milvus.filters import after_key, both, keys_filter
from mcp_server_milvus.milvus.paging import FieldsByKey, Hit
from mcp_server_milvus.milvus.ranking import Key, Scored, meaning_and_words
from mcp_server_milvus.milvus.scanning import Entity, Source
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.targets import GROUPED_REACH, Target, as_sought
from mcp_server_milvus.milvus.waiting import ReportProgress
from mcp_server_milvus.vocabulary import ConsistencyLevel

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.answers import Found
    from mcp_server_milvus.milvus.client import Client

RANGED_REACH = 5
"""Hits that Milvus Lite ranks for each that it returns within a radius."""

CANDIDATES = 50
"""Hits of each of two searches that become one ranking, at least: with only as many as are wanted in the end, fusing
has little to work with. Source: the measurements beside `ranking.LEXICAL_WEIGHT`."""


@dataclass(frozen=True)
class Search:
    """What is searched for, where, and among which entities. `group_size` is 0 where hits are not grouped."""

    client: "Client"
    schema: CollectionSchema
    source: Source
    target: Target
    group_size: int = 0

    @property
    def fields(self) -> FieldsByKey:
        """What is shown of the hits."""
        return FieldsByKey(self.client, self.schema, self.source)

    @property
    def looks_for_range(self) -> bool:
        """Whether the backend looks for a range among the best few alone, as Milvus Lite does: it is asked for many."""
        return self.target.is_lite and "range_filter" in self.target.params

    async def found(self, limit: int, output_fields: list[str], matching: str = "", **more: Any) -> list["Found"]:
        """The hits of one search in the index, which looks at more entities than it returns."""
        reach = limit + (more.get("offset") or 0)
        if self.target.is_lite:
            reach *= (GROUPED_REACH * self.group_size) or 1
            reach *= RANGED_REACH if "radius" in self.target.params else 1
        return await self.client.search_nearest(
            self.source.collection_name,
            self.target.data,
            self.schema,
            anns_field=self.target.field.name,
            matching=both(self.source.matching, matching),
            limit=limit,
            output_fields=output_fields,
            search_params=self.target.search_params(reach),
            partition_names=self.source.partition_names,
            consistency_level=self.source.consistency_level,
            **more,
        )

    async def keys_and_scores(self, matching: str, limit: int, **more: Any) -> list[Scored]:
        """As `found`, without fields."""
        asked = MAX_WINDOW if self.looks_for_range else limit
        found = await self.found(asked, [self.schema.primary_key.name], matching, **more)
        return [(hit.key, self.target.sign * hit.score) for hit in found[:limit]]

    async def read(self, after: Key | None, limit: int, output_fields: list[str]) -> list[Entity]:
        """Matching entities in the order of their keys."""
        key = self.schema.primary_key
        return await self.client.read_in_key_order(
            self.source.collection_name,
            self.source.matching if after is None else both(self.source.matching, after_key(key, after)),
            self.schema,
            limit=limit,
            output_fields=output_fields,
            partition_names=self.source.partition_names,
            consistency_level=self.source.consistency_level,
        )

    async def within_range(self, exact: ExactScores, report_progress: ReportProgress) -> AsyncGenerator[list[Scored]]:
        """The key and score of every match, within radius and range_filter."""
        done = 0
        async for batch in exact.batches():
            done += len(batch)
            await report_progress(done, None, f"scored {done} entities")
            yield [each for each in batch if self._is_within(each[1])]

    def _is_within(self, score: float) -> bool:
        direction = self.target.direction
        radius, best = self.target.params.get("radius"), self.target.params.get("range_filter")
        is_near = radius is None or direction * score < direction * radius
        return is_near and (best is None or direction * score >= direction * best)


async def own_value(
    client: "Client",
    collection_name: str,
    schema: CollectionSchema,
    key: Key,
    field: Field,
    consistency_level: ConsistencyLevel | None = None,
) -> Any:
    """What an entity is searched by: what it has in the field, or in the text from which Milvus makes that.

    Raises:
        NotFound: there is no such entity, or it has no value there.
    """
    source = schema.text_source_of(field.name)
    name = source.inputs[0] if source else field.name
    matching = keys_filter(schema, [key])
    entities = await client.read_matching(
        collection_name, matching, schema, output_fields=[name], consistency_level=consistency_level
    )
    value = entities[0].get(name) if entities else None
    if value is None:
        raise NotFound(f"id: {schema.name} has no entity {key!r} with a value in {name}")
    return as_sought(value)


@dataclass(frozen=True)
class Fused:
    """Hits of two searches as one ranking, best first, and the entities that came with them.

    `is_whole` says that neither search has more than these.
    """

    hits: list[Hit]
    is_whole: bool
    entities: Mapping[Key, Entity] = field(default_factory=dict[Key, Entity])


async def fused(by_meaning: Search, by_words: Search, depth: int, output_fields: list[str]) -> Fused:
    """The best `depth` hits of each search, run at the same time, as one ranking; the same on every backend."""
    legs = (by_meaning, by_words)
    found: list[list[Found]] = [[] for _ in legs]

    async def run(number: int) -> None:
        found[number] = await legs[number].found(depth, output_fields)

    async with anyio.create_task_group() as tasks:
        for number in range(len(legs)):
            tasks.start_soon(partial(run, number))
    near, matched = (
        [(hit.key, leg.target.sign * hit.score) for hit in hits if math.isfinite(hit.score)]
        for leg, hits in zip(legs, found, strict=True)
    )
    ranking = meaning_and_words(near, matched, metric_type=by_meaning.target.metric_type)
    return Fused(
        [Hit(*each, by_score=False) for each in ranking],
        all(len(hits) < depth for hits in found),
        {hit.key: hit.entity for hits in found for hit in hits},
    )
