"""The server that the other live tests run against is the real one, and it is ours alone."""

import errno
import os
import re
import socket
from pathlib import Path

import anyio
import pytest
from pymilvus import AsyncMilvusClient, MilvusException

from tests.live.conftest import RealMilvus

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live with servers of their own")]

LISTENING = "0A"


async def test_it_is_milvus_2_3_5(milvus_235: str) -> None:
    async with AsyncMilvusClient(milvus_235) as client:
        assert str(await client.get_server_version()).startswith("v2.3.5")


async def test_nothing_but_one_loopback_port_can_be_reached(milvus_235_server: RealMilvus) -> None:
    relay, milvus = milvus_235_server.process.pid, milvus_of(milvus_235_server)
    assert {":19530", ":9091"} < listening(milvus, as_seen_by=milvus)
    assert listening(relay, as_seen_by=os.getpid()) == {f"127.0.0.1:{port_of(milvus_235_server)}"}
    assert listening(milvus, as_seen_by=os.getpid()) == set()


async def test_killed_and_started_again_it_has_its_address_and_its_data(mortal_milvus_235: RealMilvus) -> None:
    async with AsyncMilvusClient(mortal_milvus_235.uri) as client:
        await client.create_collection("kept", dimension=4)
    await mortal_milvus_235.kill()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port_of(mortal_milvus_235))) == errno.ECONNREFUSED
    await mortal_milvus_235.start()
    async with AsyncMilvusClient(mortal_milvus_235.uri) as client:
        assert await client.list_collections() == ["kept"]


async def test_killing_the_process_that_started_it_leaves_nothing_behind(mortal_milvus_235: RealMilvus) -> None:
    milvus = milvus_of(mortal_milvus_235)
    folder = Path(f"/proc/{milvus}/cwd").readlink()
    mortal_milvus_235.process.kill()
    with anyio.fail_after(10):
        while is_running(milvus) or folder.exists():
            await anyio.sleep(0.01)


async def test_with_accounts_a_wrong_password_is_refused(milvus_235_with_accounts: str) -> None:
    async with AsyncMilvusClient(milvus_235_with_accounts, token="root:Milvus") as client:
        assert isinstance(await client.list_collections(), list)
    with pytest.raises(MilvusException):
        await AsyncMilvusClient(milvus_235_with_accounts, token="root:wrong", timeout=5).list_collections()


def port_of(server: RealMilvus) -> int:
    return int(server.uri.rpartition(":")[2])


def milvus_of(server: RealMilvus) -> int:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (milvus,) = [child for child in children if Path(f"/proc/{child}/comm").read_text() == "milvus\n"]
    return int(milvus)


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return not status.rpartition(")")[2].startswith(" Z")


def listening(pid: int, *, as_seen_by: int) -> set[str]:
    """Where the process listens in the network of another: `127.0.0.1:port`, or `:port` on all interfaces."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    tables = [Path(f"/proc/{as_seen_by}/net/{table}").read_text().splitlines()[1:] for table in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table]
    return {readable(row[1]) for row in rows if row[3] == LISTENING and row[9] in sockets}


def readable(address: str) -> str:
    host, port = address.split(":")
    return f"{'127.0.0.1' if host == '0100007F' else '' if not int(host, 16) else host}:{int(port, 16)}"
