"""Tokens that confirm: none that was forged, damaged, used for another call or made up destroys anything."""

import base64
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymilvus import MilvusClient

from tests.agent import Agent, agent_on
from tests.hostile.precious import TRASH, VAULT, Attacks, K, P

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unchanged")]

UNCONFIRMED = "confirmation_required"
THERE = P | {"db_name": VAULT}

DESTROYING: list[tuple[str, dict[str, Any]]] = [
    ("drop_collection", P),
    ("drop_collection", K),
    ("drop_collection", THERE),
    ("truncate_collection", P),
    ("truncate_collection", THERE),
    ("drop_partition", P | {"partition_name": "part"}),
    ("drop_index", P | {"index_name": "vector"}),
    ("drop_alias", {"alias": "prized"}),
    ("delete", P | {"filter": "id >= 0"}),
    ("delete", P | {"filter": "id > 0"}),
    ("delete", P | {"filter": "id >= {n}", "filter_params": {"n": 0}}),
    ("delete", P | {"filter": "id >= 0", "partition_name": "part"}),
    ("delete", THERE | {"filter": "id >= 0"}),
    ("delete", {"collection_name": "prized", "filter": "id >= 0"}),
    ("upsert", P | {"data": [{"id": n, "title": "changed", "meta": {}, "vector": [0, 1]} for n in range(3)]}),
    ("upsert", P | {"data": [{"id": n, "title": "other", "meta": {}, "vector": [0, 1]} for n in range(3)]}),
]
"""Calls that would each destroy something."""


@pytest.fixture(scope="module")
async def asked(others: dict[str, MilvusClient], database: str) -> AsyncIterator[Agent]:
    """An agent whose calls are confirmed by a token."""
    del others
    async with agent_on(database, confirm="token", confirm_upserts=2, undo=False) as agent:
        yield agent


async def tokens(agent: Agent) -> list[str]:
    """A good one for each of the calls."""
    given: list[str] = []
    for tool, call in DESTROYING:
        error = await agent.fails(tool, **call)
        assert error["code"] == UNCONFIRMED, (tool, call, error)
        given.append(error["confirm"])
    assert len(set(given)) == len(DESTROYING)
    return given


def damaged(token: str) -> Iterator[str]:
    """What is no token, though much of it is."""
    raw = bytearray(base64.urlsafe_b64decode(token))
    for place, bit in itertools.product(range(0, len(raw), 3), (0x01, 0x80)):
        changed = raw.copy()
        changed[place] ^= bit
        yield base64.urlsafe_b64encode(changed).decode()
    yield from (token[:-1], token[:-4], token[1:], token[:4], token + "A", token + "AAAA", token * 2, token[::-1])
    yield from (f" {token}", f"{token}\n", f"{token}\0", token.swapcase(), token.replace(token[0], "é"))
    yield base64.urlsafe_b64encode(bytes(len(raw))).decode()
    yield base64.urlsafe_b64encode(raw[:-16] + bytes(16)).decode()
    yield base64.urlsafe_b64encode(b"\xff" * len(raw)).decode()


NO_TOKENS = [
    "true",
    "yes",
    "confirm",
    "null",
    "*",
    "a" * 48,
    "A" * 1_000_000,
    "../key",
    "\0",
    "\ud800",
    "é" * 24,
    "😀",
    '{"alg": "none"}',
    "eyJhbGciOiJub25lIn0.e30.",
]
NO_TEXTS: list[Any] = [True, False, 1, 0, 1.5, [], {}, ["x"], {"confirm": True}]


async def test_a_token_that_was_damaged_or_made_up_destroys_nothing(asked: Agent) -> None:
    attacks = Attacks(asked)
    good = await tokens(asked)
    for tool, call in DESTROYING[::4]:
        await attacks.fail(tool, UNCONFIRMED, calls=[call | {"confirm": each} for each in NO_TOKENS])
        await attacks.fail(tool, "invalid_argument", calls=[call | {"confirm": each} for each in NO_TEXTS])
    tool, call = DESTROYING[0]
    await attacks.fail(tool, UNCONFIRMED, calls=[call | {"confirm": each} for each in damaged(good[0])])
    attacks.check()


async def test_a_token_of_another_call_destroys_nothing(asked: Agent) -> None:
    attacks = Attacks(asked)
    good = await tokens(asked)
    for (mine, token), (other, (tool, call)) in itertools.product(enumerate(good), enumerate(DESTROYING)):
        if mine != other and not (mine + other) % 5:
            await attacks.fail(tool, UNCONFIRMED, calls=[call | {"confirm": token}])
    attacks.check()


