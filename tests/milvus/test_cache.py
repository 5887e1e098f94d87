"""How often a schema is asked for, counted on the wire to a real engine, and who notices when it is another one."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pymilvus import AsyncMilvusClient, DataType
from pymilvus.client.prepare import Prepare

from mcp_server_milvus import errors
from mcp_server_milvus.milvus.cache import StaleSchema
from tests.milvus.conftest import Agent, Wire, agent

pytestmark = pytest.mark.anyio


@pytest.fixture
async def watched(lite: Agent, wire: Wire) -> AsyncGenerator[Agent]:
    """A server that knows no schema yet and whose every request is counted."""
    assert not wire.sent
    async with agent(data_dir=lite.app.settings.data_dir) as each:
        await each.call("list_databases")
        yield each


@pytest.fixture
async def other(lite_uri: str) -> AsyncGenerator[AsyncMilvusClient]:
    """Another process's client, as far as the server can tell."""
    async with AsyncMilvusClient(lite_uri, dedicated=True) as client:
        yield client


async def test_100_inserts_and_100_searches_ask_for_the_schema_once(lite: Agent, watched: Agent, wire: Wire) -> None:
    await lite.call("create_collection", collection_name="c_steady", dimension=2)
    for number in range(100):
        await watched.call("insert", collection_name="c_steady", data=[{"id": number, "vector": [1, number]}])
        found = await watched.call("search", collection_name="c_steady", vector=[1, number], limit=1)
        assert found["hits"]
    assert (wire.sent["Insert"], wire.sent["Search"]) == (100, 100)
    assert wire.sent["DescribeCollection"] == 1
    assert wire.sent["DescribeIndex"] == 1


async def test_50_first_calls_at_once_ask_once(lite: Agent, watched: Agent, wire: Wire) -> None:
    await lite.call("create_collection", collection_name="c_first", dimension=2)
    async with anyio.create_task_group() as calls:
        for _ in range(50):
            calls.start_soon(lambda: watched.call("search", collection_name="c_first", vector=[1, 0]))
    assert wire.sent["Search"] == 50
    assert wire.sent["DescribeCollection"] == 1


async def test_nothing_is_kept_of_names_that_mean_nothing(lite: Agent, watched: Agent, wire: Wire) -> None:
    await lite.call("create_collection", collection_name="c_kept", dimension=2)
    await watched.call("query", collection_name="c_kept")
    await watched.call("create_alias", collection_name="c_kept", alias="c_kept_too")
    for number in range(5):
        await watched.refused("query", collection_name=f"c_none_{number}")
        await watched.refused("query", collection_name="c_kept", db_name=f"c_none_{number}")

    async def fail(name: str, _: Any) -> None:
        if name == "DescribeCollection":
            raise errors.Denied("not allowed")

    wire.before = fail
    with anyio.fail_after(10):
        async with anyio.create_task_group() as calls:
            for number in range(10):
                calls.start_soon(lambda each=number % 5: watched.refused("query", collection_name=f"c_denied_{each}"))
    schemas = watched.app.schemas
    assert {name for _, name in schemas._entries} <= {"c_kept", "c_kept_too"}
    assert len(schemas._creating) == 0


async def test_callers_of_a_collection_that_is_missing_all_hear_so(watched: Agent) -> None:
    refusals: list[str] = []

    async def ask() -> None:
        refusals.append((await watched.refused("query", collection_name="c_missing"))["code"])

    async with anyio.create_task_group() as calls:
        for _ in range(10):
            calls.start_soon(ask)
    assert refusals == ["not_found"] * 10


async def test_a_caller_that_gives_up_takes_nothing_from_those_who_wait_with_it(lite: Agent, watched: Agent) -> None:
    await lite.call("create_collection", collection_name="c_patient", dimension=2)
    schemas = watched.app.schemas
    names: list[str] = []

    async def wait() -> None:
        names.append((await schemas.get("default", "c_patient")).name)

    async with anyio.create_task_group() as calls:
        hasty = anyio.CancelScope()

        async def give_up() -> None:
            with hasty:
                await wait()

        calls.start_soon(give_up)
        calls.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        hasty.cancel()
    assert names == ["c_patient"]


