"""Answers of queries are unpacked beside the event loop, into just what pymilvus makes of them on it."""

import threading
from typing import Any

import pytest
from pymilvus.client import entity_helper

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
