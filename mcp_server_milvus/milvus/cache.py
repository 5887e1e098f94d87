"""One `describe_collection` per collection and TTL, however many calls ask."""

import copy
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self, TypeVar

import anyio

from mcp_server_milvus.errors import (
    Conflict,
    DeadlineExceeded,
    Error,
    Interrupted,
    InvalidArgument,
    MilvusFailed,
    NotFound,
    NotLoaded,
    StaleSchema,
    Unavailable,
)
from mcp_server_milvus.milvus.filters import names_in, understood
from mcp_server_milvus.milvus.properties import KeptProperties
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.turns import Turns, is_unused
from mcp_server_milvus.reach import EVERYTHING, Reach

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.pool import ClientPool

Result = TypeVar("Result")


@dataclass
class _Entry:
    schema: CollectionSchema | None = None
    expires: float = 0.0
    attempts: int = 0
    failure: Error | None = None
    lock: anyio.Lock = field(default_factory=anyio.Lock)


@dataclass
class _Looks:
    """How often a schema was known, and how often not; all who see the cache count together."""

    hits: int = 0
    misses: int = 0


class SchemaCache:
    """The schemas of every collection that was used, by database and name (or alias).

    Never wrong for longer than `ttl` seconds when another process changes a collection. Writes are checked again by
    the client that sends them.
    """

    def __init__(self, clients: "ClientPool", kept: KeptProperties, *, ttl: float) -> None:
        self._clients = clients
        self._kept = kept
        self._ttl = ttl
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._creating = Turns()
        self._looks = _Looks()
        self._reach = EVERYTHING
        self._seen = clients

    def seen_by(self, reach: Reach) -> Self:
        """The same schemas, for whoever reaches no more than this. What is known, all know."""
        seen = copy.copy(self)
        seen._reach = reach  # noqa: SLF001  # its own
        seen._seen = self._clients.seen_by(reach)  # noqa: SLF001
        return seen

    @property
    def hits(self) -> int:
        """How often a schema was known."""
        return self._looks.hits

    @property
    def misses(self) -> int:
        """How often Milvus was asked for one."""
        return self._looks.misses

    def creating(self, db_name: str, collection_name: str) -> AbstractAsyncContextManager[None]:
        """What a call holds while it looks for a collection and creates it: two at once would both create it."""
        return self._creating.of((db_name, collection_name))

    async def get(self, db_name: str, collection_name: str) -> CollectionSchema:
        """The schema, from the cache while it is fresh; callers that wait share one request.

        Raises:
            NotFound: there is no such collection, or it is out of reach.
        """
        if self._reach.sees_database(db_name) and self._reach.sees(collection_name):
            schema = await self._known(db_name, collection_name)
            if self._reach.sees(schema.name) and self._has_callers_entities(schema):
                return self._as_seen(schema)
        async with self._seen.client(db_name) as client:
            return await client.describe(collection_name)  # says itself that there is none

    def _has_callers_entities(self, schema: CollectionSchema) -> bool:
        """Whether a tenant can have entities in the collection: it has the fields by which they are told."""
        asked = self._reach.mandatory_filter
        return not asked or schema.enable_dynamic_field or names_in(understood(asked)) <= schema.by_name.keys()

    def _as_seen(self, schema: CollectionSchema) -> CollectionSchema:
        """The schema without what depends on entities of others, and with what is masked."""
        reach = self._reach
        if reach.masked_fields:
            masked = frozenset(each.name for each in schema.fields if reach.masks(schema.name, each.name))
            schema = replace(schema, masked=masked)
        if reach.picks_collections:
            schema = replace(schema, aliases=tuple(filter(reach.sees, schema.aliases)))
        if reach.mandatory_filter:
            uncounted = tuple(replace(each, indexed_entities=None, total_entities=None) for each in schema.indexes)
            schema = replace(schema, indexes=uncounted)
        return schema

    async def _known(self, db_name: str, collection_name: str) -> CollectionSchema:
        key = db_name, collection_name
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
        if entry.schema and entry.expires > time.monotonic():
            self._looks.hits += 1
            return entry.schema
        try:
            return await self._in_turn(db_name, collection_name, entry)
        finally:
            if entry.schema is None and is_unused(entry.lock):
                self._drop(db_name, collection_name, entry)

    async def _in_turn(self, db_name: str, collection_name: str, entry: _Entry) -> CollectionSchema:
        attempts = entry.attempts
        async with entry.lock:
            if entry.failure and entry.attempts > attempts:
                raise entry.failure  # in turn, each of those who waited would wait as long again
            if entry.schema and entry.expires > time.monotonic():
                self._looks.hits += 1
            else:
                self._looks.misses += 1
                entry.schema = await self._described(db_name, collection_name, entry)
                entry.expires = time.monotonic() + self._ttl
            return entry.schema

    def _drop(self, db_name: str, collection_name: str, entry: _Entry) -> None:
        """Keeps no longer what was found, unless it is something else by now."""
        if self._entries.get((db_name, collection_name)) is entry:
            del self._entries[db_name, collection_name]

    async def refresh(self, db_name: str, collection_name: str) -> CollectionSchema:
        """The schema as it is now."""
        self.forget(db_name, collection_name)
        return await self.get(db_name, collection_name)

    async def find(self, db_name: str, collection_name: str) -> CollectionSchema | None:
        """The schema as it is now, or None when there is no such collection."""
        try:
            return await self.refresh(db_name, collection_name)
        except NotFound:
            return None

    async def confirmed(self, db_name: str, collection_name: str) -> CollectionSchema:
        """The schema as it is now, for a call that destroys.

        Raises:
            StaleSchema: it is not the collection that this server has known under the name.
        """
        entry = self._entries.get((db_name, collection_name))
        known = entry.schema if entry else None
        current = await self.refresh(db_name, collection_name)
        if known and known.shape != current.shape:
            raise StaleSchema(collection_name)
        return current

    async def confirmed_itself(self, db_name: str, collection_name: str) -> CollectionSchema:
        """As `confirmed`, for a call that destroys what an alias may have come to mean meanwhile.

        Raises:
            InvalidArgument: the name is an alias.
            StaleSchema: it is not the collection that this server has known under the name.
        """
        schema = await self.confirmed(db_name, collection_name)
        if schema.name != collection_name:
            raise InvalidArgument(
                f"{collection_name!r} is an alias of {schema.name!r}", hint="name the collection itself"
            )
        return schema

    def forget(self, db_name: str, collection_name: str) -> None:
        """Drops what is known of a collection, under its name and its aliases."""
        known = self._entries.pop((db_name, collection_name), None)
        name = known.schema.name if known and known.schema else collection_name
        stale = [
            key
            for key, entry in self._entries.items()
            if key[0] == db_name and entry.schema and entry.schema.name == name
        ]
        for key in stale:
            del self._entries[key]

    def forget_database(self, db_name: str) -> None:
        """Drops what is known of every collection of a database."""
        for key in [key for key in self._entries if key[0] == db_name]:
            del self._entries[key]

    async def used_by(
        self, db_name: str, collection_name: str, use: Callable[[CollectionSchema], Awaitable[Result]]
    ) -> Result:
        """What `use` returns for the schema; when it fails and the collection has changed meanwhile, once more.

        `use` must have changed nothing when it raises InvalidArgument, NotFound, Conflict or MilvusFailed.
        """
        schema = await self.get(db_name, collection_name)
        try:
            return await use(schema)
        except (NotLoaded, Interrupted):
            raise
        except (InvalidArgument, NotFound, Conflict, MilvusFailed):
            current = await self.refresh(db_name, collection_name)
            if current == schema:
                raise
        return await use(current)

    async def _described(self, db_name: str, collection_name: str, entry: _Entry) -> CollectionSchema:
        entry.failure = None
        try:
            async with self._clients.client(db_name) as client:
                described = await client.describe(collection_name)
            return await self._kept.completed(db_name, described)
        except (NotFound, Unavailable, DeadlineExceeded) as failure:
            if isinstance(failure, NotFound):
                self._drop(db_name, collection_name, entry)
            entry.failure = type(failure)(failure.message, hint=failure.hint)  # without the frames of this call
            raise
        finally:
            entry.attempts += 1
