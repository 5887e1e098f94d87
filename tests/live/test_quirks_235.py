"""What pymilvus and Milvus 2.3.5 do wrong together, beside what we do about it, and what its failures become."""

import time
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import grpc
import pytest
from pymilvus import AsyncMilvusClient, DataType
from pymilvus.grpc_gen import common_pb2

from mcp_server_milvus.milvus.schema import Index
from tests.milvus.conftest import Agent, agent, connected, watching

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

INJECTION = "zz'] or id != '' or id in ['q"


@pytest.fixture(scope="module")
async def server(milvus_235: str) -> AsyncGenerator[Agent]:
    async with agent(uri=milvus_235) as each:
        yield each


@pytest.fixture
async def raw(milvus_235: str) -> AsyncGenerator[AsyncMilvusClient]:
    """pymilvus as it comes, on a connection of its own."""
    async with AsyncMilvusClient(milvus_235, dedicated=True) as client:
        yield client


async def test_a_delete_that_fails_says_so_where_pymilvus_says_nothing(server: Agent, raw: AsyncMilvusClient) -> None:
    await server.call("create_collection", collection_name="qk_delete", dimension=2)
    assert (await raw.delete("qk_missing", filter="id == 1"))["delete_count"] == 0
    assert (await raw.delete("qk_delete", filter="id ==== 1"))["delete_count"] == 0

    assert (await server.refused("delete", collection_name="qk_missing", filter="id == 1"))["code"] == "not_found"
    assert (await server.refused("delete", collection_name="qk_delete", filter="id ==== 1"))["code"] == "invalid_filter"


async def test_a_key_cannot_be_a_filter(server: Agent, raw: AsyncMilvusClient) -> None:
    await server.call("create_collection", collection_name="qk_keys", dimension=2, id_type="string")
    entities = [{"id": str(number), "vector": [1, number]} for number in range(3)]
    await server.call("insert", collection_name="qk_keys", data=entities)
    found = await raw.get("qk_keys", ids=[INJECTION], consistency_level="Strong")
    assert len(found) == 3

    assert (await server.call("get", collection_name="qk_keys", ids=[INJECTION]))["entities"] == []
    assert await server.call("delete", collection_name="qk_keys", ids=[INJECTION]) == {"delete_count": 0}
    assert await server.call("count", collection_name="qk_keys") == {"count": 3}


async def test_a_division_that_would_end_the_server_is_never_sent(server: Agent) -> None:
    await server.call("create_collection", collection_name="qk_division", dimension=2)
    entity = {"id": 4, "vector": [1, 0], "n": 4}
    await server.call("insert", collection_name="qk_division", data=[entity])
    arguments = {"collection_name": "qk_division", "limit": 1}
    for divisor in ("0", "-0", "(1-1)", "{d}", "00", "0x0", "id"):
        params = {"filter_params": {"d": 0}} if divisor == "{d}" else {}
        error = await server.refused("query", **arguments, filter=f"id / {divisor} == 1", **params)
        assert (error["code"], "can divide" in error["message"]) == ("invalid_filter", True), divisor
        leg = {"vector": [1, 0], "filter": f"id / {divisor} == 1", **params}
        assert (await server.refused("hybrid_search", collection_name="qk_division", legs=[leg]))["code"] == error[
            "code"
        ]
    assert await server.found("qk_division", filter="id / 4 == 1", output_fields=["n"]) == [{"id": 4, "n": 4}]


@pytest.mark.parametrize("field_type", ["GEOMETRY", "TIMESTAMPTZ", "SPARSE_FLOAT_VECTOR", "BFLOAT16_VECTOR"])
async def test_a_field_type_that_would_crash_the_server_is_never_sent(milvus_235: str, field_type: str) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        {"name": "extra", "type": field_type} | ({"dim": 2} if field_type == "BFLOAT16_VECTOR" else {}),
    ]
    with watching() as wire:
        async with agent(uri=milvus_235) as each:
            refusal = await each.refused("create_collection", collection_name="qk_types", fields=fields)
    assert refusal["code"] == "not_supported"
    assert field_type in refusal["message"]
    assert wire.sent["GetVersion"]
    assert wire.sent["CreateCollection"] == 0


