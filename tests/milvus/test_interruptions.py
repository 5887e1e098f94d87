"""What is said, and what is remembered, when a call breaks off in the middle: a real engine, and a wire that breaks."""

import inspect
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from pymilvus.grpc_gen import common_pb2

from mcp_server_milvus.milvus.capabilities import Backend
from mcp_server_milvus.milvus.engine import open_database
from mcp_server_milvus.milvus.entities import BATCH_ENTITIES
from mcp_server_milvus.vocabulary import ConsistencyLevel
from tests.fake_milvus import fake_milvus
from tests.milvus.conftest import Agent, Wire, agent, connected, rpc_error

pytestmark = pytest.mark.anyio


@pytest.fixture
async def breaking(lite: Agent, wire: Wire) -> AsyncGenerator[Agent]:
    """A server whose answers the wire may replace."""
    assert not wire.sent
    async with agent(data_dir=lite.app.settings.data_dir) as each:
        await each.call("list_databases")
        yield each


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED])
@pytest.mark.parametrize("tool", ["insert", "upsert"])
async def test_a_write_that_milvus_broke_off_is_said_to_be_uncertain(
    breaking: Agent, lite: Agent, wire: Wire, tool: str, code: grpc.StatusCode
) -> None:
    name = f"i_{tool}_{code.name}"
    await breaking.call("create_collection", collection_name=name, dimension=2)
    wire.answers(code, tool.capitalize())
    refusal = await breaking.refused(tool, collection_name=name, data=[{"id": 1, "vector": [1, 2]}])
    assert refusal["code"] == "partial_write"
    assert refusal["outcome_unknown"] == [[0, 0]]
    assert (refusal[f"{tool}_count"], refusal["written"], refusal["not_written"]) == (0, [], [])
    assert wire.sent[tool.capitalize()] == 1
    assert await lite.call("count", collection_name=name) == {"count": 1}


async def test_a_write_that_is_in_by_half_tells_the_keys_that_milvus_made(
    breaking: Agent, lite: Agent, wire: Wire
) -> None:
    await breaking.call("create_collection", collection_name="i_keys", dimension=2, auto_id=True)

    async def lose_the_second(name: str, _request: Any) -> None:
        if name == "Insert" and wire.sent["Insert"] == 2:
            raise rpc_error(grpc.StatusCode.INTERNAL, "broken")

    wire.before = lose_the_second
    data = [{"vector": [1, number], "number": number} for number in range(BATCH_ENTITIES + 10)]
    refusal = await breaking.refused("insert", collection_name="i_keys", data=data)
    assert refusal["written"] == [[0, BATCH_ENTITIES - 1]]
    assert len(refusal["ids"]) == BATCH_ENTITIES
    last = await lite.call("get", collection_name="i_keys", ids=refusal["ids"][-1:])
    assert [each["number"] for each in last["entities"]] == [BATCH_ENTITIES - 1]


async def test_a_request_that_grpc_gives_up_is_an_error_and_no_cancellation() -> None:
    """A group of tasks takes a cancellation for its own, and would end all of them without a word."""
    async with fake_milvus("2.6.4") as fake:
        client = await connected(fake.uri)
        begun = anyio.Event()

        async def never(_: Any) -> None:
            begun.set()
            await anyio.sleep_forever()

        fake.answers["AllocTimestamp"] = never
        handler = await client.handler()
        with pytest.RaisesGroup(pytest.RaisesExc(grpc.aio.AioRpcError, match="CANCELLED")), anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(handler.alloc_timestamp)
                await begun.wait()
                await client.close()


@pytest.mark.parametrize(
    ("rpc", "tool", "arguments"),
    [
        ("CreateCollection", "create_collection", {"dimension": 2}),
        ("DropCollection", "drop_collection", {}),
        ("DropIndex", "build_index", {"field_name": "vector", "metric_type": "IP", "replace": True}),
        ("ReleaseCollection", "release_collection", {}),
        ("Delete", "delete", {"ids": [1]}),
    ],
)
async def test_a_change_that_was_made_is_never_said_not_to_have_been_sent(
    breaking: Agent, wire: Wire, rpc: str, tool: str, arguments: dict[str, Any]
) -> None:
    name = f"i_{rpc}_{tool}"
    if tool != "create_collection":
        await breaking.call("create_collection", collection_name=name, dimension=2)
    before = wire.sent[rpc]
    wire.answers(grpc.StatusCode.UNAVAILABLE, rpc)
    refusal = await breaking.refused(tool, collection_name=name, **arguments)
    assert refusal["code"] == "milvus_unavailable"
    assert "broke" in refusal["message"]
    assert "could not reach" not in refusal["message"]
    assert wire.sent[rpc] == before + 1


