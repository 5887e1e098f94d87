"""Schema tools on servers newer than any that can run here: what these are sent, and what older ones are spared."""

import json
from typing import Any

import pytest
from pymilvus import AsyncMilvusClient, CollectionSchema, DataType, FieldSchema, Function, FunctionType
from pymilvus.exceptions import ParamError
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from tests.agent import agent_on
from tests.fake_milvus import FakeMilvus, fake_milvus
from tests.milvus.conftest import connected

pytestmark = pytest.mark.anyio

DOCS = {"collection_name": "docs"}
YEAR = {"name": "year", "type": "INT64", "nullable": True}
BM25 = {"name": "bm25", "type": "BM25", "input_field_names": ["title"], "output_field_names": ["sparse"]}
EVERYTHING: dict[str, Any] = {
    "description": "words",
    "properties": {"collection.ttl.seconds": 60, "mmap.enabled": None},
    "add_field": YEAR,
    "field_name": "title",
    "field_params": {"max_length": 128, "mmap_enabled": True},
    "new_name": "new",
}
IN_ORDER = [
    "description",
    "set collection.ttl.seconds",
    "dropped mmap.enabled",
    "added year INT64",
    "changed max_length, mmap_enabled of title",
    "renamed to new",
]


def pairs(sent: Any) -> dict[str, str]:
    return {pair.key: pair.value for pair in sent}


def changes(fake: FakeMilvus) -> list[str]:
    """The RPCs that change something, as they came."""
    return [name for name, _ in fake.received if name.startswith(("Alter", "Add", "Drop", "Rename", "Truncate"))]


def without(fake: FakeMilvus, name: str) -> None:
    """Nothing has this name before something is renamed."""

    def described(request: Any) -> Any:
        if request.collection_name == name and not fake.requests("RenameCollection"):
            missing = common_pb2.Status(code=100, error_code=common_pb2.CollectionNotExists, reason="not found")
            return milvus_pb2.DescribeCollectionResponse(status=missing)
        return fake._DescribeCollection(request)  # pyright: ignore[reportPrivateUsage]

    fake.answers["DescribeCollection"] = described


def with_function() -> CollectionSchema:
    """`id INT64`, `title VARCHAR(64)`, and the field `sparse` that BM25 fills from it."""
    title = FieldSchema("title", DataType.VARCHAR, max_length=64, enable_analyzer=True)
    fields = [
        FieldSchema("id", DataType.INT64, is_primary=True),
        title,
        FieldSchema("sparse", DataType.SPARSE_FLOAT_VECTOR),
    ]
    return CollectionSchema(fields, functions=[Function("bm25", FunctionType.BM25, ["title"], ["sparse"])])


async def test_many_changes_are_made_in_the_order_of_the_arguments() -> None:
    async with fake_milvus("2.6.11") as fake, agent_on(fake.uri) as agent:
        without(fake, "new")
        altered = await agent.call("alter_collection", **DOCS, **EVERYTHING)
    assert altered["done"] == IN_ORDER
    assert (altered["collection_name"], altered["loaded"]) == ("new", True)
    assert changes(fake) == [
        *["AlterCollection"] * 3,
        "AlterCollectionSchema",
        "AlterCollectionField",
        "RenameCollection",
    ]
    described, set_, dropped = fake.requests("AlterCollection")
    assert pairs(described.properties) == {"collection.description": "words"}
    assert pairs(set_.properties) == {"collection.ttl.seconds": "60"}
    assert (list(dropped.delete_keys), list(dropped.properties)) == (["mmap.enabled"], [])
    (schema,) = fake.requests("AlterCollectionSchema")
    (field,) = [info.field_schema for info in schema.action.add_request.field_infos]
    assert (field.name, field.data_type, field.nullable) == ("year", schema_pb2.DataType.Int64, True)
    (changed,) = fake.requests("AlterCollectionField")
    assert (changed.field_name, pairs(changed.properties)) == ("title", {"max_length": "128", "mmap.enabled": "true"})
    (renamed,) = fake.requests("RenameCollection")
    assert (renamed.oldName, renamed.newName) == ("docs", "new")


async def test_when_a_later_change_fails_the_error_says_which_were_made() -> None:
    async with fake_milvus("2.6.11") as fake, agent_on(fake.uri) as agent:
        without(fake, "new")
        fake.answers["AlterCollectionField"] = common_pb2.Status(
            code=1100, error_code=common_pb2.UnexpectedError, reason="too long"
        )
        error = await agent.fails("alter_collection", **DOCS, **EVERYTHING)
        assert (error["code"], error["done"], error["failed"]) == ("invalid_argument", IN_ORDER[:4], IN_ORDER[4])
        assert not fake.requests("RenameCollection")


