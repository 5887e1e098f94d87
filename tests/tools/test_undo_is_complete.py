"""Undo: nothing is destroyed that was not kept, whoever writes meanwhile, and nothing promised that cannot be kept."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_server_milvus import undo
from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.errors import Conflict
from mcp_server_milvus.policy import Caller, Policy
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tools.entities import Entities, upsert
from mcp_server_milvus.vocabulary import Scope
from tests.agent import Agent, agent_on

pytestmark = pytest.mark.anyio

FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "ssn", "type": "VARCHAR", "max_length": 20, "nullable": True},
    {"name": "status", "type": "VARCHAR", "max_length": 20},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
]


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of these tests' own: what others drop is none of it."""
    return str(tmp_path_factory.mktemp("kept") / "kept.db")


@pytest.fixture(scope="module")
async def agent(lite: str) -> AsyncIterator[Agent]:
    async with agent_on(lite) as agent:
        yield agent


@pytest.fixture
def keeping(lite: str, tmp_path: Path) -> dict[str, Any]:
    """The settings of a server that keeps what is destroyed, in a folder of this test's own."""
    return {"uri": lite, "undo": True, "data_dir": tmp_path}


@pytest.fixture
async def people(agent: Agent, collection: str) -> str:
    """Three people, of whom each has a secret number."""
    await agent.call("create_collection", collection_name=collection, fields=FIELDS)
    await agent.call("insert", collection_name=collection, data=[person(number) for number in (1, 2, 3)])
    return collection


def person(number: int, **other: Any) -> dict[str, Any]:
    return {"id": number, "ssn": f"s{number}", "status": "old", "vector": [number, 1]} | other


@asynccontextmanager
async def app_of(settings: dict[str, Any]) -> AsyncGenerator[App]:
    async with open_app(Settings.model_validate(settings)) as app:
        yield app


async def test_what_a_caller_may_not_see_is_kept_and_restored_all_the_same(
    agent: Agent, keeping: dict[str, Any], people: str
) -> None:
    async with agent_on(**keeping, mask_fields="ssn") as masked:
        gone = await masked.call("delete", collection_name=people, filter="id > 1")
        assert gone["delete_count"] == 2
        await masked.call("restore_collection", id=gone["kept_as"])
        assert "ssn" not in (await masked.call("query", collection_name=people))["entities"][0]
    found = await agent.call("query", collection_name=people, output_fields=["ssn"])
    assert [each["ssn"] for each in found["entities"]] == ["s1", "s2", "s3"]


async def test_an_upsert_that_would_lose_what_is_masked_is_refused(
    agent: Agent, keeping: dict[str, Any], people: str
) -> None:
    async with agent_on(**keeping, mask_fields="ssn") as masked:
        seen = (await masked.call("get", collection_name=people, ids=[1], output_fields=["*"]))["entities"][0]
        refusal = await masked.fails("upsert", collection_name=people, data=[seen])
        assert (refusal["code"], "ssn" in refusal["message"]) == ("denied", True)
        await masked.call("upsert", collection_name=people, data=[seen | {"ssn": "new"}])
    found = await agent.call("query", collection_name=people, output_fields=["ssn"])
    assert [each["ssn"] for each in found["entities"]] == ["new", "s2", "s3"]


async def test_what_does_not_match_any_more_when_it_is_deleted_stays(keeping: dict[str, Any], people: str) -> None:
    async with app_of(keeping) as app:
        schema = await app.schemas.get("default", people)
        matching = 'status == "old"'
        kept = await undo.keep(app, "default", schema, "delete", matching=matching)
        assert kept.kept
        await upsert.function(app, Entities(collection_name=people, data=[person(2, status="precious")]))
        assert await undo.delete_kept(app, "default", schema, kept.kept, matching) == 2
    async with agent_on(**keeping) as agent:
        assert (await agent.call("query", collection_name=people, output_fields=["status"]))["entities"] == [
            {"id": 2, "status": "precious"}
        ]


async def test_a_collection_that_is_written_to_is_not_emptied(keeping: dict[str, Any], people: str) -> None:
    async with app_of(keeping) as app:

        async def write(*_: Any) -> None:
            await upsert.function(app, Entities(collection_name=people, data=[person(0)]))  # behind what was read

        watched = replace(app, report_progress=write)
        schema = await app.schemas.get("default", people)
        with pytest.raises(Conflict, match="is being written to"):
            await undo.keep_all(watched, "default", schema, "truncate_collection")
    async with agent_on(**keeping) as agent:
        assert (await agent.call("list_dropped"))["dropped"] == []
        assert await agent.count(people) == 4


async def test_no_undo_is_promised_for_what_cannot_be_read(keeping: dict[str, Any], people: str) -> None:
    async with agent_on(**keeping, confirm="token", auto_load=False) as careful:
        await careful.call("release_collection", collection_name=people)
        preview = await careful.fails("truncate_collection", collection_name=people)
        assert preview["undo"].startswith("it cannot be taken back")


async def test_a_purge_says_what_it_removes_and_removes_nothing_else(keeping: dict[str, Any], people: str) -> None:
    async with agent_on(**keeping, confirm="token", toolsets="all") as careful:
        await drop(careful, people)
        asked = await careful.fails("purge_dropped", id="all")
        assert people in asked["what"]
        assert asked["entity_count"] == 3
        await careful.call("create_collection", collection_name="precious", dimension=2)
        await drop(careful, "precious")
        stale = await careful.fails("purge_dropped", id="all", confirm=asked["confirm"])
        assert (stale["code"], "precious" in stale["what"]) == ("confirmation_required", True)
        assert len((await careful.call("list_dropped"))["dropped"]) == 2
        assert await careful.call("purge_dropped", id="all", confirm=stale["confirm"]) == {"purged": 2}


async def drop(agent: Agent, collection_name: str) -> None:
    asked = await agent.fails("drop_collection", collection_name=collection_name)
    await agent.call("drop_collection", collection_name=collection_name, confirm=asked["confirm"])


async def test_a_full_trash_makes_no_room_by_itself(keeping: dict[str, Any], people: str) -> None:
    async with agent_on(**keeping, undo_collections=1) as agent:
        await agent.call("purge_dropped", id="all")
        await agent.call("create_collection", collection_name="full_a", dimension=2)
        await agent.call("drop_collection", collection_name="full_a")
        refusal = await agent.fails("drop_collection", collection_name=people)
        assert (refusal["code"], "purge_dropped" in refusal["hint"]) == ("conflict", True)
        assert await agent.count(people) == 3
        await agent.call("purge_dropped", id="all")


def test_only_who_may_write_keeps_house() -> None:
    for settings, caller, keeps in (
        ({}, Caller(), True),
        ({}, Caller(scopes=frozenset({Scope.READ})), False),
        ({}, Caller(scopes=frozenset({Scope.WRITE})), True),
        ({}, Caller(mandatory_filter='tenant == "a"'), False),
        ({"no_drop": True}, Caller(), False),
        ({"read_only": True}, Caller(), False),
    ):
        assert Policy(Settings.model_validate(settings), caller).keeps_house is keeps


async def test_a_collection_without_the_tenants_field_is_absent_for_a_tenant(lite: str, people: str) -> None:
    async with app_of({"uri": lite}) as app:
        tenant = app.seen_by(Caller("a", mandatory_filter='tenant == "a"'))
        assert await tenant.schemas.find("default", people) is None
        async with tenant.clients.client("default") as client:
            assert await client.summary(people) is None
