"""Collections: created whole or not at all, described so that a stranger can use them, listed by the thousand."""

from typing import Any

import anyio
import pytest
from mcp.types import CallToolResult
from pymilvus import DataType, Function, FunctionType, MilvusClient

from mcp_server_milvus import vocabulary
from mcp_server_milvus.errors import MilvusFailed
from mcp_server_milvus.milvus.building import milvus_schema
from mcp_server_milvus.milvus.client import Client
from mcp_server_milvus.milvus.schema import CollectionSchema, Field, Index
from tests.agent import Agent, agent_on, collections_in, keys, names

pytestmark = pytest.mark.anyio

ID = {"name": "id", "type": "INT64", "is_primary": True}
VECTOR = {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}
TEXT = {"name": "text", "type": "VARCHAR", "max_length": 500, "enable_analyzer": True, "enable_match": True}
SPARSE = {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"}
MANY = {"name": "many", "type": "ARRAY"}
STRUCTS = MANY | {"element_type": "STRUCT"}
MEMBER = {"name": "a", "type": "INT8"}
BM25 = {"name": "bm25", "type": "BM25", "input_field_names": ["text"], "output_field_names": ["sparse"]}

ELEMENTS: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "INT8": [-128, 127],
    "INT16": [-32768, 32767],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [1, -1],
    "FLOAT": [0.1, -2.5],
    "DOUBLE": [0.1, 1e300],
    "VARCHAR": ["a", 'q"\\\n'],
}


async def test_the_quick_form_makes_an_indexed_and_loaded_collection_of_id_and_vector(
    agent: Agent, collection: str
) -> None:
    created = await agent.call("create_collection", collection_name=collection, dimension=2)
    assert created == {
        "created": True,
        "collection_name": collection,
        "fields": ["id INT64", "vector FLOAT_VECTOR(2)"],
        "indexes": [{"field_name": "vector", "index_type": "AUTOINDEX", "metric_type": "COSINE"}],
        "loaded": True,
    }


async def test_the_quick_form_takes_a_metric_and_string_ids(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, metric_type="L2", id_type="string")
    described = await agent.call("describe_collection", collection_name=collection)
    assert described["fields"][0]["type"] == "VARCHAR"
    assert described["indexes"][0]["metric_type"] == "L2"


async def test_the_quick_form_can_leave_the_ids_to_milvus(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, auto_id=True)
    inserted = await agent.call("insert", collection_name=collection, data=[{"vector": [0, 1]}, {"vector": [1, 1]}])
    assert len(set(inserted["ids"])) == 2


async def test_lite_refuses_to_generate_string_ids_before_it_creates_anything(agent: Agent, collection: str) -> None:
    error = await agent.fails(
        "create_collection", collection_name=collection, dimension=2, id_type="string", auto_id=True
    )
    assert error["code"] == "not_supported"
    assert "Milvus Lite" in error["message"]
    assert not await agent.exists(collection)


async def test_every_type_and_option_is_kept_and_described_under_the_names_that_create_takes(
    agent: Agent, collection: str
) -> None:
    fields: list[dict[str, Any]] = [
        {"name": "key", "type": "VARCHAR", "is_primary": True, "max_length": 64},
        {"name": "tenant", "type": "VARCHAR", "max_length": 32, "is_partition_key": True},
        TEXT,
        *({"name": kind.lower(), "type": kind} for kind in ("BOOL", "INT8", "INT16", "INT32", "INT64", "JSON")),
        {"name": "float", "type": "FLOAT", "nullable": True},
        {"name": "double", "type": "DOUBLE", "default_value": 0.5},
        {"name": "number", "type": "INT32", "default_value": 7},
        {"name": "word", "type": "VARCHAR", "max_length": 10, "default_value": "none"},
        {"name": "flag", "type": "BOOL", "default_value": True},
        {"name": "words", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 8, "max_length": 20},
        {"name": "dense", "type": "FLOAT_VECTOR", "dim": 4},
        VECTOR,
        SPARSE,
    ]
    await agent.call(
        "create_collection",
        collection_name=collection,
        fields=fields,
        functions=[BM25],
        indexes=[{"field_name": "dense", "index_type": "HNSW", "metric_type": "IP", "params": {"M": 8}}],
        enable_dynamic_field=True,
        num_partitions=4,
        consistency_level="Strong",
        properties={"purpose": "test"},
    )
    described = await agent.call("describe_collection", collection_name=collection)
    computed = next(field for field in described["fields"] if field["name"] == "sparse")
    assert computed.pop("is_function_output") is True
    words = next(field for field in fields if field["name"] == "words")
    del words["max_length"]  # Milvus Lite does not keep it
    assert described["fields"] == fields
    assert described["functions"] == [BM25]
    assert described["enable_dynamic_field"] is True
    assert described["properties"]["purpose"] == "test"
    assert described["consistency_level"] == "Strong"
    indexes = {index["field_name"]: index for index in described["indexes"]}
    assert indexes["dense"] == {
        "field_name": "dense",
        "index_type": "HNSW",
        "metric_type": "IP",
        "params": {"M": 8},
    }
    assert indexes["vector"]["metric_type"] == "COSINE"
    assert indexes["sparse"]["metric_type"] == "BM25"