async def test_a_schema_is_asked_for_again_when_its_time_is_up(lite: Agent, wire: Wire) -> None:
    await lite.call("create_collection", collection_name="c_ttl", dimension=2)
    async with agent(data_dir=lite.app.settings.data_dir, schema_ttl=2.0) as each:
        for _ in range(5):
            await each.call("query", collection_name="c_ttl")
        assert wire.sent["DescribeCollection"] == 1
        with anyio.fail_after(20):
            while wire.sent["DescribeCollection"] == 1:
                await each.call("query", collection_name="c_ttl")
        assert wire.sent["DescribeCollection"] == 2


async def test_our_own_drop_is_known_at_once(watched: Agent) -> None:
    await watched.call("create_collection", collection_name="c_drop", dimension=2)
    await watched.call("query", collection_name="c_drop")
    await watched.call("drop_collection", collection_name="c_drop")
    assert (await watched.refused("query", collection_name="c_drop"))["code"] == "not_found"
    await watched.call("create_collection", collection_name="c_drop", dimension=3)
    await watched.call("insert", collection_name="c_drop", data=[{"id": 1, "vector": [1, 2, 3]}])


async def test_our_own_index_is_known_at_once(watched: Agent, wire: Wire) -> None:
    await watched.call("create_collection", collection_name="c_metric", dimension=2, metric_type="L2")
    before = await watched.call("search", collection_name="c_metric", vector=[1, 0])
    index = {"field_name": "vector", "metric_type": "IP", "replace": True}
    await watched.call("build_index", collection_name="c_metric", **index)
    asked = wire.sent["DescribeCollection"]
    after = await watched.call("search", collection_name="c_metric", vector=[1, 0])
    assert (before["metric_type"], after["metric_type"]) == ("L2", "IP")
    await watched.call("search", collection_name="c_metric", vector=[1, 0])
    assert wire.sent["DescribeCollection"] <= asked + 1


@pytest.mark.parametrize("forgotten", ["c_real", "c_alias"])
async def test_a_collection_and_its_aliases_are_forgotten_together(
    watched: Agent, wire: Wire, other: AsyncMilvusClient, forgotten: str
) -> None:
    await watched.call("create_collection", collection_name="c_real", dimension=2)
    await other.create_alias("c_real", "c_alias")
    for name in ("c_real", "c_alias"):
        await watched.call("query", collection_name=name)
    asked = wire.sent["DescribeCollection"]
    watched.app.schemas.forget("default", forgotten)
    for name in ("c_real", "c_alias"):
        await watched.call("query", collection_name=name)
    assert wire.sent["DescribeCollection"] == asked + 2
    await other.drop_alias("c_alias")
    await watched.call("drop_collection", collection_name="c_real")


async def test_forgetting_one_database_leaves_its_namesake_in_another(lite: Agent, wire: Wire) -> None:
    async with AsyncMilvusClient(await engine_of(lite), dedicated=True) as client:
        await client.create_database("c_elsewhere")
    async with agent(data_dir=lite.app.settings.data_dir) as each:
        for name in ("default", "c_elsewhere"):
            await each.call("create_collection", collection_name="c_same", dimension=2, db_name=name)
        each.app.schemas.forget("default", "c_same")
        asked = wire.sent["DescribeCollection"]
        await each.call("query", collection_name="c_same", db_name="c_elsewhere")
        assert wire.sent["DescribeCollection"] == asked


