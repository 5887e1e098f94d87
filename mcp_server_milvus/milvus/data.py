"""Entities in and out: a client that sees every write of this process, and writes only what fits the collection there.

What Milvus Lite and Milvus 2.3.5 do otherwise was seen with pymilvus 3.0.2; `tests/milvus/test_quirks.py` shows it.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pymilvus has no types; what leaves this file has.

import math
import time
from array import array
from collections.abc import Awaitable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import grpc
from pymilvus import AnnSearchRequest, FunctionType, RRFRanker, WeightedRanker
from pymilvus import Function as MilvusFunction
from pymilvus.client.abstract import MutationResult
from pymilvus.client.prepare import Prepare
from pymilvus.client.ts_utils import construct_guarantee_ts, get_eventually_ts
from pymilvus.client.types import ConsistencyLevel as MilvusConsistencyLevel
from pymilvus.client.utils import check_status
from pymilvus.exceptions import MilvusException

from mcp_server_milvus.errors import AlreadyExists, Conflict, Denied, NotFound, NotLoaded, NotSupported, StaleSchema
from mcp_server_milvus.milvus.answers import COUNT, Found, counted, entities_in, hits_in
from mcp_server_milvus.milvus.filters import keys_filter, literal, portable_key
from mcp_server_milvus.milvus.key_reads import KeyReads
from mcp_server_milvus.milvus.packing import vectors_apart, write_request
from mcp_server_milvus.milvus.quirks import Mended
from mcp_server_milvus.milvus.ranking import Ranker
from mcp_server_milvus.milvus.scanning import largest_page
from mcp_server_milvus.milvus.schema import DEFAULT_PARTITION, CollectionSchema, parse_schema
from mcp_server_milvus.milvus.search_requests import search_request
from mcp_server_milvus.milvus.targets import Leg
from mcp_server_milvus.milvus.unpacking import hits_of
from mcp_server_milvus.milvus.writing import Operation
from mcp_server_milvus.vocabulary import ConsistencyLevel, DataType

SHOWN_LENGTH = 40
"""Characters of a wrong value that a message repeats."""

SHOWN_KEYS = 5
"""Keys that a message names."""

CONFIRMED_FOR = 1.0
"""Seconds for which the indexes of a collection are taken to be those that they were: asking costs a request."""

UNKNOWN_TIME = -1
"""In place of the time of the last write: reads see everything then, at some cost."""


LEFT_TO_THE_COLLECTION: Mapping[str, Any] = MappingProxyType(
    {"use_default_consistency": True, "guarantee_timestamp": get_eventually_ts()}
)
"""What a read says that asks for no consistency of its own."""

Result = TypeVar("Result")


class DataClient(Mended):
    """The part of the client that describes, writes, reads and searches."""

    last_writes: MutableMapping[str, int]
    computing: anyio.CapacityLimiter
    """What takes turns to compute in threads."""
    confirmed: MutableMapping[str, tuple[str, float]]
    """By collection, the digest of its indexes and when they had it."""
    key_reads: KeyReads

    async def describe(self, collection_name: str) -> CollectionSchema:
        """The schema with its functions and indexes, as it is now."""
        partitions = await self.if_allowed(self._partitions(collection_name))
        handler = await self.handler()
        context = self.call_context
        described = await handler.describe_collection(collection_name, context=context)
        indexes = await handler.list_indexes(collection_name, context=context)
        schema = parse_schema(described, indexes)
        if partitions is None:
            return replace(schema, identity=f"collection {described['collection_id']}")
        names = tuple(partitions.partition_names)
        return replace(
            schema,
            identity=_identity(partitions),
            index_digest=_index_digest(partitions),
            partition_names=names,
            unloaded_partitions=await self._unloaded(schema, names),
        )

    async def _partitions(self, collection_name: str, *, loaded: bool = False) -> Any:
        stub, metadata = await self.stub()
        request = Prepare.show_partitions_request(collection_name, type_in_memory=loaded)
        response = await stub.ShowPartitions(request, metadata=metadata)
        check_status(response.status)
        return response

    async def _unloaded(self, schema: CollectionSchema, names: tuple[str, ...]) -> tuple[str, ...]:
        """The partitions that are not loaded, while others are."""
        if self.backend.is_lite or len(names) == 1 or schema.has_partition_key:
            return ()
        loaded = (await self._partitions(schema.name, loaded=True)).partition_names
        return tuple(name for name in names if name not in loaded) if loaded else ()

    async def confirm(self, collection_name: str, schema: CollectionSchema) -> None:
        """Nothing, if the name still belongs to the collection that the schema describes.

        Raises:
            StaleSchema: it belongs to another collection now.
        """
        partitions = await self.if_allowed(self._partitions(collection_name))
        if partitions is None:
            now = f"collection {(await self.describe_collection(collection_name))['collection_id']}"
        else:
            now = _identity(partitions)
        if schema.identity != now:
            raise StaleSchema(collection_name)

    async def if_allowed(self, call: Awaitable[Result]) -> Result | None:
        """The result of a call, or None where the account may not make it."""
        try:
            return await call
        except grpc.aio.AioRpcError as refusal:
            if refusal.code() is not grpc.StatusCode.PERMISSION_DENIED:
                raise
            return None

    def require_loaded(self, schema: CollectionSchema, partition_names: Sequence[str] | None) -> None:
        """Nothing, if all that is to be read is loaded, or nothing is: a server says that itself.

        Raises:
            NotLoaded: only some of these partitions are.
        """
        asked = partition_names or schema.unloaded_partitions
        if missing := [name for name in asked if name in schema.unloaded_partitions]:
            raise NotLoaded(
                f"{schema.name} is loaded in part; not loaded: {', '.join(missing[:SHOWN_KEYS])}",
                hint="load_collection loads the rest; or name loaded partitions in partition_names",
            )

    async def confirm_indexes(self, collection_name: str, schema: CollectionSchema) -> None:
        """Nothing, if the indexes were those of the schema a second ago, or a server tells by itself of another metric.

        Raises:
            StaleSchema: they are not.
        """
        digest, at = self.confirmed.get(schema.name, ("", -math.inf))
        if not self.backend.is_lite or (digest == schema.index_digest and time.monotonic() - at < CONFIRMED_FOR):
            return
        now = time.monotonic()
        if schema.index_digest != _index_digest(await self._partitions(collection_name)):
            raise StaleSchema(collection_name)
        self.confirmed[schema.name] = schema.index_digest, now

    async def insert_entities(
        self, collection_name: str, entities: list[dict[str, Any]], schema: CollectionSchema, partition_name: str
    ) -> Any:
        """Inserts entities that fit the schema, in one request, never repeated. Returns pymilvus's MutationResult.

        Raises:
            StaleSchema: the collection is another one than the schema describes; nothing was written.
        """
        await self.require_partitions(collection_name, [partition_name] if partition_name else None)
        self.require_readable(entities, schema)
        await self.require_new_keys(collection_name, entities, schema)
        return await self._write("insert", collection_name, entities, schema, partition_name)

    async def upsert_entities(
        self, collection_name: str, entities: list[dict[str, Any]], schema: CollectionSchema, partition_name: str
    ) -> Any:
        """Upserts whole entities, as `insert_entities` inserts.

        Raises:
            Denied: a value that the caller may not see would be lost.
        """
        _require_masked(entities, schema)
        await self.require_partitions(collection_name, [partition_name] if partition_name else None)
        self.require_readable(entities, schema)
        await self.require_nowhere_else(collection_name, entities, schema, partition_name)
        return await self._write("upsert", collection_name, entities, schema, partition_name)

    async def _write(
        self,
        operation: Operation,
        collection_name: str,
        entities: list[dict[str, Any]],
        schema: CollectionSchema,
        partition_name: str,
    ) -> Any:
        def packed() -> Any:
            rest, vectors = vectors_apart(entities, schema)
            return write_request(operation, collection_name, rest, vectors, schema, partition_name)

        return await self.send_write(await anyio.to_thread.run_sync(packed, limiter=self.computing), schema)

    async def send_write(self, request: Any, schema: CollectionSchema) -> Any:
        """Carries out a request that was packed before, as `insert_entities` and `upsert_entities` do, never repeated.

        Raises:
            StaleSchema: the collection is another one than the schema describes; nothing was written.
        """
        if not self.backend.is_lite:  # which checks every entity against its own schema
            await self.confirm(request.collection_name, schema)
        stub, metadata = await self.stub()
        method = type(request).__name__.removesuffix("Request")
        return self._written(await getattr(stub, method)(request, metadata=metadata), schema)

    async def delete_matching(
        self, collection_name: str, matching: str, schema: CollectionSchema, partition_name: str
    ) -> int:
        """Deletes every entity that the filter matches; how many, as the backend counts."""
        await self.confirm(collection_name, schema)
        stub, metadata = await self.stub()
        request = Prepare.delete_request(collection_name, matching, partition_name or None, consistency_level=0)
        result = self._written(await stub.Delete(request, metadata=metadata), schema)
        if not self.backend.is_lite:
            await self._note_time(schema)
        return max(result.delete_count, len(result.primary_keys))

    async def moment(self) -> int | None:
        """The server's time now, for `keys_there`; None where every read sees every write."""
        if self.backend.is_lite:
            return None
        handler = await self.handler()
        try:
            return cast("int", await handler.alloc_timestamp(context=self.call_context))
        except (grpc.RpcError, MilvusException):
            return UNKNOWN_TIME

    async def keys_there(
        self, collection_name: str, keys: Sequence[int | str], schema: CollectionSchema, moment: int | None
    ) -> set[int | str]:
        """Those of the keys that entities have, among them all that were written before the moment."""
        self.require_loaded(schema, None)
        name = schema.primary_key.name
        seen: dict[str, Any] = {}
        if moment == UNKNOWN_TIME:
            seen = {"consistency_level": ConsistencyLevel.STRONG}
        elif moment is not None:
            seen = {"consistency_level": MilvusConsistencyLevel.Customized, "guarantee_timestamp": moment}
        rows = await self.query(collection_name, f"{name} in {literal(list(keys))}", output_fields=[name], **seen)
        return {row[name] for row in entities_in(rows, [name])}

    async def require_nowhere_else(
        self, collection_name: str, entities: Sequence[Mapping[str, Any]], schema: CollectionSchema, partition_name: str
    ) -> None:
        """Nothing, if no other partition has an entity with one of these keys.

        Raises:
            Conflict: it has; a server would keep that entity beside the new one, and read the old one.
        """
        others = [name for name in schema.partition_names if name != (partition_name or DEFAULT_PARTITION)]
        if self.backend.is_lite or schema.has_partition_key or not others or not entities:
            return
        key = schema.primary_key.name
        matching = f"{key} in {literal([entity[key] for entity in entities])}"
        rows = await self.read_matching(collection_name, matching, schema, output_fields=[key], partition_names=others)
        if rows:
            shown = ", ".join(repr(row[key]) for row in rows[:SHOWN_KEYS])
            raise Conflict(
                f"{len(rows)} of these entities are in another partition, with {key} {shown}",
                hint="name their partition in partition_name, or delete them first: Milvus would keep both",
            )

    async def require_new_keys(
        self, collection_name: str, entities: list[dict[str, Any]], schema: CollectionSchema
    ) -> None:
        """Nothing, if no entity there has one of these keys, or the backend keeps both.

        Raises:
            AlreadyExists: Milvus Lite would replace the entities there, which is not what an insert is for.
        """
        key = schema.primary_key
        if key.auto_id or not self.backend.is_lite:
            return
        matching = f"{key.name} in {literal([entity[key.name] for entity in entities])}"
        found = await self.query(collection_name, matching, output_fields=[key.name])
        rows = entities_in(found, [key.name])
        if rows:
            shown = ", ".join(repr(row[key.name]) for row in rows[:SHOWN_KEYS])
            raise AlreadyExists(
                f"{len(rows)} of these entities are there already, with {key.name} {shown}"
                f"{' and others' if len(rows) > SHOWN_KEYS else ''}",
                hint="upsert replaces them; insert those that are new",
            )

    def require_readable(self, entities: Sequence[Mapping[str, Any]], schema: CollectionSchema) -> None:
        """Nothing, if the backend can keep these entities and give them back. Their JSON values are texts of JSON.

        Raises:
            NotSupported: Milvus Lite fails with a number as a JSON value, and answers with a text as if it were JSON
                itself; Milvus 2.3 takes only objects.
        """
        kept = self.backend.json_values
        for name in (each.name for each in schema.fields if each.type is DataType.JSON and kept):
            texts = (entity.get(name) for entity in entities)
            if wrong := next((text for text in texts if text is not None and text[0] not in kept), None):
                raise NotSupported(
                    f"field {name!r}: {self.backend} keeps no {wrong[:SHOWN_LENGTH]} in a JSON field",
                    hint="put the value into an object; if it is an object written as a text, give the object itself",
                )

    async def require_partitions(self, collection_name: str, names: Sequence[str] | None) -> None:
        """Nothing, if the collection has partitions of these names, or the server itself refuses those that it has not.

        Raises:
            NotFound: it has not.
        """
        if not names or not self.backend.is_lite:
            return
        there = await self.list_partitions(collection_name)
        if missing := [name for name in names if name not in there]:
            raise NotFound(f"{collection_name} has no partition {missing[0]!r}; partitions: {', '.join(there)}")

    async def read_matching(
        self,
        collection_name: str,
        matching: str,
        schema: CollectionSchema,
        *,
        output_fields: list[str],
        partition_names: list[str] | None = None,
        consistency_level: ConsistencyLevel | None = None,
        **arguments: Any,
    ) -> list[dict[str, Any]]:
        """The entities that a filter matches, in no order, seeing every write of this process."""
        self.require_loaded(schema, partition_names)
        await self.require_partitions(collection_name, partition_names)
        request = partial(
            Prepare.query_request,
            collection_name,
            matching,
            output_fields,
            partition_names,
            **self._guaranteed(schema, consistency_level),
            **arguments,
        )
        rows = await self.entities_of(await self.read("Query", request))
        needed = output_fields if COUNT in output_fields else [schema.primary_key.name]
        return entities_in(rows, needed)

    async def read_by_keys(
        self,
        collection_name: str,
        keys: Sequence[int | str],
        schema: CollectionSchema,
        *,
        output_fields: list[str],
        partition_names: list[str] | None = None,
    ) -> Mapping[int | str, Mapping[str, Any]]:
        """The entities of these keys that there are, by key, and perhaps others: see `KeyReads`."""
        key = schema.primary_key.name

        async def send(keys: Sequence[int | str]) -> dict[int | str, dict[str, Any]]:
            entities = await self.read_matching(
                collection_name,
                keys_filter(schema, [portable_key(key) for key in keys]),
                schema,
                output_fields=output_fields,
                partition_names=partition_names,
            )
            return {entity[key]: entity for entity in entities}

        reach = self.guard and self.guard.reach
        kind = (collection_name, schema.identity, tuple(output_fields), tuple(partition_names or ()), reach)
        return await self.key_reads.read(
            kind, keys, send, most=partial(largest_page, schema, self.backend, output_fields)
        )

    async def count_matching(
        self, collection_name: str, matching: str, schema: CollectionSchema, partition_names: list[str] | None
    ) -> int:
        """How many entities a filter matches, seeing every write of this process."""
        return counted(
            await self.read_matching(
                collection_name, matching, schema, output_fields=[COUNT], partition_names=partition_names
            )
        )

    async def read_in_key_order(
        self,
        collection_name: str,
        matching: str,
        schema: CollectionSchema,
        *,
        limit: int,
        partition_names: list[str] | None,
        consistency_level: ConsistencyLevel | None,
        **arguments: Any,
    ) -> list[dict[str, Any]]:
        """The matching entities with the smallest primary keys, in the order of their keys."""
        self.require_loaded(schema, partition_names)
        await self.require_partitions(collection_name, partition_names)
        entities = await self.query_in_key_order(
            collection_name,
            matching,
            limit=limit,
            partition_names=partition_names,
            **self._consistency(schema, consistency_level),
            **arguments,
        )
        return entities_in(entities, [schema.primary_key.name])

    async def search_nearest(
        self,
        collection_name: str,
        data: Any,
        schema: CollectionSchema,
        *,
        anns_field: str,
        partition_names: list[str] | None,
        consistency_level: ConsistencyLevel | None,
        **arguments: Any,
    ) -> list[Found]:
        """The hits for one vector or text, best first, seeing every write of this process.

        `arguments` are those of `search_request`.
        """
        self.require_loaded(schema, partition_names)
        await self.require_partitions(collection_name, partition_names)
        request = partial(
            search_request,
            collection_name,
            schema.require(anns_field),
            data,
            partition_names=partition_names,
            guaranteed=self._guaranteed(schema, consistency_level),
            **arguments,
        )
        return hits_of(await self.read("Search", request))

    async def search_hybrid(
        self,
        collection_name: str,
        legs: Sequence[Leg],
        ranker: Ranker,
        schema: CollectionSchema,
        *,
        partition_names: list[str] | None,
        consistency_level: ConsistencyLevel | None,
        **arguments: Any,
    ) -> list[Found]:
        """The hits of several searches, fused by Milvus, best first, seeing every write of this process."""
        self.require_loaded(schema, partition_names)
        await self.require_partitions(collection_name, partition_names)
        described = {"schema": dict(schema.described)}
        found = await self.hybrid_search(
            collection_name,
            [_ann_request(leg) for leg in legs],
            _milvus_ranker(ranker),
            partition_names=partition_names,
            **arguments,
            **described,
            **self._consistency(schema, consistency_level),
        )
        return hits_in(found)

    def _consistency(self, schema: CollectionSchema, asked: ConsistencyLevel | None) -> dict[str, Any]:
        """The arguments that make a read see every write of this process, or what the caller asked for."""
        if asked not in {None, ConsistencyLevel.SESSION}:
            return {"consistency_level": asked}
        if schema.name not in self.last_writes or schema.consistency_level == ConsistencyLevel.STRONG:
            return {}  # the collection's own level, which is enough
        return self.sees_own_writes(schema.name)

    def _guaranteed(self, schema: CollectionSchema, asked: ConsistencyLevel | None) -> Mapping[str, Any]:
        """What a request says of that."""
        told = self._consistency(schema, asked)
        if not told:
            return LEFT_TO_THE_COLLECTION
        is_default = construct_guarantee_ts(schema.name, told)
        return told | {"use_default_consistency": is_default}

    def sees_own_writes(self, collection_name: str) -> dict[str, Any]:
        """The arguments that make a read see every write of this process, and wait for nobody else's."""
        last_write = self.last_writes.get(collection_name)
        if last_write is None:
            return {"consistency_level": ConsistencyLevel.EVENTUALLY}
        if last_write == UNKNOWN_TIME:
            return {"consistency_level": ConsistencyLevel.STRONG}
        return {"consistency_level": MilvusConsistencyLevel.Customized, "guarantee_timestamp": last_write}

    async def catch_up(self, schema: CollectionSchema) -> None:
        """Makes later reads see all that any process has written until now."""
        if not self.backend.is_lite:
            await self._note_time(schema)

    async def _note_time(self, schema: CollectionSchema) -> None:
        """Remembers the server's time, for which later reads wait: a delete by filter answers with an earlier one."""
        handler = await self.handler()
        try:
            now = cast("int", await handler.alloc_timestamp(context=self.call_context))
        except (grpc.RpcError, MilvusException):
            self.last_writes[schema.name] = UNKNOWN_TIME  # the delete has succeeded, whatever this did
        else:
            self._note_write(schema, now)

    def _note_write(self, schema: CollectionSchema, timestamp: int) -> None:
        known = self.last_writes.get(schema.name, 0)
        self.last_writes[schema.name] = UNKNOWN_TIME if known == UNKNOWN_TIME else max(known, timestamp)

    def _written(self, response: Any, schema: CollectionSchema) -> Any:
        check_status(response.status)
        result = MutationResult(response)
        self._note_write(schema, result.timestamp)
        return result