@pytest.mark.parametrize(
    ("version", "change", "since"),
    [
        ("2.5.11", {"description": "words"}, "2.5.12"),
        ("2.5.12", {"add_field": YEAR}, "2.6.0"),
        ("2.6.7", {"add_function": BM25 | {"output_field_names": ["vector"]}}, "2.6.8"),
        ("2.6.11", {"add_function": BM25}, "3.0.0"),
        ("2.6.11", {"drop_field": "title"}, "3.0.0"),
        ("2.4.9", {"properties": {"mmap.enabled": None}}, "2.5.0"),
        ("2.4.9", {"field_name": "title", "field_params": {"max_length": 9}}, "2.5.0"),
    ],
)
async def test_a_server_that_is_too_old_is_sent_nothing(version: str, change: dict[str, Any], since: str) -> None:
    async with fake_milvus(version) as fake, agent_on(fake.uri) as agent:
        error = await agent.fails("alter_collection", **DOCS, **{"properties": {"a": 1}} | change)
        assert error["code"] == "not_supported"
        assert f"Milvus {version}" in error["message"]
        assert since in error["message"]
        assert error["hint"]
        assert changes(fake) == []


@pytest.mark.parametrize(
    ("added", "code", "said"),
    [
        ({"name": "year", "type": "INT64"}, "invalid_argument", "nullable"),
        ({"name": "title", "type": "INT64", "nullable": True}, "already_exists", "title VARCHAR(64)"),
        ({"name": "year", "type": "INT64", "default_value": "x"}, "invalid_argument", "default_value"),
        ({"name": "wide", "type": "FLOAT_VECTOR", "nullable": True}, "invalid_argument", "dim"),
    ],
)
async def test_a_field_that_cannot_be_added_is_not_sent(added: dict[str, Any], code: str, said: str) -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        error = await agent.fails("alter_collection", **DOCS, description="words", add_field=added)
        assert (error["code"], changes(fake)) == (code, [])
        assert said in error["message"]


async def test_before_3_0_a_function_is_added_to_a_field_that_is_there() -> None:
    embed = BM25 | {"name": "embed", "type": "TEXTEMBEDDING", "output_field_names": ["vector"], "params": {"dim": 2}}
    async with fake_milvus("2.6.8") as fake, agent_on(fake.uri) as agent:
        altered = await agent.call("alter_collection", **DOCS, add_function=embed)
    assert altered["done"] == ["added function embed"]
    (sent,) = fake.requests("AddCollectionFunction")
    assert (sent.functionSchema.name, list(sent.functionSchema.output_field_names)) == ("embed", ["vector"])


async def test_from_3_0_on_a_function_comes_and_goes_with_its_field() -> None:
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:
        altered = await agent.call("alter_collection", **DOCS, add_function=BM25)
    assert altered["done"] == ["added function bm25 with sparse SPARSE_FLOAT_VECTOR"]
    (sent,) = fake.requests("AlterCollectionSchema")
    added = sent.action.add_request
    (info,), (function,) = added.field_infos, added.func_schema
    assert (info.field_schema.name, info.field_schema.data_type) == ("sparse", schema_pb2.DataType.SparseFloatVector)
    assert pairs(info.extra_params)["metric_type"].strip('"') == "BM25"
    assert (function.name, list(function.input_field_names)) == ("bm25", ["title"])

    async with fake_milvus("3.0.0", with_function()) as fake, agent_on(fake.uri) as agent:
        altered = await agent.call("alter_collection", **DOCS, drop_function="bm25", drop_field="title")
        assert altered["done"] == ["dropped function bm25 with sparse", "dropped title VARCHAR(64)"]
        function, field = (request.action.drop_request for request in fake.requests("AlterCollectionSchema"))
        assert (function.function_name, function.drop_function_output_fields) == ("bm25", True)
        assert field.field_name == "title"
        error = await agent.fails("alter_collection", **DOCS, drop_field="id")
        assert (error["code"], "primary key" in error["message"]) == ("invalid_argument", True)


async def test_a_collection_is_truncated_only_where_that_exists() -> None:
    async with fake_milvus("2.6.11") as fake, agent_on(fake.uri) as agent:
        assert (await agent.call("truncate_collection", **DOCS))["truncated"] is True
        assert [request.collection_name for request in fake.requests("TruncateCollection")] == ["docs"]
    async with fake_milvus("2.6.10") as fake, agent_on(fake.uri) as agent:
        error = await agent.fails("truncate_collection", **DOCS)
        assert (error["code"], "delete" in error["hint"]) == ("not_supported", True)
        assert changes(fake) == []


async def test_properties_of_an_index_are_sent_as_they_are() -> None:
    async with fake_milvus("2.5.0") as fake, agent_on(fake.uri) as agent:
        properties = {"mmap.enabled": True, "old": None}
        altered = await agent.call("alter_index", **DOCS, index_name="vector", properties=properties)
    assert altered == {
        "index_name": "vector",
        "field_name": "vector",
        "properties": {"index_type": "AUTOINDEX", "metric_type": "COSINE"},
    }
    set_, dropped = fake.requests("AlterIndex")
    assert pairs(set_.extra_params) == {"mmap.enabled": "true"}
    assert list(dropped.delete_keys) == ["old"]


