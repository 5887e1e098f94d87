"""The engine process: Milvus Lite for every server that uses one data folder.

Run as `python -m mcp_server_milvus.milvus.engine DATA_FOLDER`, by `embedded.py` and detached from it. It says on its
standard output in one line how its start went, and then serves until nobody holds the `users` lock, or until SIGTERM or
SIGINT. Either way it ends what it is doing, writes everything out and leaves nothing half open behind.
"""

# what takes a second to import comes after the lock, and never where only the names are needed
# Milvus Lite and pymilvus publish no types.
# pyright: reportMissingTypeStubs=false

import logging
import os
import queue
import signal
import stat
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from mcp_server_milvus.milvus.locks import POLL_SECONDS, FileLock
from mcp_server_milvus.milvus.renaming import open_lite

MODULE = "mcp_server_milvus.milvus.engine"
SOCKET_FOLDER_PREFIX = "mcp-milvus-"
SOCKET_NAME = "engine.sock"
# The path of a Unix socket may have 103 bytes on macOS, and gRPC reads it as part of a URI: no temporary folder that is
# long or needs quoting.
LONGEST_SOCKET_ROOT = 60
PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+")

LARGEST_MESSAGE_BYTES = 256 << 20
LARGEST_LOG_BYTES = 1 << 20
LOOK_FOR_USERS_SECONDS = 1.0
# A server that only looks whether the engine lives holds `alive` for microseconds.
TAKE_ALIVE_SECONDS = 1.0
FINISH_CALLS_SECONDS = 10.0

log = logging.getLogger("engine")


class Outcome(StrEnum):
    """How a start went: the first word of what the engine reports."""

    READY = "ready"  # followed by the address
    BUSY = "busy"  # another engine has been quicker
    LOCKED = "locked"  # another program has the data folder open
    UNUSABLE = "unusable"  # followed by the reason


class CannotStartError(Exception):
    """The engine ends, with this outcome."""

    def __init__(self, outcome: Outcome, reason: str = "") -> None:
        super().__init__(outcome, reason)
        self.outcome = outcome
        self.reason = reason


@dataclass(frozen=True)
class EngineFolder:
    """Where the servers and the engine of one data folder meet: its subfolder `.engine`.

    `users`    a lock that each server shares while it lives; exclusive to an engine that is closing, unused
    `start`    a lock of the server that starts the engine
    `alive`    a lock of the engine, all its life
    `address`  where the living engine listens, and its process id; a dead engine may leave it behind
    `address.old`  the same of an engine that closed, perhaps not to the end
    `renaming`  what a living engine is renaming, or what one that was killed left half done
    `log`      what the engine writes to its standard error
    """

    data: Path

    @property
    def path(self) -> Path:
        return self.data / ".engine"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def renaming(self) -> Path:
        return self.path / "renaming"

    @property
    def _address(self) -> Path:
        return self.path / "address"

    @property
    def _withdrawn(self) -> Path:
        return self.path / "address.old"

    def lock(self, name: Literal["users", "start", "alive"]) -> FileLock:
        return FileLock(self.path / name)

    def read_address(self) -> str | None:
        """What the file says, and None without one: while an engine starts or closes there is none."""
        with suppress(FileNotFoundError):
            return first_line(self._address) or None
        return None

    def write_address(self, address: str) -> None:
        """The whole file appears at once."""
        new = self._address.with_suffix(".new")
        new.write_text(f"{address}\n{os.getpid()}\n", "utf-8")
        new.replace(self._address)

    def withdraw_address(self) -> None:
        """No server finds the engine any more, and the next engine still finds what it may leave behind."""
        self._address.replace(self._withdrawn)

    def forget_addresses(self) -> list[str]:
        """The addresses of engines that are gone. Their files are gone too."""
        forgotten: list[str] = []
        for file in (self._address, self._withdrawn):
            with suppress(FileNotFoundError):
                forgotten.append(first_line(file))
                file.unlink()
        return forgotten


def first_line(file: Path) -> str:
    return file.read_text("utf-8").partition("\n")[0]