async def test_a_search_with_the_dimension_of_a_collection_made_anew_works_at_once(
    watched: Agent, other: AsyncMilvusClient
) -> None:
    await watched.call("create_collection", collection_name="c_search", dimension=2)
    await watched.call("insert", collection_name="c_search", data=[{"id": 1, "vector": [1, 0]}])
    await made_anew(other, "c_search", DataType.INT64, dimension=3)
    await other.insert("c_search", [{"id": 7, "vector": [1, 0, 0]}])
    found = await watched.call("search", collection_name="c_search", vector=[1, 0, 0])
    assert [hit["id"] for hit in found["hits"]] == [7]


async def test_an_insert_into_a_collection_made_anew_is_held_to_the_new_schema(
    watched: Agent, other: AsyncMilvusClient
) -> None:
    await watched.call("create_collection", collection_name="c_insert", dimension=2)
    await made_anew(other, "c_insert", DataType.VARCHAR, dimension=3)
    entity = {"id": 1, "vector": [1, 0]}
    refusal = await watched.refused("insert", collection_name="c_insert", data=[entity])
    assert refusal["code"] == "invalid_argument"
    assert "3" in refusal["hint"]
    assert await watched.call("count", collection_name="c_insert") == {"count": 0}
    await watched.call("insert", collection_name="c_insert", data=[{"id": "1", "vector": [1, 0, 0]}])
    assert [each["id"] for each in await watched.found("c_insert")] == ["1"]


@pytest.mark.parametrize("tool", ["insert", "upsert"])
async def test_an_entity_is_never_written_with_columns_of_an_outdated_type(
    watched: Agent, other: AsyncMilvusClient, tool: str
) -> None:
    name = f"c_types_{tool}"
    await made_anew(other, name, DataType.INT64, dimension=2, extra=DataType.INT64)
    await watched.call(tool, collection_name=name, data=[{"id": 1, "vector": [1, 0], "extra": 1}])
    await made_anew(other, name, DataType.INT64, dimension=2, extra=DataType.VARCHAR)
    refusal = await watched.refused(tool, collection_name=name, data=[{"id": 1, "vector": [1, 0], "extra": 1}])
    assert refusal["code"] in {"invalid_argument", "conflict"}
    assert await watched.call("count", collection_name=name) == {"count": 0}
    await watched.call(tool, collection_name=name, data=[{"id": 1, "vector": [1, 0], "extra": "1"}])
    assert (await watched.found(name))[0]["extra"] == "1"


async def test_a_delete_never_hits_a_key_of_the_collection_that_took_the_place(
    watched: Agent, other: AsyncMilvusClient
) -> None:
    await watched.call("create_collection", collection_name="c_delete", dimension=2)
    await watched.call("insert", collection_name="c_delete", data=[{"id": 1, "vector": [1, 0]}])
    await made_anew(other, "c_delete", DataType.INT64, dimension=3)
    await other.insert("c_delete", [{"id": 1, "vector": [1, 0, 0]}])
    refusal = await watched.refused("delete", collection_name="c_delete", ids=[1])
    assert refusal["code"] == "conflict"
    assert "changed it" in refusal["message"]
    assert await watched.call("count", collection_name="c_delete") == {"count": 1}

    assert await watched.call("delete", collection_name="c_delete", ids=[1]) == {"delete_count": 1}


async def test_a_collection_made_anew_just_as_it_was_is_another_one(watched: Agent, other: AsyncMilvusClient) -> None:
    await made_anew(other, "c_twin", DataType.INT64, dimension=2)
    before = await watched.app.schemas.get("default", "c_twin")
    await made_anew(other, "c_twin", DataType.INT64, dimension=2)
    await other.insert("c_twin", [{"id": 1, "vector": [1, 0]}])
    for tool, arguments in (("delete", {"ids": [1]}), ("drop_collection", {})):
        watched.app.schemas._entries["default", "c_twin"].schema = before
        assert (await watched.refused(tool, collection_name="c_twin", **arguments))["code"] == "conflict"
    assert await watched.call("count", collection_name="c_twin") == {"count": 1}


