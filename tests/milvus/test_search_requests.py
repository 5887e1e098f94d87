"""A search asks what pymilvus would ask, whatever is searched for."""

import struct
from array import array
from typing import Any

import pytest
from pymilvus import DataType as MilvusType
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import common_pb2

from mcp_server_milvus.milvus.schema import Field
from mcp_server_milvus.milvus.search_requests import search_request
from mcp_server_milvus.vocabulary import DataType

FLOATS = [0.5, -1.25, 3.0]


def described(field: Field) -> dict[str, Any]:
    return {"fields": [{"name": field.name, "type": MilvusType[field.type]}]}


@pytest.mark.parametrize(
    ("kind", "sought", "as_pymilvus_takes_it"),
    [
        (DataType.FLOAT_VECTOR, array("f", FLOATS), FLOATS),
        (DataType.FLOAT_VECTOR, FLOATS, FLOATS),
        (DataType.FLOAT16_VECTOR, struct.pack("3e", *FLOATS), struct.pack("3e", *FLOATS)),
        (DataType.BFLOAT16_VECTOR, b"\x00\x3f\xa0\xbf", b"\x00\x3f\xa0\xbf"),
        (DataType.BINARY_VECTOR, b"\x0f", b"\x0f"),
        (DataType.INT8_VECTOR, b"\x01\xff", b"\x01\xff"),
        (DataType.SPARSE_FLOAT_VECTOR, {7: 0.5, 3: 1.5}, {7: 0.5, 3: 1.5}),
        (DataType.SPARSE_FLOAT_VECTOR, "words sought: é", "words sought: é"),
    ],
)
@pytest.mark.parametrize(
    ("params", "more"),
    [
        ({}, {}),
        ({"metric_type": "COSINE", "params": {}}, {"output_fields": ["id", "$meta"]}),
        ({"metric_type": "L2", "params": {"ef": 64, "radius": 0.5, "name": "é"}}, {"partition_names": ["a", "b"]}),
        ({"metric_type": "IP", "params": {"nprobe": 8}}, {"offset": 20, "group_by_field": "kind", "group_size": 2}),
    ],
)
def test_a_search_asks_what_pymilvus_would_ask(
    kind: DataType, sought: Any, as_pymilvus_takes_it: Any, params: dict[str, Any], more: dict[str, Any]
) -> None:
    field = Field("vector", kind)
    guaranteed: dict[str, Any] = {"guarantee_timestamp": 7, "use_default_consistency": False, "consistency_level": 3}
    asked: dict[str, Any] = {"output_fields": ["id"], "partition_names": None, "limit": 11} | more
    ours = search_request(
        "things", field, sought, matching="id > 3", search_params=params, guaranteed=guaranteed, **asked
    )
    theirs = Prepare.search_requests_with_expr(
        "things",
        anns_field="vector",
        param=params,
        data=[as_pymilvus_takes_it],
        expr="id > 3",
        schema=described(field),
        **asked,
        **guaranteed,
    )
    assert comparable(ours) == comparable(theirs)


def comparable(request: Any) -> tuple[Any, ...]:
    """All of a request, without the order of its parameters, which means nothing."""
    params = {pair.key: pair.value for pair in request.search_params}
    assert len(params) == len(request.search_params)
    params["params"] = sorted(params["params"].strip("{}").split(","))
    vectors = common_pb2.PlaceholderGroup.FromString(request.placeholder_group)
    request.ClearField("search_params")
    request.ClearField("placeholder_group")
    return params, vectors, request


@pytest.mark.parametrize(
    ("text", "matching", "params"),
    [("\ud800", "", {}), ("a", "a == '\ud800'", {}), ("a", "", {"params": {"p": "\ud800"}})],
)
def test_half_a_surrogate_pair_is_not_sent(text: str, matching: str, params: dict[str, Any]) -> None:
    told: dict[str, Any] = {"limit": 1, "output_fields": [], "partition_names": None, "guaranteed": {}}
    with pytest.raises(UnicodeEncodeError):
        search_request(
            "c", Field("v", DataType.SPARSE_FLOAT_VECTOR), text, matching=matching, search_params=params, **told
        )
