"""Faults of Milvus Lite: killed, frozen, out of disk, and servers that are killed or come all at once."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from pymilvus.grpc_gen import common_pb2, milvus_pb2

import mcp_server_milvus
from mcp_server_milvus.milvus.engine import EngineFolder
from tests.calls import CALLS
from tests.fake_milvus import Refusal, fake_milvus
from tests.milvus.conftest import Agent, LiteServer, agent, eventually, linux
from tests.stress.load import CLIENTS, PATIENCE, Load
from tests.stress.proxy import load_over_bad_ways
from tests.transports.test_stdio import INITIALIZE, INITIALIZED, call, piped

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="stops processes with signals"),
    pytest.mark.xdist_group("faults on Milvus Lite"),
]

TIMEOUT = 5.0
SLACK = 10.0
"""Seconds above the deadline in which a call ends on a machine that does other things too."""

BACK = 10.0
"""Seconds until a call succeeds once Milvus is back; some 0.1 on a machine that does nothing else."""


def engine_pid(data: Path) -> int:
    """The process that serves a data folder; 0 while there is none."""
    with suppress(FileNotFoundError):
        return int((data / ".engine" / "address").read_text().split("\n")[1])
    return 0


async def test_an_engine_that_is_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with agent(data_dir=data, timeout=TIMEOUT, max_result_bytes=10_000_000) as each:
        load = Load(each)
        await load.prepare()
        async with load.running():
            for _ in range(3):
                await load.more(100)
                killed = engine_pid(data)
                os.kill(killed, signal.SIGKILL)
                began = anyio.current_time()
                await eventually(lambda killed=killed: engine_pid(data) not in {0, killed}, within=PATIENCE)
                started = anyio.current_time() - began
                back = await load.more()
                print(f"an engine after {started:.2f} s, an answer {back:.2f} s later")
                assert back < BACK
            await load.more(100)
        await load.verify()
    print(f"{load.answered} calls answered, the slowest after {load.slowest:.2f} s; refused: {dict(load.codes)}")
    assert load.slowest < TIMEOUT + SLACK


async def test_an_engine_that_is_frozen_under_load_ends_every_call_and_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings: dict[str, Any] = {"data_dir": data, "max_result_bytes": 10_000_000}
    async with agent(**settings) as patient, agent(**settings, timeout=3.0) as each:
        load = Load(each)
        await Load(patient).prepare()
        async with load.running():
            await load.more(100)
            frozen = engine_pid(data)
            os.kill(frozen, signal.SIGSTOP)
            try:
                await eventually(lambda: load.codes.total() >= 2 * CLIENTS, within=PATIENCE)
                with anyio.fail_after(SLACK):
                    assert (await each.client.list_tools()).tools
            finally:
                os.kill(frozen, signal.SIGCONT)
            print(f"back after {await load.more():.2f} s")
            await load.more(100)
            assert engine_pid(data) == frozen
        load.agent = patient
        await load.verify()
    assert load.codes["deadline_exceeded"]
    assert load.slowest < 3.0 + SLACK


async def test_a_way_to_milvus_lite_that_is_slow_cut_garbled_or_mute_loses_and_doubles_nothing(tmp_path: Path) -> None:
    server = LiteServer(tmp_path / "served")
    try:
        await load_over_bad_ways(server.uri)
    finally:
        server.kill()


@dataclass
class Full:
    """A data folder whose disk can be filled."""

    data: Path
    fill: Callable[[], None]
    make_room: Callable[[], None]


@contextmanager
def limited_files(data: Path) -> Generator[Full]:
    """No file of the engine grows any more: what anybody can do to a process of their own."""
    import resource

    def fill() -> None:
        largest = max(path.stat().st_size for path in data.rglob("wal_*.arrow"))
        most = resource.prlimit(engine_pid(data), resource.RLIMIT_FSIZE)[1]
        resource.prlimit(engine_pid(data), resource.RLIMIT_FSIZE, (largest + 5_000, most))

    def make_room() -> None:
        most = resource.prlimit(engine_pid(data), resource.RLIMIT_FSIZE)[1]
        resource.prlimit(engine_pid(data), resource.RLIMIT_FSIZE, (most, most))

    yield Full(data, fill, make_room)


@contextmanager
def small_disk(data: Path) -> Generator[Full]:
    """A file system of its own, with another file that takes what is left."""
    data.mkdir()
    mounted(["-t", "tmpfs", "-o", "size=8m", "tmpfs", str(data)])
    other = data / ".other"

    def fill() -> None:
        free = os.statvfs(data)
        other.write_bytes(bytes(free.f_bavail * free.f_frsize - 20_000))

    try:
        yield Full(data, fill, other.unlink)
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(data)], check=True)


def mounted(options: list[str]) -> None:
    if subprocess.run(["/bin/mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("only who may mount can make a file system")


@linux
@pytest.mark.parametrize("disk", [limited_files, small_disk])
async def test_an_engine_whose_disk_is_full_keeps_what_it_acknowledged(
    tmp_path: Path, disk: Callable[[Path], AbstractContextManager[Full]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over several flushes, of which some fail, and when it is killed afterwards."""
    monkeypatch.setenv("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", "100000")
    with disk(tmp_path / "data") as full:
        async with agent(data_dir=full.data, max_result_bytes=10_000_000) as each:
            await each.call("create_collection", collection_name="p", dimension=64)
            writer = Writer(each)
            for amount in (200, 200, 1):
                assert not await writer.insert(amount)
            await each.call("delete", collection_name="p", ids=[3])
            writer.there.remove(3)
            full.fill()
            refusals = [await writer.insert(amount) for amount in (300, 1, 20, 20, 20, 1, 50, 1)]
            said = [refusal for refusal in refusals if refusal]
            assert said
            assert {refusal["code"] for refusal in said} == {"milvus_error"}
            assert all("check its disk" in refusal["hint"] and not refusal["retriable"] for refusal in said)
            assert await writer.found() == writer.there
            flush = await each.client.call_tool("flush", {"collection_name": "p"})
            print(f"{len(said)} of {len(refusals)} writes and {int(flush.is_error)} of 1 flush were refused")
            full.make_room()
            for amount in (1, 100, 100):
                assert not await writer.insert(amount)
            await each.call("flush", collection_name="p")
            assert not await writer.insert(5)
            assert await writer.found() == writer.there
            os.kill(engine_pid(full.data), signal.SIGKILL)
            await until_it_answers(each)
            assert await writer.found() == writer.there
        await eventually(lambda: not (full.data / ".engine" / "address").exists(), within=PATIENCE)


