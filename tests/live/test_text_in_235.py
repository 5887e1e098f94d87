"""Entities that bring texts and no vectors, on the real Milvus 2.3.5, which finds them by their vectors alone."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent import Agent, agent_on

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

FISH = "The salmon swims up the river to spawn."
TAX = "Income tax is due at the end of April."
CHINESE = "向量数据库保存文本的嵌入。" * 100


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
async def agent(milvus_235: str, minilm: dict[str, Any], files: Path) -> AsyncIterator[Agent]:
    async with agent_on(milvus_235, **minilm, files_dir=str(files), max_result_bytes=1_000_000) as agent:
        yield agent


async def stored(agent: Agent, collection: str) -> dict[str, dict[str, Any]]:
    found = await agent.call("query", collection_name=collection, output_fields=["*"], limit=1_000)
    return {each["id"]: each for each in found["entities"]}


async def test_texts_are_embedded_replaced_and_split(agent: Agent) -> None:
    await agent.call("create_collection", collection_name="texts_in", text_field="body", id_type="string")
    data = [{"id": "fish", "body": FISH}, {"id": "tax", "body": TAX, "page": 1}]
    assert (await agent.call("insert", collection_name="texts_in", data=data))["insert_count"] == 2
    before = await stored(agent, "texts_in")
    await agent.call("upsert", collection_name="texts_in", data=[{"id": "fish", "body": TAX}])
    after = await stored(agent, "texts_in")
    assert after["fish"]["vector"] == after["tax"]["vector"] == before["tax"]["vector"] != before["fish"]["vector"]
    refusal = await agent.fails("insert", collection_name="texts_in", data=[{"id": "x", "body": ""}])
    assert refusal["message"] == "entity 0: field 'body' is empty: there is nothing to embed"
    whole = {"id": "chinese", "body": CHINESE, "page": 2}
    written = await agent.call("insert", collection_name="texts_in", data=[whole], chunk_size=500)
    assert written["source_ids"] == ["chinese"]
    pieces = [each for each in (await stored(agent, "texts_in")).values() if each.get("source_id") == "chinese"]
    assert len(pieces) == written["insert_count"] > 2
    for piece in pieces:
        assert piece["id"] == f"chinese#{piece['chunk']}"
        assert piece["body"] == CHINESE[piece["start"] : piece["end"]]
        assert piece["page"] == 2


async def test_a_file_is_embedded_as_it_is_read_and_what_is_exported_keeps_its_vectors(
    agent: Agent, milvus_235: str, files: Path
) -> None:
    await agent.call("create_collection", collection_name="texts_from", text_field="body", id_type="string")
    lines = [{"id": f"{number}", "body": f"text {number}"} for number in range(40)]
    (files / "texts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    written = await agent.call("import_file", collection_name="texts_from", path="texts.jsonl")
    assert written["import_count"] == 40
    await agent.call("export_file", collection_name="texts_from", path="texts.parquet")
    before = await stored(agent, "texts_from")
    assert len({tuple(each["vector"]) for each in before.values()}) == 40
    await agent.call("delete", collection_name="texts_from", filter='id != ""')
    async with agent_on(milvus_235, files_dir=str(files)) as plain:
        refusal = await plain.fails("insert", collection_name="texts_from", data=lines[:1])
        assert refusal["code"] == "not_supported"
        assert await plain.count("texts_from") == 0
        await plain.call("import_file", collection_name="texts_from", path="texts.parquet")
    assert await stored(agent, "texts_from") == before
