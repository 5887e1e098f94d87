"""What a caller sees while Milvus is away, frozen, killed and back: on real sockets and real processes."""

import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr
from pymilvus import AsyncMilvusClient
from pymilvus.client.connection_manager import AsyncConnectionManager

from mcp_server_milvus import errors
from mcp_server_milvus.app import open_app
from mcp_server_milvus.milvus import pool
from mcp_server_milvus.milvus.client import Client
from mcp_server_milvus.milvus.identities import MOST
from mcp_server_milvus.policy import LOCAL
from mcp_server_milvus.settings import load_settings
from mcp_server_milvus.tools import TOOLS
from tests.calls import CALLS
from tests.milvus.conftest import Agent, LiteServer, Wire, agent, eventually, failing_milvus, linux

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="stops processes with signals"),
]

# Seconds until the next call works when Milvus is back. gRPC's own waiting would be 4 to 6; what one takes here is some
# 0.1, on a machine that does nothing else.
BACK = 3

# An insert that is done and never answered: the server dies in between.
DIES_BEFORE_IT_ANSWERS = """
import os, signal
from milvus_lite.adapter.grpc.servicer import MilvusServicer

plain = MilvusServicer.{rpc}

def last(self, request, context):
    plain(self, request, context)
    os.kill(os.getpid(), signal.SIGKILL)

MilvusServicer.{rpc} = last
"""


@pytest.fixture
def refusing_uri() -> str:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        return f"http://localhost:{door.getsockname()[1]}"


@pytest.fixture
def silent_uri() -> Iterator[str]:
    """Connections are made there, and nothing ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield f"http://localhost:{door.getsockname()[1]}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder for import_file, with a file in it."""
    (tmp_path / "entities.jsonl").write_text('{"id": 1, "vector": [1, 2]}\n')
    return tmp_path


@pytest.fixture
async def patient(lite_server: LiteServer) -> AsyncGenerator[Agent]:
    """A server on Milvus Lite behind a port, whose calls may take two seconds."""
    async with agent(uri=lite_server.uri, timeout=2.0, max_concurrency=1) as each:
        await each.call("create_collection", collection_name="p", dimension=2)
        yield each


def test_every_tool_has_a_call() -> None:
    assert {tool.name for tool in TOOLS} == CALLS.keys()


async def test_without_milvus_the_tools_are_listed_and_each_call_says_what_to_do(
    refusing_uri: str, files: Path
) -> None:
    async with agent(uri=refusing_uri, files_dir=str(files)) as each:
        await each.app.clients.warm_up()
        assert {tool.name for tool in (await each.client.list_tools()).tools} == CALLS.keys()
        with anyio.fail_after(30):
            for tool, arguments in CALLS.items():
                says_what_was_tried_and_what_to_do(await each.refused(tool, **arguments), refusing_uri)


async def test_a_port_that_never_answers_is_left_when_the_time_is_up(silent_uri: str, files: Path) -> None:
    async with agent(uri=silent_uri, timeout=1.0, max_concurrency=len(CALLS), files_dir=str(files)) as each:
        await each.app.clients.warm_up()
        with anyio.fail_after(5):
            async with anyio.create_task_group() as calls:
                for tool, arguments in CALLS.items():
                    calls.start_soon(unavailable, each, tool, arguments, silent_uri)


async def test_a_connection_that_was_never_answered_is_closed(silent_uri: str) -> None:
    async with agent(uri=silent_uri, timeout=0.2) as each:
        for _ in range(5):
            await unavailable(each, "list_databases", {}, silent_uri)
        await eventually(lambda: connections_to(silent_uri) <= 1)


