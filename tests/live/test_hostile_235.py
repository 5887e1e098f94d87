"""The same attacks against a real server, whose parser is another: keys, filters, names, cursors and tokens."""

from collections.abc import AsyncGenerator

import pytest
from pymilvus import MilvusClient

from tests.agent import Agent, agent_on
from tests.hostile.precious import TEXT_KEYS, TRASH, VAULT, Attacks, K, P, fill, fingerprint
from tests.hostile.test_cursors import BAD, POSITIONS, opened, sealed, shown
from tests.hostile.test_keys_and_filters import BROKEN_FILTERS, INJECTIONS, NO_KEYS

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

PRECIOUS = ("precious", "keyed", TRASH)


@pytest.fixture(scope="module")
async def others(milvus_235: str) -> AsyncGenerator[dict[str, MilvusClient]]:
    async with agent_on(milvus_235, undo=False) as builder:
        await fill(builder, by_words=False)
        clients = {"default": MilvusClient(milvus_235), VAULT: MilvusClient(milvus_235, db_name=VAULT)}
        clients["default"].rename_collection("buried", TRASH)
        yield clients
        clients["default"].drop_alias("prized")
        for name in PRECIOUS:
            clients["default"].drop_collection(name)
        clients[VAULT].drop_collection("precious")
        clients["default"].drop_database(VAULT)
        for client in clients.values():
            client.close()


@pytest.fixture(scope="module")
async def attacker(others: dict[str, MilvusClient], milvus_235: str) -> AsyncGenerator[Agent]:
    del others
    async with agent_on(milvus_235) as agent:
        await agent.call("list_databases")
        yield agent


async def test_hostile_keys_filters_names_cursors_and_tokens_change_nothing(
    attacker: Agent, others: dict[str, MilvusClient], milvus_235: str
) -> None:
    before = fingerprint(others, of=PRECIOUS)
    attacks = Attacks(attacker)
    await keys(attacks)
    await filters(attacks)
    assert not attacks.wrong, "\n".join(attacks.wrong)
    await cursors(attacks)
    for tool in ("describe_collection", "query", "count", "drop_collection", "release_collection"):
        await attacks.fail(tool, "not_found", calls=[{"collection_name": TRASH}])
    await attacks.fail("alter_collection", "denied", calls=[P | {"new_name": TRASH.replace("1", "2")}])
    attacks.check()
    async with agent_on(milvus_235, confirm="token") as asked:
        attacks = Attacks(asked)
        calls = [P | {"filter": "id >= 0"}, P | {"filter": "id > 0"}, P | {"filter": "id >= 0", "db_name": VAULT}]
        tokens = [(await asked.fails("delete", **call))["confirm"] for call in calls]
        wrong = [call | {"confirm": token} for call in calls for token in tokens if token != tokens[calls.index(call)]]
        await attacks.fail("delete", "confirmation_required", calls=wrong)
        await attacks.fail("drop_collection", "confirmation_required", calls=[K | {"confirm": each} for each in tokens])
        attacks.check()
    assert fingerprint(others, of=PRECIOUS) == before


async def keys(attacks: Attacks) -> None:
    await attacks.give("get", {"entities": []}, [K | {"ids": INJECTIONS}])
    await attacks.give("delete", {"delete_count": 0}, [K | {"ids": INJECTIONS}])
    await attacks.fail("delete", "invalid_argument", calls=[P | {"ids": each} for each in NO_KEYS])
    all_of_them = {"entities": [{"pk": key} for key in TEXT_KEYS]}
    await attacks.give("get", all_of_them, [K | {"ids": TEXT_KEYS, "output_fields": ["pk"]}])


async def filters(attacks: Attacks) -> None:
    codes = ("invalid_argument", "invalid_filter")
    broken = [each for each in BROKEN_FILTERS if "id > 0" not in each or len(each) < 100]  # any depth is right here
    await attacks.fail("delete", *codes, calls=[P | {"filter": each} for each in broken])
    values = [P | {"filter": "title in {v}", "filter_params": {"v": INJECTIONS}}]
    await attacks.give("count", {"count": 0}, values)
    deep = [each for each in BROKEN_FILTERS if each not in broken]
    await attacks.end("query", [P | {"filter": each, "limit": 1} for each in deep], *codes)


async def cursors(attacks: Attacks) -> None:
    calls = [("query", P | {"filter": "id < 6", "limit": 2, "output_fields": ["id"]})]
    calls += [("search", calls[0][1] | {"vector": [1, 1]})]
    for tool, call in calls:
        fingerprint_, _ = opened((await attacks.agent.call(tool, **call))["next_cursor"])
        for position in POSITIONS[::3]:
            (page,) = await attacks.end(tool, [call | {"cursor": sealed([fingerprint_, position])}], *BAD)
            assert set(shown(page)) <= {*range(6)}, (tool, position, page)
