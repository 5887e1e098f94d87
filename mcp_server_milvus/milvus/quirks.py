"""pymilvus's async client with its faults mended. The only file that touches pymilvus's private names.

Each fault was seen with pymilvus 3.0.2, Milvus Lite 3.2.2 and Milvus 2.3.5, and `tests/milvus/test_quirks.py` shows it:

- `create_index` raises UNIMPLEMENTED on Milvus Lite after the index was made, and sleeps half a second everywhere.
- `delete` swallows every error of the server.
- `delete` by filter answers with a time that is too early for a later read to see it.
- `insert` and `upsert` describe the collection once more, into a cache without a time limit; a write that was checked
  against an outdated schema crashes a 2.3.5 server (a column of another type).
- the switch that pages a query in primary-key order drops the consistency level; without it Milvus Lite skips entities.
- a failing call is repeated 75 times, and every failure logs a traceback.
- a cancelled call raises a CancelledError that anyio does not recognise.
- Milvus Lite replaces an entity when another with its key is inserted, and searches by the metric of its index
  whatever metric is asked for.
- Milvus Lite drops every index of the collection when one is dropped by its name.
- Milvus Lite finds nothing in a partition that does not exist, and calls that a result.
- channels are shared by address and token, whatever their other options are.
"""

# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pymilvus has no types; what leaves this file has.

import asyncio
import copy
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, cast

import anyio.lowlevel
import anyio.to_thread
import grpc
from pymilvus import AsyncMilvusClient
from pymilvus.client.abstract import MutationResult
from pymilvus.client.prepare import Prepare
from pymilvus.client.types import ConsistencyLevel as MilvusConsistencyLevel
from pymilvus.client.utils import check_status
from pymilvus.exceptions import ErrorCode, MilvusException
from pymilvus.grpc_gen import common_pb2

from mcp_server_milvus.errors import AlreadyExists, NotFound, StaleSchema
from mcp_server_milvus.milvus.building import milvus_schema
from mcp_server_milvus.milvus.capabilities import Backend
from mcp_server_milvus.milvus.filters import literal
from mcp_server_milvus.milvus.schema import (
    DESCRIPTION_PROPERTY,
    CollectionSchema,
    Index,
    description_in,
    parse_index,
    parse_schema,
)
from mcp_server_milvus.vocabulary import ConsistencyLevel

REPEATED = frozenset(
    {
        "describe_collection",
        "get_collection_stats",
        "get_load_state",
        "get_loading_progress",
        "get_server_version",
        "list_aliases",
        "list_collections",
        "list_database",
        "list_indexes",
        "list_partitions",
        "query",
        "search",
    }
)
"""The reads: pymilvus repeats them once when they fail on the way, which bridges a lost connection; nothing else."""

SHOWN_KEYS = 5
"""Keys that a message names."""

UNKNOWN_TIME = -1
"""In place of the time of the last write: reads see everything then, at some cost."""

GRPC_OPTIONS = {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 250,
}
"""A connection of one's own that comes back quickly: recovery after a restart fell from 4-6 s to 0.04-0.13 s."""


