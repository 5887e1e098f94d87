"""Confirmation on the real Milvus 2.3.5: what would be lost is counted there, and a user or a token confirms it."""

from typing import Any

import pytest
from mcp.client import Client
from mcp_types import ElicitResult

from mcp_server_milvus.app import open_app
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tools import TOOLS
from tests.agent import Agent, agent_on, keys

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

DOCS: dict[str, Any] = {"collection_name": "confirmed_docs"}


def entities(count: int, first: int = 1) -> list[dict[str, Any]]:
    return [{"id": key, "vector": [0.5, key], "text": f"text {key}"} for key in range(first, first + count)]


async def test_what_would_be_lost_is_told_and_confirmed(milvus_235: str, tmp_path_factory: Any) -> None:
    settings = {"data_dir": tmp_path_factory.mktemp("confirming"), "confirm_upserts": 3}
    async with agent_on(milvus_235, **settings) as agent, agent_on(milvus_235, confirm="token", **settings) as careful:
        await agent.call("create_collection", **DOCS, dimension=2)
        await agent.call("create_partition", **DOCS, partition_name="part")
        await agent.call("load_collection", **DOCS)
        await agent.call("insert", **DOCS, data=entities(3))
        await agent.call("insert", **DOCS, data=entities(2, first=50), partition_name="part")
        preview = await careful.fails("delete", **DOCS, filter="id < 3")
        assert (preview["entity_count"], keys(preview["sample"])) == (2, [1, 2])
        await agent.call("insert", **DOCS, data=entities(1, first=0))
        changed = await careful.fails("delete", **DOCS, filter="id < 3", confirm=preview["confirm"])
        assert (changed["entity_count"], "has changed" in changed["message"]) == (3, True)
        await careful.call("delete", **DOCS, filter="id < 3", confirm=changed["confirm"])
        for tool, arguments, count in (
            ("delete", {"filter": "id > 50", "partition_name": "part"}, 1),
            ("upsert", {"data": entities(4)}, 2),
            ("drop_partition", {"partition_name": "part"}, 1),
        ):
            preview = await careful.fails(tool, **DOCS, **arguments)
            assert (preview["code"], preview["entity_count"]) == ("confirmation_required", count)
            await careful.call(tool, **DOCS, **arguments, confirm=preview["confirm"])
        assert (await careful.fails("truncate_collection", **DOCS))["code"] == "not_supported"
    await user_is_asked(milvus_235, settings)


async def user_is_asked(uri: str, settings: dict[str, Any]) -> None:
    """And is told of a collection that is not loaded that what was written last is not counted."""
    questions: list[str] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        del context
        questions.append(params.message)
        return ElicitResult(action="accept", content={"confirm": len(questions) > 1})

    async with open_app(Settings.model_validate({"uri": uri} | settings)) as app:
        async with Client(build_server(app, TOOLS), mode="legacy", elicitation_callback=answer) as client:
            assert (await Agent(client).fails("drop_collection", **DOCS))["code"] == "denied"
            assert await Agent(client).count(DOCS["collection_name"]) == 4
            await Agent(client).call("release_collection", **DOCS)
        async with Client(build_server(app, TOOLS), elicitation_callback=answer) as client:
            await Agent(client).call("drop_collection", **DOCS)
            assert not await Agent(client).exists(DOCS["collection_name"])
    assert "4 entities, about" in questions[0]
    assert "at least 0 entities" in questions[1]