async def test_values_of_every_type_are_read_back_as_they_were_inserted(agent: Agent, collection: str) -> None:
    scalars: dict[str, Any] = {f"one_{kind.lower()}": values[0] for kind, values in ELEMENTS.items()}
    arrays: dict[str, Any] = {f"many_{kind.lower()}": values for kind, values in ELEMENTS.items()}
    size = {"max_length": 100}
    fields: list[dict[str, Any]] = [
        ID,
        VECTOR,
        SPARSE,
        {"name": "json", "type": "JSON"},
        {"name": "nothing", "type": "INT8", "nullable": True},
        *({"name": f"one_{kind.lower()}", "type": kind} | (size if kind == "VARCHAR" else {}) for kind in ELEMENTS),
        *(
            {"name": f"many_{kind.lower()}", "type": "ARRAY", "element_type": kind, "max_capacity": 5}
            | (size if kind == "VARCHAR" else {})
            for kind in ELEMENTS
        ),
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields, enable_dynamic_field=True)
    entity = {
        "id": 1,
        "vector": [0.1, -2.0],
        "sparse": {"3": 0.1, "70000": 2.0},
        "json": {"deep": [1, {"er": None}], "π": 3.14, "big": 2**40},
        "nothing": None,
        "unnamed": {"kept": [True, "too"]},
        **scalars,
        **arrays,
    }
    await agent.call("insert", collection_name=collection, data=[entity])
    got = await agent.call("get", collection_name=collection, ids=[1], output_fields=["*"])
    assert got["entities"] == [entity]


async def test_defaults_and_nulls_are_stored_where_an_entity_says_nothing(agent: Agent, collection: str) -> None:
    fields = [
        ID,
        VECTOR,
        {"name": "size", "type": "INT32", "default_value": 7},
        {"name": "color", "type": "VARCHAR", "max_length": 10, "default_value": "red"},
        {"name": "note", "type": "VARCHAR", "max_length": 10, "nullable": True},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    await agent.call("insert", collection_name=collection, data=[{"id": 1, "vector": [0, 1]}])
    (entity,) = (await agent.call("get", collection_name=collection, ids=[1]))["entities"]
    assert entity == {"id": 1, "size": 7, "color": "red", "note": None}


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"name": "bits", "type": "BINARY_VECTOR", "dim": 8}, "BINARY_VECTOR"),
        ({"name": "half", "type": "FLOAT16_VECTOR", "dim": 8}, "FLOAT16_VECTOR"),
        ({"name": "half", "type": "BFLOAT16_VECTOR", "dim": 8}, "BFLOAT16_VECTOR"),
        ({"name": "tiny", "type": "INT8_VECTOR", "dim": 8}, "INT8_VECTOR"),
        ({"name": "where", "type": "GEOMETRY"}, "GEOMETRY"),
        ({"name": "when", "type": "TIMESTAMPTZ"}, "TIMESTAMPTZ"),
        ({"name": "long", "type": "TEXT"}, "TEXT"),
        (
            {
                "name": "parts",
                "type": "ARRAY",
                "element_type": "STRUCT",
                "max_capacity": 3,
                "struct_fields": [{"name": "n", "type": "INT8"}],
            },
            "structs",
        ),
        ({"name": "cluster", "type": "INT64", "is_clustering_key": True}, "clustering key"),
        (
            {"name": "stemmed", "type": "VARCHAR", "max_length": 9, "analyzer_params": {"filter": ["stemmer"]}},
            "analyzer",
        ),
    ],
)
async def test_what_lite_lacks_is_refused_before_anything_is_created(
    agent: Agent, collection: str, field: dict[str, Any], said: str
) -> None:
    error = await agent.fails("create_collection", collection_name=collection, fields=[ID, VECTOR, field])
    assert error["code"] == "not_supported"
    assert said in error["message"]
    assert "Milvus Lite" in error["message"]
    assert field["name"] in error["message"]
    assert not await agent.exists(collection)


