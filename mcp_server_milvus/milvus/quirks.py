"""pymilvus's async client with its faults mended, here and in `data` and `client`, which stand on it.

Only this file touches pymilvus's private names. Each fault was seen with pymilvus 3.0.2, Milvus Lite 3.2.2 and Milvus
2.3.5, and `tests/milvus/test_quirks.py` shows it:

- `create_index` raises UNIMPLEMENTED on Milvus Lite after the index was made, and sleeps half a second everywhere.
- `delete` swallows every error of the server.
- `delete` by filter answers with a time that is too early for a later read to see it.
- `insert` and `upsert` describe the collection once more, into a cache without a time limit; a write that was checked
  against an outdated schema crashes a 2.3.5 server (a column of another type).
- the switch that pages a query in primary-key order drops the consistency level; without it Milvus Lite skips entities.
- answers to queries are unpacked on the event loop: 16,000 entities stop everything else for 50 ms.
- a failing call is repeated 75 times, and every failure logs a traceback.
- a cancelled call raises a CancelledError that anyio does not recognise.
- Milvus Lite replaces an entity when another with its key is inserted, and searches by the metric of its index
  whatever metric is asked for.
- Milvus Lite drops every index of the collection when one is dropped by its name.
- Milvus Lite stores a text as a JSON value, and answers with it as if it were JSON itself.
- Milvus Lite finds nothing in a partition that does not exist, and calls that a result.
- channels are shared by address and token, whatever their other options are.
- the token and the number of the connection are put into each request by interceptors of gRPC's, each with a task.
- `describe_replica` tells the replicas of the collection that had the name before.
- `flush_all` and `get_flush_all_state` are missing in the async handler.
- `optimize` compacts the collection of that name in the default database, and turns a cancellation into an error.
- `refresh_load` refreshes nothing: it only asks how far a refresh is.
- `list_aliases` refuses to list those of a whole database, which every backend can; Milvus 2.3.5 looks into the default
  database whatever database is asked for.
- `rename_collection` and the calls that change an alias leave the old schema in pymilvus's cache.
- the id of a request is an argument of each call, and sent under one of the two names that Milvus's have for it.
"""

# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pymilvus has no types; what leaves this file has.

import asyncio
import copy
import functools
import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

import anyio.lowlevel
import anyio.to_thread
import grpc
from pymilvus import AsyncMilvusClient
from pymilvus.client.async_interceptor import _GenericAsyncClientInterceptor
from pymilvus.client.call_context import CallContext
from pymilvus.client.utils import check_status
from pymilvus.decorators import IGNORE_RETRY_CODES
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.answers import entities_in
from mcp_server_milvus.milvus.capabilities import Backend
from mcp_server_milvus.milvus.filters import HALF_A_PAIR
from mcp_server_milvus.milvus.guard import Guard, GuardedStub
from mcp_server_milvus.milvus.spans import is_traced, traced
from mcp_server_milvus.milvus.unpacking import plain_entities, plain_values
from mcp_server_milvus.reach import Reach
from mcp_server_milvus.request_ids import UNDER_WAY

REPEATED = frozenset(
    {
        "describe_alias",
        "describe_collection",
        "describe_database",
        "describe_resource_group",
        "describe_role",
        "describe_snapshot",
        "describe_user",
        "get_collection_stats",
        "get_compaction_state",
        "get_load_state",
        "get_loading_progress",
        "get_partition_stats",
        "get_persistent_segment_infos",
        "get_restore_snapshot_state",
        "get_server_version",
        "hybrid_search",
        "list_aliases",
        "list_collections",
        "list_database",
        "list_indexes",
        "list_partitions",
        "list_privilege_groups",
        "list_resource_groups",
        "list_restore_snapshot_jobs",
        "list_roles",
        "list_snapshots",
        "list_users",
        "query",
        "refresh_load",
        "run_analyzer",
        "search",
        "select_grant_for_one_role",
    }
)
"""The reads: pymilvus repeats them once when they fail on the way, which bridges a lost connection; nothing else."""

REPEATED_AFTER = 0.01
"""Seconds that pymilvus waits before it repeats a call."""


