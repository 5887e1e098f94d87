import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from milvus_lite.db import MilvusLite
from pymilvus import DataType, MilvusClient, MilvusException

from mcp_server_milvus import errors
from mcp_server_milvus.milvus.embedded import EmbeddedEngine
from mcp_server_milvus.milvus.engine import LARGEST_LOG_BYTES, EngineFolder

pytestmark = pytest.mark.anyio

# A server as far as the engine knows one: says its engine's address, and lets go of it when its input ends.
USER = """
import asyncio, sys
from pathlib import Path
from mcp_server_milvus.milvus.embedded import EmbeddedEngine

async def use(data_dir: str) -> None:
    engine = EmbeddedEngine(Path(data_dir))
    print(await engine.address(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await engine.aclose()

asyncio.run(use(sys.argv[1]))
"""
# The engine, with a call (to list collections) that begins, says so, and goes on once a file exists.
GATED_ENGINE = """
import sys, time
from pathlib import Path
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from mcp_server_milvus.milvus import engine

gate, plain = Path(sys.argv[2]), MilvusServicer.ShowCollections

def gated(self, request, context):
    gate.with_suffix(".begun").touch()
    while not gate.exists():
        time.sleep(0.01)
    return plain(self, request, context)

MilvusServicer.ShowCollections = gated
engine.FINISH_CALLS_SECONDS = float(sys.argv[3])
engine.main()
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no signals, sockets in folders or modes there")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@asynccontextmanager
async def using(data: Path, *, start_timeout: float = 30.0) -> AsyncGenerator[EmbeddedEngine]:
    engine = EmbeddedEngine(data, start_timeout=start_timeout)
    try:
        yield engine
    finally:
        with anyio.CancelScope(shield=True):
            await engine.aclose()


@asynccontextmanager
async def user_process(data: Path) -> AsyncGenerator[tuple[Process, Callable[[], Awaitable[str]]]]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = await anyio.open_process([sys.executable, "-c", USER, str(data)], env=environment, stderr=None)
    assert process.stdin is not None
    assert process.stdout is not None
    lines = TextReceiveStream(process.stdout)

    async def address() -> str:
        text = ""
        while not text.endswith("\n"):
            text += await lines.receive()
        return text.strip()

    async with process:
        yield process, address
        await process.stdin.aclose()


async def eventually(condition: Callable[[], bool], *, within: float = 10) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.02)


def engine_pid(data: Path) -> int:
    return int((data / ".engine" / "address").read_text().split("\n")[1])


def runs(pid: int) -> bool:
    state = subprocess.run(
        ["/bin/ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True
    ).stdout
    return bool(state.strip()) and not state.startswith("Z")


def engines_started(data: Path) -> int:
    return EngineFolder(data).log.read_text().count(" serves ")


def socket_folder(address: str) -> Path:
    return Path(address.removeprefix("unix:")).parent


def connect(address: str) -> Any:  # pymilvus publishes no types
    return closing(MilvusClient(uri=address))


def list_collections(address: str) -> list[str]:
    with connect(address) as client:
        return client.list_collections()


async def collections(address: str) -> list[str]:
    return await anyio.to_thread.run_sync(list_collections, address)


def create(address: str) -> None:
    with connect(address) as client:
        client.create_collection("docs", dimension=4)


async def test_two_servers_that_start_at_once_share_one_engine(data: Path) -> None:
    async with user_process(data) as (_, first), user_process(data) as (_, second):
        assert await first() == await second()
        async with using(data) as engine:
            address = await engine.address()
            assert address == await engine.address()
            await anyio.to_thread.run_sync(create, address)
        assert await collections(address) == ["docs"]
    assert engines_started(data) == 1


async def test_concurrent_callers_of_one_process_start_one_engine(data: Path) -> None:
    addresses: list[str] = []

    async def ask(engine: EmbeddedEngine) -> None:
        addresses.append(await engine.address())

    async with using(data) as engine, using(data) as another, anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask, engine)
            tasks.start_soon(ask, another)
    assert len(addresses) == 20
    assert len(set(addresses)) == 1
    assert engines_started(data) == 1


async def test_a_caller_that_gives_up_does_not_end_the_start(data: Path) -> None:
    async with using(data) as engine:
        with anyio.move_on_after(0.05) as scope:
            await engine.address()
        assert scope.cancelled_caught
        assert await collections(await engine.address()) == []
    assert engines_started(data) == 1


async def test_the_last_user_ends_the_engine_and_no_other_does(data: Path) -> None:
    async with using(data) as engine:
        async with user_process(data) as (process, address):
            assert await address() == await engine.address()
            pid = engine_pid(data)
            await process.stdin.aclose()  # pyright: ignore[reportOptionalMemberAccess]  # it is a pipe
            assert await process.wait() == 0
        # It looks for users every second.
        with anyio.move_on_after(2.5):
            await eventually(lambda: not runs(pid))
        assert runs(pid)
        assert await collections(await engine.address()) == []
    await eventually(lambda: not runs(pid), within=5)


@posix
async def test_a_server_killed_leaves_no_engine_running(data: Path) -> None:
    async with user_process(data) as (process, address):
        folder = socket_folder(await address())
        pid = engine_pid(data)
        assert runs(pid)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await eventually(lambda: not runs(pid), within=10)
    assert not folder.exists()


async def test_nothing_is_asked_of_a_closed_engine(data: Path) -> None:
    engine = EmbeddedEngine(data)
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(errors.Unavailable, match="closing"):
        await engine.address()
    assert not data.exists()


@posix
async def test_a_server_that_starts_while_the_engine_closes_gets_a_working_engine(data: Path) -> None:
    async with using(data) as engine, using(data) as newcomer:
        old = await engine.address()
        pid = engine_pid(data)
        await anyio.to_thread.run_sync(insert_what_takes_time_to_close, old)
        os.kill(pid, signal.SIGTERM)
        await eventually(lambda: EngineFolder(data).read_address() is None)
        with EngineFolder(data).lock("alive").sharing() as dead:
            assert not dead, "it closed too quickly for this test"
        new = await newcomer.address()
        assert new != old
        assert not runs(pid)
        assert await engine.address() == new
        assert await anyio.to_thread.run_sync(count, new) == 5000


async def test_an_unused_engine_that_closes_is_followed_by_a_working_one(data: Path) -> None:
    async with using(data) as engine:
        await anyio.to_thread.run_sync(insert_what_takes_time_to_close, await engine.address())
    await eventually(lambda: EngineFolder(data).read_address() is None)
    with EngineFolder(data).lock("users").sharing() as joined:
        assert not joined, "nobody may join an engine that closes"
    async with using(data) as engine:
        assert await anyio.to_thread.run_sync(count, await engine.address()) == 5000


def insert_what_takes_time_to_close(address: str) -> None:
    with connect(address) as client:
        schema = client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=128)
        index = client.prepare_index_params()
        index.add_index("vector", index_type="HNSW", metric_type="L2", params={"M": 32, "efConstruction": 400})
        client.create_collection("docs", schema=schema, index_params=index)
        for start in range(0, 5000, 1000):
            ids = range(start, start + 1000)
            client.insert("docs", [{"id": i, "vector": [(i * j % 97) / 97 for j in range(128)]} for i in ids])


def count(address: str) -> int:
    with connect(address) as client:
        client.load_collection("docs")
        return client.query("docs", filter="", output_fields=["count(*)"])[0]["count(*)"]


@posix
async def test_after_a_kill_the_address_is_new_and_the_old_socket_folder_gone(data: Path) -> None:
    async with using(data) as engine:
        old = await engine.address()
        os.kill(engine_pid(data), signal.SIGKILL)
        await eventually(lambda: EngineFolder(data).read_address() == old and is_dead(data))
        assert socket_folder(old).exists()
        new = await engine.address()
        assert await collections(new) == []
        assert new != old
        assert not socket_folder(old).exists()


@asynccontextmanager
async def engine_process(*arguments: str) -> AsyncGenerator[tuple[Process, str]]:
    """An engine that no server started, and its report."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    async with await anyio.open_process([sys.executable, *arguments], env=environment, stderr=None) as process:
        assert process.stdout is not None
        try:
            with anyio.fail_after(20):
                report = "".join([text async for text in TextReceiveStream(process.stdout)])
            yield process, report
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def test_a_second_engine_gives_way_and_servers_find_the_first(data: Path) -> None:
    (data / ".engine").mkdir(parents=True)
    command = ("-m", "mcp_server_milvus.milvus.engine", str(data))
    with EngineFolder(data).lock("users").sharing():
        async with engine_process(*command) as (one, first), engine_process(*command) as (another, second):
            assert first.startswith("ready ")
            assert second.strip() == "busy"
            assert await another.wait() == 0
            async with using(data) as engine:
                assert f"ready {await engine.address()}" == first
            one.terminate()
            assert await one.wait() == 0


