"""The tools on the real Milvus 2.3.5: what Milvus Lite cannot show, and what the two do differently."""

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from pymilvus import DataType, MilvusClient

from tests.agent import Agent, agent_on, collections_in, keys, names, structured

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live on a second server")]

NUMBERS = itertools.count(1)
ID = {"name": "id", "type": "INT64", "is_primary": True}
VECTOR = {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}
HOSTILE = [
    "zz'] or pk != '' or pk in ['q",
    'a"] or pk != ""',
    "back\\slash\\",
    "'",
    '"',
    "100%",
    "_",
    "{name}",
    "\n\t",
    "ä🙂",
]


@pytest.fixture(scope="module")
async def agent(milvus_235: str) -> AsyncIterator[Agent]:
    async with agent_on(milvus_235) as agent:
        yield agent


@pytest.fixture(scope="module")
def another_program(milvus_235: str) -> Iterator[MilvusClient]:
    client = MilvusClient(milvus_235)
    yield client
    client.close()


@pytest.fixture
def collection() -> str:
    return f"tools_{next(NUMBERS)}"


@pytest.fixture(scope="module")
async def quick(agent: Agent) -> str:
    """A quick collection with the L2 metric, shared: each test uses keys of its own."""
    await agent.call("create_collection", collection_name="tools_quick", dimension=2, metric_type="L2")
    return "tools_quick"


@pytest.fixture(scope="module")
async def by_name(agent: Agent) -> str:
    """A collection whose primary key is a string called pk."""
    key = {"name": "pk", "type": "VARCHAR", "is_primary": True, "max_length": 60}
    await agent.call("create_collection", collection_name="tools_by_name", fields=[key, VECTOR])
    return "tools_by_name"


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"name": "words", "type": "SPARSE_FLOAT_VECTOR"}, "SPARSE_FLOAT_VECTOR"),
        ({"name": "half", "type": "BFLOAT16_VECTOR", "dim": 8}, "BFLOAT16_VECTOR"),
        ({"name": "half", "type": "FLOAT16_VECTOR", "dim": 8}, "FLOAT16_VECTOR"),  # it is stored, and searched wrongly
        ({"name": "tiny", "type": "INT8_VECTOR", "dim": 8}, "INT8_VECTOR"),
        ({"name": "where", "type": "GEOMETRY"}, "GEOMETRY"),
        ({"name": "when", "type": "TIMESTAMPTZ"}, "TIMESTAMPTZ"),
        ({"name": "maybe", "type": "INT8", "nullable": True}, "nullable"),
        ({"name": "seven", "type": "INT8", "default_value": 7}, "default value"),
        ({"name": "cluster", "type": "INT64", "is_clustering_key": True}, "clustering key"),
        ({"name": "text", "type": "VARCHAR", "max_length": 9, "enable_analyzer": True}, "analyzer"),
        ({"name": "text", "type": "VARCHAR", "max_length": 9, "enable_match": True}, "2.5.0"),
        (
            {
                "name": "parts",
                "type": "ARRAY",
                "element_type": "STRUCT",
                "struct_fields": [{"name": "n", "type": "INT8"}],
            },
            "structs",
        ),
    ],
)
async def test_what_2_3_5_lacks_is_refused_before_anything_is_created(
    agent: Agent, collection: str, field: dict[str, Any], said: str
) -> None:
    error = await agent.fails("create_collection", collection_name=collection, fields=[ID, VECTOR, field])
    assert error["code"] == "not_supported"
    assert said in error["message"]
    assert "Milvus 2.3.5" in error["message"]
    assert not await agent.exists(collection)


async def test_elements_that_no_milvus_has_are_refused_before_anything_is_created(
    agent: Agent, collection: str
) -> None:
    places = {"name": "places", "type": "ARRAY", "element_type": "GEOMETRY"}
    error = await agent.fails("create_collection", collection_name=collection, fields=[ID, VECTOR, places])
    assert error["code"] == "invalid_argument"
    assert "GEOMETRY" in error["message"]
    assert not await agent.exists(collection)