async def test_a_load_is_asked_for_as_it_was_wished() -> None:
    wish = {
        "replica_number": 2,
        "load_fields": ["id", "vector"],
        "resource_groups": ["rg"],
        "skip_load_dynamic_field": True,
    }
    async with fake_milvus("2.5.0") as fake, agent_on(fake.uri) as agent:
        assert await agent.call("load_collection", **DOCS, **wish) == {"loaded": True}
    (sent,) = fake.requests("LoadCollection")
    assert (sent.replica_number, list(sent.load_fields)) == (2, ["id", "vector"])
    assert (list(sent.resource_groups), sent.skip_load_dynamic_field) == (["rg"], True)


async def test_a_refresh_is_one_where_pymilvus_only_asks_how_far_it_is() -> None:
    async with fake_milvus("2.6.0") as fake:
        async with AsyncMilvusClient(fake.uri, dedicated=True) as raw:
            assert await raw.refresh_load("docs") == 100
        assert not fake.requests("LoadCollection")
        async with agent_on(fake.uri) as agent:
            assert await agent.call("refresh_load", **DOCS) == {"loaded": True}
        assert [request.refresh for request in fake.requests("LoadCollection")] == [True]


async def test_a_name_that_a_collection_has_lost_is_forgotten_where_pymilvus_remembers_it() -> None:
    async with fake_milvus("2.6.0") as fake, AsyncMilvusClient(fake.uri, dedicated=True) as raw:
        await raw.describe_replica("docs")
        await raw.rename_collection("docs", "new")
        await raw.describe_replica("docs")
        assert len(fake.requests("DescribeCollection")) == 1

        client = await connected(fake.uri)
        await client.describe_replica("docs")
        await client.rename("docs", "new")
        before = len(fake.requests("DescribeCollection"))
        await client.describe_replica("docs")
        assert len(fake.requests("DescribeCollection")) == before + 1
        await client.close()


async def test_long_lists_come_in_pages_within_the_bytes_of_a_result() -> None:
    names = [f"{number:04}".rjust(250, "n") for number in range(100)]
    async with fake_milvus("2.6.0") as fake, agent_on(fake.uri, max_result_bytes=8_192) as agent:
        fake.answers["ShowPartitions"] = milvus_pb2.ShowPartitionsResponse(
            partition_names=names, partitionIDs=range(1, 101)
        )
        fake.answers["ListAliases"] = milvus_pb2.ListAliasesResponse(aliases=names)
        fake.answers["DescribeAlias"] = milvus_pb2.DescribeAliasResponse(collection="c" * 250)
        for tool, arguments, kind, key in (
            ("list_partitions", DOCS, "partitions", "partition_name"),
            ("list_aliases", {}, "aliases", "alias"),
        ):
            listed, page = [], await agent.call(tool, **arguments)
            while "next_cursor" in page:
                assert len(json.dumps(page)) <= 8_192
                listed += page[kind]
                page = await agent.call(tool, **arguments, cursor=page["next_cursor"])
            assert [line[key] for line in listed + page[kind]] == names


async def test_all_aliases_are_listed_where_pymilvus_wants_a_collection() -> None:
    async with fake_milvus("2.6.0") as fake:
        fake.answers["ListAliases"] = milvus_pb2.ListAliasesResponse(aliases=["b", "a"])
        async with AsyncMilvusClient(fake.uri, dedicated=True) as raw:
            with pytest.raises(ParamError):
                await raw.list_aliases()
        client = await connected(fake.uri)
        assert await client.all_aliases() == ["a", "b"]
        await client.close()


async def test_databases_have_properties_from_2_4_6_on_and_lose_them_from_2_5_0_on() -> None:
    async with fake_milvus("2.5.0") as fake, agent_on(fake.uri) as agent:
        fake.answers["ListDatabases"] = milvus_pb2.ListDatabasesResponse(db_names=["default", "prod"])
        fake.answers["DescribeDatabase"] = milvus_pb2.DescribeDatabaseResponse(
            db_name="prod", properties=[common_pb2.KeyValuePair(key="database.replica.number", value="2")]
        )
        properties = {"database.replica.number": 2, "old": None}
        altered = await agent.call("alter_database", db_name="prod", properties=properties)
        assert altered == {"db_name": "prod", "properties": {"database.replica.number": "2"}}
        set_, dropped = fake.requests("AlterDatabase")
        assert (set_.db_name, pairs(set_.properties)) == ("prod", {"database.replica.number": "2"})
        assert list(dropped.delete_keys) == ["old"]
    async with fake_milvus("2.4.6") as fake, agent_on(fake.uri) as agent:
        error = await agent.fails("alter_database", db_name="prod", properties={"a": 1, "old": None})
        assert (error["code"], changes(fake)) == ("not_supported", [])
        fake.answers["ListDatabases"] = milvus_pb2.ListDatabasesResponse(db_names=["default", "prod"])
        await agent.call("alter_database", db_name="prod", properties={"a": 1})
        assert len(fake.requests("AlterDatabase")) == 1
    async with fake_milvus("2.4.5") as fake, agent_on(fake.uri) as agent:
        error = await agent.fails("alter_database", db_name="prod", properties={"a": 1})
        assert (error["code"], changes(fake)) == ("not_supported", [])