@posix
async def test_a_call_in_flight_is_answered_before_the_engine_closes(data: Path) -> None:
    gate = data / ".engine" / "gate"
    gate.parent.mkdir(parents=True)
    answered: list[list[str]] = []

    async def call(address: str) -> None:
        answered.append(await collections(address))

    with EngineFolder(data).lock("users").sharing():
        async with engine_process("-c", GATED_ENGINE, str(data), str(gate), "10") as (process, report):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, report.removeprefix("ready "))
                await eventually(gate.with_suffix(".begun").exists)
                process.terminate()
                await eventually(lambda: EngineFolder(data).read_address() is None)
                assert answered == []
                gate.touch()
            assert await process.wait() == 0
    assert answered == [[]]


@posix
async def test_a_call_that_never_ends_does_not_keep_the_engine_from_ending(data: Path) -> None:
    gate = data / ".engine" / "gate"
    gate.parent.mkdir(parents=True)

    async def call(address: str) -> None:
        with pytest.raises(MilvusException):
            await collections(address)

    with EngineFolder(data).lock("users").sharing():
        async with (
            engine_process("-c", GATED_ENGINE, str(data), str(gate), "0.2") as (process, report),
            anyio.create_task_group() as tasks,
        ):
            address = report.removeprefix("ready ")
            await anyio.to_thread.run_sync(insert_what_takes_time_to_close, address)
            tasks.start_soon(call, address)
            await eventually(gate.with_suffix(".begun").exists)
            process.terminate()
            with anyio.fail_after(5):
                assert await process.wait() == 1
    async with using(data) as engine:
        assert await anyio.to_thread.run_sync(count, await engine.address()) == 5000


