"""Another process drops and recreates a collection: nothing wrong is written or deleted, and the server survives."""

from collections.abc import AsyncGenerator

import anyio
import pytest
from pymilvus import AsyncMilvusClient, DataType

from mcp_server_milvus.milvus.cache import StaleSchema
from tests.milvus.conftest import Agent, agent, watching

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live on a second server")]


@pytest.fixture(scope="module")
async def server(milvus_235: str) -> AsyncGenerator[Agent]:
    async with agent(uri=milvus_235) as each:
        yield each


@pytest.fixture
async def other(milvus_235: str) -> AsyncGenerator[AsyncMilvusClient]:
    async with AsyncMilvusClient(milvus_235, dedicated=True) as client:
        yield client


@pytest.mark.parametrize("tool", ["insert", "upsert"])
async def test_a_column_of_an_outdated_type_which_would_crash_the_server_is_never_sent(
    milvus_235: str, other: AsyncMilvusClient, tool: str
) -> None:
    name = f"st_{tool}"
    await made_anew(other, name, dimension=2, extra=DataType.INT64)
    with watching() as wire:
        async with agent(uri=milvus_235) as server:
            entity = {"id": 1, "vector": [1, 0], "extra": 1}
            await server.call(tool, collection_name=name, data=[entity])
            sent = wire.sent[tool.capitalize()]
            await made_anew(other, name, dimension=2, extra=DataType.VARCHAR)
            refusal = await server.refused(tool, collection_name=name, data=[entity])
            assert refusal["code"] in {"invalid_argument", "conflict"}
            assert wire.sent[tool.capitalize()] == sent
            assert await server.call("count", collection_name=name) == {"count": 0}
            await server.call(tool, collection_name=name, data=[entity | {"extra": "1"}])
            assert [each["extra"] for each in await server.found(name)] == ["1"]


async def test_a_write_beneath_the_tools_is_confirmed_too(server: Agent, other: AsyncMilvusClient) -> None:
    """Also between the look at the schema and the write: nothing but the name is the same."""
    await made_anew(other, "st_confirm", dimension=2, extra=DataType.INT64)
    schema = await server.app.schemas.get("default", "st_confirm")
    await made_anew(other, "st_confirm", dimension=2, extra=DataType.VARCHAR)
    async with server.app.clients.client("default") as client:
        entities = [{"id": 1, "vector": [1.0, 0.0], "extra": 1}]
        for write in (
            client.insert_entities("st_confirm", entities, schema, ""),
            client.upsert_entities("st_confirm", entities, schema, ""),
            client.delete_matching("st_confirm", "id == 1", schema, ""),
        ):
            with pytest.raises(StaleSchema):
                await write


async def test_the_same_schema_made_anew_is_another_collection(server: Agent, other: AsyncMilvusClient) -> None:
    await made_anew(other, "st_same", dimension=2)
    before = await server.app.schemas.refresh("default", "st_same")
    await made_anew(other, "st_same", dimension=2)
    assert before.shape != (await server.app.schemas.refresh("default", "st_same")).shape
    assert await server.call("insert", collection_name="st_same", data=[{"id": 1, "vector": [1, 0]}]) == {
        "insert_count": 1
    }


async def test_a_delete_never_hits_a_key_of_the_collection_that_took_the_place(
    server: Agent, other: AsyncMilvusClient
) -> None:
    await made_anew(other, "st_delete", dimension=2)
    await server.call("insert", collection_name="st_delete", data=[{"id": 1, "vector": [1, 0]}])
    await made_anew(other, "st_delete", dimension=2)
    await other.insert("st_delete", [{"id": 1, "vector": [1, 0]}])
    assert (await server.refused("delete", collection_name="st_delete", ids=[1]))["code"] == "conflict"
    rows = await other.query("st_delete", filter="id >= 0", output_fields=["id"], consistency_level="Strong")
    assert [row["id"] for row in rows] == [1]


async def test_a_search_with_the_new_dimension_works_at_once(server: Agent, other: AsyncMilvusClient) -> None:
    await made_anew(other, "st_search", dimension=2)
    await server.call("search", collection_name="st_search", vector=[1, 0])
    await made_anew(other, "st_search", dimension=3)
    await other.insert("st_search", [{"id": 7, "vector": [1, 0, 0]}])
    asked = {"collection_name": "st_search", "vector": [1, 0, 0], "consistency_level": "Strong"}
    assert [hit["id"] for hit in (await server.call("search", **asked))["hits"]] == [7]


async def test_a_drop_never_takes_the_collection_that_took_the_place(server: Agent, other: AsyncMilvusClient) -> None:
    await made_anew(other, "st_drop", dimension=2)
    await server.call("count", collection_name="st_drop")
    await made_anew(other, "st_drop", dimension=2)
    assert (await server.refused("drop_collection", collection_name="st_drop"))["code"] == "conflict"
    assert await other.has_collection("st_drop")


async def test_100_inserts_and_100_searches_ask_for_the_schema_once(milvus_235: str, other: AsyncMilvusClient) -> None:
    await made_anew(other, "st_steady", dimension=2)
    with watching() as wire:
        async with agent(uri=milvus_235) as server:
            for first in range(0, 100, 10):
                async with anyio.create_task_group() as calls:
                    for number in range(first, first + 10):
                        entity = {"id": number, "vector": [1, number]}
                        calls.start_soon(lambda e=entity: server.call("insert", collection_name="st_steady", data=[e]))
                        asked = {"vector": [1, number], "consistency_level": "Eventually"}
                        calls.start_soon(lambda a=asked: server.call("search", collection_name="st_steady", **a))
    assert (wire.sent["Insert"], wire.sent["Search"]) == (100, 100)
    assert wire.sent["DescribeCollection"] == 1


async def made_anew(client: AsyncMilvusClient, name: str, *, dimension: int, extra: DataType | None = None) -> None:
    """Drops the collection and creates, indexes and loads another one of the name."""
    await client.drop_collection(name)
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    if extra:
        schema.add_field("extra", extra, max_length=100)
    params = client.prepare_index_params()
    params.add_index("vector", index_type="FLAT", metric_type="L2")
    await client.create_collection(name, schema=schema, index_params=params)