def main() -> None:
    report = Report()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s[%(process)d] %(message)s")
    log.setLevel(logging.INFO)
    try:
        run(EngineFolder(Path(sys.argv[1])), report)
    except CannotStartError as refusal:
        report.send(refusal.outcome, refusal.reason)


class Report:
    """The line that whoever starts the engine waits for.

    It goes to what was standard output, which from here on is the log: a stray print is no report.
    """

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def send(self, outcome: Outcome, text: str = "") -> None:
        """Sends it once and for all. A starter that is gone has no need of it."""
        with suppress(BrokenPipeError), os.fdopen(self._descriptor, "w", encoding="utf-8") as pipe:
            pipe.write(f"{outcome} {text}")


def run(folder: EngineFolder, report: Report) -> None:
    """The life of an engine, from its lock to its last write. Raises CannotStartError."""
    os.umask(0o077)  # all that it writes is its owner's alone
    stop = stop_requests()
    alive, users = folder.lock("alive"), folder.lock("users")
    take_alive(alive)
    database = open_database(folder.data)
    calls = ThreadPoolExecutor(max_workers=1)  # two that write at once destroy Milvus Lite's log
    server = build_server(database, calls)
    with listening(server) as address:
        server.start()
        folder.write_address(address)
        report.send(Outcome.READY, address)
        log.info("serves %s at %s", folder.data, address)
        log.info("closes: %s", wait_for_the_end(folder, users, address, stop))
        # Whoever wants an engine from here on waits until `alive` is free, and starts the next one.
        if folder.read_address() == address:
            folder.withdraw_address()
        server.stop(FINISH_CALLS_SECONDS).wait()
    if not drained(calls):
        log.error("a call does not end; what was acknowledged is in Milvus Lite's log")
        os._exit(1)
    database.close()
    log.info("closed")
    # Not before: `users` and `alive` end here.
    users.release()
    alive.release()


def stop_requests() -> "queue.SimpleQueue[str]":
    """Receives the name of each SIGTERM or SIGINT.

    An Event could deadlock with its own handler; this queue cannot.
    """
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: requests.put(signal.Signals(received).name))
    return requests


def take_alive(alive: FileLock) -> None:
    """The lock of the one engine is held. Raises CannotStartError (BUSY) when another engine keeps it."""
    deadline = time.monotonic() + TAKE_ALIVE_SECONDS
    while not alive.try_exclusive():
        if time.monotonic() > deadline:
            raise CannotStartError(Outcome.BUSY)
        time.sleep(POLL_SECONDS)


def open_database(data: Path) -> Any:
    """Milvus Lite on the data folder. Raises CannotStartError (LOCKED, UNUSABLE)."""
    from milvus_lite.exceptions import DataDirLockedError

    try:
        return open_lite(data, EngineFolder(data).renaming)
    except DataDirLockedError as error:
        raise CannotStartError(Outcome.LOCKED) from error
    except OSError as error:
        raise CannotStartError(Outcome.UNUSABLE, f"{error.filename or data}: {error.strerror}") from error


def build_server(database: Any, calls: ThreadPoolExecutor) -> Any:
    """Milvus Lite's gRPC server, not yet listening; its calls run in `calls`."""
    import grpc
    from pymilvus.grpc_gen import milvus_pb2_grpc

    options = [
        ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
        ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
        # pymilvus pings every 10 s; a server that finds this too often ends the connection.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),  # during an answer of minutes a client's pings would end the connection
    ]
    server = grpc.server(calls, options=options)
    generated: Any = milvus_pb2_grpc
    generated.add_MilvusServiceServicer_to_server(numbering_service(database), server)
    return server


