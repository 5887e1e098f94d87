"""The request of one search, made in one step: pymilvus's own builder looks for some forty options, each time."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# protobuf and pymilvus have no types; what leaves this file has.

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from pymilvus.client.entity_helper import sparse_rows_to_proto
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from mcp_server_milvus.compact import compact
from mcp_server_milvus.milvus.schema import Field
from mcp_server_milvus.vocabulary import DataType

PLACEHOLDERS: Mapping[DataType, common_pb2.PlaceholderType] = {
    DataType.BINARY_VECTOR: common_pb2.BinaryVector,
    DataType.FLOAT16_VECTOR: common_pb2.Float16Vector,
    DataType.BFLOAT16_VECTOR: common_pb2.BFloat16Vector,
    DataType.INT8_VECTOR: common_pb2.Int8Vector,
}
"""How a request calls the vectors that are bytes already."""


def search_request(  # noqa: PLR0913  # each is a part of the request
    collection_name: str,
    field: Field,
    sought: Any,
    *,
    matching: str,
    limit: int,
    search_params: Mapping[str, Any],
    output_fields: Sequence[str],
    partition_names: Sequence[str] | None,
    guaranteed: Mapping[str, Any],
    offset: int | None = None,
    **grouping: str | int,
) -> Any:
    """The request for the entities whose values in the field are nearest to what is sought, as pymilvus would make it.

    `search_params` are those of `Target.search_params`, `guaranteed` says what the search has to see, and `grouping`
    may have `group_by_field` and `group_size`.

    Raises:
        UnicodeEncodeError: a text in it has half a surrogate pair.
    """
    metric = {key: value for key, value in search_params.items() if key != "params"}
    params = {**search_params.get("params", {}), **metric}
    told = {
        "topk": limit,
        "round_decimal": -1,
        "ignore_growing": False,
        **({"offset": offset} if offset else {}),
        **grouping,
        **metric,
        "anns_field": field.name,
        "params": compact(params),
    }
    placeholders = common_pb2.PlaceholderGroup(placeholders=[_placeholder(field, sought)])
    return milvus_pb2.SearchRequest(
        collection_name=collection_name,
        partition_names=partition_names,
        dsl=matching,
        dsl_type=common_pb2.BoolExprV1,
        placeholder_group=placeholders.SerializeToString(),
        nq=1,
        output_fields=output_fields,
        search_params=[common_pb2.KeyValuePair(key=key, value=str(value)) for key, value in told.items()],
        **guaranteed,
    )


def _placeholder(field: Field, sought: Any) -> Any:
    match sought:
        case str():
            kind, value = common_pb2.VarChar, sought.encode()
        case dict():
            kind, value = common_pb2.SparseFloatVector, sparse_rows_to_proto([sought]).contents[0]
        case bytes():
            kind, value = PLACEHOLDERS[field.type], sought
        case array():
            kind, value = common_pb2.FloatVector, sought.tobytes()
        case _:  # the numbers of a stored vector
            kind, value = common_pb2.FloatVector, array("f", sought).tobytes()
    return common_pb2.PlaceholderValue(tag="$0", type=kind, values=[value])