async def test_an_engine_that_cannot_be_run_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with using(data) as engine:
        with pytest.raises(errors.Unavailable, match="did not start: /no/such/python: No such file"):
            await engine.address()


def is_dead(data: Path) -> bool:
    with EngineFolder(data).lock("alive").sharing() as dead:
        return dead


@posix
@pytest.mark.parametrize("file", ["address", "address.old"])
async def test_what_an_engine_left_behind_is_removed_by_the_next(data: Path, file: str) -> None:
    left = Path(tempfile.mkdtemp(prefix="mcp-milvus-"))
    (left / "engine.sock").touch()
    (data / ".engine").mkdir(parents=True)
    (data / ".engine" / file).write_text(f"unix:{left}/engine.sock\n1\n")
    async with using(data) as engine:
        await engine.address()
    assert not left.exists()


@posix
@pytest.mark.parametrize(("name", "mode"), [("precious", 0o700), ("mcp-milvus-precious", 0o755)])
async def test_a_stale_address_never_removes_what_no_engine_made(
    data: Path, tmp_path: Path, name: str, mode: int
) -> None:
    precious = tmp_path / name
    precious.mkdir()
    precious.chmod(mode)
    (precious / "engine.sock").write_text("precious")
    (data / ".engine").mkdir(parents=True)
    (data / ".engine" / "address").write_text(f"unix:{precious}/engine.sock\n1\n")
    async with using(data) as engine:
        assert socket_folder(await engine.address()) != precious
    assert (precious / "engine.sock").read_text() == "precious"


