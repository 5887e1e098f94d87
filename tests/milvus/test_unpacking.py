"""Answers are unpacked into just what pymilvus makes of them: plain values at once, pages beside the event loop."""

import threading
from typing import Any

import pytest
from pymilvus.client import entity_helper
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from mcp_server_milvus.errors import MilvusFailed
from mcp_server_milvus.milvus import unpacking
from mcp_server_milvus.milvus.unpacking import hits_of
from tests.milvus.conftest import Agent

pytestmark = pytest.mark.anyio

FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
    {"name": "score", "type": "DOUBLE", "nullable": True},
    {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 3, "max_length": 9},
    {"name": "meta", "type": "JSON"},
]


async def test_pymilvus_unpacks_on_the_event_loop_and_this_server_beside_it(
    lite: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lite.call("create_collection", collection_name="u_all", fields=FIELDS, enable_dynamic_field=True)
    data = [
        {
            "id": key,
            "vector": [key, 0.5],
            "sparse": {str(key): 0.25},
            "score": [None, 1.5, 2.0][key % 3],
            "tags": ["a"] * (key % 3),
            "meta": {"deep": [key, None]},
            "extra": f"e{key}",
        }
        for key in range(20)
    ]
    await lite.call("insert", collection_name="u_all", data=data)
    threads: list[int] = []
    unpack: Any = entity_helper.extract_row_data_from_fields_data_v2

    def noted(column: Any, entities: list[Any]) -> Any:
        threads.extend(threading.get_ident() for _ in entities)
        return unpack(column, entities)

    monkeypatch.setattr(entity_helper, "extract_row_data_from_fields_data_v2", noted)
    schema = await lite.app.schemas.get("default", "u_all")
    async with lite.app.clients.client("default") as client:
        on_the_loop = list(await client.query("u_all", "id >= 0", output_fields=["*"]))
        assert set(threads) == {threading.get_ident()}
        threads.clear()
        beside = await client.read_in_key_order(
            "u_all", "", schema, limit=100, output_fields=["*"], partition_names=None, consistency_level=None
        )
        nothing = await client.read_in_key_order(
            "u_all", "id > 99", schema, limit=9, output_fields=["id"], partition_names=None, consistency_level=None
        )
    assert threads
    assert threading.get_ident() not in threads
    assert (len(beside), nothing) == (20, [])
    assert beside == sorted(on_the_loop, key=lambda entity: entity["id"])


PLAIN = [
    {"name": "id", "type": "VARCHAR", "max_length": 9, "is_primary": True},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    *({"name": kind.lower(), "type": kind} for kind in ("BOOL", "INT8", "INT16", "INT32", "INT64", "FLOAT", "DOUBLE")),
    {"name": "text", "type": "VARCHAR", "max_length": 99},
]
OTHERS = [
    {"name": "maybe", "type": "INT64", "nullable": True},
    {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 3, "max_length": 9},
    {"name": "meta", "type": "JSON"},
]


def entity(number: int) -> dict[str, Any]:
    numbers = dict.fromkeys(("int8", "int16", "int32", "int64"), number)
    reals = {"float": number / 3, "double": number / 3}
    return {"id": f"k{number}", "vector": [number, 1], "bool": number % 2 == 0, "text": f"é{number}"} | numbers | reals


@pytest.mark.parametrize("is_plain", [True, False])
async def test_what_is_unpacked_here_is_what_pymilvus_makes_of_it(
    lite: Agent, *, is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"u_plain_{is_plain}"
    fields = PLAIN if is_plain else PLAIN + OTHERS
    await lite.call("create_collection", collection_name=name, fields=fields, enable_dynamic_field=True)
    more = [{} if is_plain else {"maybe": None, "tags": ["t"], "meta": {"m": n}, "extra": n} for n in range(5)]
    await lite.call("insert", collection_name=name, data=[entity(n) | more[n] for n in range(5)])
    schema = await lite.app.schemas.get("default", name)
    by_pymilvus: list[Any] = []
    unpack = unpacking.hits_in

    def noted(found: Any) -> Any:
        by_pymilvus.append(found)
        return unpack(found)

    monkeypatch.setattr(unpacking, "hits_in", noted)
    asked: dict[str, Any] = {"output_fields": schema.output_fields(None), "partition_names": None}
    async with lite.app.clients.client("default") as client:
        rows = await client.query(name, "id != 'k0'", output_fields=asked["output_fields"])
        entities = await client.read_matching(name, "id != 'k0'", schema, **asked)
        searches: Any = await client.search(name, [[1.0, 1.0]], anns_field="vector", limit=3, **asked)
        found = await client.search_nearest(
            name,
            [1.0, 1.0],
            schema,
            anns_field="vector",
            matching="",
            limit=3,
            search_params={},
            consistency_level=None,
            **asked,
        )
    assert entities == list(rows)
    assert [tuple(each) for each in found] == [(hit.id, hit.distance, hit["entity"]) for hit in searches[0]]
    assert len(entities) == 4
    assert len(found) == 3
    assert found[0].entity.keys() >= {each["name"] for each in fields} - {"vector"}
    assert bool(by_pymilvus) is not is_plain


def answered(keys: int, scores: int, topks: list[int]) -> Any:
    """An answer with so many of each."""
    values = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=range(keys)))
    column = schema_pb2.FieldData(type=schema_pb2.Int64, field_name="n", scalars=values)
    found = schema_pb2.SearchResultData(
        ids=schema_pb2.IDs(int_id=schema_pb2.LongArray(data=range(keys))),
        scores=[0.5] * scores,
        topks=topks,
        fields_data=[column],
    )
    return milvus_pb2.SearchResults(status=common_pb2.Status(), results=found)


@pytest.mark.parametrize(
    "answer",
    [
        answered(2, 2, []),
        answered(2, 2, [1, 1]),
        answered(2, 1, [2]),
        answered(1, 2, [2]),
        answered(2, 2, [2**40]),
        answered(2, 2, [-1]),
        milvus_pb2.SearchResults(),
    ],
)
def test_an_answer_that_makes_no_sense_is_told_as_such(answer: Any) -> None:
    with pytest.raises(MilvusFailed, match="Milvus has answered with"):
        hits_of(answer)
    assert [hit.key for hit in hits_of(answered(2, 2, [2]))] == [0, 1]