def quiet_pymilvus() -> None:
    """Turns pymilvus's logger down: it logs a traceback for every failure, and we report each failure ourselves."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


class Mended(AsyncMilvusClient):
    """An `AsyncMilvusClient` whose calls end when they are cancelled, and of which only reads are repeated."""

    backend: Backend
    headers: tuple[tuple[str, str | bytes], ...] = ()
    """What each request bears that is sent over the connection."""
    guard: Guard | None = None
    _shared: "Mended | None" = None

    def seen_by(self, reach: Reach) -> Self:
        """The same client, for whoever reaches no more than this."""
        seen = object.__new__(type(self))
        guard = Guard(reach, self.database, is_lite=self.backend.is_lite)
        seen.__dict__ = {**self.__dict__, "_shared": self._shared or self, "guard": guard}
        return seen

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

    async def send_headers_at_once(self) -> None:
        """Puts the headers of the connection into each request here: each interceptor is a task more for a request."""
        handler: Any = await super()._get_connection()
        interceptors = handler._final_channel._unary_unary_interceptors
        of_pymilvus = [each for each in interceptors if isinstance(each, _GenericAsyncClientInterceptor)]
        nothing = grpc.aio.ClientCallDetails("", None, None, None, None)
        told = [each._fn(nothing, None)[0].metadata for each in of_pymilvus]
        self.headers = tuple(itertools.chain.from_iterable(told))
        interceptors[:] = [each for each in interceptors if each not in of_pymilvus]

    async def _get_connection(self) -> Any:
        return _Handler(await self._guarded())

    async def _guarded(self) -> Any:
        """The handler of pymilvus, whose requests can be cancelled; of a client that a caller sees, they are judged."""
        handler: Any = copy.copy(await self._connected_handler())
        handler._async_stub = self._guarding(handler._async_stub)
        return handler

    async def _connected_handler(self) -> Any:
        shared = self._shared or self
        if shared._handler and not shared._closed:
            return shared._handler
        return await _cancellable(AsyncMilvusClient._get_connection(shared))

    def _guarding(self, stub: Any) -> Any:
        """The stub of pymilvus as this client's caller may use it."""
        cancellable = _Stub(stub, self.database, self.headers)
        if self.guard is None:
            return cancellable
        self.guard.stub = cancellable
        return GuardedStub(self.guard)

    async def handler(self) -> Any:
        """What pymilvus's own methods call, one method for each kind of request."""
        return await self._get_connection()

    async def stub(self) -> tuple[Any, Any]:
        """The gRPC stub and the metadata (the database) of a call on it."""
        handler: Any = await self._connected_handler()
        return self._guarding(handler._async_stub), self.call_context.to_grpc_metadata()

    async def read(self, rpc: str, make_request: Callable[[], Any]) -> Any:
        """Milvus's answer to a request that changes nothing, and is repeated as pymilvus repeats the reads.

        pymilvus's own `search` and `query` look at each argument several times, and unpack one value after the other:
        that was a quarter of what a search takes in this process.

        Raises:
            InvalidArgument: a text in it has half a surrogate pair.
        """
        stub, metadata = await self.stub()
        send = getattr(stub, rpc)
        try:
            request = make_request()
        except UnicodeEncodeError:
            raise InvalidArgument(HALF_A_PAIR) from None
        try:
            answer = await send(request, metadata=metadata)
        except grpc.RpcError as failure:
            if failure.code() in IGNORE_RETRY_CODES:
                raise
            await anyio.sleep(REPEATED_AFTER)
            answer = await send(make_request(), metadata=metadata)
        check_status(answer.status)
        return answer

    async def entities_of(self, answer: Any) -> list[dict[str, Any]]:
        """The entities in Milvus's answer to a query."""
        columns = answer.fields_data
        plain = plain_entities(columns, len(plain_values(columns[0]))) if columns else None
        return _unpacked(await self._guarded(), answer) if plain is None else plain

    @property
    def call_context(self) -> Any:
        """What a call of the handler is told of the database, and of the call that is under way."""
        return self._generate_call_context()

    def _generate_call_context(self, **_: Any) -> Any:
        return _InCall(self._config.db_name, UNDER_WAY.get())

    @property
    def counts_all(self) -> bool:
        """Whether its caller may know how many entities there are of everybody."""
        return self.guard is None or self.guard.counts_all

    @property
    def database(self) -> str:
        """The name of the client's database."""
        return self._config.db_name

    async def query_in_key_order(self, collection_name: str, matching: str, **arguments: Any) -> list[dict[str, Any]]:
        """The entities of a query in the order of their primary keys."""
        handler = copy.copy(await self._guarded())
        stub = handler._async_stub = _InKeyOrder(handler._async_stub)
        await _Handler(handler).query(
            collection_name, matching, reduce_stop_for_best=True, context=self.call_context, **arguments
        )
        return await anyio.to_thread.run_sync(_unpacked, handler, stub.answer)

    async def forget_schemas(self, *names: str) -> None:
        """Drops what pymilvus itself remembers of these collections and aliases."""
        handler = await self._guarded()
        for name in names:
            handler._invalidate_schema(name, db_name=self._config.db_name)