@pytest.mark.parametrize("option", [{"nullable": True}, {"default_value": 1}])
async def test_what_the_server_would_drop_silently_is_refused(server: Agent, option: dict[str, Any]) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        {"name": "extra", "type": "INT64"} | option,
    ]
    refusal = await server.refused("create_collection", collection_name="qk_options", fields=fields)
    assert refusal["code"] == "not_supported"


async def test_an_index_is_built_without_pymilvus_s_half_second(server: Agent, raw: AsyncMilvusClient) -> None:
    await raw.create_collection("qk_slow", schema=schema_of(raw))
    params = raw.prepare_index_params()
    params.add_index("vector", index_type="FLAT", metric_type="L2")
    started = time.monotonic()
    await raw.create_index("qk_slow", params)
    slow = time.monotonic() - started
    assert slow > 0.5

    quick: list[float] = []
    async with server.app.clients.client("default") as client:
        for number in range(3):
            await raw.create_collection(f"qk_quick_{number}", schema=schema_of(raw))
            started = time.monotonic()
            await client.start_index(f"qk_quick_{number}", Index("vector", "vector", "FLAT", "L2"))
            quick.append(time.monotonic() - started)
    assert min(quick) < 0.4


async def test_a_read_sees_what_was_written_deleted_and_upserted_before_it(server: Agent) -> None:
    await server.call("create_collection", collection_name="qk_session", dimension=2)
    for number in range(3):
        entity = {"id": number, "vector": [1, number], "state": "new"}
        await server.call("insert", collection_name="qk_session", data=[entity])
        assert (await server.call("count", collection_name="qk_session", filter=f"id == {number}"))["count"] == 1
        await server.call("upsert", collection_name="qk_session", data=[entity | {"state": "changed"}])
        assert [each["state"] for each in await server.found("qk_session", filter=f"id == {number}")] == ["changed"]
        hits = (await server.call("search", collection_name="qk_session", vector=[1, number], limit=1))["hits"]
        assert [hit["fields"]["state"] for hit in hits] == ["changed"]
        await server.call("delete", collection_name="qk_session", filter=f"id == {number}")
        assert await server.found("qk_session") == []


async def test_of_two_writes_at_once_reads_wait_for_the_later(server: Agent, milvus_235: str) -> None:
    await server.call("create_collection", collection_name="qk_both", dimension=2)
    schema = await server.app.schemas.get("default", "qk_both")
    with watching() as wire:
        client = await connected(milvus_235)
    first_is_in, second_is_answered = anyio.Event(), anyio.Event()
    times: list[int] = []

    async def hold_the_first(name: str, _request: Any) -> None:
        if name == "Upsert" and not first_is_in.is_set():
            first_is_in.set()
            await second_is_answered.wait()

    async def write(key: int) -> None:
        result = await client.upsert_entities("qk_both", [{"id": key, "vector": [1.0, key]}], schema, "")
        times.append(result.timestamp)

    wire.after = hold_the_first
    with anyio.fail_after(10):
        async with anyio.create_task_group() as both:
            both.start_soon(write, 1)
            await first_is_in.wait()
            await write(2)
            second_is_answered.set()
    later, earlier = times
    assert earlier < later
    assert client.last_writes["qk_both"] == later
    await client.close()


async def test_a_delete_whose_time_is_unknown_has_succeeded_and_the_next_read_sees_it(milvus_235: str) -> None:
    with watching() as wire:
        async with agent(uri=milvus_235) as each:
            await each.call("create_collection", collection_name="qk_time", dimension=2)
            await each.call("insert", collection_name="qk_time", data=[{"id": 1, "vector": [1, 2]}])
            wire.answers(grpc.StatusCode.UNAVAILABLE, "AllocTimestamp")
            await each.call("delete", collection_name="qk_time", filter="id == 1")
            assert await each.found("qk_time") == []
            assert not wire.last["Query"].use_default_consistency
            assert wire.last["Query"].consistency_level == common_pb2.ConsistencyLevel.Strong


