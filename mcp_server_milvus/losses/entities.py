"""Entities that a call would destroy: how many, how large, and the first few of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mcp_server_milvus.app import App
from mcp_server_milvus.compact import json_size
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.filters import any_key
from mcp_server_milvus.milvus.results import Page, plain_value
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.text.visible import visible
from mcp_server_milvus.undo import how_to_undo_deletion
from mcp_server_milvus.vocabulary import DataType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

SAMPLED = 3
SAMPLE_BYTES = 1_536
"""Entities that a preview shows, and bytes of it."""

SHOWN_TEXT = 100
"""Characters of a text in it."""

QUOTED = 200
"""Characters of a name or a filter that a sentence repeats."""

BITS = {
    DataType.FLOAT_VECTOR: 32,
    DataType.FLOAT16_VECTOR: 16,
    DataType.BFLOAT16_VECTOR: 16,
    DataType.INT8_VECTOR: 8,
    DataType.BINARY_VECTOR: 1,
}
"""Bits of one dimension."""

TYPICAL_BYTES = 64
TYPICAL_SPARSE_BYTES = 512
"""Of a value whose size nothing tells: a text or an object, and a sparse vector."""


class InDatabase(Protocol):
    """Arguments that may name a database."""

    @property
    def db_name(self) -> str | None: ...


class OfCollection(InDatabase, Protocol):
    """Arguments that name a collection."""

    @property
    def collection_name(self) -> str: ...


@dataclass(frozen=True)
class Entities:
    """Entities of one collection. `count` is None where the account may not read them, `some` are the first few.

    Of a collection that is not loaded, a server counts only what it has written out.
    """

    schema: CollectionSchema
    count: int | None
    some: tuple[dict[str, Any], ...] = ()
    is_exact: bool = True

    @property
    def bytes(self) -> int | None:
        """Roughly their size."""
        return None if self.count is None else self.count * _mean_size(self.schema, self.some)

    def told(self) -> str:
        """`2,000 entities, about 1.5 MB`: how sentences end."""
        if self.count is None or self.bytes is None:
            return "all its entities, which cannot be counted now"
        plural = "entity" if self.count == 1 else "entities"
        told = f"{self.count:,} {plural}, about {readable(self.bytes)}"
        return told if self.is_exact else f"at least {told}; it is not loaded, and what was written last is not counted"

    def state(self) -> tuple[str | int, ...]:
        """What makes them others: another collection, another number, other first keys."""
        keys = [str(entity[self.schema.primary_key.name]) for entity in self.some]
        return (self.schema.name, self.schema.identity, -1 if self.count is None else self.count, *keys)

    async def undo(self, app: App) -> str:
        """How their deletion could be taken back."""
        is_read = not self.count or bool(self.some)
        return await how_to_undo_deletion(app, self.schema, self.bytes, is_read=is_read)

    def preview(self, app: App) -> dict[str, Any]:
        """What a reader should see of them."""
        page = Page(self.schema, min(SAMPLE_BYTES, app.settings.max_result_bytes))
        masks = app.policy.reach.masks
        for entity in self.some:
            shown = {name: _short(value) for name, value in entity.items() if not masks(self.schema.name, name)}
            if not page.admit(shown):
                break
        counted = {"entity_count": self.count, "bytes": self.bytes, "sample": page.entities or None}
        return {name: value for name, value in counted.items() if value is not None}


async def all_entities(app: App, db_name: str, schema: CollectionSchema, partition_name: str = "") -> Entities:
    """All entities of a collection, or of a partition: those in memory exactly, others as Milvus has last counted."""
    names = [partition_name] if partition_name else None
    async with app.clients.client(db_name) as client:
        named = names if client.backend.has(Feature.LOAD_PARTITIONS) else None
        loaded = await client.if_allowed(client.is_loaded(schema.name, named))
        if loaded and not (set(names or schema.unloaded_partitions) & set(schema.unloaded_partitions)):
            found = await client.if_allowed(matching_entities(client, schema, "", names))
            return found or Entities(schema, None)
        count = await client.if_allowed(_last_count(client, schema, partition_name))
        return Entities(schema, count, is_exact=client.backend.is_lite)


async def matching_entities(
    client: "Client", schema: CollectionSchema, matching: str, partition_names: list[str] | None
) -> Entities:
    await client.catch_up(schema)
    # Without a filter, Milvus Lite counts all partitions.
    whole = client.backend.is_lite and partition_names and not matching
    matched = any_key(schema.primary_key) if whole else matching
    count = await client.count_matching(schema.name, matched, schema, partition_names)
    first = await client.read_in_key_order(
        schema.name,
        matching,
        schema,
        limit=SAMPLED,
        output_fields=schema.output_fields(None),
        partition_names=partition_names,
        consistency_level=None,
    )
    return Entities(schema, count, tuple(dict(entity) for entity in first))


async def _last_count(client: "Client", schema: CollectionSchema, partition_name: str) -> int | None:
    if not partition_name:
        return await client.entity_count(schema.name, loaded=False)
    found = await client.partition_summary(schema, partition_name)
    return found[1] if found else 0


def quoted(text: str, most: int = QUOTED) -> str:
    """The text in quotes that it cannot end, on one line, without what a reader cannot see, and not too long."""
    shown = text if len(text) <= most else f"{text[:most]}…"
    return visible(json.dumps(shown, ensure_ascii=False))


def readable(size: int) -> str:
    for unit, bytes_of_it in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_of_it:
            return f"{size / bytes_of_it:.1f} {unit}"
    return f"{size} bytes"


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= SHOWN_TEXT else f"{value[:SHOWN_TEXT]}…"


def _mean_size(schema: CollectionSchema, some: Sequence[dict[str, Any]]) -> int:
    """Bytes of an entity: its vectors by the schema, the rest as in those that were read."""
    vectors = sum(_vector_bytes(field) for field in schema.vector_fields)
    if not some:
        return vectors + sum(_typical_bytes(schema.by_name[name]) for name in schema.scalar_names)
    sizes = [json_size({name: plain_value(None, value) for name, value in entity.items()}) for entity in some]
    return vectors + sum(sizes) // len(sizes)


def _vector_bytes(field: Field) -> int:
    return TYPICAL_SPARSE_BYTES if field.dim is None else BITS.get(field.type, 32) * field.dim // 8


def _typical_bytes(field: Field) -> int:
    return TYPICAL_BYTES if field.type.is_string or field.type in {DataType.JSON, DataType.ARRAY} else 8