@posix
async def test_only_its_owner_reaches_the_engine(data: Path) -> None:
    async with using(data) as engine:
        folder = socket_folder(await engine.address())
        assert {path.name for path in folder.iterdir()} == {"engine.sock"}
        assert [mode(path) for path in (folder, data, data / ".engine")] == [0o700, 0o700, 0o700]
        assert mode(data / ".engine" / "address") == 0o600
        assert mode(data / "collections") == 0o700


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@linux
async def test_the_engine_listens_on_no_port(data: Path) -> None:
    async with using(data) as engine:
        await engine.address()
        process = Path(f"/proc/{engine_pid(data)}")
        sockets = {str(entry.readlink()) for entry in (process / "fd").iterdir()}
        tables = [(process / "net" / name).read_text().splitlines()[1:] for name in ("tcp", "tcp6", "udp", "udp6")]
        networked = {f"socket:[{line.split()[9]}]" for table in tables for line in table}
        assert any(target.startswith("socket:") for target in sockets)
        assert not sockets & networked


@linux
async def test_the_engine_inherits_no_secret_and_no_terminal(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_TOKEN", "s3cret")
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    async with using(data) as engine:
        await engine.address()
        pid = engine_pid(data)
        assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.getsid(pid) != os.getsid(0)
        assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
        assert Path(f"/proc/{pid}/fd/0").resolve() == Path("/dev/null")


async def test_the_data_folder_may_have_a_long_path_with_spaces(tmp_path: Path) -> None:
    data = tmp_path / ("a folder " * 12) / ("and another " * 12)
    assert len(str(data)) > 200
    async with using(data) as engine:
        assert await collections(await engine.address()) == []


@posix
@pytest.mark.parametrize("name", ["l" * 100, "with a space"])
async def test_a_temporary_folder_that_holds_no_socket_is_not_used(
    data: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    async with using(data) as engine:
        address = await engine.address()
        assert address.startswith("unix:/tmp/mcp-milvus-")
        assert await collections(address) == []


@posix
@pytest.mark.parametrize("removed", ["address", "socket", "data folder"])
async def test_an_engine_that_nobody_can_find_any_more_is_followed_by_another(data: Path, removed: str) -> None:
    async with using(data) as engine:
        old = await engine.address()
        pid = engine_pid(data)
        match removed:
            case "address":
                (data / ".engine" / "address").unlink()
            case "socket":
                Path(old.removeprefix("unix:")).unlink()
            case _:
                data.rename(data.with_name("gone"))
        await eventually(lambda: not runs(pid), within=5)
        assert await collections(await engine.address()) == []
        assert engine_pid(data) != pid


async def test_the_log_never_grows_for_long(data: Path) -> None:
    async with using(data) as engine:
        await engine.address()
        log = EngineFolder(data).log
        with log.open("a") as file:
            file.write("x" * 2 * LARGEST_LOG_BYTES)
        await eventually(lambda: log.stat().st_size < LARGEST_LOG_BYTES, within=5)


async def test_an_engine_over_its_time_to_start_is_ended_and_the_next_call_starts_one(data: Path) -> None:
    async with using(data, start_timeout=0.1) as hasty, using(data) as engine:
        with anyio.fail_after(5), pytest.raises(errors.Unavailable, match="did not start: it was not ready in time"):
            await hasty.address()
        assert await collections(await engine.address()) == []
    assert engines_started(data) == 1


async def test_an_engine_that_cannot_start_says_why(data: Path) -> None:
    (data / "collections").mkdir(parents=True)
    (data / "databases").write_text("no folder")
    async with using(data) as engine:
        with pytest.raises(errors.Conflict, match=r"cannot use the data folder .*databases: File exists") as refusal:
            await engine.address()
    assert "--data-dir" in refusal.value.hint


async def test_a_folder_that_another_program_opens_later_is_refused(data: Path) -> None:
    async with using(data) as engine:
        await engine.address()
        pid = engine_pid(data)
    await eventually(lambda: not runs(pid), within=5)
    lite = MilvusLite(str(data))
    try:
        async with using(data) as engine:
            with pytest.raises(errors.Conflict, match=r"another program has the data folder .* open"):
                await engine.address()
    finally:
        lite.close()


def a_file(data: Path) -> None:
    data.write_text("notes")


def an_old_database(data: Path) -> None:
    data.write_bytes(b"SQLite format 3\0" + bytes(100))


def an_old_database_in_a_folder(data: Path) -> None:
    data.mkdir()
    an_old_database(data / "milvus_demo.db")


def an_old_server(data: Path) -> None:
    (data / "data" / "etcd.data").mkdir(parents=True)
    (data / "logs").mkdir()


def a_standalone_server(data: Path) -> None:
    (data / "rdb_data").mkdir(parents=True)


def a_rocksdb(data: Path) -> None:
    data.mkdir()
    (data / "CURRENT").write_text("MANIFEST-000004")
    (data / "LOCK").write_text("")


def documents(data: Path) -> None:
    data.mkdir()
    (data / "report.txt").write_text("quarter")
    (data / ".hidden").write_text("")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (a_file, "is a file, and the embedded engine keeps its data in a folder"),
        (an_old_database, "data is a database of Milvus Lite 2, which was a single SQLite file"),
        (an_old_database_in_a_folder, "holds milvus_demo.db, a database of Milvus Lite 2"),
        (an_old_server, r"data folder of a Milvus server \(it holds data/etcd.data\)"),
        (a_standalone_server, r"data folder of a Milvus server \(it holds rdb_data\)"),
        (a_rocksdb, "holds other things than Milvus Lite's data, for example CURRENT"),
        (documents, "holds other things than Milvus Lite's data, for example report.txt"),
    ],
)
async def test_a_data_folder_that_is_something_else_is_refused_untouched(
    data: Path, make: Callable[[Path], None], sentence: str
) -> None:
    make(data)
    before = contents(data)
    async with using(data) as engine:
        with pytest.raises(errors.Conflict, match=sentence) as refusal:
            await engine.address()
    assert "--data-dir" in refusal.value.hint
    assert contents(data) == before


