"""Faults of the real Milvus 2.3.5 and of the way to it: killed, frozen, slow, cut, garbled, refusing, revoked."""

import os
import signal
import sys
from typing import Any

import anyio
import pytest

from tests.live.conftest import RealMilvus
from tests.live.test_recovery_235 import milvus_of
from tests.milvus.conftest import agent, eventually
from tests.stress.load import CLIENTS, PATIENCE, Load
from tests.stress.proxy import load_over_bad_ways

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.live,
    pytest.mark.skipif(sys.platform == "win32", reason="stops processes with signals"),
    pytest.mark.xdist_group("live faults"),
]

TIMEOUT = 5.0
BUILD_TIMEOUT = 10.0
"""Of a call that loads a collection: a Milvus 2.3.5 that was killed cannot load any for half a minute."""

SLACK = 10.0
"""Seconds above the deadline in which a call ends on a machine that does other things too."""

BACK = 10.0


async def test_a_milvus_that_is_killed_under_load_loses_and_doubles_nothing(mortal_milvus_235: RealMilvus) -> None:
    settings: dict[str, Any] = {"uri": mortal_milvus_235.uri, "max_result_bytes": 10_000_000}
    async with agent(**settings) as patient, agent(**settings, timeout=TIMEOUT, build_timeout=BUILD_TIMEOUT) as each:
        load = Load(each)
        await Load(patient).prepare()
        async with load.running():
            await load.more(300)
            milvus = milvus_of(mortal_milvus_235)
            os.kill(milvus, signal.SIGSTOP)
            try:
                await eventually(lambda: load.codes.total() >= CLIENTS, within=PATIENCE)
                with anyio.fail_after(SLACK):
                    assert (await each.client.list_tools()).tools
            finally:
                os.kill(milvus, signal.SIGCONT)
            print(f"thawed, an answer {await load.more():.2f} s later")
            await load.more(300)
            await mortal_milvus_235.kill()
            print("killed", dict(load.codes))
            await mortal_milvus_235.start()
            print(f"back, an answer {await load.more():.2f} s later")
            await load.more(300)
        print(f"{load.answered} calls answered, the slowest after {load.slowest:.2f} s; refused: {dict(load.codes)}")
        load.agent = patient
        await load.verify()
    assert load.slowest < BUILD_TIMEOUT + TIMEOUT + SLACK


async def test_a_way_to_milvus_that_is_slow_cut_garbled_or_mute_loses_and_doubles_nothing(milvus_235: str) -> None:
    async with agent(uri=milvus_235, timeout=60) as root:
        await root.call("create_database", db_name="faults")
    await load_over_bad_ways(milvus_235, db_name="faults")


async def test_an_account_that_is_revoked_is_denied_from_then_on(milvus_235_with_accounts: str) -> None:
    account: dict[str, Any] = {"user_name": "faulty", "password": "faulty-1"}
    async with agent(uri=milvus_235_with_accounts, token="root:Milvus", toolsets="all") as root:
        await root.call("create_user", **account)
        await root.call("grant_role", user_name="faulty", role_name="admin")
        async with agent(uri=milvus_235_with_accounts, token="faulty:faulty-1", timeout=TIMEOUT) as each:
            await each.call("create_collection", collection_name="revoked", dimension=2)
            await each.call("insert", collection_name="revoked", data=[{"id": 1, "vector": [1, 2]}])
            await root.call("drop_user", user_name="faulty")
            calls: list[tuple[str, dict[str, Any]]] = [
                ("insert", {"data": [{"id": 2, "vector": [1, 2]}]}),
                ("delete", {"ids": [1]}),
                ("search", {"vector": [1, 2]}),
                ("count", {}),
            ]
            with anyio.fail_after(PATIENCE):
                for tool, arguments in calls:
                    while not (
                        result := await each.client.call_tool(tool, {"collection_name": "revoked"} | arguments)
                    ).is_error:
                        pass
                    refusal: Any = result.structured_content
                    assert (refusal["code"], refusal["retriable"]) == ("denied", False), refusal
                    assert "faulty-1" not in str(refusal)
            await root.call("create_user", **account)
            await root.call("grant_role", user_name="faulty", role_name="admin")
            with anyio.fail_after(PATIENCE):
                while (await each.client.call_tool("list_collections", {})).is_error:
                    pass
        await root.call("drop_collection", collection_name="revoked")
