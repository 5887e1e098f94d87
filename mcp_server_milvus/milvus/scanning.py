"""Every entity that matches a filter, page by page in the order of the keys: for what Milvus cannot answer itself.

A page costs Milvus Lite a look at the whole collection, so pages grow until they have many entities or many bytes.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mcp_server_milvus.errors import MilvusFailed
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW, Backend
from mcp_server_milvus.milvus.entities import entity_bytes
from mcp_server_milvus.milvus.filters import after_key, both
from mcp_server_milvus.milvus.schema import LARGEST_VALUE, CollectionSchema
from mcp_server_milvus.milvus.waiting import ReportProgress
from mcp_server_milvus.vocabulary import ConsistencyLevel

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

Entity = dict[str, Any]

FIRST_PAGE = 1_024
LITE_PAGE = 65_536
"""Entities of the first page of a scan, and at most of a page on Milvus Lite. Others allow a window's entities."""

PAGE_BYTES = 8 * 1024 * 1024
"""Bytes that a page is meant to have, as JSON, by the size of the entities in the page before."""

LARGEST_PAGE_BYTES = 256 * 1024 * 1024
"""Bytes that a page cannot exceed, however much larger its entities are than those before."""

WEIGHED = 16
"""Entities of a page that its size is estimated from."""


@dataclass(frozen=True)
class Source:
    """Which entities are read, and what of them."""

    collection_name: str
    matching: str
    output_fields: Sequence[str]
    partition_names: list[str] | None = None
    consistency_level: ConsistencyLevel | None = None


async def pages_in_key_order(
    client: "Client", schema: CollectionSchema, source: Source, *, first: int, most: int, after: int | str | None = None
) -> AsyncGenerator[list[Entity]]:
    """The entities after a key, `first` in the first page and never more than `most`.

    A short page is not the last: a server drops duplicates after cutting. Of entities with the same key, one comes.

    Raises:
        StaleSchema: the name belongs to another collection now, whose entities a page may have.
        MilvusFailed: the entities do not come after the key, so that there would be no end.
    """
    key = schema.primary_key
    at_once = first
    while True:
        entities = await client.read_in_key_order(
            source.collection_name,
            source.matching if after is None else both(source.matching, after_key(key, after)),
            schema,
            limit=at_once,
            output_fields=list(source.output_fields),
            partition_names=source.partition_names,
            consistency_level=source.consistency_level,
        )
        await client.confirm(source.collection_name, schema)
        if not entities:
            return
        after = _reached(entities, key.name, after)
        yield entities
        if len(entities) < at_once and not client.backend.keeps_duplicate_keys:
            return
        if at_once < most:
            at_once = max(1, min(2 * at_once, most, PAGE_BYTES // mean_size(entities)))


@dataclass
class Scan:
    """One pass over the entities of a source, at most `most` of them. Each page but the first may be large."""

    client: "Client"
    schema: CollectionSchema
    source: Source
    most: int
    report_progress: ReportProgress
    scanned: int = 0
    complete: bool = True

    async def pages(self) -> AsyncGenerator[list[Entity]]:
        """The entities in the order of their keys; afterwards `complete` says whether these were all that match."""
        await self.client.catch_up(self.schema)
        largest = largest_page(self.schema, self.client.backend, self.source.output_fields)
        pages = pages_in_key_order(self.client, self.schema, self.source, first=min(FIRST_PAGE, largest), most=largest)
        async with aclosing(pages):
            async for entities in pages:
                room = self.most - self.scanned
                self.complete = len(entities) <= room
                if room:
                    yield entities[:room]
                    self.scanned += min(len(entities), room)
                    await self.report_progress(self.scanned, None, f"{self.scanned} entities read")
                if not self.complete:
                    return

    def limits(self, what: str) -> list[str]:
        """What the bound has cut from the answer, in a sentence; nothing when it was not reached."""
        if self.complete:
            return []
        read = f"only the first {self.scanned} matching entities, by primary key, were {what}"
        return [f"{read}: narrow the filter, or start the server with a larger --max-scan"]


def largest_page(schema: CollectionSchema, backend: Backend, output_fields: Sequence[str]) -> int:
    """How many entities a page may have, however large the values of these fields are."""
    worst = largest_entity(schema, output_fields)
    return min(LITE_PAGE if backend.is_lite else MAX_WINDOW, max(1, LARGEST_PAGE_BYTES // max(1, worst)))


def largest_entity(schema: CollectionSchema, output_fields: Sequence[str]) -> int:
    """Bytes that these fields of one entity cannot exceed, but for its vectors."""
    known = schema.by_name
    return sum([known[name].most_bytes if name in known else LARGEST_VALUE for name in output_fields])


def _reached(entities: Sequence[Entity], key_name: str, after: int | str | None) -> int | str:
    """The last key, which is after the one before."""
    last: Any = entities[-1].get(key_name)
    if isinstance(last, int | str) and (after is None or (type(last) is type(after) and last > cast("Any", after))):
        return last
    raise MilvusFailed("Milvus answered with entities that do not come after those before", hint="call again")


def mean_size(entities: Sequence[Entity]) -> int:
    """Bytes of an entity, roughly, from a few of them."""
    weighed = entities[:: max(1, len(entities) // WEIGHED)]
    return 1 + sum(map(entity_bytes, weighed)) // len(weighed)