def numbering_service(database: Any) -> Any:
    """Milvus Lite's service, with two numbers on each partition.

    The first is when its collection was made: by that, one collection is told from another that was made later with the
    same name and the same schema. The second, where a server has a time, is a digest of the indexes: by that, a cached
    metric is told from one that has changed. Both cost nothing, where describing the indexes counts all entities.
    """
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from milvus_lite.db import SCHEMA_FILENAME

    class NumberingService(MilvusServicer):
        def ShowPartitions(self, request: Any, context: Any) -> Any:  # noqa: N802 (the name of the call)
            response: Any = super().ShowPartitions(request, context)
            if response.partition_names:
                collection: Any = self._get_collection(request, context)
                made = (Path(collection._data_dir) / SCHEMA_FILENAME).stat().st_mtime_ns  # noqa: SLF001 (it has no other)
                specs = sorted(collection._index_specs.items())  # noqa: SLF001 (likewise)
                indexes = zlib.crc32(repr(specs).encode())
                response.partitionIDs.extend([made] * len(response.partition_names))
                response.created_utc_timestamps.extend([indexes] * len(response.partition_names))
            return response

    return NumberingService(database)


if sys.platform == "win32":  # this branch is unverified

    @contextmanager
    def listening(server: Any) -> Generator[str]:
        """The server's address: a port of the loopback interface, which only `address` names."""
        yield f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"

    def answers(_address: str) -> bool:
        """True: nobody can remove a port."""
        return True

    def remove_socket(_address: str) -> None:
        """Nothing: a port leaves nothing behind."""

else:

    @contextmanager
    def listening(server: Any) -> Generator[str]:
        """The server's address: a socket in a folder that only its owner enters, and that is gone afterwards."""
        address = f"unix:{tempfile.mkdtemp(prefix=SOCKET_FOLDER_PREFIX, dir=socket_root())}/{SOCKET_NAME}"
        try:
            server.add_insecure_port(address)
            yield address
        finally:
            remove_socket(address)

    def answers(address: str) -> bool:
        """Whether the socket is still there: something may clean temporary folders."""
        return Path(address.removeprefix("unix:")).is_socket()

    def socket_root() -> str:
        """The temporary folder when a socket's path fits there, else `/tmp`."""
        root = tempfile.gettempdir()
        return root if len(root) <= LONGEST_SOCKET_ROOT and PLAIN.issuperset(root) else "/tmp"  # noqa: S108 (mkdtemp)

    def remove_socket(address: str) -> None:
        """The socket of an engine that is gone, and its folder, are gone too; whatever else it may name stays."""
        socket = Path(address.removeprefix("unix:"))
        if not is_socket_folder(socket.parent) or socket.name != SOCKET_NAME:
            return
        socket.unlink(missing_ok=True)
        with suppress(OSError):  # it holds something that an engine did not put there
            socket.parent.rmdir()

    def is_socket_folder(path: Path) -> bool:
        """Whether it is what `listening` makes: a folder of that name that is this user's alone, and no link."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == stat.S_IRWXU
        return private and found.st_uid == os.geteuid() and path.name.startswith(SOCKET_FOLDER_PREFIX)


def wait_for_the_end(folder: EngineFolder, users: FileLock, address: str, stop: "queue.SimpleQueue[str]") -> str:
    """Why the engine is to close: a signal, nobody uses it (then `users` is held), or nobody could find it."""
    while True:
        if folder.read_address() != address or not answers(address):
            return "somebody removed its address"
        if nobody_holds(users):
            return "nobody uses it"
        with suppress(queue.Empty):
            return stop.get(timeout=LOOK_FOR_USERS_SECONDS)
        cap_log()


def nobody_holds(users: FileLock) -> bool:
    """Whether no server lives; then none can join until this engine has ended."""
    with suppress(FileNotFoundError):  # the folder has just been removed: the next look says so
        return users.try_exclusive()
    return False


def cap_log() -> None:
    """The log never grows for long: standard error, when it is a file, begins again."""
    if os.fstat(2).st_size > LARGEST_LOG_BYTES:
        os.ftruncate(2, 0)


def drained(calls: ThreadPoolExecutor) -> bool:
    """Whether no call runs any more.

    gRPC cancels what is over time, but such a call may run on, and must not write to a database that is closing.
    """
    last = threading.Thread(target=calls.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    last.start()
    last.join(FINISH_CALLS_SECONDS)
    return not last.is_alive()


if __name__ == "__main__":
    main()