async def test_functions_are_refused_before_anything_is_created(agent: Agent, collection: str) -> None:
    text = {"name": "text", "type": "VARCHAR", "max_length": 9, "enable_analyzer": True}
    function = {"name": "bm25", "type": "BM25", "input_field_names": ["text"], "output_field_names": ["sparse"]}
    sparse = {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"}
    error = await agent.fails(
        "create_collection", collection_name=collection, fields=[ID, text, sparse], functions=[function]
    )
    assert error["code"] == "not_supported"
    assert not await agent.exists(collection)


async def test_a_second_vector_field_is_refused(agent: Agent, collection: str) -> None:
    second = VECTOR | {"name": "second"}
    error = await agent.fails("create_collection", collection_name=collection, fields=[ID, VECTOR, second])
    assert error["code"] == "not_supported"
    assert not await agent.exists(collection)


@pytest.mark.parametrize(
    "index",
    [
        {"index_type": "HNSW", "params": {"M": -5, "efConstruction": 8}},
        {"index_type": "IVF_FLAT", "params": {"nlist": 0}},
        {"index_type": "NOPE"},
    ],
)
async def test_when_the_index_cannot_be_built_the_collection_is_taken_away_again(
    agent: Agent, collection: str, index: dict[str, Any]
) -> None:
    error = await agent.fails(
        "create_collection", collection_name=collection, dimension=2, indexes=[{"field_name": "vector", **index}]
    )
    assert error["code"] == "invalid_argument"
    assert not await agent.exists(collection)


async def test_a_creation_that_the_client_cancels_halfway_leaves_nothing_behind(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    async with anyio.create_task_group() as tasks:
        arguments = {"collection_name": collection, "dimension": 2}
        tasks.start_soon(agent.client.call_tool, "create_collection", arguments)
        with anyio.fail_after(10):
            while collection not in collections_in(another_program):
                await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(10):
        while collection in collections_in(another_program):
            await anyio.sleep(0.01)


async def test_loading_a_new_collection_tells_its_progress(agent: Agent, collection: str) -> None:
    heard: list[str | None] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        heard.append(message)

    arguments = {"collection_name": collection, "dimension": 2}
    result = await agent.client.call_tool("create_collection", arguments, progress_callback=listen)
    assert structured(result)["created"] is True
    assert f"loading {collection}" in heard


async def test_the_same_collection_again_is_no_error_and_another_one_is(agent: Agent, quick: str) -> None:
    again = await agent.call("create_collection", collection_name=quick, dimension=2, metric_type="L2")
    assert (again["created"], again["loaded"]) == (False, True)
    error = await agent.fails("create_collection", collection_name=quick, dimension=3, metric_type="IP")
    assert error["code"] == "conflict"
    for difference in ("FLOAT_VECTOR(2)", "FLOAT_VECTOR(3)", "L2", "IP"):
        assert difference in error["message"]


async def test_every_scalar_type_and_the_dynamic_field_are_read_back_as_inserted(agent: Agent, collection: str) -> None:
    scalars: dict[str, Any] = {
        "BOOL": True,
        "INT8": -128,
        "INT16": 32767,
        "INT32": -(2**31),
        "INT64": 2**53 - 1,
        "FLOAT": 0.1,
        "DOUBLE": 1e300,
        "VARCHAR": 'q"ä\\\n',
        "JSON": {"deep": [1, {"er": None}]},
    }
    fields: list[dict[str, Any]] = [
        ID,
        VECTOR,
        *({"name": kind.lower(), "type": kind} for kind in scalars),
        {"name": "many", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 4, "max_length": 10},
    ]
    await agent.call(
        "create_collection",
        collection_name=collection,
        fields=fields,
        enable_dynamic_field=True,
        description="all types",
        num_shards=2,
    )
    entity = {
        "id": 1,
        "vector": [0.1, -2.0],
        **{kind.lower(): value for kind, value in scalars.items()},
        "many": ["a", "ä"],
        "unnamed": {"kept": [True, "too"]},
    }
    await agent.call("insert", collection_name=collection, data=[entity])
    got = await agent.call("get", collection_name=collection, ids=[1], output_fields=["*"])
    assert got["entities"] == [entity]
    described = await agent.call("describe_collection", collection_name=collection)
    assert described["description"] == "all types"
    assert described["num_shards"] == 2
    assert described["entity_count"] == 1
    assert described["fields"][-1] == fields[-1]
    example = described["example_entity"] | {"vector": [3, 4], "id": 2}
    await agent.call("insert", collection_name=collection, data=[example])
    found = await agent.call("search", **described["example_search"] | {"vector": [3, 4]})
    assert keys(found["hits"])[0] == 2


async def test_binary_vectors_are_stored_searched_and_read_back_as_bits(agent: Agent, collection: str) -> None:
    await agent.call(
        "create_collection",
        collection_name=collection,
        fields=[ID, {"name": "vector", "type": "BINARY_VECTOR", "dim": 16}],
        indexes=[{"field_name": "vector", "metric_type": "HAMMING"}],
    )
    near, far = [1, 1, 1, 1, 0, 0, 0, 0] * 2, [0, 0, 0, 0, 1, 1, 1, 1] * 2
    data = [{"id": 1, "vector": near}, {"id": 2, "vector": far}]
    await agent.call("insert", collection_name=collection, data=data)
    found = await agent.call("search", collection_name=collection, vector=near, output_fields=["vector"])
    assert found["metric_type"] == "HAMMING"
    assert [(hit["id"], hit["score"], hit["fields"]["vector"]) for hit in found["hits"]] == [(1, 0, near), (2, 16, far)]
    got = await agent.call("get", collection_name=collection, ids=[2], output_fields=["vector"])
    assert got["entities"] == [{"id": 2, "vector": far}]
    assert keys((await agent.call("search", collection_name=collection, id=1))["hits"]) == [2]
    for wrong, said in ((near[1:], "15 dimensions"), ([2, *near[1:]], "not 0 or 1")):
        error = await agent.fails("insert", collection_name=collection, data=[{"id": 3, "vector": wrong}])
        assert said in error["message"]


async def test_a_foreign_collection_is_described_and_its_index_is_replaced_and_loaded_again(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    schema = another_program.create_schema(description="theirs", enable_dynamic_field=True)
    schema.add_field("Key_1", DataType.VARCHAR, is_primary=True, max_length=30)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("year", DataType.INT32)
    indexes = another_program.prepare_index_params()
    indexes.add_index("embedding", index_type="IVF_FLAT", metric_type="L2", index_name="odd", params={"nlist": 4})
    another_program.create_collection(collection, schema=schema, index_params=indexes)
    another_program.create_partition(collection, "archive")
    another_program.create_alias(collection, f"{collection}_alias")

    described = await agent.call("describe_collection", collection_name=f"{collection}_alias")
    assert described["collection_name"] == collection
    assert names(described["fields"]) == ["Key_1", "embedding", "year"]
    assert sorted(described["partitions"]) == ["_default", "archive"]
    assert described["aliases"] == [f"{collection}_alias"]
    (index,) = described["indexes"]
    assert (index["index_name"], index["index_type"], index["metric_type"]) == ("odd", "IVF_FLAT", "L2")
    assert index["params"] == {"nlist": 4}

    same = {"collection_name": collection, "field_name": "embedding"}
    assert (await agent.call("build_index", index_type="IVF_FLAT", **same))["created"] is False
    error = await agent.fails("build_index", index_type="FLAT", **same)
    assert error["code"] == "conflict"
    assert "IVF_FLAT" in error["message"]
    data = [{"Key_1": f"k{n}", "embedding": [n, 1], "year": n} for n in range(2000)]
    await agent.call("insert", collection_name=collection, data=data)
    heard: list[str | None] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        heard.append(message)

    hnsw = {"index_type": "HNSW", "params": {"M": 8, "efConstruction": 32}, "replace": True}
    result = await agent.client.call_tool("build_index", same | hnsw, progress_callback=listen)
    assert structured(result)["metric_type"] == "L2"
    assert any("loading" in (message or "") for message in heard)
    assert (await agent.call("describe_collection", collection_name=collection))["loaded"] is True
    found = await agent.call("search", collection_name=collection, vector=[7, 1], limit=1, params={"ef": 32})
    assert found["hits"][0]["id"] == "k7"
    assert "loaded" not in found

    scalar = await agent.call("build_index", collection_name=collection, field_name="year")
    assert scalar["created"] is True
    assert (await agent.call("build_index", collection_name=collection, field_name="year"))["created"] is False


async def test_an_index_that_cannot_replace_the_old_one_leaves_the_old_one_loaded(agent: Agent, quick: str) -> None:
    bad = {"index_type": "IVF_FLAT", "params": {"nlist": 0}, "replace": True}
    await agent.fails("build_index", collection_name=quick, field_name="vector", **bad)
    described = await agent.call("describe_collection", collection_name=quick)
    assert (described["indexes"][0]["index_type"], described["indexes"][0]["metric_type"]) == ("AUTOINDEX", "L2")
    assert described["loaded"] is True


async def test_generated_ids_beyond_2_53_travel_as_strings_that_get_delete_and_search_take(
    agent: Agent, collection: str
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, auto_id=True)
    data = [{"vector": [0, 1], "number": number} for number in range(3)]
    ids = (await agent.call("insert", collection_name=collection, data=data))["ids"]
    assert all(isinstance(key, str) and int(key) > 2**53 for key in ids)
    got = await agent.call("get", collection_name=collection, ids=ids, output_fields=["number"])
    assert [(entity["id"], entity["number"]) for entity in got["entities"]] == list(zip(ids, range(3), strict=True))
    assert sorted(keys((await agent.call("search", collection_name=collection, id=ids[0]))["hits"])) == ids[1:]
    for tool in ("get", "delete"):
        error = await agent.fails(tool, collection_name=collection, ids=[int(ids[0])])
        assert error["code"] == "invalid_argument"
        assert ids[0] in error["hint"]
    assert await agent.call("delete", collection_name=collection, ids=ids[:2]) == {"delete_count": 2}
    assert await agent.count(collection) == 1


async def test_5000_entities_in_one_call_are_all_in_and_all_paged(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    data = [{"id": n, "vector": [n, 1], "title": f"title {n}"} for n in range(5000)]
    assert await agent.call("insert", collection_name=collection, data=data) == {"insert_count": 5000}
    assert await agent.count(collection) == 5000
    assert await agent.count(collection, filter="id >= {low}", filter_params={"low": 4990}) == 10
    found = [
        key
        async for page in agent.pages("query", collection_name=collection, limit=1700)
        for key in keys(page["entities"])
    ]
    assert found == list(range(5000))


async def test_a_write_that_fails_halfway_says_exactly_which_entities_are_in(
    agent: Agent, another_program: MilvusClient, collection: str
) -> None:
    """Another program takes the alias away by which the entities are written, after the first batches have landed."""
    await agent.call("create_collection", collection_name=collection, dimension=2)
    alias = f"{collection}_alias"
    another_program.create_alias(collection, alias)

    async def take_the_alias_away(progress: float, total: float | None, message: str | None) -> None:
        del total, message
        listed: Any = another_program.list_aliases(collection)
        if progress >= 1000 and listed["aliases"]:
            another_program.drop_alias(alias)

    data = [{"id": n, "vector": [n, 1]} for n in range(20_000)]
    result = await agent.client.call_tool(
        "insert", {"collection_name": alias, "data": data}, progress_callback=take_the_alias_away
    )
    assert result.is_error
    error = structured(result)
    assert error["code"] == "partial_write"
    written = [number for first, last in error["written"] for number in range(first, last + 1)]
    missing = [number for first, last in error["not_written"] for number in range(first, last + 1)]
    assert 1000 <= error["insert_count"] == len(written) < 20_000
    assert sorted(written + missing) == list(range(20_000))
    # The server of this agent wrote by the alias: its reads by the name are only as fresh as Strong makes them.
    there: set[int] = set()
    cursor: dict[str, str] = {}
    while True:
        page = await agent.call(
            "query",
            collection_name=collection,
            limit=16_000,
            consistency_level="Strong",
            output_fields=["id"],
            **cursor,
        )
        there.update(keys(page["entities"]))  # pyright: ignore[reportArgumentType]
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert there == set(written)


async def test_upsert_replaces_the_whole_entity_with_its_dynamic_values(agent: Agent, quick: str) -> None:
    await agent.call("insert", collection_name=quick, data=[{"id": 100, "vector": [0, 1], "old": 1, "both": 1}])
    await agent.call("upsert", collection_name=quick, data=[{"id": 100, "vector": [1, 0], "both": 2}])
    got = await agent.call("get", collection_name=quick, ids=[100], output_fields=["*"])
    assert got["entities"] == [{"id": 100, "vector": [1, 0], "both": 2}]


async def test_dynamic_values_that_are_too_long_together_are_refused_by_us(agent: Agent, quick: str) -> None:
    many = {f"some_{number}": "x" * 1_000 for number in range(100)}
    data = [{"id": 110, "vector": [0, 1]}, {"id": 111, "vector": [0, 1], **many}]
    error = await agent.fails("insert", collection_name=quick, data=data)
    assert "entity 1" in error["message"]
    assert (await agent.call("get", collection_name=quick, ids=[110, 111]))["missing_ids"] == [110, 111]


async def test_hostile_keys_are_kept_found_and_delete_nothing_but_themselves(agent: Agent, by_name: str) -> None:
    data = [{"pk": key, "vector": [number, 1]} for number, key in enumerate([*HOSTILE, "innocent"])]
    await agent.call("insert", collection_name=by_name, data=data)
    pages = [page async for page in agent.pages("query", collection_name=by_name, limit=3)]
    assert [entity["pk"] for page in pages for entity in page["entities"]] == sorted([*HOSTILE, "innocent"])
    for left, key in zip(range(len(HOSTILE), 0, -1), HOSTILE, strict=True):
        got = await agent.call("get", collection_name=by_name, ids=[key])
        assert [entity["pk"] for entity in got["entities"]] == [key]
        assert key not in keys((await agent.call("search", collection_name=by_name, id=key))["hits"])
        assert await agent.call("delete", collection_name=by_name, ids=[key]) == {"delete_count": 1}
        assert await agent.count(by_name) == left


async def test_hostile_values_of_filter_params_match_only_themselves(agent: Agent, quick: str) -> None:
    data = [{"id": 200 + number, "vector": [0, 1], "name": name} for number, name in enumerate(HOSTILE)]
    await agent.call("insert", collection_name=quick, data=data)
    for number, name in enumerate(HOSTILE):
        arguments = {"collection_name": quick, "filter": "name == {name}", "filter_params": {"name": name}}
        assert keys((await agent.call("query", **arguments))["entities"]) == [200 + number]
        assert keys((await agent.call("search", vector=[0, 1], **arguments))["hits"]) == [200 + number]


async def test_1050_entities_with_duplicate_keys_are_paged_completely_also_when_bytes_cut_the_pages(
    milvus_235: str, agent: Agent, collection: str
) -> None:
    """Milvus 2.3 keeps every insert of a key and shows one of them: a page that ends among equals loses no other."""
    await agent.call("create_collection", collection_name=collection, dimension=2)
    data = [{"id": (n * 607) % 1050, "vector": [n, 1], "text": "x" * 100} for n in range(1050)]
    for inserted in (data, data[::3], data[::3]):
        await agent.call("insert", collection_name=collection, data=inserted)
    for limit in (50, 333):
        pages = [page async for page in agent.pages("query", collection_name=collection, limit=limit)]
        assert [key for page in pages for key in keys(page["entities"])] == list(range(1050))
    async with agent_on(milvus_235, max_result_bytes=16_384) as short_spoken:
        pages = [page async for page in short_spoken.pages("query", collection_name=collection, limit=1000)]
        assert [key for page in pages for key in keys(page["entities"])] == list(range(1050))
        assert len(pages) > 5


@pytest.mark.parametrize(
    ("metric_type", "bounds", "expected"),
    [
        ("IP", {"radius": 0.5, "range_filter": 2.5}, {1: 1.0, 2: 2.0}),
        ("COSINE", {"radius": -0.5, "range_filter": 0.9}, {4: 0.0}),
        ("L2", {"radius": 5.0, "range_filter": 0.5}, {0: 1.0, 2: 1.0, 3: 4.0, 4: 2.0}),
    ],
)
async def test_scores_and_their_bounds_mean_the_same_as_on_lite(
    agent: Agent, collection: str, metric_type: str, bounds: dict[str, float], expected: dict[int, float]
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, metric_type=metric_type)
    vectors = [[0, 0], [1, 0], [2, 0], [3, 0], [0, 1]]
    data = [{"id": number, "vector": vector} for number, vector in enumerate(vectors)]
    await agent.call("insert", collection_name=collection, data=data)
    found = await agent.call("search", collection_name=collection, vector=[1, 0], **bounds)
    assert found["metric_type"] == metric_type
    hits = {hit["id"]: hit["score"] for hit in found["hits"]}
    if metric_type == "COSINE":
        hits.pop(0, None)  # a vector of length zero has no angle
    assert hits == expected


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "said"),
    [
        ("search", {"vector": [0, 1], "group_by_field": "id"}, "not_supported", "2.3.5"),
        ("search", {"vector": [0, 1], "offset": 16_380, "limit": 10}, "invalid_argument", "16384"),
        ("search", {"text": "words"}, "invalid_argument", "FLOAT_VECTOR"),
        ("search", {"vector": [0, 1, 2]}, "invalid_argument", "3 dimensions"),
        ("search", {"vector": [0, 1], "params": {"metric_type": "IP"}}, "invalid_argument", "L2"),
        ("search", {"vector": [0, 1], "partition_names": ["nowhere"]}, "not_found", "nowhere"),
        ("query", {"partition_names": ["nowhere"]}, "not_found", "nowhere"),
        ("get", {"ids": [1], "partition_names": ["nowhere"]}, "not_found", "nowhere"),
        ("count", {"partition_names": ["nowhere"]}, "not_found", "nowhere"),
        ("delete", {"ids": [1], "partition_name": "nowhere"}, "not_found", "nowhere"),
        ("insert", {"data": [{"id": 1, "vector": [0, 1]}], "partition_name": "nowhere"}, "not_found", "nowhere"),
        ("query", {"filter": "id >> 1"}, "invalid_filter", ""),
        ("delete", {"filter": "id > 1 and"}, "invalid_filter", ""),
        ("insert", {"data": [{"id": 1, "vector": ["a", "b"]}]}, "invalid_argument", "entity 0: field 'vector'"),
        ("insert", {"data": [{"id": "x", "vector": [0, 1]}]}, "invalid_argument", "entity 0: field 'id'"),
    ],
)
async def test_what_cannot_be_is_refused_in_words(
    agent: Agent, quick: str, tool: str, arguments: dict[str, Any], code: str, said: str
) -> None:
    error = await agent.fails(tool, collection_name=quick, **arguments)
    assert error["code"] == code
    assert said in error["message"]


async def test_what_was_written_is_seen_by_the_next_read(agent: Agent, quick: str) -> None:
    for number in range(300, 305):
        one = {"collection_name": quick, "filter": f"id == {number}"}
        await agent.call("insert", collection_name=quick, data=[{"id": number, "vector": [number, 1], "v": 0}])
        assert keys((await agent.call("query", **one))["entities"]) == [number]
        assert keys((await agent.call("search", vector=[number, 1], limit=1, **one))["hits"]) == [number]
        await agent.call("upsert", collection_name=quick, data=[{"id": number, "vector": [number, 1], "v": 1}])
        (entity,) = (await agent.call("get", collection_name=quick, ids=[number]))["entities"]
        assert entity["v"] == 1
        by_key = number % 2
        gone = {"ids": [number]} if by_key else {"filter": f"id == {number}"}
        await agent.call("delete", collection_name=quick, **gone)
        assert (await agent.call("search", vector=[number, 1], **one))["hits"] == []
        assert (await agent.call("count", **one))["count"] == 0


async def test_partitions_keep_their_entities_apart(agent: Agent, another_program: MilvusClient, quick: str) -> None:
    another_program.create_partition(quick, "old")
    await agent.call("load_collection", collection_name=quick)
    data = [{"id": 400, "vector": [0, 1]}]
    await agent.call("insert", collection_name=quick, data=data)
    await agent.call("insert", collection_name=quick, data=[{"id": 401, "vector": [0, 1]}], partition_name="old")
    old = {"collection_name": quick, "partition_names": ["old"]}
    assert keys((await agent.call("query", **old))["entities"]) == [401]
    assert keys((await agent.call("get", ids=[400, 401], **old))["entities"]) == [401]
    assert keys((await agent.call("search", vector=[0, 1], **old))["hits"]) == [401]
    assert (await agent.call("count", **old))["count"] == 1
    await agent.call("delete", collection_name=quick, ids=[400], partition_name="old")
    await agent.call("delete", collection_name=quick, filter="id in [400, 401]", partition_name="old")
    got = await agent.call("get", collection_name=quick, ids=[400, 401])
    assert (keys(got["entities"]), got["missing_ids"]) == ([400], [401])


async def test_a_released_collection_is_loaded_when_it_is_read_unless_that_is_forbidden(
    milvus_235: str, agent: Agent, by_name: str
) -> None:
    await agent.call("release_collection", collection_name=by_name)
    async with agent_on(milvus_235, auto_load=False) as careful:
        for tool, arguments in (
            ("search", {"vector": [0, 1]}),
            ("query", {}),
            ("get", {"ids": ["a"]}),
            ("count", {}),
        ):
            error = await careful.fails(tool, collection_name=by_name, **arguments)
            assert error["code"] == "not_loaded", tool
            assert "load_collection" in error["hint"]
    first = await agent.call("search", collection_name=by_name, vector=[0, 1])
    assert first["loaded"] is True
    assert "loaded" not in await agent.call("search", collection_name=by_name, vector=[0, 1])


async def test_fifty_calls_at_once_are_all_answered(agent: Agent, quick: str) -> None:
    found: dict[int, Any] = {}

    async def work(number: int) -> None:
        await agent.call("upsert", collection_name=quick, data=[{"id": number, "vector": [number, 1]}])
        found[number] = keys((await agent.call("get", collection_name=quick, ids=[number]))["entities"])
        await agent.call("search", collection_name=quick, vector=[number, 1], limit=3)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(500, 550):
                tasks.start_soon(work, number)
    assert found == {number: [number] for number in range(500, 550)}


async def test_a_collection_of_another_database_is_used_by_naming_the_database(
    agent: Agent, another_program: MilvusClient, quick: str
) -> None:
    another_program.create_database("tools_other")
    assert "tools_other" in (await agent.call("list_databases"))["databases"]
    there = {"collection_name": quick, "db_name": "tools_other"}
    error = await agent.fails("count", **there)
    assert error["code"] == "not_found"
    await agent.call("create_collection", dimension=3, **there)
    await agent.call("insert", data=[{"id": 1, "vector": [0, 1, 2]}], **there)
    assert keys((await agent.call("search", vector=[0, 1, 2], **there))["hits"]) == [1]
    listed = await agent.call("list_collections", db_name="tools_other")
    assert listed["collections"] == [{"name": quick, "entity_count": 1, "loaded": True}]
    await agent.call("drop_collection", **there)
    assert await agent.exists(quick)


async def test_a_database_that_does_not_exist_is_named(agent: Agent, quick: str) -> None:
    for tool, arguments in (("count", {"collection_name": quick}), ("list_collections", {})):
        error = await agent.fails(tool, db_name="nowhere", **arguments)
        assert error["code"] == "not_found"
        assert "nowhere" in error["message"]
