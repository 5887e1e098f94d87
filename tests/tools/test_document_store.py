"""A collection that stores texts: made in one call and bound to its embedder, whatever happens to it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from pymilvus import CollectionSchema as PymilvusSchema
from pymilvus import DataType, FieldSchema
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

from mcp_server_milvus.embedding.binding import PROPERTY, Binding, as_property, bindings_in
from mcp_server_milvus.embedding.embedder import Vector
from mcp_server_milvus.embedding.embedders import Embedders
from mcp_server_milvus.embedding.fingerprint import Fingerprint
from mcp_server_milvus.milvus.properties import KeptProperties
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.settings import Settings
from tests.agent import Agent, agent_on
from tests.fake_milvus import fake_milvus
from tests.milvus.conftest import Wire, rpc_error, watching
from tests.openai_server import openai_server, silence

pytestmark = pytest.mark.anyio

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
UNCHECKED = ["vector: no text was found to compare its vectors with the embedder's"]
BOUND = {"vector": f"body by fastembed {MODEL} (dim 384)"}
TEXTS = ["a cat sleeps", "stock prices fell sharply", "rain is expected in the north tomorrow"]
ID = {"name": "id", "type": "INT64", "is_primary": True, "auto_id": True}
BODY = {"name": "body", "type": "VARCHAR"}
FIELDS_OF_A_STORE: dict[str, Any] = {
    "fields": [
        ID,
        BODY | {"enable_match": True},
        {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 384},
    ],
    "functions": [{"name": "bm25", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["sparse"]}],
    "enable_dynamic_field": True,
}


def settings_of(embedder: dict[str, Any], **others: Any) -> dict[str, Any]:
    """The same model as an entry of the table `embedders`."""
    return {name.removeprefix("embed_").replace("embedder", "backend"): value for name, value in embedder.items()} | (
        others
    )


async def embedded(minilm: dict[str, Any], texts: Sequence[str]) -> list[Vector]:
    """What another program that uses the same model stores."""
    return await Embedders(Settings(**minilm).all_embedders).named().embed_documents(texts)


async def made_elsewhere(
    agent: Agent, collection: str, vectors: Sequence[Vector], *, dim: int = 384, metric_type: str = "COSINE"
) -> None:
    await agent.call(
        "create_collection",
        collection_name=collection,
        fields=[ID, BODY, {"name": "vector", "type": "FLOAT_VECTOR", "dim": dim}],
        indexes=[{"field_name": "vector", "metric_type": metric_type}],
    )
    entities = [{"body": text, "vector": vector} for text, vector in zip(TEXTS, vectors, strict=False)]
    blank = [{"body": text, "vector": [1] * dim} for text in ("", " \n ")]
    if entities:
        await agent.call("insert", collection_name=collection, data=[*entities, *blank])


async def described(agent: Agent, collection: str) -> dict[str, Any]:
    return await agent.call("describe_collection", collection_name=collection)


async def test_one_call_makes_a_collection_that_is_searched_by_text(text_agent: Agent, collection: str) -> None:
    wanted: dict[str, Any] = {
        "collection_name": collection,
        "text_field": "body",
        "metadata": [
            {"name": "year", "type": "INT64"},
            {"name": "lang", "type": "VARCHAR", "max_length": 2, "nullable": False},
            {"name": "tenant", "type": "VARCHAR", "is_partition_key": True},
        ],
    }
    created = await text_agent.call("create_collection", **wanted)
    assert created == {
        "created": True,
        "collection_name": collection,
        "fields": [
            "id INT64",
            "body VARCHAR(65535)",
            "year INT64",
            "lang VARCHAR(2)",
            "tenant VARCHAR(65535)",
            "sparse SPARSE_FLOAT_VECTOR",
            "vector FLOAT_VECTOR(384)",
        ],
        "indexes": [
            {"field_name": "sparse", "index_type": "SPARSE_INVERTED_INDEX", "metric_type": "BM25"},
            {"field_name": "vector", "index_type": "AUTOINDEX", "metric_type": "COSINE"},
        ],
        "embedding": BOUND,
        "loaded": True,
    }
    assert await text_agent.call("create_collection", **wanted) == created | {"created": False}
    shown = await described(text_agent, collection)
    by_name = {field["name"]: field for field in shown["fields"]}
    assert by_name["id"]["auto_id"]
    assert by_name["body"]["enable_analyzer"]
    assert by_name["body"]["enable_match"]
    assert [name for name, field in by_name.items() if field.get("nullable")] == ["year"]
    assert shown["enable_dynamic_field"]
    assert shown["embedding"] == BOUND
    assert "properties" not in shown
    assert shown["example_entity"] == {"body": "text", "lang": "te", "tenant": "text"}
    assert shown["example_search"] == {"collection_name": collection, "text": "plain words", "limit": 5}


async def test_another_embedder_is_a_difference(lite: str, minilm: dict[str, Any], collection: str) -> None:
    """Even the same model behind another prefix."""
    wanted = {"collection_name": collection, "text_field": "body"}
    other = settings_of(minilm, query_prefix="query: ")
    async with agent_on(lite, **minilm, embedders={"other": other}) as agent:
        await agent.call("create_collection", **wanted, embedder="other")
        error = await agent.fails("create_collection", **wanted)
        assert error["code"] == "conflict"
        assert "query_prefix: '', not 'query: '" in error["message"]
        unknown = await agent.fails("create_collection", **wanted, embedder="third")
        assert "configured: default, other" in unknown["message"]
        await agent.call("create_collection", collection_name=f"{collection}_unbound", **FIELDS_OF_A_STORE)
        error = await agent.fails("create_collection", collection_name=f"{collection}_unbound", text_field="body")
        assert "vector is made by no embedder" in error["message"]


async def test_without_an_embedder_the_text_is_found_by_its_words(agent: Agent, collection: str) -> None:
    created = await agent.call("create_collection", collection_name=collection, text_field="body", id_type="string")
    assert created["fields"] == ["id VARCHAR(65535)", "body VARCHAR(65535)", "sparse SPARSE_FLOAT_VECTOR"]
    assert "embedding" not in created
    await agent.call("insert", collection_name=collection, data=[{"id": "a", "body": TEXTS[0]}])
    found = await agent.call("search", collection_name=collection, text="cat", anns_field="sparse")
    assert [hit["id"] for hit in found["hits"]] == ["a"]


async def test_an_embedder_that_fails_leaves_no_collection(lite: str, minilm: dict[str, Any], collection: str) -> None:
    async with agent_on(lite, **minilm, embed_dim=8) as agent:
        error = await agent.fails("create_collection", collection_name=collection, text_field="body")
        assert error["code"] == "embedder_failed"
        assert not await agent.exists(collection)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"text_field": "body", "dimension": 4, "metric_type": "IP"}, "dimension, metric_type do not go with text_f"),
        ({"text_field": "body", "fields": [ID]}, "fields do not go with text_field"),
        ({"metadata": [BODY]}, "metadata belong to the text form: give text_field"),
        ({"dimension": 4, "embedder": "default"}, "embedder belong to the text form"),
        ({"text_field": "sparse"}, "'sparse' is a field that the collection gets anyway"),
        ({"text_field": "body", "metadata": [{"name": "vector", "type": "INT8"}]}, "'vector' is a field that"),
        ({"text_field": "body", "metadata": [BODY]}, "two fields have the same name"),
        ({"text_field": "body", "metadata": [ID | {"name": "key"}]}, "key cannot be the primary key, which is id"),
        ({"text_field": "body", "metadata": [{"name": "v", "type": "FLOAT_VECTOR", "dim": 2}]}, "v is a vector field"),
        ({"text_field": "body", "embedder": "default"}, "this server has no embedder"),
        ({"dimension": 4, "properties": {PROPERTY: "{}"}}, "mcp_embedding is kept by this server"),
        ({}, "give text_field (text form), dimension (quick form) or fields (full form)"),
    ],
)
async def test_what_does_not_go_together_is_told(
    agent: Agent, collection: str, arguments: dict[str, Any], told: str
) -> None:
    error = await agent.fails("create_collection", collection_name=collection, **arguments)
    assert told in error["message"]
    assert not await agent.exists(collection)


async def test_the_keys_are_made_unless_their_type_is_given(agent: Agent, collection: str) -> None:
    for number, (arguments, made) in enumerate(
        [
            ({}, True),
            ({"id_type": "int"}, False),
            ({"id_type": "int", "auto_id": True}, True),
            ({"auto_id": False}, False),
        ]
    ):
        name = f"{collection}_{number}"
        await agent.call("create_collection", collection_name=name, text_field="body", **arguments)
        key = (await described(agent, name))["fields"][0]
        assert key == {"name": "id", "type": "INT64", "is_primary": True} | ({"auto_id": True} if made else {})


async def test_the_binding_survives_whatever_happens_to_the_collection(tmp_path: Path, minilm: dict[str, Any]) -> None:
    uri = str(tmp_path / "own.db")
    async with agent_on(uri, **minilm) as agent:
        await agent.call("create_collection", collection_name="docs", text_field="body")
        changes: list[tuple[str, dict[str, Any]]] = [
            ("alter_collection", {"properties": {"purpose": "test"}, "description": "words"}),
            ("release_collection", {}),
            ("load_collection", {}),
            ("truncate_collection", {}),
            ("create_alias", {"alias": "papers"}),
        ]
        for tool, arguments in changes:
            await agent.call(tool, collection_name="docs", **arguments)
            assert (await described(agent, "docs"))["embedding"] == BOUND, tool
        assert (await described(agent, "papers"))["embedding"] == BOUND
        await agent.call("drop_alias", alias="papers")
        altered = await agent.call("alter_collection", collection_name="docs", new_name="texts")
        assert altered["embedding"] == BOUND
        assert altered["properties"] == {"purpose": "test"}
    async with agent_on(uri) as restarted:
        assert (await described(restarted, "texts"))["embedding"] == BOUND


async def test_vectors_that_the_embedder_made_elsewhere_are_bound_and_unbound(
    text_agent: Agent, minilm: dict[str, Any], collection: str
) -> None:
    await made_elsewhere(text_agent, collection, await embedded(minilm, TEXTS))
    await text_agent.call("release_collection", collection_name=collection)
    bind = {"collection_name": collection, "embed_fields": {"vector": "body"}}
    for _ in range(2):
        altered = await text_agent.call("alter_collection", **bind, embedder="default")
        assert altered["done"] == [f"bound vector to {BOUND['vector']}"]
        assert altered["embedding"] == BOUND
        assert "properties" not in altered
    assert "vector" not in (await described(text_agent, collection))["example_entity"]
    unbind = {"collection_name": collection, "embed_fields": {"vector": None}}
    altered = await text_agent.call("alter_collection", **unbind)
    assert altered["done"] == ["unbound vector"]
    assert "embedding" not in altered
    assert (await text_agent.fails("alter_collection", **unbind))["code"] == "not_found"


async def test_vectors_that_are_not_of_the_embedder_are_not_bound(
    text_agent: Agent, minilm: dict[str, Any], collection: str
) -> None:
    vectors = await embedded(minilm, TEXTS)
    elsewhere: dict[str, tuple[list[Vector], str, str]] = {
        "wrong": (vectors[1:] + vectors[:1], "COSINE", "are not what embedder fastembed"),
        "long": ([[3 * number for number in vector] for vector in vectors], "IP", "have a length of 3.00"),
        "unit": (vectors, "IP", ""),
        "empty": ([], "L2", ""),
    }
    for name, (stored, metric_type, told) in elsewhere.items():
        collection_name = f"{collection}_{name}"
        await made_elsewhere(text_agent, collection_name, stored, metric_type=metric_type)
        arguments: dict[str, Any] = {"collection_name": collection_name, "embed_fields": {"vector": "body"}}
        if told:
            error = await text_agent.fails("alter_collection", **arguments, description="new")
            assert error["code"] == "conflict"
            assert told in error["message"]
            after = await described(text_agent, collection_name)
            assert "embedding" not in after
            assert "description" not in after
        else:
            altered = await text_agent.call("alter_collection", **arguments)
            assert altered["embedding"] == BOUND
            assert altered.get("notes") == (None if stored else UNCHECKED)


async def test_texts_that_say_nothing_are_not_compared(text_agent: Agent, collection: str) -> None:
    arguments: dict[str, Any] = {"collection_name": collection}
    await made_elsewhere(text_agent, collection, [])
    await text_agent.call("insert", **arguments, data=[{"body": text, "vector": [1] * 384} for text in (" ", "\n\t")])
    bound = await text_agent.call("alter_collection", **arguments, embed_fields={"vector": "body"})
    assert (bound["embedding"], bound.get("notes")) == (BOUND, UNCHECKED)
    await text_agent.call("insert", **arguments, data=[{"body": text} for text in TEXTS])
    await text_agent.call("alter_collection", **arguments, embed_fields={"vector": None})
    bound = await text_agent.call("alter_collection", **arguments, embed_fields={"vector": "body"})
    assert (bound["embedding"], bound.get("notes")) == (BOUND, None)


async def test_an_endpoint_that_is_silent_ends_with_the_timeout(lite: str, collection: str) -> None:
    async with openai_server() as endpoint:
        embedder = {"embedder": "openai", "embed_model": "bag", "embed_base_url": endpoint.base_url, "embed_timeout": 6}
        bind: dict[str, Any] = {"collection_name": collection, "embed_fields": {"vector": "body"}}
        async with agent_on(lite, **embedder, timeout=4) as first, agent_on(lite, **embedder, timeout=4) as later:
            await first.call("create_collection", collection_name=collection, text_field="body")
            await first.call("insert", collection_name=collection, data=[{"body": text} for text in TEXTS])
            await first.call("alter_collection", collection_name=collection, embed_fields={"vector": None})
            endpoint.always = silence()
            errors: list[dict[str, Any]] = []

            async def fail(agent: Agent, tool: str, arguments: dict[str, Any]) -> None:
                errors.append(await agent.fails(tool, **arguments))

            async with anyio.create_task_group() as tasks:  # `first` knows the fingerprint, and embeds what is stored
                tasks.start_soon(fail, first, "alter_collection", bind)
                tasks.start_soon(fail, later, "alter_collection", bind)
                new = {"collection_name": f"{collection}_new", "text_field": "body"}
                tasks.start_soon(fail, later, "create_collection", new)
            assert [(error["code"], "within 4 s" in error["message"]) for error in errors] == (
                [("embedder_unavailable", True)] * 3
            )
            assert not await later.exists(f"{collection}_new")
            assert "embedding" not in await described(later, collection)


async def test_bindings_that_are_made_at_once_are_all_kept() -> None:
    """On a server, which does not tell that a collection was altered meanwhile, as Milvus Lite does."""
    pairs = {f"{name}_vector": name for name in ("title", "body", "note")}
    fields = [FieldSchema("id", DataType.INT64, is_primary=True)]
    fields += [FieldSchema(name, DataType.VARCHAR, max_length=64) for name in pairs.values()]
    fields += [FieldSchema(name, DataType.FLOAT_VECTOR, dim=16) for name in pairs]
    async with openai_server() as endpoint, fake_milvus("2.6.4", PymilvusSchema(fields)) as fake:
        no_keys = schema_pb2.FieldData(
            type=schema_pb2.DataType.Int64,
            field_name="id",
            scalars=schema_pb2.ScalarField(long_data=schema_pb2.LongArray()),
        )
        nothing = milvus_pb2.QueryResults(fields_data=[no_keys], output_fields=["id"])

        def with_bindings(request: Any) -> Any:
            answer = fake._DescribeCollection(request)  # pyright: ignore[reportPrivateUsage]
            for sent in fake.requests("AlterCollection")[-1:]:
                answer.properties.extend(sent.properties)
            return answer

        fake.answers |= {"DescribeCollection": with_bindings, "Query": nothing}
        embedder = {"embedder": "openai", "embed_model": "bag", "embed_base_url": endpoint.base_url}
        answered = anyio.Event()
        async with agent_on(fake.uri, **embedder) as one, agent_on(fake.uri, **embedder) as other:

            async def bind(agent: Agent, vector: str) -> None:
                changes = {"embed_fields": {vector: pairs[vector]}}
                await agent.call("alter_collection", collection_name="docs", **changes)

            async with anyio.create_task_group() as tasks:
                endpoint.next(lambda request: replace(endpoint.embeddings(request), until=answered))
                tasks.start_soon(bind, one, "title_vector")
                with anyio.fail_after(20):
                    while not endpoint.requests:
                        await anyio.lowlevel.checkpoint()
                async with anyio.create_task_group() as at_once:
                    at_once.start_soon(bind, other, "body_vector")
                    at_once.start_soon(bind, other, "note_vector")
                answered.set()
        (kept,) = fake.requests("AlterCollection")[-1].properties
        assert bindings_in({kept.key: kept.value}).keys() == pairs.keys()


async def test_a_binding_needs_a_vector_field_of_the_dimension_and_a_text_field(
    text_agent: Agent, agent: Agent, collection: str
) -> None:
    await made_elsewhere(text_agent, collection, [], dim=8)
    for arguments, told in [
        ({"embed_fields": {"vector": "body"}}, "vector FLOAT_VECTOR(8) is not of embedder fastembed"),
        ({"embed_fields": {"vector": "id"}}, "id INT64 holds no text"),
        ({"embed_fields": {"body": "vector"}}, "body VARCHAR(65535) is a field that is no vector of floats"),
        ({"embed_fields": {"vector": "title"}}, "has no field 'title'"),
        ({"embedder": "default"}, "embedder goes with embed_fields"),
        ({"properties": {PROPERTY: None}}, "mcp_embedding is kept by this server"),
    ]:
        error = await text_agent.fails("alter_collection", collection_name=collection, **arguments)
        assert told in error["message"]
    error = await agent.fails("alter_collection", collection_name=collection, embed_fields={"vector": "body"})
    assert error["code"] == "not_supported"


async def test_the_output_of_a_function_is_not_bound(text_agent: Agent, collection: str) -> None:
    await text_agent.call("create_collection", collection_name=collection, text_field="body")
    error = await text_agent.fails("alter_collection", collection_name=collection, embed_fields={"sparse": "body"})
    assert "is a field that a function computes" in error["message"]


async def test_a_field_that_is_dropped_takes_its_binding_with_it() -> None:
    """Else another field of that name would count as made by the embedder."""
    fingerprint = Fingerprint(
        "openai", "model", 2, normalized=True, query_prefix="", document_prefix="", probe=(1.0, 0.0)
    )
    kept = as_property([Binding("vector", "title", fingerprint)])
    async with fake_milvus("3.0.0") as fake, agent_on(fake.uri) as agent:

        def with_binding(request: Any) -> Any:
            answer = fake._DescribeCollection(request)  # pyright: ignore[reportPrivateUsage]
            altered = [pair for sent in fake.requests("AlterCollection") for pair in sent.properties]
            value = altered[-1].value if altered else kept
            answer.properties.add(key=PROPERTY, value=value)
            return answer

        fake.answers["DescribeCollection"] = with_binding
        altered = await agent.call("alter_collection", collection_name="docs", drop_field="title")
        assert altered["done"] == ["dropped title VARCHAR(64)", "unbound vector"]
        assert "embedding" not in altered


class Refusing:
    """A Milvus that keeps no properties: it refuses them, or drops them without a word."""

    def __init__(self, wire: Wire) -> None:
        self.refuses = True
        wire.before = self

    async def __call__(self, name: str, request: Any) -> None:
        if name in {"CreateCollection", "AlterCollection"} and any(each.key == PROPERTY for each in request.properties):
            if self.refuses:
                raise rpc_error(grpc.StatusCode.PERMISSION_DENIED, "PrivilegeAlterCollection: permission deny")
            del request.properties[:]


async def test_where_milvus_keeps_no_properties_a_file_of_the_server_does(
    tmp_path: Path, minilm: dict[str, Any], lite: str, collection: str
) -> None:
    data = tmp_path / "not" / "yet"
    dropped = f"{collection}_dropped"
    with watching() as wire:
        milvus = Refusing(wire)
        async with agent_on(lite, **minilm, data_dir=data) as agent, agent_on(lite, data_dir=data) as neighbour:
            created = await agent.call("create_collection", collection_name=collection, text_field="body")
            assert created["embedding"] == BOUND
            milvus.refuses = False
            await agent.call("create_collection", collection_name=dropped, text_field="body")
            for name in (collection, dropped):
                shown = await described(neighbour, name)
                assert shown["embedding"] == BOUND
                assert "properties" not in shown
            milvus.refuses = True
            await agent.call("alter_collection", collection_name=dropped, embed_fields={"vector": None})
            assert "embedding" not in await described(neighbour, dropped)
            await agent.call("drop_collection", collection_name=collection)
            await neighbour.call("create_collection", collection_name=collection, **FIELDS_OF_A_STORE)
            assert "embedding" not in await described(agent, collection)
    file = data / "properties.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert data.stat().st_mode & 0o777 == 0o700
    kept = json.loads(file.read_text("utf-8")).values()
    assert sorted(len(bindings_in(each)) for each in kept) == [0, 1]


async def test_servers_that_write_the_file_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    servers = [KeptProperties(tmp_path, "http://milvus:19530") for _ in range(4)]
    collections = [
        CollectionSchema("docs", (), (), (), enable_dynamic_field=False, identity=f"{n}") for n in range(1, 17)
    ]
    async with anyio.create_task_group() as tasks:
        for number, collection in enumerate(collections):
            tasks.start_soon(servers[number % 4].keep, "default", collection, {PROPERTY: collection.identity})
    for collection in collections:
        completed = await servers[0].completed("default", collection)
        assert completed.properties == {PROPERTY: collection.identity}
        assert (await servers[0].completed("other", collection)).properties == {}
    assert (await KeptProperties(tmp_path, "http://other").completed("default", collections[0])).properties == {}


async def test_a_file_that_cannot_be_read_is_set_aside_before_it_is_written(
    tmp_path: Path, minilm: dict[str, Any], lite: str, collection: str
) -> None:
    file = tmp_path / "properties.json"
    file.write_text("{ half", "utf-8")
    with watching() as wire:
        Refusing(wire)
        async with agent_on(lite, **minilm, data_dir=tmp_path) as agent:
            assert (await agent.call("create_collection", collection_name=collection, text_field="body"))["created"]
            assert (await described(agent, collection))["embedding"] == BOUND
    (aside,) = tmp_path.glob("*.unreadable")
    assert aside.read_text("utf-8") == "{ half"


async def test_a_binding_that_can_be_kept_nowhere_creates_nothing(
    tmp_path: Path, minilm: dict[str, Any], lite: str, collection: str
) -> None:
    (tmp_path / "file").touch()
    with watching() as wire:
        Refusing(wire)
        async with agent_on(lite, **minilm, data_dir=tmp_path / "file") as agent:
            error = await agent.fails("create_collection", collection_name=collection, text_field="body")
            assert error["code"] == "denied"
            assert str(tmp_path) not in error["message"]
            assert not await agent.exists(collection)
