"""Names of everything: none is a path, an expression or another's, and none leads into the trash."""

from collections.abc import Iterator
from typing import Any

import pytest

from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import TOOLS
from tests.agent import Agent
from tests.calls import CALLS
from tests.hostile.precious import TRASH, VAULT, Attacks, P

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unchanged")]

NO_NAMES = [
    "..",
    "../precious",
    "..\\precious",
    "/etc/passwd",
    "C:\\precious",
    "a/../precious",
    "%2e%2e%2fprecious",
    "..%2fprecious",
    "precious\0",
    "precious\n",
    "precious ",
    " precious",
    "рrecious",  # noqa: RUF001  # the first letter is Cyrillic
    "ｐrecious",  # noqa: RUF001
    "precious\u200b",
    "\u202eprecious",
    "precious\U000e0041",
    "1precious",
    "precious;",
    "precious'--",
    'precious" or "',
    "precious or 1 == 1",
    '{"name": "precious"}',
    "precious.vector",
    "vault.precious",
    "vault/precious",
    "$meta",
    "*",
    "",
    "x" * 256,
    "x" * 50_000,
    "\ud800",
]
"""What no collection, database, partition, alias, field or index can be called."""

FREE = {
    "cursor",
    "consistency_level",
    "description",
    "embedder",
    "filter",
    "format",
    "id",
    "id_type",
    "index_type",
    "job_id",
    "metric_type",
    "mode",
    "new_password",
    "object_type",
    "old_password",
    "on_error",
    "password",
    "path",
    "ranker",
    "text",
    "texts",
    "confirm",
}
"""Arguments of text that are no names, or that have few values."""

LISTS_OF_OTHERS = {"output_fields", "order_by", "group_by", "aggregates", "texts", "ids", "resource_groups"}
"""Lists of text that may hold more than names."""

OTHER_RULES = {"snapshot_name", "user_name", "role_name", "privilege"}
"""Names by rules of their own: a dot may be in one, `*` may be a privilege."""

DROPPED: dict[str, Any] = {"collection_name": TRASH}


def named_arguments(tool: Tool[Any, Any]) -> Iterator[tuple[str, bool]]:
    """The arguments that are names, and whether each is a list of them."""
    for name, schema in tool.input_schema["properties"].items():
        if schema.get("type") == "string" and name not in FREE:
            yield name, False
        if schema.get("type") == "array" and name not in LISTS_OF_OTHERS and schema["items"].get("type") == "string":
            yield name, True