@linux
async def test_a_write_by_partition_key_that_the_disk_breaks_off_is_said_to_be_uncertain(tmp_path: Path) -> None:
    with limited_files(tmp_path / "data") as full:
        async with agent(data_dir=full.data, max_result_bytes=10_000_000) as each:
            fields = [
                {"name": "id", "type": "INT64", "is_primary": True},
                {"name": "home", "type": "INT64", "is_partition_key": True},
                {"name": "vector", "type": "FLOAT_VECTOR", "dim": 64},
            ]
            await each.call("create_collection", collection_name="p", fields=fields)
            data = [{"id": number, "home": number, "vector": [1.0] * 64} for number in range(300)]
            await each.call("insert", collection_name="p", data=data[:1])
            full.fill()
            refusal = await each.refused("insert", collection_name="p", data=data[1:])
            full.make_room()
            assert refusal["code"] == "partial_write"
            assert refusal["outcome_unknown"] == [[0, 298]]
            await each.call("upsert", collection_name="p", data=data)
            assert await each.call("count", collection_name="p") == {"count": 300}


@dataclass
class Writer:
    """Entities of a collection, and which of them were acknowledged."""

    agent: Agent
    there: set[int] = field(default_factory=set[int])
    last: int = 0

    async def insert(self, amount: int) -> dict[str, Any] | None:
        """The refusal, if there is one."""
        keys = range(self.last + 1, self.last + amount + 1)
        self.last += amount
        data = [{"id": key, "vector": [key / 7] * 64} for key in keys]
        result = await self.agent.client.call_tool("insert", {"collection_name": "p", "data": data})
        if result.is_error:
            return result.structured_content
        self.there |= set(keys)
        return None

    async def found(self) -> set[int]:
        return {entity["id"] for entity in await self.agent.found("p", output_fields=["id"])}