async def test_collections_are_listed_while_one_vanishes(breaking: Agent, lite: Agent, wire: Wire) -> None:
    for vanishes_after in ("ShowCollections", "DescribeCollection", "GetLoadState"):
        for name in ("i_stays", "i_vanishes"):
            await lite.call("create_collection", collection_name=name, dimension=2)

        async def vanish(name: str, request: Any, after: str = vanishes_after) -> None:
            if name == after and getattr(request, "collection_name", "") in {"", "i_vanishes"}:
                wire.after = quiet
                await lite.call("drop_collection", collection_name="i_vanishes")

        wire.after = vanish
        listed = await breaking.call("list_collections", limit=1000)
        assert wire.after is quiet
        assert "i_stays" in {line["name"] for line in listed["collections"]}


@pytest.mark.parametrize("rpc", ["DescribeCollection", "GetLoadState"])
async def test_a_milvus_that_goes_away_while_collections_are_listed_is_no_fault_of_ours(
    breaking: Agent, lite: Agent, wire: Wire, rpc: str
) -> None:
    for name in ("i_one", "i_two"):
        await lite.call("create_collection", collection_name=name, dimension=2)
    wire.answers(grpc.StatusCode.UNAVAILABLE, rpc)
    assert (await breaking.refused("list_collections", limit=1000))["code"] == "milvus_unavailable"


async def test_a_delete_whose_time_is_unknown_has_succeeded_and_later_reads_are_strong(
    lite: Agent, lite_uri: str, wire: Wire
) -> None:
    """Milvus Lite has no time to give, as a server that fails, and is always strong, as a server is not."""
    await lite.call("create_collection", collection_name="i_time", dimension=2)
    await lite.call("insert", collection_name="i_time", data=[{"id": 1, "vector": [1, 2]}])
    schema = replace(await lite.app.schemas.get("default", "i_time"), consistency_level=ConsistencyLevel.BOUNDED)
    client = await connected(lite_uri)
    client.backend = Backend.from_version_text("v2.3.5")
    assert await client.delete_matching("i_time", "id in [1]", schema, "") == 1
    assert wire.sent["AllocTimestamp"] == 1
    for _ in range(2):
        assert await client.read_matching("i_time", "id > 0", schema, output_fields=["id"]) == []
        assert not wire.last["Query"].use_default_consistency
        assert wire.last["Query"].consistency_level == common_pb2.ConsistencyLevel.Strong
        client._note_write(schema, 1)  # a later write does not say when the delete was
    await client.close()


def test_milvus_lite_has_the_private_names_that_its_numbers_are_made_of(tmp_path: Path) -> None:
    """When one of them moves, this fails, and not a delete."""
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from milvus_lite.db import SCHEMA_FILENAME
    from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema

    assert tuple(inspect.signature(MilvusServicer._get_collection).parameters) == ("self", "request", "context")
    assert tuple(inspect.signature(MilvusServicer.ShowPartitions).parameters) == ("self", "request", "context")
    database = open_database(tmp_path / "data")
    key = FieldSchema(name="id", dtype=DataType.INT64, is_primary=True)
    vector = FieldSchema(name="vector", dtype=DataType.FLOAT_VECTOR, dim=2)
    collection = database.create_collection("i_names", CollectionSchema(fields=[key, vector]))
    assert (Path(collection._data_dir) / SCHEMA_FILENAME).is_file()
    assert isinstance(collection._index_specs, dict)
    database.close()


async def test_the_numbers_of_milvus_lite_tell_collections_and_indexes_apart(lite: Agent, lite_uri: str) -> None:
    client = await connected(lite_uri)
    seen: list[tuple[str, str]] = []
    for metric in ("L2", "L2", "IP"):
        await lite.call("create_collection", collection_name="i_numbers", dimension=2, metric_type=metric)
        described = await client.describe("i_numbers")
        seen.append((described.identity, described.index_digest))
        await lite.call("drop_collection", collection_name="i_numbers")
    await client.close()
    identities, digests = zip(*seen, strict=True)
    assert len(set(identities)) == 3
    assert "0" not in {*identities, *digests}
    assert digests[0] == digests[1] != digests[2]


async def quiet(_name: str, _request: Any) -> None:
    """It has happened."""