async def test_a_search_notices_that_another_process_rebuilt_the_index_with_another_metric(
    server: Agent, raw: AsyncMilvusClient
) -> None:
    await server.call("create_collection", collection_name="qk_metric", dimension=2, metric_type="L2")
    await server.call("insert", collection_name="qk_metric", data=[{"id": 1, "vector": [3, 4]}])
    asked = {"collection_name": "qk_metric", "vector": [1, 0]}
    before = await server.call("search", **asked)
    assert (before["metric_type"], before["hits"][0]["score"]) == ("L2", 20)

    await raw.release_collection("qk_metric")
    await raw.drop_index("qk_metric", "vector")
    params = raw.prepare_index_params()
    params.add_index("vector", index_type="FLAT", metric_type="IP")
    await raw.create_index("qk_metric", params)
    await raw.load_collection("qk_metric")
    after = await server.call("search", **asked)
    assert (after["metric_type"], after["hits"][0]["score"]) == ("IP", 3)


async def test_paging_is_complete_when_a_page_ends_among_equal_keys(server: Agent) -> None:
    await server.call("create_collection", collection_name="qk_pages", dimension=2)
    entities = [{"id": number, "vector": [1, number]} for number in range(40)]
    for _ in range(3):
        await server.call("insert", collection_name="qk_pages", data=entities)
    paged, page = [], {"next_cursor": None}
    while "next_cursor" in page:
        page = await server.call("query", collection_name="qk_pages", limit=7, cursor=page["next_cursor"])
        paged += [entity["id"] for entity in page["entities"]]
    assert sorted(set(paged)) == list(range(40))
    assert paged == sorted(paged)


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("describe_collection", {"collection_name": "qk_nowhere"}, "not_found"),
        ("query", {"collection_name": "qk_codes", "filter": "year >> 3"}, "invalid_filter"),
        ("query", {"collection_name": "qk_codes", "filter": "id > 'text'"}, "invalid_filter"),
        ("query", {"collection_name": "qk_codes", "partition_names": ["nowhere"]}, "not_found"),
        ("insert", {"collection_name": "qk_codes", "data": [{"id": 1, "vector": [1]}]}, "invalid_argument"),
        (
            "insert",
            {"collection_name": "qk_codes", "data": [{"id": 1, "vector": [1, 2]}], "partition_name": "nowhere"},
            "not_found",
        ),
        ("search", {"collection_name": "qk_codes", "vector": [1, 2], "limit": 16_384, "offset": 1}, "invalid_argument"),
        ("search", {"collection_name": "qk_codes", "vector": [1, 2, 3]}, "invalid_argument"),
        ("list_collections", {"db_name": "qk_nowhere"}, "not_found"),
        ("build_index", {"collection_name": "qk_codes", "field_name": "vector", "index_type": "NOPE"}, None),
        ("load_collection", {"collection_name": "qk_unindexed"}, "conflict"),
    ],
)
async def test_a_failure_of_the_server_becomes_a_code(
    server: Agent, raw: AsyncMilvusClient, tool: str, arguments: dict[str, Any], code: str | None
) -> None:
    await server.call("create_collection", collection_name="qk_codes", dimension=2)
    await raw.create_collection("qk_unindexed", schema=schema_of(raw))
    refusal = await server.refused(tool, **arguments)
    assert code is None or refusal["code"] == code, refusal
    for noise in ("127.0.0.1", "stack", ".go:", "github.com", "/go/src", "delegator"):
        assert noise not in str(refusal)


async def test_a_read_of_a_released_collection_loads_it_or_says_so(milvus_235: str, server: Agent) -> None:
    await server.call("create_collection", collection_name="qk_released", dimension=2)
    await server.call("release_collection", collection_name="qk_released")
    async with agent(uri=milvus_235, auto_load=False) as strict:
        assert (await strict.refused("query", collection_name="qk_released"))["code"] == "not_loaded"
    assert (await server.call("query", collection_name="qk_released"))["loaded"]


def schema_of(client: AsyncMilvusClient) -> Any:
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    return schema