async def test_every_argument_that_is_a_name_takes_nothing_else(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    seen: set[str] = set()
    for tool in TOOLS:
        for argument, is_list in named_arguments(tool):
            seen.add(argument)
            names = NO_NAMES if argument not in OTHER_RULES else [name for name in NO_NAMES if name not in {"*", ".."}]
            if argument == "snapshot_name":
                names = [name for name in names if name not in {"1precious", "precious.vector", "vault.precious"}]
            if tool.name == "list_databases":
                names = [name for name in names if name]
            if argument in {"collection_name", "db_name", "privilege"} and tool.name.endswith("_privilege"):
                names = [name for name in names if name != "*"]
            right = CALLS.get(tool.name, P if "collection_name" in tool.input_schema["properties"] else {})
            part = names[len(seen) % 6 :: 6]  # all of them, over all tools
            calls = [right | {argument: [name] if is_list else name} for name in part]
            await attacks.fail(tool.name, "invalid_argument", calls=calls)
    assert seen >= {"partition_name", "partition_names", "alias", "anns_field", "group_by_field", "index_name"}
    assert seen >= {"field_name", "new_name", "text_field", "load_fields", "drop_field", "drop_function", "db_name"}
    attacks.check()


async def test_names_inside_of_objects_are_names_too(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    new: dict[str, Any] = {"collection_name": "never_made"}
    key = {"name": "id", "type": "INT64", "is_primary": True}
    text = {"name": "text", "type": "VARCHAR", "max_length": 100, "enable_analyzer": True}
    sparse = {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"}
    vector = {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}
    function = {"name": "f", "type": "BM25", "input_field_names": ["text"], "output_field_names": ["sparse"]}
    for name in NO_NAMES:
        with_field = new | {"fields": [key, vector, {"name": name, "type": "INT64"}]}
        with_function = new | {"fields": [key, text, sparse], "functions": [function | {"name": name}]}
        from_field = new | {"fields": [key, text, sparse], "functions": [function | {"input_field_names": [name]}]}
        into_field = new | {"fields": [key, text, sparse], "functions": [function | {"output_field_names": [name]}]}
        with_index = new | {"fields": [key, vector], "indexes": [{"field_name": name}]}
        named_index = new | {"fields": [key, vector], "indexes": [{"field_name": "vector", "index_name": name}]}
        with_metadata = new | {"text_field": "text", "metadata": [{"name": name, "type": "INT64"}]}
        calls = [with_field, with_function, from_field, into_field, with_index, named_index, with_metadata]
        await attacks.fail("create_collection", "invalid_argument", "not_found", calls=calls)
        added = P | {"add_field": {"name": name, "type": "INT64", "nullable": True}}
        bound = P | {"embed_fields": {name.encode(errors="replace").decode(): "title"}}
        from_text = P | {"embed_fields": {"vector": name}}
        await attacks.fail("alter_collection", "invalid_argument", "not_found", calls=[added, bound, from_text])
        legs = [{"vector": [1, 1], "anns_field": name}, {"vector": [1, 1]}]
        await attacks.fail("hybrid_search", "invalid_argument", calls=[P | {"legs": legs}])
    attacks.check()


async def test_nothing_is_made_or_renamed_to_what_is_there_or_into_the_trash(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    taken = ("already_exists", "conflict", "invalid_argument", "not_found")
    in_the_way = ("precious", "prized", "keyed")
    trash = (TRASH, "_dropped_1999999998_0123456789abcdef", "_dropped_0000000000_0000000000000000")
    renamed = [P | {"new_name": name} for name in (*in_the_way, *trash)]
    await attacks.fail("alter_collection", *taken, "denied", calls=renamed)
    await attacks.fail(
        "create_alias", *taken, "denied", calls=[P | {"alias": name} for name in ("precious", "keyed", *trash)]
    )
    await attacks.give("create_alias", {"created": False}, [P | {"alias": "prized"}])
    new = {
        "fields": [{"name": "k", "type": "INT64", "is_primary": True}, {"name": "v", "type": "FLOAT_VECTOR", "dim": 3}]
    }
    made = [{"collection_name": name} | new for name in trash]
    await attacks.fail("create_collection", *taken, "denied", calls=made)
    moved: list[dict[str, Any]] = [DROPPED | {"alias": "prized"}, DROPPED | {"alias": "new"}]
    await attacks.fail("alter_alias", "not_found", calls=moved)
    await attacks.fail("create_alias", "not_found", calls=moved[1:])
    await attacks.fail("drop_alias", "not_found", calls=[{"alias": name} for name in (*trash, "keyed", "no_such")])
    aliased: list[dict[str, Any]] = [{"collection_name": "prized"}]
    for tool in ("drop_collection", "truncate_collection"):
        await attacks.fail(tool, "invalid_argument", calls=aliased)
    await attacks.fail("drop_partition", "invalid_argument", calls=[aliased[0] | {"partition_name": "part"}])
    kept = [P | {"partition_name": name} for name in ("_default", "no_such", TRASH)]
    await attacks.fail("drop_partition", "invalid_argument", "not_found", "conflict", calls=kept)
    bases: list[dict[str, Any]] = [{"db_name": name} for name in ("default", VAULT, "no_such")]
    await attacks.fail("drop_database", "conflict", "not_found", "invalid_argument", "denied", calls=bases)
    await attacks.give("create_database", {"created": False}, bases[:2])
    attacks.check()


async def test_what_is_in_the_trash_is_not_there_for_any_tool(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    about_one = [tool.name for tool in TOOLS if "collection_name" in tool.input_model.model_fields]
    not_here = ("not_found", "not_supported", "conflict")  # which come before the look
    for tool in about_one:
        if tool != "create_collection" and tool in CALLS:
            field: dict[str, Any] = {"field_name": "title"} if tool == "run_analyzer" else {}
            await attacks.fail(tool, *not_here, calls=[CALLS[tool] | DROPPED | field])
    listed = await attacks.end("list_collections", [{"limit": 1_000}, {"db_name": VAULT}])
    aliases = await attacks.end("list_aliases", [{}, {"db_name": VAULT}])
    assert TRASH not in str(listed)
    assert TRASH not in str(aliases)
    attacks.check()
