"""A server that is killed at any step of a drop, a restore, a purge or a deletion leaves the old or the new state."""

import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crashing import Servers, dying_servers
from tests.milvus.conftest import Agent, agent

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not hasattr(os, "fork"), reason="servers are forked")]

PATIENCE = 300
"""Seconds of a call: no machine is so busy that a server gives up instead of being killed."""

ENTITIES = [{"id": number, "vector": [number, 1], "title": f"t{number}"} for number in range(5)]


@pytest.fixture(scope="module")
def servers(lite_dir: Path) -> Iterator[Servers]:
    with dying_servers(data_dir=lite_dir, timeout=PATIENCE) as servers:
        yield servers


@pytest.fixture
async def survivor(lite_dir: Path) -> AsyncGenerator[Agent]:
    """A server that has nothing to do with those that die, and knows what others change."""
    async with agent(data_dir=lite_dir, undo=True, schema_ttl=0.001, timeout=PATIENCE) as each:
        yield each


async def make(survivor: Agent, name: str) -> dict[str, Any]:
    """A collection that has everything, and how it is described."""
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        {"name": "title", "type": "VARCHAR", "max_length": 20},
    ]
    indexes = [
        {"field_name": "vector", "index_type": "HNSW", "metric_type": "L2", "params": {"M": 8, "efConstruction": 64}},
        {"field_name": "title", "index_type": "INVERTED"},
    ]
    more: dict[str, Any] = {"properties": {"collection.ttl.seconds": 86_400}, "description": "kept"}
    await survivor.call("create_collection", collection_name=name, fields=fields, indexes=indexes, **more)
    await survivor.call("create_partition", collection_name=name, partition_name="old")
    await survivor.call("insert", collection_name=name, data=ENTITIES[:3])
    await survivor.call("insert", collection_name=name, data=ENTITIES[3:], partition_name="old")
    await survivor.call("create_alias", collection_name=name, alias=f"{name}_alias")
    return await whole(survivor, name)


async def whole(survivor: Agent, name: str) -> dict[str, Any]:
    """All that belongs to a collection, read by its alias."""
    alias = f"{name}_alias"
    entities = {
        each: await survivor.found(alias, output_fields=["*"], partition_names=[each]) for each in ("_default", "old")
    }
    described = await survivor.call("describe_collection", collection_name=name)
    indexes = sorted(described["indexes"], key=lambda index: index["field_name"])  # Milvus Lite tells them in any order
    return described | {"indexes": indexes, "entities": entities}


async def dropped(survivor: Agent, name: str) -> list[str]:
    listed = (await survivor.call("list_dropped"))["dropped"]
    return [each["id"] for each in listed if each.get("collection_name") == name]


async def is_there(survivor: Agent, name: str) -> bool:
    result = await survivor.client.call_tool("describe_collection", {"collection_name": name})
    told = result.structured_content or {}
    assert told.get("code", "not_found") == "not_found", told
    return told.get("collection_name") == name


async def settled(survivor: Agent, name: str, before: dict[str, Any]) -> bool:
    """Whether it was in the trash. It is restored, and as it was before; either way nothing of it is anywhere else."""
    ids = await dropped(survivor, name)
    assert len(ids) + await is_there(survivor, name) == 1
    assert not [each for each in (await survivor.call("list_aliases"))["aliases"] if "_dropped_" in str(each)]
    for each in ids:
        await survivor.call("restore_collection", id=each)
    assert await whole(survivor, name) == before
    return bool(ids)


async def test_a_drop_that_is_cut_short_has_happened_or_not(survivor: Agent, servers: Servers) -> None:
    before = await make(survivor, "cut_drop")
    outcomes: list[bool] = []
    while not servers.survives(len(outcomes), "drop_collection", collection_name="cut_drop"):
        outcomes.append(await settled(survivor, "cut_drop", before))
    assert await settled(survivor, "cut_drop", before)
    assert outcomes[0] is False
    assert outcomes == sorted(outcomes)  # from one step on it has happened
    assert outcomes[-1] is True
    assert len(outcomes) >= 3


async def test_a_restore_that_is_cut_short_has_happened_or_can_be_repeated(survivor: Agent, servers: Servers) -> None:
    before = await make(survivor, "cut_restore")
    steps = 0
    done = False
    outcomes: list[bool] = []
    while not done:
        kept = (await survivor.call("drop_collection", collection_name="cut_restore"))["kept_as"]
        done = servers.survives(steps, "restore_collection", id=kept)
        outcomes.append(await settled(survivor, "cut_restore", before))
        steps += 1
    assert outcomes[0] is True
    assert outcomes[-1] is False
    assert outcomes == sorted(outcomes, reverse=True)
    assert steps >= 4


async def test_a_purge_that_is_cut_short_has_purged_all_or_nothing(survivor: Agent, servers: Servers) -> None:
    before = await make(survivor, "cut_purge")
    kept = (await survivor.call("drop_collection", collection_name="cut_purge"))["kept_as"]
    assert not servers.survives(0, "purge_dropped", id=kept)
    assert await settled(survivor, "cut_purge", before)
    kept = (await survivor.call("drop_collection", collection_name="cut_purge"))["kept_as"]
    assert servers.survives(9, "purge_dropped", id=kept)
    assert await dropped(survivor, "cut_purge") == []
    assert not await is_there(survivor, "cut_purge")


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("delete", {"filter": "id != 1"}),
        ("truncate_collection", {}),
        ("drop_partition", {"partition_name": "old"}),
    ],
)
async def test_a_deletion_that_is_cut_short_has_lost_nothing(
    survivor: Agent, servers: Servers, tool: str, arguments: dict[str, Any]
) -> None:
    name = f"cut_{tool}"
    before = await make(survivor, name)
    steps = 0
    done = False
    while not done:
        done = servers.survives(steps, tool, collection_name=name, **arguments)
        for each in await dropped(survivor, name):
            await survivor.call("restore_collection", id=each)
        assert await whole(survivor, name) == before
        steps += 1
    assert steps >= 3


async def test_a_restore_of_entities_that_is_cut_short_can_be_repeated(survivor: Agent, servers: Servers) -> None:
    before = await make(survivor, "cut_back")
    steps = 0
    done = False
    while not done:
        kept = (await survivor.call("delete", collection_name="cut_back", filter="id >= 0"))["kept_as"]
        done = servers.survives(steps, "restore_collection", id=kept)
        for each in await dropped(survivor, "cut_back"):
            await survivor.call("restore_collection", id=each)
        assert await whole(survivor, "cut_back") == before
        assert await dropped(survivor, "cut_back") == []
        steps += 1
    assert steps >= 4