async def test_whatever_is_done_in_a_collection_it_stays_the_same_one(tmp_path: Path) -> None:
    async with agent(data_dir=tmp_path / "data") as each:
        await each.call("create_collection", collection_name="c_same_one", dimension=2)
        made = (await each.app.schemas.get("default", "c_same_one")).identity
        data = [{"id": number, "vector": [1, number]} for number in range(10)]
        await each.call("insert", collection_name="c_same_one", data=data)
        await each.call("delete", collection_name="c_same_one", ids=[1])
        index = {"field_name": "vector", "metric_type": "IP", "replace": True}
        await each.call("build_index", collection_name="c_same_one", **index)
        await each.call("release_collection", collection_name="c_same_one")
        await each.call("load_collection", collection_name="c_same_one")
        assert (await each.app.schemas.refresh("default", "c_same_one")).identity == made
    async with agent(data_dir=tmp_path / "data") as after:  # and another engine
        assert (await after.app.schemas.get("default", "c_same_one")).identity == made
    assert int(made) > 0


async def test_a_delete_goes_to_the_primary_key_that_the_collection_has_now(
    watched: Agent, other: AsyncMilvusClient
) -> None:
    """Where the old primary key's name is an ordinary field's now, its values are not what `ids` means."""
    await watched.call("create_collection", collection_name="c_renamed", dimension=2)
    await watched.call("query", collection_name="c_renamed")
    await made_anew(other, "c_renamed", DataType.INT64, dimension=2, key="key", extra=DataType.INT64, extra_name="id")
    entities = [{"key": 1, "id": 2, "vector": [1, 0]}, {"key": 2, "id": 1, "vector": [1, 0]}]
    await other.insert("c_renamed", entities)
    await watched.refused("delete", collection_name="c_renamed", ids=[1])
    assert await watched.call("delete", collection_name="c_renamed", ids=[1]) == {"delete_count": 1}
    assert [each["key"] for each in await watched.found("c_renamed")] == [2]


async def test_a_drop_never_takes_the_collection_that_took_the_place(watched: Agent, other: AsyncMilvusClient) -> None:
    await watched.call("create_collection", collection_name="c_dropped", dimension=2)
    await made_anew(other, "c_dropped", DataType.INT64, dimension=3)
    assert (await watched.refused("drop_collection", collection_name="c_dropped"))["code"] == "conflict"
    assert await other.has_collection("c_dropped")


async def test_a_change_beneath_a_cached_schema_is_told_as_such(watched: Agent, other: AsyncMilvusClient) -> None:
    await watched.call("create_collection", collection_name="c_told", dimension=2)
    await made_anew(other, "c_told", DataType.INT64, dimension=3)
    with pytest.raises(StaleSchema) as raised:
        await watched.app.schemas.confirmed("default", "c_told")
    assert isinstance(raised.value, errors.Conflict)
    assert (await watched.app.schemas.confirmed("default", "c_told")).by_name["vector"].dim == 3


async def engine_of(server: Agent) -> str:
    assert server.app.clients._engine
    return await server.app.clients._engine.address()


async def made_anew(
    client: AsyncMilvusClient,
    name: str,
    key_type: DataType,
    *,
    dimension: int,
    key: str = "id",
    extra: DataType | None = None,
    extra_name: str = "extra",
) -> None:
    """Drops the collection and creates, indexes and loads another one of the name."""
    await client.drop_collection(name)
    schema = client.create_schema()
    schema.add_field(key, key_type, is_primary=True, max_length=100)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    if extra:
        schema.add_field(extra_name, extra, max_length=100)
    await client.create_collection(name, schema=schema)
    handler: Any = await client._get_connection()
    await handler._async_stub.CreateIndex(index_request(name))
    await client.load_collection(name)


def index_request(collection_name: str) -> object:
    params = {"index_type": "FLAT", "metric_type": "L2"}
    return Prepare.create_index_request(collection_name, "vector", params, index_name="vector")
