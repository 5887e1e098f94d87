"""One use of every tool, in an order in which each finds what it needs, and what came of it on a backend."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp.client import Client

SUPPORT = Path(__file__).parents[1] / "tools" / "support.json"
"""What the tests saw on each backend: `pytest --record-support` writes it, and the README's table shows it."""

Outcome = Literal["works", "refused", "not seen"]
Results = dict[str, dict[str, Any]]
EVERY: dict[str, Any] = {"collection_name": "every"}
ANN = {"user_name": "every_ann"}
READER = {"role_name": "every_reader"}


@dataclass(frozen=True)
class Step:
    """One call. `arguments` may be a function of the last results by tool.

    `needs_more` is the code with which a server as small as the one of the tests cannot carry it out.
    """

    tool: str
    arguments: dict[str, Any] | Callable[[Results], dict[str, Any]] = field(default_factory=dict[str, Any])
    needs_more: str = ""


STEPS = (
    Step("server_info"),
    Step("create_database", {"db_name": "every_db"}),
    Step("list_databases"),
    Step("describe_database", {"db_name": "every_db"}),
    Step("alter_database", {"db_name": "every_db", "properties": {"database.replica.number": 1}}),
    Step("drop_database", {"db_name": "every_db"}),
    Step("create_collection", EVERY | {"dimension": 2}),
    Step("list_collections"),
    Step("describe_collection", EVERY),
    Step("create_partition", EVERY | {"partition_name": "part"}),
    Step("load_partitions", EVERY | {"partition_names": ["part"]}),
    Step("insert", EVERY | {"data": [{"id": number, "vector": [number, 1], "n": number} for number in range(9)]}),
    Step("upsert", EVERY | {"data": [{"id": 9, "vector": [9, 1], "n": 9}]}),
    Step("get", EVERY | {"ids": [1, 2]}),
    Step("query", EVERY | {"filter": "n > 3"}),
    Step("count", EVERY),
    Step("aggregate", EVERY | {"aggregates": ["count"]}),
    Step("search", EVERY | {"vector": [1, 1]}),
    Step("diagnose_search", EVERY | {"vector": [1, 1], "filter": "n > 3", "expected_id": 5}),
    Step("hybrid_search", EVERY | {"legs": [{"vector": [1, 1]}, {"vector": [2, 1]}], "filter": "n > 3"}),
    Step("measure_recall", EVERY),
    Step("estimate_memory", EVERY | {"entity_count": 10_000_000}),
    Step("run_analyzer", {"texts": ["a red apple"], "analyzer_params": {"tokenizer": "standard"}}),
    Step("export_file", EVERY | {"path": "every.jsonl"}),
    Step("import_file", EVERY | {"path": "every.jsonl"}),
    Step("delete", EVERY | {"ids": [1]}),
    Step("flush", EVERY),
    Step("collection_stats", EVERY),
    Step("list_segments", EVERY),
    Step("compact", EVERY),
    Step("compaction_state", lambda results: {"job_id": str(results.get("compact", {}).get("job_id", 1))}),
    Step("optimize", EVERY),
    Step("refresh_load", EVERY),
    Step("list_partitions", EVERY),
    Step("release_partitions", EVERY | {"partition_names": ["part"]}),
    Step("release_collection", EVERY),
    Step("drop_partition", EVERY | {"partition_name": "part"}),
    Step("alter_index", EVERY | {"index_name": "vector", "properties": {"mmap.enabled": False}}),
    Step("drop_index", EVERY | {"index_name": "vector"}),
    Step("build_index", EVERY | {"field_name": "vector", "index_type": "IVF_FLAT"}),
    Step("load_collection", EVERY),
    Step("describe_replica", EVERY),
    Step("create_alias", EVERY | {"alias": "every_alias"}),
    Step("alter_alias", EVERY | {"alias": "every_alias"}),
    Step("list_aliases", EVERY),
    Step("drop_alias", {"alias": "every_alias"}),
    Step("alter_collection", EVERY | {"properties": {"collection.ttl.seconds": 3600}}),
    Step("create_snapshot", EVERY | {"snapshot_name": "every_snapshot"}),
    Step("list_snapshots", EVERY),
    Step("describe_snapshot", EVERY | {"snapshot_name": "every_snapshot"}),
    Step(
        "restore_snapshot",
        {
            "snapshot_name": "every_snapshot",
            "source_collection_name": "every",
            "target_collection_name": "every_restored",
        },
    ),
    Step("list_restore_snapshot_jobs"),
    Step("drop_snapshot", EVERY | {"snapshot_name": "every_snapshot"}),
    Step("create_resource_group", {"name": "every_group"}),
    Step("list_resource_groups"),
    Step("update_resource_groups", {"configs": {"every_group": {"requests": {"node_num": 0}}}}),
    Step(
        "transfer_replica",
        EVERY | {"source": "__default_resource_group", "target": "every_group", "num_replica": 1},
        needs_more="limit_exceeded",
    ),
    Step("drop_resource_group", {"name": "every_group"}),
    Step("create_user", ANN | {"password": "a long password"}),
    Step("update_password", ANN | {"old_password": "a long password", "new_password": "a longer password"}),
    Step("list_users"),
    Step("create_role", READER),
    Step("grant_role", ANN | READER),
    Step("list_privileges"),
    Step("grant_privilege", READER | EVERY | {"privilege": "Search"}),
    Step("describe_role", READER),
    Step("list_roles"),
    Step("revoke_privilege", READER | EVERY | {"privilege": "Search"}),
    Step("revoke_role", ANN | READER),
    Step("drop_role", READER),
    Step("drop_user", ANN),
    Step("create_privilege_group", {"group_name": "every_readers"}),
    Step("alter_privilege_group", {"group_name": "every_readers", "add": ["Search"]}),
    Step("drop_privilege_group", {"group_name": "every_readers"}),
    Step("truncate_collection", EVERY),
    Step("drop_collection", EVERY),
    Step("list_dropped"),
    Step("restore_collection", lambda results: {"id": results["drop_collection"]["kept_as"]}),
    Step("purge_dropped", {"id": "all"}),
)


async def outcomes(client: Client) -> dict[str, Outcome]:
    """By tool: whether it works, or is refused in words as something that the backend cannot do."""
    results: Results = {}
    found: dict[str, Outcome] = {}
    for step in STEPS:
        arguments = step.arguments if isinstance(step.arguments, dict) else step.arguments(results)
        result = await client.call_tool(step.tool, arguments)
        results[step.tool] = result.structured_content or {}
        found[step.tool] = _refusal(step, results[step.tool]) if result.is_error else "works"
    return found


def _refusal(step: Step, error: dict[str, Any]) -> Outcome:
    assert error["code"] in {"not_supported", step.needs_more}, (step, error)
    assert error["message"], step
    assert error["hint"], (step, error)
    return "refused" if error["code"] == "not_supported" else "not seen"


def require_recorded(config: pytest.Config, backend: str, found: dict[str, Outcome]) -> None:
    """Holds the outcomes against the recorded ones, or records them."""
    recorded: dict[str, dict[str, Outcome]] = json.loads(SUPPORT.read_text("utf-8")) if SUPPORT.is_file() else {}
    if config.getoption("record_support"):
        recorded[backend] = dict(sorted(found.items()))
        SUPPORT.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", "utf-8")
    assert found == recorded.get(backend), "run pytest --record-support and read the difference"