class _InCall(CallContext):
    """Metadata of a request. Milvus writes the id of the call into its own log; of its two names some know only one."""

    def to_grpc_metadata(self) -> list[tuple[str, str]]:
        return [*super().to_grpc_metadata(), ("client_request_id", self._client_request_id)]


async def _cancellable(call: Awaitable[Any]) -> Any:
    """The result of a gRPC call, which deadlines end.

    gRPC raises a CancelledError of its own, which anyio does not take for the one that it sent: a deadline would pass
    unnoticed, and a request that its client cancels would end the session. It raises it, too, for calls that it has
    given up when a connection was lost, and nobody has cancelled: then a whole session would end without a word.

    Raises:
        AioRpcError: CANCELLED; the connection was lost.
    """
    try:
        return await call
    except asyncio.CancelledError:
        await anyio.lowlevel.checkpoint_if_cancelled()
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, "the connection was lost") from None


class _Handler:
    """A handler of whose calls only reads are repeated, once."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._handler, name)
        if name.startswith("_") or not inspect.iscoroutinefunction(attribute):
            return attribute
        return functools.partial(attribute, retry_times=int(name in REPEATED))


class _Stub:
    """A stub whose calls can be cancelled, and traced, and bear these headers."""

    def __init__(self, stub: Any, db_name: str, headers: tuple[tuple[str, str | bytes], ...]) -> None:
        self._stub = stub
        self._db_name = db_name
        self._headers = headers

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        send = getattr(self._stub, name)

        async def sent(request: Any, *, metadata: Sequence[tuple[str, str]] | None = None, **options: Any) -> Any:
            call = functools.partial(send, request, metadata=[*(metadata or ()), *self._headers], **options)
            if is_traced():
                return await traced(name, self._db_name, request, lambda: _cancellable(call()))
            return await _cancellable(call())

        return sent


class _InKeyOrder:
    """A stub whose queries answer in the order of the primary key. What pymilvus sees is empty; `answer` has it all."""

    answer: Any

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def Query(self, request: Any, **call: Any) -> Any:  # noqa: N802  # the name of the RPC
        request.query_params.append(common_pb2.KeyValuePair(key="iterator", value="True"))
        self.answer = await self._stub.Query(request, **call)
        nothing = schema_pb2.FieldData(scalars=schema_pb2.ScalarField(long_data=schema_pb2.LongArray()))
        return milvus_pb2.QueryResults(status=self.answer.status, fields_data=[nothing])


class _Answered:
    """A stub whose query was answered already."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def Query(self, _request: Any, **_call: Any) -> Any:  # noqa: N802  # the name of the RPC
        return self._answer


def _unpacked(handler: Any, answer: Any) -> list[dict[str, Any]]:
    """The entities of an answer, unpacked by pymilvus, whose coroutine waits for nothing then."""
    handler = copy.copy(handler)
    handler._async_stub = _Answered(answer)
    try:
        handler.query("", "").send(None)
    except StopIteration as unpacked:
        return entities_in(unpacked.value)
    raise AssertionError("pymilvus waits for something else than the answer of a query")
