"""An agent that attacks, on Milvus Lite, and a database that must look the same afterwards."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymilvus import MilvusClient

from mcp_server_milvus.milvus.embedded import EmbeddedEngine
from tests.agent import Agent, agent_on
from tests.hostile.precious import TRASH, VAULT, files_below, fill, fingerprint


@pytest.fixture(scope="session")
def kingdom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything on the disk: `inside` may be used by tools, `outside` may not."""
    folder = tmp_path_factory.mktemp("kingdom")
    (folder / "inside").mkdir()
    (folder / "outside").mkdir()
    (folder / "outside" / "secret.jsonl").write_text(
        '{"id": 1, "title": "of the vault", "meta": {}, "vector": [0, 1]}\n'
    )
    return folder


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("precious") / "precious.db")


@pytest.fixture(scope="session")
async def others(database: str) -> AsyncIterator[dict[str, MilvusClient]]:
    """Another program's clients of each database, which see everything."""
    async with agent_on(database) as builder:
        await fill(builder, by_words=True)
    engine = EmbeddedEngine(Path(database))
    address = await engine.address()
    clients = {"default": MilvusClient(address), VAULT: MilvusClient(address, db_name=VAULT)}
    clients["default"].rename_collection("buried", TRASH)
    clients["default"].load_collection(TRASH)
    yield clients
    for client in clients.values():
        client.close()
    await engine.aclose()


@pytest.fixture(scope="session")
async def attacker(others: dict[str, MilvusClient], database: str, kingdom: Path) -> AsyncIterator[Agent]:
    """Every tool, and nobody who is asked: what is not refused happens."""
    del others
    async with agent_on(database, files_dir=str(kingdom / "inside"), toolsets="all") as agent:
        await agent.call("list_databases")
        yield agent


@pytest.fixture(scope="session")
def before(others: dict[str, MilvusClient], kingdom: Path, attacker: Agent) -> tuple[dict[str, Any], dict[str, str]]:
    """What there is, in every database and outside of the files folder, before anything was tried."""
    del attacker
    return fingerprint(others), files_below(kingdom / "outside")


@pytest.fixture
def unchanged(
    others: dict[str, MilvusClient], kingdom: Path, before: tuple[dict[str, Any], dict[str, str]]
) -> Iterator[None]:
    """After a test all is as it was before the first."""
    yield
    assert (fingerprint(others), files_below(kingdom / "outside")) == before
