"""A Milvus at the gRPC boundary, for what no server that can run here has: it notes requests, says what it is told."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from pymilvus import CollectionSchema, DataType, FieldSchema
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

METHODS = milvus_pb2.DESCRIPTOR.services_by_name["MilvusService"].methods_by_name
FINISHED, LOADED = 3, 3


class Refusal(Exception):
    """What the function of an RPC raises to have it fail with this status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


@dataclass
class FakeMilvus:
    """Answers each RPC with `answers[name]` (a message, or a function of the request), or with an empty success.

    It has one collection of any name asked for, with the fields of `schema`, indexed, loaded and empty.
    """

    version: str
    schema: CollectionSchema
    uri: str = ""
    received: list[tuple[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    def requests(self, name: str) -> list[Any]:
        """What came for one RPC, parsed."""
        return [request for received, request in self.received if received == name]

    def answer(self, name: str, request: Any) -> Any:
        self.received.append((name, request))
        given = self.answers.get(name, getattr(self, f"_{name}", None))
        answer = given(request) if isinstance(given, Callable) else given
        return answer if answer is not None else GetMessageClass(METHODS[name].output_type)()

    def _GetVersion(self, _: Any) -> Any:  # noqa: N802  # the name of the RPC
        return milvus_pb2.GetVersionResponse(version=self.version)

    def _DescribeCollection(self, request: Any) -> Any:  # noqa: N802
        prepared = Prepare.create_collection_request(request.collection_name, self.schema)
        schema = schema_pb2.CollectionSchema.FromString(prepared.schema)
        for number, each in enumerate(schema.fields):
            each.fieldID = 100 + number
        return milvus_pb2.DescribeCollectionResponse(
            schema=schema, collection_name=request.collection_name, collectionID=7, shards_num=1
        )

    def _DescribeIndex(self, request: Any) -> Any:  # noqa: N802
        vectors = [each for each in self.schema.fields if each.dtype >= DataType.BINARY_VECTOR]
        params = [
            common_pb2.KeyValuePair(key="index_type", value="AUTOINDEX"),
            common_pb2.KeyValuePair(key="metric_type", value="COSINE"),
        ]
        return milvus_pb2.DescribeIndexResponse(
            index_descriptions=[
                milvus_pb2.IndexDescription(
                    index_name=each.name, field_name=each.name, params=params, state=common_pb2.IndexState.Finished
                )
                for each in vectors
                if request.field_name in {"", each.name}
            ]
        )

    def _ShowPartitions(self, _: Any) -> Any:  # noqa: N802
        return milvus_pb2.ShowPartitionsResponse(partition_names=["_default"], partitionIDs=[8])

    def _GetLoadState(self, _: Any) -> Any:  # noqa: N802
        return milvus_pb2.GetLoadStateResponse(state=common_pb2.LoadState.LoadStateLoaded)

    def _GetLoadingProgress(self, _: Any) -> Any:  # noqa: N802
        return milvus_pb2.GetLoadingProgressResponse(progress=100, refresh_progress=100)

    def _Query(self, _: Any) -> Any:  # noqa: N802
        count = schema_pb2.FieldData(
            type=schema_pb2.DataType.Int64,
            field_name="count(*)",
            scalars=schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=[0])),
        )
        return milvus_pb2.QueryResults(fields_data=[count], output_fields=["count(*)"])


def small_schema() -> CollectionSchema:
    """`id INT64`, `title VARCHAR(64)`, `vector FLOAT_VECTOR(2)`."""
    return CollectionSchema(
        [
            FieldSchema("id", DataType.INT64, is_primary=True),
            FieldSchema("title", DataType.VARCHAR, max_length=64),
            FieldSchema("vector", DataType.FLOAT_VECTOR, dim=2),
        ]
    )


@asynccontextmanager
async def fake_milvus(version: str, schema: CollectionSchema | None = None) -> AsyncGenerator[FakeMilvus]:
    """One that listens, until the block ends. `version` as a server tells it: `2.6.4`."""
    fake = FakeMilvus(version, schema or small_schema())
    server = grpc.aio.server(handlers=[_Handlers(fake)])
    fake.uri = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield fake
    await server.stop(None)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, fake: FakeMilvus) -> None:
        self._fake = fake

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.rpartition("/")[2]

        async def answer(request: Any, context: Any) -> Any:
            try:
                answer = self._fake.answer(name, request)
                return await answer if isawaitable(answer) else answer
            except Refusal as refusal:
                await context.abort(refusal.code, refusal.details)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=GetMessageClass(METHODS[name].input_type).FromString,
            response_serializer=GetMessageClass(METHODS[name].output_type).SerializeToString,
        )
