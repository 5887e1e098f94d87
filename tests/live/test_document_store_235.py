"""A collection that stores texts on the real Milvus 2.3.5: no BM25, so the vector alone, bound to the embedder."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from pymilvus import MilvusClient

from mcp_server_milvus.embedding.binding import PROPERTY
from tests.agent import Agent, agent_on
from tests.milvus.conftest import watching
from tests.tools.test_document_store import BOUND, TEXTS, Refusing, described, embedded, made_elsewhere

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]


async def rebinds_after_renaming(agent: Agent, name: str) -> None:
    altered = await agent.call("alter_collection", collection_name=name, new_name=f"{name}_new")
    assert altered["embedding"] == BOUND
    await agent.call("create_alias", collection_name=f"{name}_new", alias=f"{name}_alias")
    shown = await described(agent, f"{name}_alias")
    assert shown["embedding"] == BOUND
    assert PROPERTY not in shown.get("properties", {})


async def test_a_document_store_is_made_of_the_vector_alone_and_remembers_its_embedder(
    milvus_235: str, minilm: dict[str, Any]
) -> None:
    async with agent_on(milvus_235, **minilm) as agent:
        wanted = {"collection_name": "store", "text_field": "body", "metadata": [{"name": "year", "type": "INT64"}]}
        created = await agent.call("create_collection", **wanted)
        assert created["fields"] == ["id INT64", "body VARCHAR(65535)", "year INT64", "vector FLOAT_VECTOR(384)"]
        assert [(each["field_name"], each["metric_type"]) for each in created["indexes"]] == [("vector", "COSINE")]
        assert created["embedding"] == BOUND
        assert not (await agent.call("create_collection", **wanted))["created"]
        shown = await described(agent, "store")
        assert shown["example_entity"] == {"body": "text", "year": 1}
        assert shown["example_search"] == {"collection_name": "store", "text": "plain words", "limit": 5}
        await agent.call("alter_collection", collection_name="store", properties={"collection.ttl.seconds": 3600})
        await rebinds_after_renaming(agent, "store")
    async with agent_on(milvus_235) as agent:
        error = await agent.fails("create_collection", collection_name="other", text_field="body")
        assert error["code"] == "not_supported"
        assert "no BM25 and this server no embedder" in error["message"]
        assert "--embedder" in error["hint"]
        assert "dimension or fields" in error["hint"]


async def test_vectors_made_elsewhere_are_bound_if_the_embedder_made_them(
    milvus_235: str, minilm: dict[str, Any]
) -> None:
    vectors = await embedded(minilm, TEXTS)
    async with agent_on(milvus_235, **minilm) as agent:
        async with anyio.create_task_group() as tasks:  # each takes three seconds, most of which Milvus sleeps
            tasks.start_soon(made_elsewhere, agent, "elsewhere", vectors)
            tasks.start_soon(made_elsewhere, agent, "shuffled", vectors[1:] + vectors[:1])
        bound = await agent.call("alter_collection", collection_name="elsewhere", embed_fields={"vector": "body"})
        assert bound["embedding"] == BOUND
        error = await agent.fails("alter_collection", collection_name="shuffled", embed_fields={"vector": "body"})
        assert error["code"] == "conflict"
        unbound = await agent.call("alter_collection", collection_name="elsewhere", embed_fields={"vector": None})
        assert "embedding" not in unbound


async def test_where_milvus_refuses_the_property_a_file_keeps_it_under_every_name(
    tmp_path: Path, milvus_235: str, minilm: dict[str, Any]
) -> None:
    with watching() as wire:
        Refusing(wire)
        async with agent_on(milvus_235, **minilm, data_dir=tmp_path) as agent:
            await agent.call("create_collection", collection_name="kept_here", text_field="body")
            await rebinds_after_renaming(agent, "kept_here")
    client = MilvusClient(milvus_235)
    described: Any = client.describe_collection("kept_here_new")
    assert not described.get("properties")
    client.close()
