"""Cursors, which anybody can write: another's continues nothing, a forged one shows no more than its call would."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pymilvus import MilvusClient

from tests.agent import Agent, keys
from tests.hostile.precious import TEXT_KEYS, TRASH, VAULT, Attacks, K, P

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unchanged")]

BAD = ("invalid_argument", "invalid_filter", "conflict", "limit_exceeded")
FILTERED = P | {"filter": "id < 6", "limit": 2, "output_fields": ["id"]}

PAGED: list[tuple[str, dict[str, Any]]] = [
    ("query", FILTERED),
    ("query", FILTERED | {"order_by": ["title desc"]}),
    ("query", FILTERED | {"order_by": ["meta['n'] desc", "extra"]}),
    ("query", FILTERED | {"partition_names": ["part", "_default"]}),
    ("query", K | {"limit": 2}),
    ("search", FILTERED | {"vector": [1, 1]}),
    ("search", FILTERED | {"vector": [1, 1], "exact": True}),
    ("search", FILTERED | {"vector": [1, 1], "radius": 0.1}),
    ("list_collections", {"limit": 1}),
]
"""Calls that have another page, each of a different question."""

POSITIONS: list[Any] = [
    0,
    -1,
    2**63,
    -(2**63),
    10**400,
    True,
    None,
    1.5,
    [],
    {},
    "",
    "0",
    "zzz",
    "id > 0 or id <= 0",
    "1 or 1 == 1",
    '") or (pk != "',
    "zz'] or pk != '' or pk in ['q",
    "../databases",
    TRASH,
    "\ud800",
    "\0",
    "[" * 5_000,
    "9" * 4_000,
    "[0]",
    "null",
    "true",
    '{"key": 1, "digest": ""}',
    '{"key": true, "digest": ""}',
    '{"key": "1 or 1 == 1", "digest": "x"}',
    "[null, 0]",
    '["", 0]',
    "[NaN, 0]",
    "[1e999, 0]",
    '[{"a": 1}, 0]',
    "[0, 0, 0]",
    "[true, true]",
    '["x", "id > 0 or id <= 0"]',
    "[0, 0, null]",
    "[-1, 0, null]",
    "[1, -1, null]",
    "[3, 2, null]",
    "[3, 100000000000, null]",
    "[16384, 2147483648, null]",
    "[0, 2147483648, null]",
    "[0, 2, [1, NaN]]",
    "[0, 2, [1, 1e999]]",
    "[0, 2, [1, " + "9" * 400 + "]]",
    "[0, 2, [true, true]]",
    '[0, 2, ["1 or 1 == 1", 1]]',
    "[3, 2, [1, 0.5]]",
    "[3, 2, [" + "9" * 400 + ", 0.5]]",
    '[3, 2, ["x", -1e300]]',
    "[0, 0, [-9223372036854775807, -1e300]]",
    "[true, true, null]",
]


def opened(cursor: str) -> list[Any]:
    return json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))


def sealed(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def damaged(cursor: str) -> Iterator[str]:
    """What is left of a cursor that was cut, turned round, changed or wrapped."""
    yield from (" ", "=", "====", "a", "é", "\0", "\ud800", "null", "[]", "x" * 50_000, "[" * 10_000)
    yield from (cursor[:half] for half in (1, 5, len(cursor) // 2, len(cursor) - 1, len(cursor) - 2))
    yield from (cursor[1:], cursor[::-1], cursor + "x", cursor * 2, " " + cursor, cursor + "\n", f"{cursor}===x")
    for place in range(0, len(cursor), 5):
        yield cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
    fingerprint, position = opened(cursor)
    for other in ([position], [fingerprint], [fingerprint, position, 1], {"a": 1}, fingerprint, None, 1, [[], []]):
        yield sealed(other)
    for other in ("", "0" * 12, fingerprint.upper() + "x", 1, None, True, [fingerprint]):
        yield sealed([other, position])
    yield base64.b64encode(b"\xff\xfe\xfd").decode()
    yield base64.b64encode(b"[" * 100_000).decode()


async def first_pages(agent: Agent) -> list[tuple[str, dict[str, Any], str]]:
    """The paged calls, each with its cursor."""
    return [(tool, call, (await agent.call(tool, **call))["next_cursor"]) for tool, call in PAGED]


def shown(result: dict[str, Any]) -> list[Any]:
    found = result.get("entities", result.get("hits", []))
    return [each.get("id", each.get("pk")) for each in found]


async def test_a_cursor_that_was_damaged_is_refused(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    for number, (tool, call, cursor) in enumerate(await first_pages(attacker)):
        whole = opened(cursor)
        broken = [each for each in damaged(cursor) if each.strip("=") != cursor and not _is_same(each, whole)]
        assert len(broken) > 20
        broken = broken[number % 3 :: 3]
        own_page = [each for each in broken if _fingerprint(each) == whole[0]]  # only its position is another
        await attacks.fail(tool, *BAD, calls=[call | {"cursor": each} for each in broken if each not in own_page])
        await attacks.end(tool, [call | {"cursor": each} for each in own_page], *BAD)
    attacks.check()


def _fingerprint(cursor: str) -> Any:
    try:
        return opened(cursor)[0]
    except (ValueError, TypeError, IndexError, KeyError, RecursionError):
        return None


def _is_same(cursor: str, whole: list[Any]) -> bool:
    try:
        return opened(cursor) == whole
    except (ValueError, RecursionError):
        return False


async def test_a_cursor_continues_no_other_question(attacker: Agent) -> None:
    attacks = Attacks(attacker)
    pages = await first_pages(attacker)
    for number, (_, _, cursor) in enumerate(pages):
        for other, (tool, call, _) in enumerate(pages):
            if other != number:
                await attacks.fail(tool, "invalid_argument", calls=[call | {"cursor": cursor}])
    _, call, cursor = pages[0]
    vault = {"db_name": VAULT}
    changed: list[dict[str, Any]] = [
        vault,
        {"filter": "id < 7"},
        {"filter": ""},
        {"filter": "id < {n}", "filter_params": {"n": 6}},
        {"collection_name": "prized"},
        {"order_by": ["id"]},
        {"order_by": ["id desc"]},
        {"partition_names": ["part"]},
        {"partition_names": []},
    ]
    await attacks.fail("query", "invalid_argument", calls=[call | {"cursor": cursor} | each for each in changed])
    _, call, cursor = pages[5]
    changed = [vault, {"filter": "id < 7"}, {"vector": [1, 2]}, {"exact": True}, {"anns_field": "vector"}]
    changed += [{"collection_name": "prized"}, {"partition_names": ["part"]}, {"radius": 0.5}, {"offset": 1}]
    await attacks.fail("search", "invalid_argument", calls=[call | {"cursor": cursor} | each for each in changed])
    for tool in ("list_aliases", "list_partitions"):
        arguments = P if tool == "list_partitions" else {}
        await attacks.fail(tool, "invalid_argument", calls=[arguments | {"cursor": cursor}])
    _, call, cursor = pages[-1]
    await attacks.fail("list_collections", "invalid_argument", calls=[call | {"cursor": cursor} | vault])
    attacks.check()


async def test_a_forged_position_shows_only_what_the_call_itself_may(attacker: Agent) -> None:
    """Whoever forges one knows how: the fingerprint in it is the right one."""
    attacks = Attacks(attacker)
    for number, (tool, call, cursor) in enumerate(await first_pages(attacker)):
        if tool == "list_collections":
            continue
        allowed = set(TEXT_KEYS) if call["collection_name"] == "keyed" else {*range(6)}
        fingerprint = opened(cursor)[0]
        for position in POSITIONS[number % 4 :: 4]:
            arguments = call | {"cursor": sealed([fingerprint, position])}
            (result,) = await attacks.end(tool, [arguments], *BAD)
            assert set(shown(result)) <= allowed, (arguments, result)
    fingerprint = opened((await attacker.call("list_collections", limit=1))["next_cursor"])[0]
    for position in POSITIONS[:32]:
        arguments = {"limit": 100, "cursor": sealed([fingerprint, position])}
        (result,) = await attacks.end("list_collections", [arguments], "invalid_argument")
        assert {each["name"] for each in result.get("collections", [])} <= {"precious", "keyed", "stories"}
    attacks.check()


async def test_a_cursor_that_is_used_again_gives_its_page_again_as_it_is_now(
    attacker: Agent, others: dict[str, MilvusClient]
) -> None:
    name = {"collection_name": "replayed"}
    await attacker.call("create_collection", **name, dimension=2)
    await attacker.call("insert", **name, data=[{"id": n, "vector": [1, n], "n": n} for n in range(6)])
    asked = name | {"filter": "n < 5", "limit": 2}
    cursor = (await attacker.call("query", **asked))["next_cursor"]
    assert keys((await attacker.call("query", **asked, cursor=cursor))["entities"]) == [2, 3]
    await attacker.call("upsert", **name, data=[{"id": 2, "vector": [1, 2], "n": 7}])
    assert keys((await attacker.call("query", **asked, cursor=cursor))["entities"]) == [3, 4]
    others["default"].drop_collection("replayed")
    others["default"].create_collection("replayed", 2, primary_field_name="other")
    others["default"].insert("replayed", [{"other": 9, "vector": [1, 0], "n": 1}])
    again = await attacker.client.call_tool("query", asked | {"cursor": cursor})
    assert again.structured_content
    assert [each["other"] for each in again.structured_content.get("entities", [])] in ([9], [])
    others["default"].drop_collection("replayed")