@pytest.mark.parametrize("index_type", ["DISKANN", "SCANN", "IVF_PQ", "GPU_CAGRA", "NOPE"])
async def test_an_index_that_lite_could_not_load_is_refused_and_those_that_it_can_are_named(
    agent: Agent, collection: str, index_type: str
) -> None:
    index = {"field_name": "vector", "index_type": index_type, "metric_type": "L2"}
    error = await agent.fails("create_collection", collection_name=collection, fields=[ID, VECTOR], indexes=[index])
    assert error["code"] == "not_supported"
    assert "HNSW" in error["message"]
    assert not await agent.exists(collection)


async def test_a_function_that_lite_lacks_is_refused(agent: Agent, collection: str) -> None:
    embedding = BM25 | {"type": "TEXTEMBEDDING", "output_field_names": ["vector"]}
    error = await agent.fails(
        "create_collection", collection_name=collection, fields=[ID, TEXT, VECTOR], functions=[embedding]
    )
    assert error["code"] == "not_supported"
    assert "BM25" in error["message"]
    assert not await agent.exists(collection)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "dimension"),
        ({"dimension": 2, "fields": [ID, VECTOR]}, "dimension"),
        ({"fields": [VECTOR]}, "primary key"),
        ({"fields": [ID, ID | {"name": "id2"}, VECTOR]}, "primary key"),
        ({"fields": [ID | {"type": "DOUBLE"}, VECTOR]}, "primary key"),
        ({"fields": [ID]}, "vector field"),
        ({"fields": [ID, VECTOR, VECTOR]}, "same name"),
        ({"fields": [ID, VECTOR | {"dim": None}]}, "dim"),
        ({"fields": [ID, VECTOR, {"name": "many", "type": "ARRAY"}]}, "element_type"),
        ({"fields": [ID, VECTOR, MANY | {"element_type": "ARRAY"}]}, "ARRAY cannot be the element_type"),
        ({"fields": [ID, VECTOR, MANY | {"element_type": "FLOAT_VECTOR"}]}, "FLOAT_VECTOR cannot be the element_type"),
        ({"fields": [ID, VECTOR, STRUCTS]}, "struct_fields"),
        ({"fields": [ID, VECTOR, STRUCTS | {"struct_fields": []}]}, "struct_fields"),
        ({"fields": [ID, VECTOR, MANY | {"element_type": "INT8", "struct_fields": [MEMBER]}]}, "struct_fields"),
        ({"fields": [ID, VECTOR, STRUCTS | {"struct_fields": ["a"]}]}, "struct_fields.0"),
        ({"fields": [ID, VECTOR, STRUCTS | {"struct_fields": [{"name": "a"}]}]}, "struct_fields.0.type"),
        ({"fields": [ID, VECTOR, STRUCTS | {"struct_fields": [MEMBER | {"type": "BYTE"}]}]}, "struct_fields.0.type"),
        ({"fields": [ID, VECTOR, STRUCTS | {"struct_fields": [MEMBER | {"size": 1}]}]}, "struct_fields.0.size"),
        ({"fields": [ID, VECTOR, STRUCTS | {"struct_fields": [MEMBER | {"type": "ARRAY"}]}]}, "ARRAY"),
        ({"fields": [ID, VECTOR, STRUCTS | {"struct_fields": [MEMBER | {"type": "FLOAT_VECTOR"}]}]}, "dim"),
        ({"fields": [ID, VECTOR, STRUCTS | {"struct_fields": [MEMBER, MEMBER]}]}, "same name"),
        *(
            ({"fields": [ID, VECTOR, {"name": word, "type": "INT8"}]}, "filter language")
            for word in ("and", "IN", "like", "not", "null", "true")
        ),
        ({"fields": [ID | {"name": "exists"}, VECTOR]}, "filter language"),
        ({"fields": [ID, VECTOR, {"name": "n", "type": "INT64", "default_value": "9" * 5000}]}, "default_value"),
        ({"fields": [ID, VECTOR], "num_partitions": 4}, "is_partition_key"),
        ({"fields": [ID, VECTOR, {"name": "n", "type": "INT8", "auto_id": True}]}, "auto_id"),
        ({"fields": [ID | {"nullable": True}, VECTOR]}, "nullable"),
        ({"fields": [ID, VECTOR, {"name": "n", "type": "FLOATY"}]}, "fields.2.type"),
        ({"fields": [ID, VECTOR, {"name": "n", "type": "VARCHAR", "max_length": 65_536}]}, "max_length"),
        ({"fields": [ID, VECTOR, {"name": "../n", "type": "INT8"}]}, "fields.2.name"),
        ({"fields": [ID, VECTOR, {"name": "n", "type": "INT8", "size": 3}]}, "size"),
        ({"fields": [ID, VECTOR, {"name": "n", "type": "INT8", "default_value": 300}]}, "default_value"),
        ({"fields": [ID, VECTOR, {"name": "n", "type": "INT8", "default_value": "x"}]}, "default_value"),
        (
            {"fields": [ID, VECTOR, {"name": "n", "type": "VARCHAR", "max_length": 2, "default_value": "äää"}]},
            "default_value",
        ),
        (
            {"fields": [ID, TEXT | {"enable_analyzer": False, "enable_match": False}, SPARSE], "functions": [BM25]},
            "enable_analyzer",
        ),
        ({"fields": [ID, TEXT, VECTOR], "functions": [BM25]}, "sparse"),
        (
            {"fields": [ID, TEXT, SPARSE, VECTOR], "functions": [BM25 | {"output_field_names": ["vector"]}]},
            "SPARSE_FLOAT_VECTOR",
        ),
        ({"fields": [ID, VECTOR], "indexes": [{"field_name": "vektor"}]}, "vektor"),
        ({"fields": [ID, VECTOR], "indexes": [{"field_name": "vector", "metric_type": "HAMMING"}]}, "HAMMING"),
        ({"dimension": 2, "metric_type": "HAMMING"}, "HAMMING"),
        ({"dimension": 2, "metric_type": "COSIN"}, "metric_type"),
        ({"dimension": 0}, "dimension"),
        ({"dimension": 40_000}, "dimension"),
        ({"dimension": 2, "metric_typ": "L2"}, "metric_type"),
    ],
)
async def test_a_definition_that_contradicts_itself_is_refused_and_nothing_is_created(
    agent: Agent, collection: str, arguments: dict[str, Any], said: str
) -> None:
    error = await agent.fails("create_collection", collection_name=collection, **arguments)
    assert error["code"] in {"invalid_argument", "not_found"}
    assert said in error["message"]
    assert not await agent.exists(collection)