async def test_nothing_is_kept_of_databases_that_do_not_exist(lite_server: LiteServer) -> None:
    async with agent(uri=lite_server.uri) as each:
        await each.call("create_collection", collection_name="p", dimension=2)
        await each.call("insert", collection_name="p", data=[{"id": 1, "vector": [1, 2]}])
        clients, own = each.app.clients, each.app.settings.db_name
        kept = clients.connections, dict(clients._last_writes[own])
        for number in range(5):
            refused = await each.refused("count", collection_name="p", db_name=f"none_{number}")
            assert (refused["code"], f"none_{number}" in refused["message"]) == ("not_found", True)
            await each.refused("describe_database", db_name=f"none_{number}")
        assert (clients.connections, len(clients._connecting), len(clients._last_writes)) == (kept[0], 0, 1)
        assert clients._last_writes[own] == kept[1]
        await eventually(lambda: connections_to(lite_server.uri) <= kept[0])


async def test_of_many_databases_those_used_last_stay_connected(
    lite_server: LiteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MOST_IDLE", 2)
    async with agent(uri=lite_server.uri) as each:
        clients = each.app.clients
        for name in "abc":
            await each.call("create_database", db_name=name)
        async with clients.client("a") as borrowed:
            for name in ("b", "c", "default", "b"):
                await each.call("create_collection", collection_name="p", dimension=2, db_name=name)
            await each.call("insert", collection_name="p", db_name="c", data=[{"id": 1, "vector": [1, 2]}])
            await each.call("list_collections", db_name="b")
            await each.call("list_collections", db_name="default")
            assert await borrowed.list_collections() == []
            assert set(clients._connections) == {"a", "b", "default"}
            assert clients._last_writes["c"]  # a read goes on seeing what was written
        await each.call("list_collections", db_name="default")
        assert clients.connections == 2
        assert (await each.call("count", collection_name="p", db_name="c"))["count"] == 1


async def test_of_accounts_that_anybody_names_only_so_many_are_kept(refusing_uri: str) -> None:
    async with open_app(load_settings({"uri": refusing_uri, "milvus_identity": "caller"})) as app:
        for number in range(1_000):
            app.seen_by(replace(LOCAL, credentials=SecretStr(f"user:{number}")))
        assert len(app.identities.pools) <= MOST
        await app.clients.warm_up()
        for number in range(MOST + 20):
            seen = app.seen_by(replace(LOCAL, credentials=SecretStr(f"other:{number}")))
            with pytest.raises(errors.Unavailable):
                async with seen.clients.client(""):
                    pass
        assert len(app.identities.pools) <= MOST
        assert len(app.identities._used) <= MOST + 1


async def test_when_milvus_comes_back_the_next_call_works_within_a_second(lite_server: LiteServer) -> None:
    async with agent(uri=lite_server.uri) as each:
        await each.call("create_collection", collection_name="p", dimension=2)
        await each.call("insert", collection_name="p", data=[{"id": 1, "vector": [1, 2]}])
        for _ in range(2):
            lite_server.kill()
            refusals = [await each.refused(tool, **CALLS[tool]) for tool in ("search", "insert", "list_databases")]
            assert {refusal["code"] for refusal in refusals} == {"milvus_unavailable"}
            lite_server.start()
            with anyio.fail_after(BACK):
                assert [hit["id"] for hit in (await each.call("search", **CALLS["search"]))["hits"]] == [1]


async def test_a_server_that_started_before_milvus_works_once_it_is_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    async with agent(uri=f"http://127.0.0.1:{port}") as each:
        await each.refused("list_databases")
        late = LiteServer(tmp_path / "late", port=port)
        try:
            with anyio.fail_after(BACK):
                await each.call("list_databases")
        finally:
            late.kill()


async def test_a_read_bridges_a_restart_between_two_calls(lite_server: LiteServer) -> None:
    """Nobody was refused meanwhile, so the connection is one that broke unseen."""
    async with agent(uri=lite_server.uri, timeout=5.0) as each:
        await each.call("create_collection", collection_name="p", dimension=2)
        await each.call("query", collection_name="p")
        lite_server.kill()
        lite_server.start()
        with anyio.fail_after(BACK):
            assert await each.call("query", collection_name="p") == {"entities": [], "loaded": True}


async def test_no_client_is_kept_of_a_connection_that_is_gone(lite_server: LiteServer) -> None:
    async with agent(uri=lite_server.uri) as each:
        for _ in range(2):
            await each.call("list_databases")
            lite_server.kill()
            for _ in range(10):
                await each.refused("list_databases")
            assert living_clients(lite_server.uri) == kept_connections(lite_server.uri) == 0
            lite_server.start()
        await each.call("list_databases")
        assert living_clients(lite_server.uri) == kept_connections(lite_server.uri) == 1


@linux
async def test_a_connection_over_which_nothing_can_be_asked_is_closed() -> None:
    async with failing_milvus("GetVersion") as (uri, received), agent(uri=uri) as each:
        for _ in range(3):
            assert (await each.refused("list_databases"))["code"] == "milvus_error"
        assert received["Connect"] == 3
        assert living_clients(uri) == kept_connections(uri) == 0
        await eventually(lambda: connections_to(uri) == 0)


async def test_a_frozen_milvus_ends_calls_by_their_deadline_and_serves_the_next(
    lite_server: LiteServer, patient: Agent
) -> None:
    await patient.call("query", collection_name="p")
    lite_server.freeze()
    for tool in ("query", "insert", "describe_collection"):
        with anyio.fail_after(5):
            refusal = await patient.refused(tool, **CALLS[tool])
        assert refusal["code"] in {"deadline_exceeded", "milvus_unavailable"}
        assert refusal["hint"]
        assert "127.0.0.1" not in str(refusal)
    lite_server.thaw()
    with anyio.fail_after(BACK):
        await patient.call("query", collection_name="p")


async def test_a_call_that_waits_for_its_turn_has_a_deadline_too(lite_server: LiteServer, patient: Agent) -> None:
    await patient.call("query", collection_name="p")
    lite_server.freeze()
    codes: list[str] = []

    async def ask() -> None:
        codes.append((await patient.refused("query", collection_name="p"))["code"])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as calls:
            for _ in range(5):
                calls.start_soon(ask)
    lite_server.thaw()
    assert len(codes) == 5
    assert "limit_exceeded" in codes
    assert set(codes) <= {"deadline_exceeded", "milvus_unavailable", "limit_exceeded"}


async def test_a_deadline_holds_while_another_call_connects(lite_server: LiteServer) -> None:
    """pymilvus connects and closes under one lock: to close a connection must not wait for another's connect."""
    async with agent(uri=lite_server.uri, timeout=2.0) as each:
        async with AsyncMilvusClient(lite_server.uri, dedicated=True) as client:
            await client.create_database("second")
        await each.call("list_collections")
        lite_server.freeze()
        ended: dict[str, float] = {}

        async def ask(db_name: str) -> None:
            await each.refused("list_collections", db_name=db_name)
            ended[db_name] = anyio.current_time()

        async with anyio.create_task_group() as calls:
            calls.start_soon(ask, "default")
            await anyio.sleep(1)  # half of the first call's time: the second one still connects when it is up
            calls.start_soon(ask, "second")
        lite_server.thaw()
    assert ended["second"] - ended["default"] > 0.5


async def test_a_cancelled_call_makes_way_for_the_next(lite_server: LiteServer, patient: Agent) -> None:
    await patient.call("query", collection_name="p")
    lite_server.freeze()
    for _ in range(3):
        with anyio.move_on_after(0.05) as cancelled:
            async with patient.app.clients.client("default") as client:
                await client.list_collections()
        assert cancelled.cancelled_caught
    lite_server.thaw()
    with anyio.fail_after(BACK):
        await patient.call("query", collection_name="p")


async def test_a_call_that_is_cancelled_while_it_connects_makes_way_for_the_next(lite_server: LiteServer) -> None:
    async with agent(uri=lite_server.uri, max_concurrency=1) as each:
        await each.app.clients.warm_up()
        lite_server.freeze()
        with anyio.move_on_after(0.1) as cancelled:
            async with each.app.clients.client("default"):
                pass
        lite_server.thaw()
        assert cancelled.cancelled_caught
        with anyio.fail_after(BACK):
            await each.call("list_databases")


async def test_no_more_calls_are_under_way_than_the_setting_allows(lite_dir: Path) -> None:
    async with open_app(load_settings({"data_dir": lite_dir, "max_concurrency": 3})) as app:
        inside: list[int] = [0]
        most: list[int] = []
        three = anyio.Event()

        async def borrow() -> None:
            async with app.clients.client("default") as client:
                inside[0] += 1
                most.append(inside[0])
                if inside[0] == 3:
                    three.set()
                await three.wait()
                await client.list_collections()
                inside[0] -= 1

        async with anyio.create_task_group() as calls:
            for _ in range(20):
                calls.start_soon(borrow)
    assert max(most) == 3


async def test_a_killed_engine_is_started_by_the_next_call_and_its_collections_are_loaded(tmp_path: Path) -> None:
    async with agent(data_dir=tmp_path / "data") as each:
        await each.call("create_collection", collection_name="p", dimension=2)
        entities = [{"id": number, "vector": [1, number]} for number in range(10)]
        await each.call("insert", collection_name="p", data=entities)
        for tool, result in (("search", "hits"), ("query", "entities")):
            os.kill(int((tmp_path / "data" / ".engine" / "address").read_text().split()[1]), signal.SIGKILL)
            with anyio.fail_after(10):
                answer = await until_it_works(each, tool)
            assert len(answer[result]) == 10
            assert answer["loaded"]


async def test_a_write_goes_on_after_the_engine_was_killed(tmp_path: Path) -> None:
    async with agent(data_dir=tmp_path / "data") as each:
        await each.call("create_collection", collection_name="p", dimension=2)
        os.kill(int((tmp_path / "data" / ".engine" / "address").read_text().split()[1]), signal.SIGKILL)
        with anyio.fail_after(10):
            assert await until_it_works(each, "upsert") == {"upsert_count": 1}
            assert await until_it_works(each, "delete") == {"delete_count": 1}


async def test_two_databases_at_once_never_mix(lite: Agent, lite_uri: str) -> None:
    async with AsyncMilvusClient(lite_uri, dedicated=True) as client:
        await client.create_database("p_second")
    for db_name in ("default", "p_second"):
        await lite.call("create_collection", collection_name="p_mixed", dimension=2, db_name=db_name)

    async def work(db_name: str, first: int) -> None:
        for number in range(first, first + 20):
            entity = {"id": number, "vector": [1, number], "home": db_name}
            await lite.call("insert", collection_name="p_mixed", data=[entity], db_name=db_name)
            found = await lite.call("search", collection_name="p_mixed", vector=[1, number], db_name=db_name, limit=50)
            assert {hit["fields"]["home"] for hit in found["hits"]} == {db_name}

    async with anyio.create_task_group() as both:
        both.start_soon(work, "default", 0)
        both.start_soon(work, "p_second", 0)
    for db_name in ("default", "p_second"):
        assert await lite.call("count", collection_name="p_mixed", db_name=db_name) == {"count": 20}


async def test_first_calls_at_once_share_one_connection(lite_dir: Path, wire: Wire) -> None:
    async with agent(data_dir=lite_dir) as each, anyio.create_task_group() as calls:
        for _ in range(20):
            calls.start_soon(lambda: each.call("list_collections"))
    assert wire.sent["Connect"] == 1


@pytest.mark.parametrize("tool", ["insert", "upsert"])
async def test_a_write_whose_answer_was_lost_is_not_repeated_and_said_to_be_uncertain(
    tmp_path: Path, tool: str
) -> None:
    dying = LiteServer(tmp_path / "served")
    async with agent(uri=dying.uri, timeout=5.0) as each:
        fields = [
            {"name": "id", "type": "INT64", "is_primary": True, "auto_id": tool == "insert"},
            {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        ]
        await each.call("create_collection", collection_name="p", fields=fields)
        dying.kill()
        dying.start(before=DIES_BEFORE_IT_ANSWERS.format(rpc=tool.capitalize()))
        await until_it_works(each, "describe_collection")
        entity = {"vector": [1, 2]} | ({} if tool == "insert" else {"id": 1})
        refusal = await each.refused(tool, collection_name="p", data=[entity])
        dying.kill()
        dying.start()
        with anyio.fail_after(5):
            assert await until_it_works(each, "count") == {"count": 1}
    dying.kill()
    assert "call again" not in refusal["hint"]
    assert "look" in refusal["hint"]


@pytest.mark.parametrize("rpc", ["CreateCollection", "DropCollection", "ReleaseCollection"])
async def test_a_change_whose_answer_was_lost_is_not_said_to_be_undone(tmp_path: Path, rpc: str) -> None:
    tool = {"CreateCollection": "create_collection", "DropCollection": "drop_collection"}.get(rpc, "release_collection")
    dying = LiteServer(tmp_path / "served")
    async with agent(uri=dying.uri, timeout=5.0) as each:
        await each.call("create_collection", collection_name="p", dimension=2)
        dying.kill()
        dying.start(before=DIES_BEFORE_IT_ANSWERS.format(rpc=rpc))
        await until_it_works(each, "query")
        arguments = CALLS[tool] | ({"collection_name": "another"} if tool == "create_collection" else {})
        refusal = await each.refused(tool, **arguments)
    dying.kill()
    assert refusal["code"] == "milvus_unavailable"
    assert "broke" in refusal["message"]
    assert "could not reach" not in refusal["message"]


async def test_the_name_of_a_database_is_checked_before_a_connection_is_made(refusing_uri: str) -> None:
    async with open_app(load_settings({"uri": refusing_uri})) as app:
        with pytest.raises(errors.InvalidArgument):
            async with app.clients.client("../x"):
                pass


def says_what_was_tried_and_what_to_do(refusal: dict[str, Any], uri: str) -> None:
    assert refusal["code"] == "milvus_unavailable"
    assert refusal["retriable"]
    assert f"port {uri.rpartition(':')[2]}" in refusal["message"]
    assert "check that Milvus runs" in refusal["hint"]
    assert "localhost" not in str(refusal)
    assert "127.0.0.1" not in str(refusal)


async def unavailable(server: Agent, tool: str, arguments: dict[str, Any], uri: str) -> None:
    says_what_was_tried_and_what_to_do(await server.refused(tool, **arguments), uri)


async def until_it_works(server: Agent, tool: str) -> dict[str, Any]:
    """The first answer. What fails before is a lost connection that the next call makes anew."""
    while True:
        result = await server.client.call_tool(tool, CALLS[tool])
        assert result.structured_content is not None
        if not result.is_error:
            return result.structured_content
        assert result.structured_content["code"] in {"milvus_unavailable", "partial_write"}, result.structured_content


def living_clients(uri: str) -> int:
    """Clients of this server's that anything still refers to."""
    gc.collect()
    return sum(isinstance(each, Client) and each._config.uri == uri for each in gc.get_objects())


def kept_connections(uri: str) -> int:
    """What pymilvus itself keeps until it is told to close it."""
    return sum(each.config.uri == uri for each in AsyncConnectionManager.get_instance()._dedicated.values())


def connections_to(uri: str) -> int:
    """Connections that this machine keeps to the port."""
    port = f":{int(uri.rpartition(':')[2]):04X}"
    rows = [row.split() for row in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    established, syn_sent = "01", "02"
    return sum(row[2].endswith(port) and row[3] in {established, syn_sent} for row in rows)
