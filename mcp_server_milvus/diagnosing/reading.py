"""What is read for a diagnosis: counts, and bounded samples; never a whole collection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_server_milvus.milvus.answers import COUNT, counted
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW
from mcp_server_milvus.milvus.exact import entities_at_once
from mcp_server_milvus.milvus.filters import any_key, both, keys_filter
from mcp_server_milvus.milvus.scanning import largest_entity
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.vocabulary import ConsistencyLevel

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

SAMPLE, SAMPLE_BYTES = 1_000, 16 * 1024 * 1024
"""Entities of a sample, and bytes that they cannot exceed."""

MOST_PARTITIONS = 32
"""Partitions that are looked into one by one."""


@dataclass(frozen=True)
class Reading:
    """A loaded collection, and the partitions in which is searched. `most` entities are read in one go at most."""

    client: "Client"
    schema: CollectionSchema
    collection_name: str
    partition_names: list[str] | None
    most: int

    async def count(self, matching: str) -> int:
        """How many entities of these partitions match, as a search sees them."""
        return await self.count_in(matching, self.partition_names)

    async def count_in(self, matching: str, partition_names: list[str] | None) -> int:
        """How many entities of other partitions match; of None, of all."""
        if self.client.backend.is_lite and partition_names and not matching:
            matching = any_key(self.schema.primary_key)  # without a filter, Milvus Lite counts all partitions
        return await self.client.count_matching(self.collection_name, matching, self.schema, partition_names)

    async def count_written(self) -> int:
        """How many entities of these partitions there are, whoever wrote them and however lately."""
        found = await self.client.read_matching(
            self.collection_name,
            "",
            self.schema,
            output_fields=[COUNT],
            partition_names=self.partition_names,
            consistency_level=ConsistencyLevel.STRONG,
        )
        return counted(found)

    async def where(self, matching: str) -> list[tuple[str, int]]:
        """The other partitions in which entities match, and how many."""
        others = [name for name in self.schema.partition_names if name not in (self.partition_names or ())]
        readable = [name for name in others if name not in self.schema.unloaded_partitions][:MOST_PARTITIONS]
        counts = [(name, await self.count_in(matching, [name])) for name in readable]
        return [(name, count) for name, count in counts if count]

    async def sample(self, names: Sequence[str], most: int = SAMPLE) -> list[dict[str, Any]]:
        """Some entities of these partitions, with these fields."""
        vectors = [field for field in self.schema.vector_fields if field.name in names]
        at_once = [entities_at_once(field) for field in vectors]
        limit = min(most, self.most, MAX_WINDOW, SAMPLE_BYTES // largest_entity(self.schema, names) or 1, *at_once)
        return await self.client.read_matching(
            self.collection_name,
            "",
            self.schema,
            output_fields=list(names),
            partition_names=self.partition_names,
            limit=limit,
        )

    async def entity(self, key: int | str, names: Sequence[str]) -> dict[str, Any]:
        """The entity of any partition that has the key, with these fields; empty if there is none."""
        matching = keys_filter(self.schema, [key])
        found = await self.client.read_matching(self.collection_name, matching, self.schema, output_fields=list(names))
        return found[0] if found else {}

    async def matches(self, key: int | str, matching: str) -> bool:
        """Whether the entity, in whatever partition it is, matches."""
        return await self.count_in(both(matching, keys_filter(self.schema, [key])), None) > 0