def contents(path: Path) -> list[tuple[str, int]]:
    return sorted((str(found), found.stat().st_mtime_ns) for found in [path, *path.rglob("*")])


@posix
async def test_a_folder_that_another_program_has_open_is_refused_untouched(data: Path) -> None:
    lite = MilvusLite(str(data))
    before = contents(data)
    try:
        async with using(data) as engine:
            with pytest.raises(errors.Conflict, match=r"another program has the data folder .* open"):
                await engine.address()
            assert contents(data) == before
            lite.close()
            assert await collections(await engine.address()) == []
    finally:
        lite.close()


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that this process may read and not write; root gives up its rights for as long."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.rmdir()


@posix
@pytest.mark.parametrize("name", [".", "new"])
async def test_a_folder_that_may_not_be_written_is_refused(read_only_folder: Path, name: str) -> None:
    async with using(read_only_folder / name) as engine:
        with pytest.raises(errors.Conflict, match=r"cannot use the data folder .*: Permission denied"):
            await engine.address()


@pytest.mark.parametrize("name", [".DS_Store", "lost+found"])
async def test_a_folder_that_is_as_good_as_empty_is_taken(data: Path, name: str) -> None:
    (data / name).mkdir(parents=True)
    async with using(data) as engine:
        assert await collections(await engine.address()) == []


@posix
async def test_another_users_engine_is_refused(data: Path) -> None:
    (data / ".engine").mkdir(parents=True)
    with suppress(PermissionError):
        os.chown(data / ".engine", 65534, -1)
    if (data / ".engine").stat().st_uid == os.geteuid():
        pytest.skip("only root can make a folder of another user")
    async with using(data) as engine:
        with pytest.raises(errors.Conflict, match="belongs to another user"):
            await engine.address()