async def until_it_answers(each: Agent) -> None:
    with anyio.fail_after(PATIENCE):
        while (await each.client.call_tool("list_collections", {})).is_error:
            pass


@linux
async def test_a_folder_that_becomes_read_only_loses_nothing_and_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with agent(data_dir=data) as each:
        await each.call("create_collection", collection_name="p", dimension=64)
        writer = Writer(each)
        assert not await writer.insert(10)
        with read_only(data):
            for tool, arguments in (("flush", {"collection_name": "p"}), ("create_collection", {"dimension": 2})):
                refusal = await each.refused(tool, **({"collection_name": "q"} | arguments))
                assert refusal["code"] == "milvus_error"
                assert "check its disk and its rights" in refusal["hint"]
            assert await writer.found() == writer.there
            os.kill(engine_pid(data), signal.SIGKILL)
            refusal = await no_engine(each)
            assert "cannot use the data folder" in refusal["message"]
            assert "may write to" in refusal["hint"]
        await until_it_answers(each)
        assert await writer.found() == writer.there
        await each.call("create_collection", collection_name="q", dimension=2)


@contextmanager
def read_only(folder: Path) -> Generator[None]:
    """Nothing new is written there. Root heeds no modes, so for it another view of the folder lies over it."""
    if os.geteuid():
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        files = [path for path in folder.rglob("*") if path.is_file()]
        modes = {path: path.stat().st_mode for path in (*folders, *files)}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        return
    mounted(["--bind", str(folder), str(folder)])
    try:
        mounted(["-o", "remount,bind,ro", str(folder)])
        yield
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)


async def no_engine(each: Agent) -> dict[str, Any]:
    """What calls are told once it is seen that the engine has ended."""
    with anyio.fail_after(PATIENCE):
        while (refusal := await each.refused("list_collections"))["code"] == "milvus_unavailable":
            await anyio.sleep(0.01)
    assert refusal["code"] == "conflict"
    return refusal


async def test_a_server_that_is_killed_while_it_writes_leaves_what_it_acknowledged_once(tmp_path: Path) -> None:
    """Two rounds: the next server begins while the engine still serves the one that is gone."""
    data = tmp_path / "data"
    settings: dict[str, Any] = {"data_dir": data, "max_result_bytes": 10_000_000}
    sent, acknowledged = 0, set[int]()
    found: list[int] = []
    async with agent(**settings) as each:
        key = {"name": "id", "type": "INT64", "is_primary": True, "auto_id": True}
        others = [{"name": "mark", "type": "INT64"}, {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}]
        await each.call("create_collection", collection_name="p", fields=[key, *others])
    for _ in range(2):
        marks = range(sent, sent + 400)
        sent += len(marks)
        acknowledged |= await killed_while_writing(data, marks, after=100)
        async with agent(**settings) as each:
            found = [entity["mark"] for entity in await each.found("p", output_fields=["mark"])]
        assert len(set(found)) == len(found)
        assert acknowledged <= set(found) <= set(range(sent))
    print(f"{len(acknowledged)} entities acknowledged, {len(found)} there, {sent} sent")


async def killed_while_writing(data: Path, marks: Iterable[int], *, after: int) -> set[int]:
    """The marks of the entities that a server over stdio acknowledged until it was killed, after so many."""
    command = [sys.executable, "-m", "mcp_server_milvus", "--data-dir", str(data)]
    writes = [
        call(1 + mark, "insert", collection_name="p", data=[{"mark": mark, "vector": [1, mark]}]) for mark in marks
    ]
    written = set[int]()
    with anyio.fail_after(PATIENCE):
        async with await anyio.open_process(command, stderr=None) as server:
            assert server.stdin
            assert server.stdout
            await server.stdin.send(piped(INITIALIZE, INITIALIZED, *writes))
            answers = BufferedByteReceiveStream(server.stdout)
            with suppress(anyio.IncompleteRead, anyio.EndOfStream):
                while True:
                    frame = json.loads(await answers.receive_until(b"\n", 2**20))
                    if frame.get("result", {}).get("structuredContent", {}).get("insert_count"):
                        written.add(frame["id"] - 1)
                    if len(written) == after:
                        server.kill()  # what it has said already still arrives
    assert len(written) >= after
    return written


