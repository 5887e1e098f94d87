"""The client of one database: entities (`data.DataClient`), and collections, indexes, partitions and the rest."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pymilvus has no types; what leaves this file has.

from collections.abc import Mapping, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, cast

import anyio
import grpc
from google.protobuf.json_format import ParseDict
from pymilvus.client.prepare import Prepare
from pymilvus.client.utils import check_status
from pymilvus.exceptions import ErrorCode, MilvusException
from pymilvus.grpc_gen import milvus_pb2, rg_pb2

from mcp_server_milvus.milvus.answers import COUNT, counted
from mcp_server_milvus.milvus.building import milvus_field, milvus_function, milvus_schema
from mcp_server_milvus.milvus.capabilities import Backend, Feature
from mcp_server_milvus.milvus.data import DataClient
from mcp_server_milvus.milvus.key_reads import KeyReads
from mcp_server_milvus.milvus.schema import (
    DESCRIPTION_PROPERTY,
    CollectionSchema,
    Field,
    Function,
    Index,
    description_in,
    parse_index,
)
from mcp_server_milvus.milvus.translate import cleaned, is_refusal
from mcp_server_milvus.milvus.waiting import Compaction

GRPC_OPTIONS = {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 250,
}
"""A connection of one's own that comes back quickly: recovery after a restart fell from 4-6 s to 0.04-0.13 s."""

INDEX_FACTS = frozenset({"field_name", "index_name", "total_rows", "indexed_rows", "pending_index_rows", "state"})
"""What pymilvus's `describe_index` tells beside an index's properties."""

PARTITION_NOT_FOUND, ALIAS_NOT_FOUND = 200, 1600
"""Milvus's codes that pymilvus's `ErrorCode` lacks."""


