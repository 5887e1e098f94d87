"""A real Milvus that is killed, comes back, freezes, or refuses a token."""

import logging
import os
import signal
from pathlib import Path

import anyio
import pytest

from mcp_server_milvus.errors import Denied
from tests.live.conftest import RealMilvus
from tests.milvus.conftest import agent

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live with servers of their own")]


async def test_killed_frozen_and_back_it_is_waited_for_no_longer_than_asked(mortal_milvus_235: RealMilvus) -> None:
    async with agent(uri=mortal_milvus_235.uri, timeout=5.0) as server:
        await server.call("create_collection", collection_name="rc", dimension=2)
        await server.call("insert", collection_name="rc", data=[{"id": 1, "vector": [1, 2]}])

        milvus = milvus_of(mortal_milvus_235)
        os.kill(milvus, signal.SIGSTOP)
        with anyio.fail_after(12):
            frozen = await server.refused("query", collection_name="rc")
        assert frozen["code"] in {"deadline_exceeded", "milvus_unavailable"}
        os.kill(milvus, signal.SIGCONT)

        await mortal_milvus_235.kill()
        for tool in ("query", "count", "list_collections"):
            arguments = {} if tool == "list_collections" else {"collection_name": "rc"}
            with anyio.fail_after(12):
                refusal = await server.refused(tool, **arguments)
            assert refusal["code"] == "milvus_unavailable"
            assert f"port {mortal_milvus_235.uri.rpartition(':')[2]}" in refusal["message"]
            assert "127.0.0.1" not in str(refusal)
        refusal = await server.refused("insert", collection_name="rc", data=[{"id": 2, "vector": [1, 2]}])
        assert refusal["code"] == "milvus_unavailable"

        await mortal_milvus_235.start()
        with anyio.fail_after(5):
            assert [each["name"] for each in (await server.call("list_collections"))["collections"]] == ["rc"]


async def test_a_wrong_token_is_denied_and_shown_nowhere(
    milvus_235_with_accounts: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for wrong in ({"token": "root:hunter2hunter2"}, {"user": "nobody", "password": "hunter2hunter2"}, {}):
        async with agent(uri=milvus_235_with_accounts, timeout=5.0, log_level="DEBUG", **wrong) as server:
            refusal = await server.refused("list_collections")
            assert refusal["code"] == Denied.code
            assert "token" in refusal["hint"]
            assert "hunter2" not in str(refusal)
            assert "127.0.0.1" not in str(refusal)
            assert "hunter2" not in repr(server.app.settings)
    shown = caplog.text + "".join(capfd.readouterr())
    assert "hunter2" not in shown


async def test_the_right_token_is_let_in(milvus_235_with_accounts: str) -> None:
    for right in ({"token": "root:Milvus"}, {"user": "root", "password": "Milvus"}):
        async with agent(uri=milvus_235_with_accounts, **right) as server:
            assert "collections" in await server.call("list_collections")
    address = milvus_235_with_accounts.replace("http://", "http://root:Milvus@")
    async with agent(uri=address) as server:
        assert "collections" in await server.call("list_collections")


def milvus_of(server: RealMilvus) -> int:
    """The process that `RealMilvus` relays to."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (milvus,) = [child for child in children if Path(f"/proc/{child}/comm").read_text() == "milvus\n"]
    return int(milvus)