# One process imports everything and forks servers, as far as the engine knows any, which begin at the same moment.
RACERS = """
import asyncio, os, sys
from pathlib import Path
from mcp_server_milvus.milvus.embedded import EmbeddedEngine

async def use(data, gate, end):
    engine = EmbeddedEngine(Path(data))
    os.read(gate, 1)
    os.write(1, f"{await engine.address()}\\n".encode())  # in one piece: others write there, too
    await asyncio.to_thread(os.read, end, 1)
    await engine.aclose()

data, racers = sys.argv[1], int(sys.argv[2])
gate, start = os.pipe()
end, finish = os.pipe()
for _ in range(racers):
    if not os.fork():
        os.close(start)
        os.close(finish)
        asyncio.run(use(data, gate, end))
        os._exit(0)
os.close(start)
sys.stdin.readline()
os.close(finish)
codes = [os.waitpid(-1, 0)[1] for _ in range(racers)]
print(codes, flush=True)
"""


async def test_servers_that_race_for_an_engine_share_one(tmp_path: Path) -> None:
    """On an empty folder, on one whose engine was killed, and with one that closes at this moment."""
    servers = 8
    data = tmp_path / "data"
    for round_number in range(6):
        before = engine_pid(data)
        async with racers(data, servers) as addresses:
            assert len(set(addresses)) == 1
            async with agent(data_dir=data) as each:
                name = f"p{round_number}"
                await each.call("create_collection", collection_name=name, dimension=2)
                listed = (await each.call("list_collections"))["collections"]
                assert {line["name"] for line in listed} == {f"p{number}" for number in range(round_number + 1)}
            assert engine_pid(data) != before
            assert EngineFolder(data).log.read_text().count(" serves ") == round_number + 1
            if round_number % 2:
                os.kill(engine_pid(data), signal.SIGKILL)
        if not round_number % 2:
            await eventually(lambda: not engine_pid(data), within=PATIENCE)


@asynccontextmanager
async def racers(data: Path, servers: int) -> AsyncGenerator[list[str]]:
    """The addresses that so many servers have found, which live until the block ends."""
    async with await anyio.open_process(
        [sys.executable, "-c", RACERS, str(data), str(servers)], stderr=None
    ) as process:
        assert process.stdin
        assert process.stdout
        lines = BufferedByteReceiveStream(process.stdout)
        with anyio.fail_after(PATIENCE):
            yield [(await lines.receive_until(b"\n", 10_000)).decode() for _ in range(servers)]
            await process.stdin.aclose()
            assert json.loads(await lines.receive_until(b"\n", 10_000)) == [0] * servers


WALL_CLOCK = {
    "audit.py": "when a call was made",
    "auth/tokens.py": "when a token expires, and whether a file is old enough for its time of change to be believed",
    "doctor/serving.py": "when a certificate expires",
    "dropped.py": "until when what was dropped is kept",
    "embedding/openai.py": "a date that an endpoint names",
    "hosts/command.py": "a name for a copy of a file",
    "milvus/folders.py": "how old a file is",
    "milvus/kept.py": "until when entities are kept, and how old a file is",
    "milvus/properties.py": "a name for a file that cannot be read",
    "milvus/trash.py": "until when what was dropped is kept",
    "restoring.py": "until when what was dropped is kept",
    "signing.py": "until when a confirmation is good, on every server that shares the folder",
    "undo.py": "when entities were deleted",
}
"""What asks for the time of day, which may jump, and what for. No duration that one process measures is among it."""


def test_no_duration_is_measured_by_a_clock_that_jumps() -> None:
    package = Path(mcp_server_milvus.__file__).parent
    asking = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"time.time", "time.time_ns", "datetime.now"}
    }
    assert asking == WALL_CLOCK.keys()