def quiet_pymilvus() -> None:
    """Turns pymilvus's logger down: it logs a traceback for every failure, and we report each failure ourselves."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


async def connect(
    uri: str, *, credentials: str, db_name: str, last_writes: MutableMapping[str, int], seconds: float
) -> "Client":
    """A connected client of one database, with a channel of its own. The caller closes it.

    Raises whatever pymilvus raises; `translate` turns that into our errors.
    """
    client = Client(
        uri,
        token=credentials,
        db_name=db_name,
        timeout=seconds,
        dedicated=True,
        grpc_options=dict(GRPC_OPTIONS),
    )
    async with AsyncExitStack() as failing:
        failing.push_async_callback(client.close)
        client.backend = Backend.from_version_text(str(await client.get_server_version()))
        client.last_writes = last_writes
        await client.leave_recovery_to_the_pool()
        failing.pop_all()
    return client


class Client(AsyncMilvusClient):
    """An `AsyncMilvusClient` that can be trusted."""

    backend: Backend
    last_writes: MutableMapping[str, int]

    async def close(self) -> None:
        """Closes the channel at once: pymilvus's own waits for every other client that is connecting."""
        self._closed = True
        handler: Any = self._handler
        self._handler = None
        if self._manager and handler:
            self._manager._dedicated.pop(id(handler), None)
            await handler.close()

    async def leave_recovery_to_the_pool(self) -> None:
        """Keeps pymilvus from connecting anew inside a failing call: its error would say that nothing was ever sent."""

        async def not_handled(_: Exception) -> bool:
            return False

        handler: Any = await super()._get_connection()
        handler._on_rpc_error = not_handled

    async def _get_connection(self) -> Any:
        return _Handler(await _cancellable(super()._get_connection()))

    async def _stub(self) -> tuple[Any, Any]:
        """The gRPC stub and the metadata (the database) of a call on it."""
        handler: Any = await _cancellable(super()._get_connection())
        return _Stub(handler._async_stub), self._generate_call_context().to_grpc_metadata()

    async def describe(self, collection_name: str) -> CollectionSchema:
        """The schema with its functions and indexes, as it is now."""
        identity, index_digest = await self._numbers(collection_name)
        handler = await self._get_connection()
        context = self._generate_call_context()
        described = await handler.describe_collection(collection_name, context=context)
        indexes = await handler.list_indexes(collection_name, context=context)
        return replace(parse_schema(described, indexes), identity=identity, index_digest=index_digest)

    async def _numbers(self, collection_name: str) -> tuple[str, str]:
        """What tells this collection from one that is made later with its name, and its indexes from later ones.

        The first is the number of a collection's first partition, which a server and our own engine give. The second
        is of our own engine alone: see `engine.numbering_service`.
        """
        stub, metadata = await self._stub()
        response = await stub.ShowPartitions(Prepare.show_partitions_request(collection_name), metadata=metadata)
        check_status(response.status)
        return str(min(response.partitionIDs, default=0)), str(min(response.created_utc_timestamps, default=0))

    async def insert_entities(
        self, collection_name: str, entities: list[dict[str, Any]], schema: CollectionSchema, partition_name: str
    ) -> Any:
        """Inserts entities that fit the schema, in one request, never repeated. Returns pymilvus's MutationResult.

        Raises:
            StaleSchema: the collection is another one than the schema describes; nothing was written.
        """
        await self.require_partitions(collection_name, [partition_name] if partition_name else None)
        await self.require_new_keys(collection_name, entities, schema)
        prepare = functools.partial(Prepare.row_insert_param, collection_name, entities, partition_name)
        return await self._write("Insert", collection_name, prepare, schema)

    async def upsert_entities(
        self, collection_name: str, entities: list[dict[str, Any]], schema: CollectionSchema, partition_name: str
    ) -> Any:
        """Upserts whole entities, as `insert_entities` inserts."""
        await self.require_partitions(collection_name, [partition_name] if partition_name else None)
        prepare = functools.partial(Prepare.row_upsert_param, collection_name, entities, partition_name)
        return await self._write("Upsert", collection_name, prepare, schema)

    async def _write(self, method: str, collection_name: str, prepare: Any, schema: CollectionSchema) -> Any:
        described = schema.described
        prepared = functools.partial(
            prepare,
            described["fields"],
            described.get("struct_array_fields", []),
            enable_dynamic=schema.enable_dynamic_field,
            schema_timestamp=described.get("update_timestamp", 0),
        )
        request = await anyio.to_thread.run_sync(prepared)
        if not self.backend.is_lite:  # which checks every entity against its own schema
            await self.confirm(collection_name, schema)
        stub, metadata = await self._stub()
        return self._written(await getattr(stub, method)(request, metadata=metadata), schema)

    async def confirm(self, collection_name: str, schema: CollectionSchema) -> None:
        """Nothing, if the name still belongs to the collection that the schema describes.

        Raises:
            StaleSchema: it belongs to another collection now.
        """
        if schema.identity != (await self._numbers(collection_name))[0]:
            raise StaleSchema(collection_name)

    async def delete_matching(
        self, collection_name: str, matching: str, schema: CollectionSchema, partition_name: str
    ) -> int:
        """Deletes every entity that the filter matches; how many, as the backend counts."""
        await self.confirm(collection_name, schema)
        stub, metadata = await self._stub()
        request = Prepare.delete_request(collection_name, matching, partition_name or None, consistency_level=0)
        result = self._written(await stub.Delete(request, metadata=metadata), schema)
        if not self.backend.is_lite:
            await self._note_time(schema)
        return max(result.delete_count, len(result.primary_keys))

    async def _note_time(self, schema: CollectionSchema) -> None:
        """Remembers the server's time, for which later reads wait: a delete by filter answers with an earlier one."""
        handler = await self._get_connection()
        try:
            now = cast("int", await handler.alloc_timestamp(context=self._generate_call_context()))
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

    async def read_matching(
        self,
        collection_name: str,
        matching: str,
        schema: CollectionSchema,
        *,
        output_fields: list[str],
        partition_names: list[str] | None = None,
        consistency_level: ConsistencyLevel | None = None,
    ) -> list[dict[str, Any]]:
        """The entities that a filter matches, in no order, seeing every write of this process."""
        await self.require_partitions(collection_name, partition_names)
        rows = await self.query(
            collection_name,
            matching,
            output_fields=output_fields,
            partition_names=partition_names,
            **self._consistency(schema, consistency_level),
        )
        return list(rows)

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
        await self.require_partitions(collection_name, partition_names)
        handler: Any = copy.copy(await _cancellable(super()._get_connection()))
        handler._async_stub = _InKeyOrder(handler._async_stub)
        rows = await _Handler(handler).query(
            collection_name,
            matching,
            limit=limit,
            partition_names=partition_names,
            reduce_stop_for_best=True,
            context=self._generate_call_context(),
            **self._consistency(schema, consistency_level),
            **arguments,
        )
        return list(rows)

    async def search_nearest(
        self,
        collection_name: str,
        data: Any,
        schema: CollectionSchema,
        *,
        partition_names: list[str] | None,
        consistency_level: ConsistencyLevel | None,
        **arguments: Any,
    ) -> list[Any]:
        """The hits for one vector or text, best first, seeing every write of this process."""
        await self.require_partitions(collection_name, partition_names)
        described = {"schema": dict(schema.described)}
        found = await self.search(
            collection_name,
            [data],
            partition_names=partition_names,
            **arguments,
            **described,
            **self._consistency(schema, consistency_level),
        )
        return list(found[0])

    async def confirm_indexes(self, collection_name: str, schema: CollectionSchema) -> None:
        """Nothing, if the indexes are those of the schema, or a server notices by itself that a metric is another.

        Raises:
            StaleSchema: they are not.
        """
        if self.backend.is_lite and schema.index_digest != (await self._numbers(collection_name))[1]:
            raise StaleSchema(collection_name)

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
        rows = await self.query(collection_name, matching, output_fields=[key.name])
        if rows:
            shown = ", ".join(repr(row[key.name]) for row in rows[:SHOWN_KEYS])
            raise AlreadyExists(
                f"{len(rows)} of these entities are there already, with {key.name} {shown}"
                f"{' and others' if len(rows) > SHOWN_KEYS else ''}",
                hint="upsert replaces them; insert those that are new",
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

    def _consistency(self, schema: CollectionSchema, asked: ConsistencyLevel | None) -> dict[str, Any]:
        """The arguments that make a read see every write of this process, or what the caller asked for."""
        if asked not in {None, ConsistencyLevel.SESSION}:
            return {"consistency_level": asked}
        last_write = self.last_writes.get(schema.name)
        if last_write is None or schema.consistency_level == ConsistencyLevel.STRONG:
            return {}  # the collection's own level, which is enough
        if last_write == UNKNOWN_TIME:
            return {"consistency_level": ConsistencyLevel.STRONG}
        return {"consistency_level": MilvusConsistencyLevel.Customized, "guarantee_timestamp": last_write}

    async def start_index(self, collection_name: str, index: Index) -> None:
        """Starts building an index and returns at once. Without a name it gets the field's."""
        metric = {"metric_type": index.metric_type} if index.metric_type else {}
        params = {"index_type": index.index_type, **metric, "params": dict(index.params)}
        name = index.index_name or index.field_name
        stub, metadata = await self._stub()
        request = Prepare.create_index_request(collection_name, index.field_name, params, index_name=name)
        check_status(await stub.CreateIndex(request, metadata=metadata))

    async def create_as(self, wanted: CollectionSchema, *, num_partitions: int | None) -> None:
        """Creates an empty collection with this schema, without indexes."""
        properties = dict(wanted.properties)
        if self.backend.is_lite and wanted.description:
            properties[DESCRIPTION_PROPERTY] = wanted.description  # it keeps properties, and drops descriptions
        options: dict[str, Any] = {"num_shards": wanted.num_shards, "properties": properties}
        if wanted.consistency_level:
            options["consistency_level"] = wanted.consistency_level
        if num_partitions:
            options["num_partitions"] = num_partitions
        handler = await self._get_connection()
        await handler.create_collection(
            wanted.name, milvus_schema(wanted), context=self._generate_call_context(), **options
        )

    async def describe_indexes(self, collection_name: str) -> tuple[Index, ...]:
        """Every index of a collection, as it is now."""
        handler = await self._get_connection()
        return tuple(
            map(parse_index, await handler.list_indexes(collection_name, context=self._generate_call_context()))
        )

    async def entity_count(self, collection_name: str, *, loaded: bool) -> int:
        """How many entities there are; of a collection that is not loaded, how many of them are sealed."""
        if loaded and not self.backend.is_lite:
            rows = await self.query(
                collection_name, filter="", output_fields=["count(*)"], consistency_level="Eventually"
            )
            return int(rows[0]["count(*)"])
        return int((await self.get_collection_stats(collection_name)).get("row_count", 0))

    async def summary(self, collection_name: str) -> tuple[str, bool, int] | None:
        """A collection's description, whether it is loaded, its entity count; None when it was dropped meanwhile."""
        try:
            description = description_in(await self.describe_collection(collection_name))
            loaded = await self.is_loaded(collection_name)
            return description, loaded, await self.entity_count(collection_name, loaded=loaded)
        except MilvusException as failure:
            if failure.code == ErrorCode.COLLECTION_NOT_FOUND:
                return None
            raise

    async def aliases(self, collection_name: str) -> list[str]:
        """The collection's aliases."""
        described: Any = await self.list_aliases(collection_name)
        return sorted(described["aliases"] if isinstance(described, dict) else described)

    async def is_loaded(self, collection_name: str) -> bool:
        """Whether the collection is loaded."""
        return (await self.get_load_state(collection_name))["state"].name == "Loaded"

    async def drop_one_index(self, collection_name: str, index: Index) -> None:
        """Drops this index and no other."""
        handler = await self._get_connection()
        context = self._generate_call_context()
        await handler.drop_index(collection_name, index.field_name, index.index_name, context=context)

    async def start_loading(self, collection_name: str) -> None:
        """Starts loading a collection and returns at once."""
        stub, metadata = await self._stub()
        check_status(await stub.LoadCollection(Prepare.load_collection(collection_name), metadata=metadata))

    async def loading_progress(self, collection_name: str) -> int:
        """How much of a collection is loaded, in percent."""
        handler = await self._get_connection()
        return cast("int", await handler.get_loading_progress(collection_name, context=self._generate_call_context()))


async def _cancellable(call: Awaitable[Any]) -> Any:
    """The result of a gRPC call, which deadlines end.

    gRPC raises a CancelledError of its own, which anyio does not take for the one that it sent: a deadline would pass
    unnoticed, and a request that its client cancels would end the session.
    """
    try:
        return await call
    except asyncio.CancelledError:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


def _made_cancellable(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def cancellable(*args: Any, **options: Any) -> Any:
        return await _cancellable(call(*args, **options))

    return cancellable


class _Handler:
    """A handler whose calls can be cancelled, and of which only reads are repeated, once."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._handler, name)
        if name.startswith("_") or not inspect.iscoroutinefunction(attribute):
            return attribute
        return _made_cancellable(functools.partial(attribute, retry_times=int(name in REPEATED)))


class _Stub:
    """A stub whose calls can be cancelled."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        return _made_cancellable(getattr(self._stub, name))


class _InKeyOrder:
    """A stub whose queries answer in the order of the primary key."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def Query(self, request: Any, **call: Any) -> Any:  # noqa: N802  # the name of the RPC
        request.query_params.append(common_pb2.KeyValuePair(key="iterator", value="True"))
        return self._stub.Query(request, **call)