async def test_the_same_collection_again_is_no_error_and_nothing_is_lost(agent: Agent, collection: str) -> None:
    definition: dict[str, Any] = {"fields": [ID, TEXT, VECTOR, SPARSE], "functions": [BM25], "num_shards": 1}
    await agent.call("create_collection", collection_name=collection, **definition)
    await agent.call("insert", collection_name=collection, data=[{"id": 1, "text": "kept", "vector": [0, 1]}])
    again = await agent.call("create_collection", collection_name=collection, **definition)
    assert again["created"] is False
    assert again["loaded"] is True
    assert await agent.count(collection) == 1


async def test_an_array_of_strings_again_is_no_error_though_lite_forgets_their_length(
    agent: Agent, collection: str
) -> None:
    words = {"name": "words", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 8, "max_length": 20}
    for created in (True, False):
        told = await agent.call("create_collection", collection_name=collection, fields=[ID, VECTOR, words])
        assert told["created"] is created


async def test_the_same_collection_again_says_whether_it_is_loaded(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    await agent.call("release_collection", collection_name=collection)
    again = await agent.call("create_collection", collection_name=collection, dimension=2)
    assert (again["created"], again["loaded"]) == (False, False)


async def test_a_collection_that_lacks_the_index_is_not_the_same(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    schema = another_program.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    another_program.create_collection(collection, schema=schema)
    error = await agent.fails("create_collection", collection_name=collection, fields=[ID, VECTOR])
    assert error["code"] == "conflict"
    assert "vector has no index" in error["message"]


async def test_a_different_collection_of_that_name_is_an_error_that_lists_every_difference(
    agent: Agent, collection: str
) -> None:
    fields = [ID, VECTOR, {"name": "title", "type": "VARCHAR", "max_length": 10}]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    other = [ID, VECTOR | {"dim": 3}, {"name": "title", "type": "VARCHAR", "max_length": 20}, TEXT]
    error = await agent.fails(
        "create_collection",
        collection_name=collection,
        fields=other,
        enable_dynamic_field=True,
        indexes=[{"field_name": "vector", "metric_type": "L2"}],
    )
    assert error["code"] == "conflict"
    for difference in ("FLOAT_VECTOR(2)", "FLOAT_VECTOR(3)", "VARCHAR(10)", "VARCHAR(20)", "text", "enable_dynamic"):
        assert difference in error["message"]
    assert "COSINE" in error["message"]
    assert "L2" in error["message"]
    assert "drop_collection" in error["hint"]


async def test_another_index_type_than_the_existing_one_is_a_difference(agent: Agent, collection: str) -> None:
    flat = [{"field_name": "vector", "index_type": "FLAT", "metric_type": "L2"}]
    await agent.call("create_collection", collection_name=collection, fields=[ID, VECTOR], indexes=flat)
    hnsw = [flat[0] | {"index_type": "HNSW"}]
    error = await agent.fails("create_collection", collection_name=collection, fields=[ID, VECTOR], indexes=hnsw)
    assert error["code"] == "conflict"
    assert "FLAT" in error["message"]


async def test_when_an_index_cannot_be_built_the_collection_is_taken_away_again(agent: Agent, collection: str) -> None:
    twice = [{"field_name": "vector", "index_type": kind, "metric_type": "L2"} for kind in ("HNSW", "FLAT")]
    await agent.fails("create_collection", collection_name=collection, fields=[ID, VECTOR], indexes=twice)
    assert not await agent.exists(collection)


async def test_a_creation_cancelled_at_any_moment_leaves_a_whole_collection_or_none(
    lite: str, another_program: MilvusClient, collection: str
) -> None:
    def is_whole_or_absent(name: str) -> bool:
        if name not in collections_in(another_program):
            return True
        loaded = another_program.get_load_state(name)["state"].name == "Loaded"
        return loaded and another_program.list_indexes(name) == ["vector"]

    async with agent_on(lite) as agent:
        took: list[float] = []
        for number in range(3):
            started = anyio.current_time()
            await agent.call("create_collection", collection_name=f"{collection}_whole_{number}", dimension=2)
            took.append(anyio.current_time() - started)
        moment = min(took) / 12
        cancelled = 0
        for number in range(15):
            name = f"{collection}_{number}"
            with anyio.move_on_after(number * moment) as creation:
                await agent.call("create_collection", collection_name=name, dimension=2)
            cancelled += creation.cancelled_caught
            with anyio.fail_after(10):
                while not is_whole_or_absent(name):
                    await anyio.sleep(0.01)
        assert cancelled > 3


async def test_calls_that_create_the_same_collection_at_once_agree_that_one_of_them_did(
    agent: Agent, collection: str
) -> None:
    made: list[bool] = []

    async def create() -> None:
        made.append((await agent.call("create_collection", collection_name=collection, dimension=2))["created"])

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(create)
    assert sorted(made) == [False] * 7 + [True]
    await agent.call("insert", collection_name=collection, data=[{"id": 1, "vector": [0, 1]}])
    assert await agent.count(collection) == 1


async def test_two_servers_that_create_the_same_collection_at_once_agree_that_one_of_them_did(
    lite: str, agent: Agent, collection: str
) -> None:
    made: dict[str, list[bool]] = {}

    async def create(creator: Agent, name: str) -> None:
        created = await creator.call("create_collection", collection_name=name, dimension=2)
        made.setdefault(name, []).append(created["created"])

    async with agent_on(lite) as another:
        await another.call("list_collections")
        for number in range(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(create, agent, f"{collection}_{number}")
                tasks.start_soon(create, another, f"{collection}_{number}")
    assert [sorted(answers) for answers in made.values()] == [[False, True]] * 5


async def test_a_creation_that_fails_leaves_a_collection_that_another_program_has_made_meanwhile(
    agent: Agent, another_program: MilvusClient, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overtaken(_: Client, collection_name: str, index: Index) -> None:
        another_program.drop_collection(collection_name)
        another_program.create_collection(collection_name, dimension=2)
        raise MilvusFailed(f"no index on {index.field_name}")

    monkeypatch.setattr(Client, "start_index", overtaken)
    await agent.fails("create_collection", collection_name=collection, dimension=2)
    assert await agent.exists(collection)


async def test_a_collection_made_anew_with_the_same_schema_is_not_dropped_before_it_was_looked_at(
    lite: str, agent: Agent, collection: str
) -> None:
    async with agent_on(lite) as another:
        await agent.call("create_collection", collection_name=collection, dimension=2)
        await another.call("drop_collection", collection_name=collection)
        await another.call("create_collection", collection_name=collection, dimension=2)
    error = await agent.fails("drop_collection", collection_name=collection)
    assert error["code"] == "conflict"
    assert "describe_collection" in error["hint"]
    assert await agent.exists(collection)
    await agent.call("describe_collection", collection_name=collection)
    assert await agent.call("drop_collection", collection_name=collection) == {"dropped": True}


async def test_a_description_is_kept_and_shown_and_is_no_property(agent: Agent, collection: str) -> None:
    told = "Notes of a Sunday: \u00e4\U0001f642"
    await agent.call(
        "create_collection", collection_name=collection, dimension=2, description=told, properties={"owner": "us"}
    )
    described = await agent.call("describe_collection", collection_name=collection)
    assert (described["description"], described["properties"]) == (told, {"owner": "us"})
    listed = await agent.call("list_collections", limit=1000)
    assert next(each for each in listed["collections"] if each["name"] == collection)["description"] == told


def test_memory_mapping_is_passed_on_when_it_is_refused_and_left_out_when_nothing_was_said() -> None:
    asked = {"refused": False, "wanted": True, "unsaid": None}
    key = Field("id", vocabulary.DataType.INT64, is_primary=True)
    others = [Field(name, vocabulary.DataType.JSON, mmap_enabled=mapped) for name, mapped in asked.items()]
    built = milvus_schema(CollectionSchema("mapped", (key, *others), (), (), enable_dynamic_field=False))
    assert {each.name: each.params.get("mmap_enabled") for each in built.fields[1:]} == asked


async def test_a_dropped_collection_is_gone_and_dropping_it_again_says_so(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    assert await agent.call("drop_collection", collection_name=collection) == {"dropped": True}
    error = await agent.fails("drop_collection", collection_name=collection)
    assert error["code"] == "not_found"
    assert collection in error["message"]
    assert "list_collections" in error["hint"]


async def test_a_collection_is_not_dropped_by_its_alias(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    another_program.create_alias(collection, f"alias_of_{collection}")
    error = await agent.fails("drop_collection", collection_name=f"alias_of_{collection}")
    assert collection in error["message"]
    assert await agent.exists(collection)


async def test_a_released_collection_is_loaded_when_it_is_read_and_the_result_says_so(
    agent: Agent, collection: str
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    await agent.call("insert", collection_name=collection, data=[{"id": 1, "vector": [0, 1]}])
    for read, arguments in (("search", {"vector": [0, 1]}), ("query", {"filter": "id == 1"})):
        assert await agent.call("release_collection", collection_name=collection) == {"loaded": False}
        first = await agent.call(read, collection_name=collection, **arguments)
        assert first["loaded"] is True
        assert keys(first["hits"] if read == "search" else first["entities"]) == [1]
        assert "loaded" not in await agent.call(read, collection_name=collection, **arguments)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("search", {"vector": [0, 1]}),
        ("search", {"id": 1}),
        ("query", {"filter": "id == 1"}),
        ("get", {"ids": [1]}),
    ],
)
async def test_without_auto_load_a_read_of_a_released_collection_is_refused_until_it_is_loaded(
    lite: str, agent: Agent, collection: str, tool: str, arguments: dict[str, Any]
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    await agent.call(
        "insert", collection_name=collection, data=[{"id": 1, "vector": [0, 1]}, {"id": 2, "vector": [1, 1]}]
    )
    await agent.call("release_collection", collection_name=collection)
    async with agent_on(lite, auto_load=False) as careful:
        error = await careful.fails(tool, collection_name=collection, **arguments)
        assert error["code"] == "not_loaded"
        assert "load_collection" in error["hint"]
        assert await careful.call("load_collection", collection_name=collection) == {"loaded": True}
        await careful.call(tool, collection_name=collection, **arguments)


async def test_loading_and_releasing_what_already_is_so_is_no_error(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    for tool, loaded in (("load_collection", True), ("release_collection", False), ("release_collection", False)):
        assert await agent.call(tool, collection_name=collection) == {"loaded": loaded}
        described = await agent.call("describe_collection", collection_name=collection)
        assert described["loaded"] is loaded


@pytest.fixture(scope="module")
def foreign(another_program: MilvusClient) -> str:
    """A collection that nobody made for us: other names, several vectors, an alias, a partition, a secret."""
    schema = another_program.create_schema(enable_dynamic_field=True)
    schema.add_field("__key", DataType.VARCHAR, max_length=40, is_primary=True)
    schema.add_field("BODY", DataType.VARCHAR, max_length=2000, enable_analyzer=True, enable_match=True)
    schema.add_field("pic", DataType.FLOAT_VECTOR, dim=3)
    schema.add_field("thumb_nail", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=4, max_length=20)
    schema.add_field("extra", DataType.JSON)
    schema.add_field("rank", DataType.INT8)
    schema.add_field("seen", DataType.BOOL)
    schema.add_field("price", DataType.DOUBLE)
    schema.add_field("note", DataType.VARCHAR, max_length=10, nullable=True)
    schema.add_function(Function("to_words", FunctionType.BM25, ["BODY"], ["words"]))
    indexes = another_program.prepare_index_params()
    indexes.add_index("pic", index_type="HNSW", metric_type="IP", params={"M": 8, "efConstruction": 64})
    indexes.add_index("thumb_nail", index_type="FLAT", metric_type="L2")
    indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    properties = {"owner": "them", "embedding.api_key": "sk-very-secret"}
    another_program.create_collection("foreign", schema=schema, index_params=indexes, properties=properties)
    another_program.create_partition("foreign", "archive")
    another_program.create_alias("foreign", "foreign_alias")
    return "foreign"


async def test_a_foreign_collection_is_described_with_all_that_it_has(agent: Agent, foreign: str) -> None:
    described = await agent.call("describe_collection", collection_name=foreign)
    assert names(described["fields"]) == [
        *("__key", "BODY", "pic", "thumb_nail", "words", "tags", "extra", "rank", "seen", "price", "note"),
    ]
    assert described["loaded"] is True
    assert described["enable_dynamic_field"] is True
    assert sorted(described["partitions"]) == ["_default", "archive"]
    assert described["aliases"] == [f"{foreign}_alias"]
    assert described["functions"][0]["input_field_names"] == ["BODY"]
    assert {index["field_name"]: index["metric_type"] for index in described["indexes"]} == {
        "pic": "IP",
        "thumb_nail": "L2",
        "words": "BM25",
    }


async def test_a_property_that_looks_like_a_secret_is_masked(agent: Agent, foreign: str) -> None:
    result = await agent.client.call_tool("describe_collection", {"collection_name": foreign})
    assert isinstance(result, CallToolResult)
    assert result.structured_content
    assert result.structured_content["properties"] == {"owner": "them", "embedding.api_key": "***"}
    assert "very-secret" not in result.model_dump_json()


async def test_the_example_entity_can_be_inserted_and_the_example_search_finds_it(agent: Agent, foreign: str) -> None:
    described = await agent.call("describe_collection", collection_name=foreign)
    entity = described["example_entity"]
    assert set(entity) == set(names(described["fields"])) - {"words", "note"}
    filled = entity | {"pic": [0.1, 0.2, 0.3], "thumb_nail": [0.5, 0.5], "BODY": "plain words to find"}
    assert described["entity_count"] == 0
    await agent.call("insert", collection_name=foreign, data=[filled])
    assert (await agent.call("describe_collection", collection_name=foreign))["entity_count"] == 1
    found = await agent.call("search", **described["example_search"])
    assert [hit["id"] for hit in found["hits"]] == [entity["__key"]]


async def test_a_collection_is_described_by_its_alias_too(agent: Agent, foreign: str) -> None:
    described = await agent.call("describe_collection", collection_name=f"{foreign}_alias")
    assert described["collection_name"] == foreign


async def test_an_example_search_with_a_vector_runs_once_the_vector_is_filled_in(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=9)
    described = await agent.call("describe_collection", collection_name=collection)
    assert described["example_entity"] == {"id": 1, "vector": "[9 numbers]"}
    entity = described["example_entity"] | {"vector": [1] * 9}
    await agent.call("insert", collection_name=collection, data=[entity])
    found = await agent.call("search", **described["example_search"] | {"vector": [1] * 9})
    assert keys(found["hits"]) == [1]


async def test_examples_with_a_short_vector_run_as_they_are(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=8)
    described = await agent.call("describe_collection", collection_name=collection)
    await agent.call("insert", collection_name=collection, data=[described["example_entity"]])
    found = await agent.call("search", **described["example_search"])
    assert keys(found["hits"]) == [1]


async def test_an_example_entity_fits_fields_that_are_short(agent: Agent, collection: str) -> None:
    fields = [
        {"name": "id", "type": "VARCHAR", "is_primary": True, "max_length": 2},
        VECTOR,
        {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 1, "max_length": 1},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    entity = (await agent.call("describe_collection", collection_name=collection))["example_entity"]
    await agent.call("insert", collection_name=collection, data=[entity | {"vector": [0, 1]}])


async def test_describing_what_is_not_there_says_so(agent: Agent, collection: str) -> None:
    error = await agent.fails("describe_collection", collection_name=collection)
    assert error["code"] == "not_found"
    assert collection in error["message"]


async def test_collections_are_listed_page_by_page_each_once(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    database = f"many_{collection}"
    another_program.create_database(database)
    expected = [f"c{number}" for number in range(7)]
    for name in reversed(expected):
        await agent.call("create_collection", collection_name=name, dimension=2, db_name=database)
    pages = [await agent.call("list_collections", db_name=database, limit=3)]
    while cursor := pages[-1].get("next_cursor"):
        pages.append(await agent.call("list_collections", db_name=database, limit=3, cursor=cursor))
    assert [names(page["collections"]) for page in pages] == [expected[:3], expected[3:6], expected[6:]]


async def test_a_collection_is_listed_with_its_entity_count_and_load_state(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    database = f"two_{collection}"
    another_program.create_database(database)
    for name in ("first", "second"):
        await agent.call("create_collection", collection_name=name, dimension=2, db_name=database)
    data = [{"id": number, "vector": [0, 1]} for number in range(3)]
    await agent.call("insert", collection_name="first", data=data, db_name=database)
    await agent.call("release_collection", collection_name="second", db_name=database)
    listed = await agent.call("list_collections", db_name=database)
    assert listed == {
        "collections": [
            {"name": "first", "entity_count": 3, "loaded": True},
            {"name": "second", "entity_count": 0, "loaded": False},
        ]
    }