async def connect(
    uri: str,
    *,
    credentials: str,
    db_name: str,
    last_writes: MutableMapping[str, int],
    computing: anyio.CapacityLimiter,
    seconds: float,
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
        client.computing = computing
        client.confirmed = {}
        client.key_reads = KeyReads()
        await client.leave_recovery_to_the_pool()
        await client.send_headers_at_once()
        failing.pop_all()
    return client


class Client(DataClient):
    """An `AsyncMilvusClient` that can be trusted."""

    async def tokens(self, texts: list[str], **analyzer: Any) -> list[list[str]]:
        """The words of each text, as an analyzer inside Milvus makes them."""
        return [list(each.tokens) for each in await self.run_analyzer(texts, **analyzer)]

    async def start_index(self, collection_name: str, index: Index) -> None:
        """Starts building an index and returns at once. Without a name it gets the field's."""
        metric = {"metric_type": index.metric_type} if index.metric_type else {}
        params = {"index_type": index.index_type, **metric, "params": dict(index.params)}
        name = index.index_name or index.field_name
        stub, metadata = await self.stub()
        request = Prepare.create_index_request(collection_name, index.field_name, params, index_name=name)
        check_status(await stub.CreateIndex(request, metadata=metadata))

    async def create_with_or_without(
        self, wanted: CollectionSchema, property_name: str, *, num_partitions: int | None
    ) -> None:
        """As `create_as`; where Milvus refuses the collection with this property, without it."""
        try:
            await self.create_as(wanted, num_partitions=num_partitions)
        except (MilvusException, grpc.aio.AioRpcError) as failure:
            if property_name not in wanted.properties or not is_refusal(failure):
                raise
            others = {name: value for name, value in wanted.properties.items() if name != property_name}
            await self.create_as(replace(wanted, properties=others), num_partitions=num_partitions)

    async def keeps_property(self, collection_name: str, name: str, value: str) -> bool:
        """Sets a property of a collection. False where Milvus keeps none of that name: it says so, or nothing."""
        try:
            await self.alter_collection_properties(collection_name, {name: value})
        except (MilvusException, grpc.aio.AioRpcError) as failure:
            if not is_refusal(failure) or name in (await self.describe(collection_name)).properties:
                raise
        return (await self.describe(collection_name)).properties.get(name) == value

    async def forget_property(self, collection_name: str, name: str) -> None:
        """Takes a property off a collection; where Milvus cannot, it is empty afterwards."""
        described: Any = await self.describe_collection(collection_name)
        if not dict(described.get("properties", {})).get(name):
            return
        if self.backend.has(Feature.DROP_PROPERTY):
            await self.drop_collection_properties(collection_name, [name])
        else:
            await self.alter_collection_properties(collection_name, {name: ""})

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
        handler = await self.handler()
        await handler.create_collection(wanted.name, milvus_schema(wanted), context=self.call_context, **options)

    async def describe_indexes(self, collection_name: str) -> tuple[Index, ...]:
        """Every index of a collection, as it is now."""
        handler = await self.handler()
        return tuple(map(parse_index, await handler.list_indexes(collection_name, context=self.call_context)))

    async def entity_count(self, collection_name: str, *, loaded: bool) -> int:
        """How many entities there are; of a collection that is not loaded, how many of them are sealed.

        What a caller sees of the second number, it sees only if it sees every entity.
        """
        if loaded and not (self.backend.is_lite and self.counts_all):
            rows = await self.query(
                collection_name, filter="", output_fields=[COUNT], **self.sees_own_writes(collection_name)
            )
            return counted(rows)
        return int((await self.get_collection_stats(collection_name)).get("row_count", 0))

    async def summary(self, collection_name: str) -> tuple[str, bool | None, int | None] | None:
        """A collection's description, whether it is loaded, its entity count; None when it was dropped meanwhile.

        The last two are None where the account may not ask for them.
        """
        try:
            description = description_in(await self.describe_collection(collection_name))
            loaded = await self.if_allowed(self.is_loaded(collection_name))
            return (
                description,
                loaded,
                await self.if_allowed(self.entity_count(collection_name, loaded=loaded is not False)),
            )
        except MilvusException as failure:
            if failure.code == ErrorCode.COLLECTION_NOT_FOUND:
                return None
            raise

    async def aliases(self, collection_name: str) -> list[str]:
        """The collection's aliases."""
        if self.backend.is_lite:  # which tells none in a description
            listed: Any = await self.list_aliases(collection_name)
            return sorted(listed["aliases"] if isinstance(listed, dict) else listed)
        described: Any = await self.describe_collection(collection_name)
        return sorted(described.get("aliases", ()))

    async def is_loaded(self, collection_name: str, partition_names: list[str] | None = None) -> bool:
        """Whether the collection is loaded, or these partitions of it. One loaded partition makes a collection so."""
        return (await self.get_load_state(collection_name, partition_names))["state"].name == "Loaded"

    async def partition_summary(self, schema: CollectionSchema, partition_name: str) -> tuple[bool, int | None] | None:
        """Whether a partition is loaded, and its entity count if that may be told; None when it is gone.

        Of a partition that is loaded, every write of this process is counted; of another, what is sealed.
        """
        collection_name = schema.name
        try:
            named = None if schema.has_partition_key else [partition_name]
            loaded = await self.is_loaded(collection_name, named)
            if loaded and named and not (self.backend.is_lite and self.counts_all):
                rows = await self.query(
                    collection_name,
                    filter="",
                    output_fields=[COUNT],
                    partition_names=[partition_name],
                    **self._consistency(schema, None),
                )
                return loaded, counted(rows)
            stats = await self.if_allowed(self.get_partition_stats(collection_name, partition_name))
            return loaded, None if stats is None else int(stats.get("row_count", 0))
        except MilvusException as failure:
            if failure.code == PARTITION_NOT_FOUND or f"partition name {partition_name} not found" in failure.message:
                return None
            raise

    async def all_aliases(self) -> list[str]:
        """Every alias of the database, sorted."""
        if self.backend.lists_aliases_of_default_only and self.database not in {"", "default"}:
            return sorted([alias for name in await self.list_collections() for alias in await self.aliases(name)])
        stub, metadata = await self.stub()
        response = await stub.ListAliases(Prepare.list_aliases_request(""), metadata=metadata)
        check_status(response.status)
        return sorted(response.aliases)

    async def alias_target(self, alias: str) -> str | None:
        """The collection of the alias, or None when there is no such alias."""
        by_description = self.backend.lists_aliases_of_default_only
        try:
            described: Any = await (self.describe_collection(alias) if by_description else self.describe_alias(alias))
        except MilvusException as failure:
            if failure.code in {ErrorCode.COLLECTION_NOT_FOUND, ALIAS_NOT_FOUND}:
                return None
            raise
        return None if described["collection_name"] == alias else str(described["collection_name"])

    async def rename(self, collection_name: str, new_name: str) -> None:
        """Renames a collection. Later reads by its new name see what was written by its old one."""
        await self.rename_collection(collection_name, new_name)
        await self.forget_schemas(collection_name, new_name)
        if collection_name in self.last_writes:
            self.last_writes[new_name] = self.last_writes.pop(collection_name)

    async def truncate(self, schema: CollectionSchema) -> None:
        """Removes every entity of a collection. Later reads find none of them."""
        await self.truncate_collection(schema.name)
        if not self.backend.is_lite:
            await self._note_time(schema)

    async def add_field(self, collection_name: str, added: Field) -> None:
        """Adds a field to a collection."""
        handler = await self.handler()
        await handler.add_collection_field(collection_name, milvus_field(added), context=self.call_context)

    async def add_function(self, collection_name: str, added: Function) -> None:
        """Adds a function that fills a field which is there already."""
        handler = await self.handler()
        await handler.add_collection_function(collection_name, milvus_function(added), context=self.call_context)

    async def add_function_and_field(self, collection_name: str, added: Function, output: Field, index: Index) -> None:
        """Adds a function together with the field that it fills and the field's index."""
        handler = await self.handler()
        await handler.alter_collection_schema(
            collection_name,
            field_schema=milvus_field(output),
            func=milvus_function(added),
            index_name=output.name,
            index_extra_params={"index_type": index.index_type, "metric_type": index.metric_type, **index.params},
            context=self.call_context,
        )

    async def drop_function(self, collection_name: str, function_name: str) -> None:
        """Drops a function, and leaves the field that it fills."""
        handler = await self.handler()
        await handler.drop_collection_function(collection_name, function_name, context=self.call_context)

    async def index_properties(self, collection_name: str, index: Index) -> dict[str, str]:
        """All that an index was given, as the server tells it."""
        described: Any = await self.describe_index(collection_name, index.index_name)
        return {name: value for name, value in described.items() if name not in INDEX_FACTS}

    async def drop_one_index(self, collection_name: str, index: Index) -> None:
        """Drops this index and no other."""
        handler = await self.handler()
        context = self.call_context
        await handler.drop_index(collection_name, index.field_name, index.index_name, context=context)

    async def start_loading(self, collection_name: str, **options: Any) -> None:
        """Starts loading a collection and returns at once. The options are those of pymilvus's `load_collection`."""
        stub, metadata = await self.stub()
        check_status(await stub.LoadCollection(Prepare.load_collection(collection_name, **options), metadata=metadata))

    async def start_loading_partitions(self, collection_name: str, partition_names: list[str]) -> None:
        """Starts loading partitions and returns at once."""
        stub, metadata = await self.stub()
        request = Prepare.load_partitions(collection_name, partition_names)
        check_status(await stub.LoadPartitions(request, metadata=metadata))

    async def loading_progress(self, collection_name: str, partition_names: list[str] | None = None) -> int:
        """How much of a collection, or of these partitions, is loaded, in percent."""
        handler = await self.handler()
        progress = handler.get_loading_progress(collection_name, partition_names, context=self.call_context)
        return cast("int", await progress)

    async def refresh_progress(self, collection_name: str) -> int:
        """How much of what was imported since a collection was loaded is loaded too, in percent."""
        return cast("int", await self.refresh_load(collection_name))

    async def health(self) -> tuple[bool, list[str]]:
        """Whether the server calls itself healthy, and its reasons if not."""
        stub, metadata = await self.stub()
        response = await stub.CheckHealth(milvus_pb2.CheckHealthRequest(), metadata=metadata)
        check_status(response.status)
        return response.isHealthy, [cleaned(reason) for reason in response.reasons]

    async def start_flushing_all(self) -> int:
        """Starts flushing every collection of the database. Returns the time for which `flushed_all` asks."""
        stub, metadata = await self.stub()
        response = await stub.FlushAll(Prepare.flush_all_request(self.database), metadata=metadata)
        check_status(response.status)
        return response.flush_all_ts

    async def flushed_all(self, since: int) -> bool:
        """Whether all that was written before that time is flushed."""
        stub, metadata = await self.stub()
        request = Prepare.get_flush_all_state_request(since, self.database)
        response = await stub.GetFlushAllState(request, metadata=metadata)
        check_status(response.status)
        return response.flushed

    async def compaction(self, job_id: int) -> Compaction:
        """How far a compaction is."""
        handler = await self.handler()
        found = await handler.get_compaction_state(job_id, context=self.call_context)
        return Compaction(found.state_name, found.in_executing, found.completed, found.in_timeout)

    async def replicas(self, collection_name: str) -> list[Any]:
        """Milvus's `ReplicaInfo` for each replica of the collection that has the name now."""
        stub, metadata = await self.stub()
        number = (await self.describe_collection(collection_name))["collection_id"]
        response = await stub.GetReplicas(Prepare.get_replicas(number), metadata=metadata)
        check_status(response.status)
        return list(response.replicas)

    async def create_configured_group(self, name: str, config: Mapping[str, Any] | None) -> None:
        """Creates a resource group. The config has the names of Milvus's `ResourceGroupConfig`."""
        await self.create_resource_group(name, **({"config": _group_config(config)} if config else {}))

    async def configure_groups(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        """Gives resource groups new configurations, all of them or none."""
        await self.update_resource_groups({name: _group_config(config) for name, config in configs.items()})


def _group_config(config: Mapping[str, Any]) -> Any:
    return ParseDict(dict(config), rg_pb2.ResourceGroupConfig())
