"""Snapshots: Milvus Lite has none, and their names are checked before anything else."""

from typing import Any

import pytest

from tests.agent import Agent

pytestmark = pytest.mark.anyio

SNAPSHOT = {"snapshot_name": "before_2026.1-a", "collection_name": "docs"}
RESTORED = {"snapshot_name": "s", "source_collection_name": "docs", "target_collection_name": "docs_again"}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("create_snapshot", SNAPSHOT),
        ("list_snapshots", {"collection_name": "docs"}),
        ("describe_snapshot", SNAPSHOT),
        ("restore_snapshot", RESTORED),
        ("list_restore_snapshot_jobs", {}),
        ("drop_snapshot", SNAPSHOT),
    ],
)
async def test_milvus_lite_has_no_snapshots(agent: Agent, tool: str, arguments: dict[str, Any]) -> None:
    error = await agent.fails(tool, **arguments)
    assert error["code"] == "not_supported"
    assert "snapshots not supported by Milvus Lite" in error["message"]
    assert "export_file" in error["hint"]


@pytest.mark.parametrize("name", ["", "../other", "a/b", "a b", ".hidden", "s" * 256])
async def test_a_name_that_no_snapshot_has_is_refused(agent: Agent, name: str) -> None:
    error = await agent.fails("drop_snapshot", snapshot_name=name, collection_name="docs")
    assert (error["code"], "snapshot_name" in error["message"]) == ("invalid_argument", True)
