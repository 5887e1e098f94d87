"""Agents on Milvus Lite. All tests share one engine: each uses collections of its own."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymilvus import MilvusClient

from mcp_server_milvus.milvus.embedded import EmbeddedEngine
from tests.agent import Agent, agent_on

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The uri of the database that all of them use."""
    return str(tmp_path_factory.mktemp("lite") / "agents.db")


@pytest.fixture(scope="session")
async def agent(lite: str) -> AsyncIterator[Agent]:
    """It has every tool: without a files folder it would lack two."""
    async with agent_on(lite, files_dir=str(Path(lite).parent)) as agent:
        yield agent


@pytest.fixture(scope="session")
async def text_agent(lite: str, minilm: dict[str, Any]) -> AsyncIterator[Agent]:
    """An agent of a server with a real embedder, on the same database."""
    async with agent_on(lite, **minilm) as agent:
        yield agent


@pytest.fixture(scope="session")
async def another_program(lite: str) -> AsyncIterator[MilvusClient]:
    """A program that uses the same database with pymilvus, without this server."""
    engine = EmbeddedEngine(Path(lite))
    client = MilvusClient(await engine.address())
    yield client
    client.close()
    await engine.aclose()


@pytest.fixture
def collection() -> str:
    """The name of a collection that does not exist yet."""
    return f"collection_{next(NUMBERS)}"