def _require_masked(entities: Sequence[Mapping[str, Any]], schema: CollectionSchema) -> None:
    """Nothing, if the entities have a value for every masked field: an upsert replaces what nobody here can read."""
    for name in sorted(schema.masked):
        if any(entity.get(name) is None for entity in entities):
            raise Denied(
                f"upsert: {name} is masked, and its value would be lost with the entity that is replaced",
                hint=f"give {name} in every entity, or insert new ones",
            )


def _identity(partitions: Any) -> str:
    """What tells a collection from one that is made later with its name: the number of its first partition."""
    return str(min(partitions.partitionIDs, default=0))


def _index_digest(partitions: Any) -> str:
    """What tells a collection's indexes from later ones, on our own engine alone: see `engine.numbering_service`."""
    return str(min(partitions.created_utc_timestamps, default=0))


def _sent(sought: Any) -> Any:
    """What is searched for, in the form that pymilvus sends without a look at each number."""
    return sought.tobytes() if isinstance(sought, array) else sought


def _ann_request(leg: Leg) -> AnnSearchRequest:
    return AnnSearchRequest(
        data=[_sent(leg.target.data)],
        anns_field=leg.target.field.name,
        param=leg.target.search_params(leg.reach),
        limit=leg.limit,
        expr=leg.matching,
    )


def _milvus_ranker(ranker: Ranker) -> Any:
    if ranker.function is not None:
        named: dict[str, Any] = {"name": "ranker", "input_field_names": []} | dict(ranker.function)
        return MilvusFunction(function_type=FunctionType.RERANK, **named)
    return WeightedRanker(*ranker.weights) if ranker.weights else RRFRanker(cast("int", ranker.k))