@pytest.mark.parametrize("jump", [-400 * 86_400, 400 * 86_400])
async def test_a_clock_that_jumps_breaks_no_call(tmp_path: Path, jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also no confirmation: one from before the jump is refused, or good for the same call once, as any other."""
    settings: dict[str, Any] = {"confirm": "token", "timeout": 5.0, "schema_ttl": 1_000.0}
    async with agent(data_dir=tmp_path / "data", **settings) as each:
        for name in ("p", "q"):
            await each.call("create_collection", collection_name=name, dimension=2)
        before = await each.refused("drop_collection", collection_name="p")
        now, now_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + jump * 10**9)
        with anyio.fail_after(PATIENCE):
            for number in range(3):
                await each.call("insert", collection_name="q", data=[{"id": number, "vector": [1, number]}])
                assert await each.call("count", collection_name="q") == {"count": number + 1}
        late = await each.client.call_tool("drop_collection", {"collection_name": "p", "confirm": before["confirm"]})
        assert late.is_error == (jump > 0)
        for name in ("p", "q")[int(jump < 0) :]:
            asked = await each.refused("drop_collection", collection_name=name)
            assert asked["code"] == "confirmation_required"
            confirmed = {"collection_name": name, "confirm": asked["confirm"]}
            await each.call("drop_collection", **confirmed)
            assert (await each.refused("drop_collection", **confirmed))["code"] in {
                "not_found",
                "confirmation_required",
            }


REFUSALS = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("limit_exceeded", True),
    grpc.StatusCode.UNAUTHENTICATED: ("denied", False),
    grpc.StatusCode.PERMISSION_DENIED: ("denied", False),
}
RPCS = {
    "search": "Search",
    "query": "Query",
    "insert": "Insert",
    "upsert": "Upsert",
    "delete": "Delete",
    "create_collection": "CreateCollection",
    "drop_collection": "DropCollection",
    "list_collections": "ShowCollections",
}


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_milvus_that_refuses_is_told_as_it_is_and_asked_once(code: grpc.StatusCode) -> None:
    async with fake_milvus("2.6.4") as milvus, agent(uri=milvus.uri, timeout=TIMEOUT) as each:
        entity = {"id": 1, "vector": [1, 2], "title": "x"}
        for tool, rpc in RPCS.items():
            arguments = CALLS[tool] | ({"data": [entity]} if tool in {"insert", "upsert"} else {})
            if tool == "create_collection":
                milvus.answers["DescribeCollection"] = absent
            milvus.answers[rpc] = refusing(code)
            milvus.received.clear()
            with anyio.fail_after(TIMEOUT + SLACK):
                refusal = await each.refused(tool, **arguments)
            assert (refusal["code"], refusal["retriable"]) == REFUSALS[code], (tool, refusal)
            assert refusal["hint"]
            assert "10.1.2.3" not in str(refusal)
            assert len(milvus.requests(rpc)) == 1
            milvus.answers.clear()
            await each.call("list_collections")


@pytest.mark.parametrize("tool", ["insert", "upsert", "delete"])
async def test_a_write_that_is_over_the_rate_is_not_repeated(tool: str) -> None:
    """pymilvus itself repeats what the rate limit of a Milvus refuses."""
    async with fake_milvus("2.6.4") as milvus, agent(uri=milvus.uri, timeout=TIMEOUT) as each:
        status = common_pb2.Status(code=8, reason="request is rejected by grpc RateLimiter middleware: rate limit")
        milvus.answers[RPCS[tool]] = milvus_pb2.MutationResult(status=status)
        data = {"data": [{"id": 1, "vector": [1, 2], "title": "x"}]}
        refusal = await each.refused(tool, **(CALLS[tool] | (data if tool != "delete" else {})))
        assert (refusal["code"], refusal["retriable"]) == ("limit_exceeded", True)
        assert len(milvus.requests(RPCS[tool])) == 1


def refusing(code: grpc.StatusCode) -> Callable[[Any], Any]:
    def refuse(_request: Any) -> Any:
        raise Refusal(code, "refused at 10.1.2.3:19530")

    return refuse


def absent(_request: Any) -> Any:
    status = common_pb2.Status(code=100, reason="collection not found")
    return milvus_pb2.DescribeCollectionResponse(status=status)