async def test_a_token_is_of_its_arguments_to_the_last(asked: Agent) -> None:
    attacks = Attacks(asked)
    error = await asked.fails("delete", **P, filter="id >= 0")
    token = {"confirm": error["confirm"]}
    changed = [
        P | {"filter": "id >= 0 "},
        P | {"filter": "id >= 0 or id < 0"},
        P | {"filter": "id >= 0", "partition_name": "_default"},
        P | {"filter": "id >= {v}", "filter_params": {"v": 0}},
        P | {"filter": "id >= {v}", "filter_params": {"v": False}},
    ]
    await attacks.fail("delete", UNCONFIRMED, "invalid_filter", calls=[call | token for call in changed])
    await attacks.fail("query", "invalid_argument", calls=[P | token])
    await attacks.fail("delete", "invalid_argument", calls=[P | token, token])
    attacks.check()


async def test_where_only_the_user_confirms_no_token_does(database: str, asked: Agent) -> None:
    good = await tokens(asked)
    async with agent_on(database, confirm="elicit", confirm_upserts=2, undo=False) as strict:
        attacks = Attacks(strict)
        for (tool, call), token in zip(DESTROYING, good, strict=True):
            await attacks.fail(tool, "denied", calls=[call, call | {"confirm": token}])
    attacks.check()


async def test_what_was_dropped_is_found_by_its_own_name_only(database: str, tmp_path: Path) -> None:
    secret = tmp_path / "dropped" / "_deleted_1999999999_0123456789abcdef"
    secret.mkdir(parents=True)
    (secret / "note.json").write_text('{"uri": "x", "parts": [], "tool": "../../x"}')
    (tmp_path / "dropped" / "_deleted_x").symlink_to("/etc")
    no_names = ["../x", "..", "/etc", f"{TRASH}/../x", "_deleted_", "", " ", "*", "x\0", "\ud800", "a" * 300, "%2e"]
    nothing = [
        "no_such",
        "_deleted_x",
        secret.name,
        "_deleted_0000000000_0000000000000000",
        "precious",
        "keyed",
        "part",
    ]
    nothing += [TRASH.replace("19999", "29999"), f"{TRASH}0", "_dropped_1999999999"]
    async with agent_on(database, undo=True, data_dir=tmp_path) as agent:
        attacks = Attacks(agent)
        for tool in ("restore_collection", "purge_dropped"):
            await attacks.fail(tool, "invalid_argument", calls=[{"id": each} for each in no_names[:4] + no_names[5:]])
            await attacks.fail(
                tool, "not_found", "invalid_argument", calls=[{"id": each} for each in [*nothing, "_deleted_"]]
            )
            await attacks.fail(tool, "not_found", calls=[{"id": TRASH, "db_name": VAULT}])
        taken = [{"id": TRASH, "new_name": name} for name in ("precious", "prized", "keyed")]
        await attacks.fail("restore_collection", "already_exists", "conflict", calls=taken)
    assert secret.is_dir()
    attacks.check()


async def test_nothing_is_restored_into_the_trash_where_it_would_be_purged(tmp_path: Path) -> None:
    async with agent_on(str(tmp_path / "own.db"), confirm="token", undo=True, data_dir=tmp_path) as agent:
        name = {"collection_name": "kept_for_now"}
        await agent.call("create_collection", **name, dimension=2)
        token = (await agent.fails("drop_collection", **name))["confirm"]
        kept = (await agent.call("drop_collection", **name, confirm=token))["kept_as"]
        over = "_dropped_0000000001_0000000000000000"
        result = await agent.client.call_tool("restore_collection", {"id": kept, "new_name": over})
        await agent.call("list_dropped")  # purges what is too old
        assert result.is_error
        assert kept in str(await agent.call("list_dropped"))


async def test_the_notes_of_the_trash_are_written_by_drops_only(tmp_path: Path) -> None:
    async with agent_on(str(tmp_path / "own.db"), data_dir=tmp_path) as agent:
        attacks = Attacks(agent)
        new: dict[str, Any] = {"collection_name": "noted", "dimension": 2}
        forged = {"properties": {"mcp_dropped": "{}"}}
        await attacks.fail("create_collection", "invalid_argument", "denied", calls=[new | forged])
        await agent.call("create_collection", **new)
        await attacks.fail(
            "alter_collection", "invalid_argument", "denied", calls=[{"collection_name": "noted"} | forged]
        )
    attacks.check()
