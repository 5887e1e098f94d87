"""The embedded engine: Milvus Lite in a process of its own, shared by every server that uses the same data folder.

The servers and the engine agree by the locks of `EngineFolder` alone; none of them is in charge:

- A server shares `users` while it lives, and an engine closes when it gets `users` for itself. So an engine lives as
  long as its last user, also one that was killed, and a server that comes while an engine closes waits for its end.
- A living engine holds `alive`, and writes `address` once it answers. An `address` without `alive` is a dead engine's;
  `alive` without an `address` is an engine that starts or closes.
- Who needs an engine and finds none starts it while holding `start`, so that others wait and then find it.
"""

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mcp_server_milvus.errors import Conflict, Unavailable
from mcp_server_milvus.milvus.engine import MODULE, EngineFolder, Outcome, remove_socket
from mcp_server_milvus.milvus.locks import Patience, held_exclusively, no_longer_used

ANOTHER_FOLDER = "choose another data folder with --data-dir"

SQLITE_MAGIC = b"SQLite format 3\0"
# Milvus Lite makes both before its file LOCK, which says little: RocksDB has one too.
LITE_FOLDERS = ("collections", "databases")
# What a Milvus server with everything in one process keeps: the `milvus` package of PyPI, and the standalone image.
SERVER_FOLDERS = (
    "configs/milvus.yaml",
    "data/etcd.data",
    "data/rocksmq",
    "default.etcd",
    "etcd",
    "etcd.data",
    "etcdData",
    "rdb_data",
    "rdb_data_meta_kv",
    "rocksmq",
)
NOT_CONTENT = frozenset({"lost+found", "desktop.ini", "Thumbs.db"})

# All that an engine gets of its starter's environment: no token or key is among it.
# Some systems find no C++ library without the search paths.
PASSED_ON = frozenset(
    {"HOME", "LANG", "LANGUAGE", "PATH", "TMPDIR", "TZ"}
    | {"DYLD_FALLBACK_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LD_LIBRARY_PATH"}
    | {"APPDATA", "COMSPEC", "LOCALAPPDATA", "NUMBER_OF_PROCESSORS", "PATHEXT", "PROCESSOR_ARCHITECTURE"}
    | {"SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "TMP", "USERPROFILE", "WINDIR"}
)
PASSED_ON_PREFIXES = ("COVERAGE_", "LC_", "MILVUS_LITE_", "OMP_", "OPENBLAS_", "PYTHON")


SEEN_ALIVE = 0.1
"""Seconds for which an engine that was found alive is taken to be so: looking costs a turn of a thread."""


class EmbeddedEngine:
    """The engine of one data folder, as this process shares it.

    Nothing is touched before the first `address()`. From then on until `aclose()`, or the end of the process, the
    engine stays alive for it.
    """

    def __init__(self, data_dir: Path, *, start_timeout: float = 30.0) -> None:
        self._folder = EngineFolder(data_dir.absolute())
        self._start_timeout = start_timeout
        self._users = self._folder.lock("users")
        # One thread does all that waits, so that a start goes on when the call that asked for it is cancelled.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-engine")
        self._search: Future[str] | None = None
        self._seen = -math.inf
        self._last = ""
        self.restarts = 0
        self._closed = threading.Event()

    async def address(self) -> str:
        """The living engine's address, a uri for pymilvus; an engine is started when none lives.

        Calls that come during a search for it share that search. One that finds the engine alive costs well below a
        millisecond, and holds for `SEEN_ALIVE`.

        Raises:
            Conflict: the data folder is not one for the engine.
            Unavailable: no engine answers within `start_timeout` seconds.
        """
        if self._closed.is_set():
            raise no_longer_used()
        if seen := self.seen_at:
            return seen
        if self._search is None or self._search.done():
            self._search = self._thread.submit(self._find_or_start)
        return await asyncio.shield(asyncio.wrap_future(self._search))

    def doubt(self) -> None:
        """Forgets that an engine was found alive: it did not answer."""
        self._seen = -math.inf

    @property
    def seen_at(self) -> str | None:
        """The address at which an engine was found alive a moment ago; None where it has to be looked for."""
        return self._last if time.monotonic() - self._seen < SEEN_ALIVE else None

    @property
    def is_up(self) -> bool:
        """Whether an engine was found or started when one was last needed."""
        return bool(self._search and self._search.done() and not self._search.exception())

    async def aclose(self) -> None:
        """Lets go of the engine, which closes when this was its last user. May be called twice, or be cancelled."""
        if self._closed.is_set():
            return
        self._closed.set()
        released = self._thread.submit(self._users.release)
        self._thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(released))

    def _find_or_start(self) -> str:
        patience = Patience(self._start_timeout, self._closed)
        begun = time.monotonic()
        try:
            if not self._users.held:
                prepare(self._folder)
                patience.until(self._users.try_shared, "the embedded engine is closing and has not ended yet")
            found = self._living_address() or self._start(patience)
        except OSError as error:
            raise unusable(self._folder.data, error.strerror or str(error)) from error
        self.restarts += bool(self._last) and found != self._last
        self._last = found
        self._seen = begun
        return found

    def _living_address(self) -> str | None:
        with self._folder.lock("alive").sharing() as dead:
            return None if dead else self._folder.read_address()

    def _start(self, patience: Patience) -> str:
        start = self._folder.lock("start")
        patience.until(start.try_exclusive, "another server has been starting the embedded engine for too long")
        try:
            return patience.until(
                lambda: self._living_address() or self._launch_if_dead(patience),
                "the embedded engine neither answers nor ends",
            )
        finally:
            start.release()

    def _launch_if_dead(self, patience: Patience) -> str | None:
        with self._folder.lock("alive").sharing() as dead:
            if not dead:
                return None
            # No engine can write a new address before the block ends, and no server takes this lock for an engine's.
            for stale in self._folder.forget_addresses():
                remove_socket(stale)
        return launch(self._folder, patience)


def launch(folder: EngineFolder, patience: Patience) -> str | None:
    """The address of a new engine that answers, and None when another one was quicker. Raises Conflict, Unavailable."""
    report, engines_end = os.pipe()
    with folder.log.open("ab") as log, os.fdopen(engines_end, "wb") as output:
        log_begins = log.tell()
        try:
            process = spawn(folder, output.fileno(), log.fileno())
        except OSError as error:
            os.close(report)
            raise not_started(folder, f"{sys.executable}: {error.strerror}") from error
    # Whenever the engine ends, today or next week, this waits for it, so that it does not stay behind as a zombie.
    ended = threading.Thread(target=process.wait, name="embedded-engine-end", daemon=True)
    ended.start()
    outcome, _, text = read_report(report, process, patience.left).partition(" ")
    match outcome:
        case Outcome.READY:
            return text
        case Outcome.BUSY:
            return None
        case Outcome.LOCKED:
            raise open_elsewhere(folder.data)
        case Outcome.UNUSABLE:
            raise unusable(folder.data, text)
        case _:
            ended.join(patience.left)
            late = "it was not ready in time" if not patience.left else ""
            raise not_started(folder, late or last_line(folder.log, log_begins) or f"exit code {process.returncode}")


def spawn(folder: EngineFolder, output: int, log: int) -> "subprocess.Popen[bytes]":
    """The process, out of reach of this one's terminal, signals, working folder and end. Raises OSError."""
    detached = 0
    if sys.platform == "win32":
        detached = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return subprocess.Popen(  # noqa: S603 (this interpreter, and a folder that the user chose)
        [sys.executable, "-P", "-m", MODULE, str(folder.data)],
        cwd=folder.data.anchor,
        env=engine_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=log,
        start_new_session=True,
        creationflags=detached,
    )


def engine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What an engine needs of an environment; it imports from where this process imports, in the same order."""
    kept = {
        name: value
        for name, value in environment.items()
        if name.upper() in PASSED_ON or name.upper().startswith(PASSED_ON_PREFIXES)
    }
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    # pymilvus would read a `.env` that lies above it.
    return kept | {"PYTHONPATH": path, "PYTHON_DOTENV_DISABLED": "1"}


def read_report(report: int, process: "subprocess.Popen[bytes]", seconds: float) -> str:
    """The engine's report, and nothing when it ended without one. An engine that is over its time is killed."""
    over_time = threading.Timer(seconds, process.kill)
    over_time.start()
    try:
        with os.fdopen(report, encoding="utf-8") as pipe:
            return pipe.read()
    finally:
        over_time.cancel()


def last_line(log: Path, begin: int) -> str:
    """The last line that was written to the log after its first `begin` bytes, shortened."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def prepare(folder: EngineFolder) -> None:
    """The data folder and its `.engine` exist. Raises Conflict, and has written nothing, when it is not one for us."""
    refuse_foreign(folder)
    for missing in reversed([path for path in (folder.path, *folder.path.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    if sys.platform != "win32" and folder.path.stat().st_uid != os.geteuid():
        raise unusable(folder.data, "its engine belongs to another user")


def refuse_foreign(folder: EngineFolder) -> None:
    """Raises Conflict unless the data folder is missing, empty or Milvus Lite's, and in no other program's hands."""
    data = folder.data
    if data.exists() and not data.is_dir():
        refuse_file(data)
    names = sorted(visible_names(data))
    if not names:
        return
    if any((data / name).is_dir() for name in LITE_FOLDERS):
        if not folder.path.exists() and held_exclusively(data / "LOCK"):
            raise open_elsewhere(data)
        return
    refuse_content(data, names)


def visible_names(data: Path) -> set[str]:
    """What a folder holds beside dot files; nothing when there is no folder."""
    names = {path.name for path in data.iterdir()} if data.is_dir() else set[str]()
    return {name for name in names - NOT_CONTENT if not name.startswith(".")}


def refuse_file(data: Path) -> None:
    if is_sqlite(data):
        raise old_database(data, data)
    raise Conflict(f"{data} is a file, and the embedded engine keeps its data in a folder", hint=ANOTHER_FOLDER)


def refuse_content(data: Path, names: list[str]) -> None:
    for name in names:
        if name.endswith(".db") and is_sqlite(data / name):
            raise old_database(data, data / name)
    if found := next((name for name in SERVER_FOLDERS if (data / name).exists()), None):
        raise Conflict(
            f"{data} is the data folder of a Milvus server (it holds {found}), which the embedded engine cannot read",
            hint=f"start that server and name it with --uri, or {ANOTHER_FOLDER}",
        )
    raise Conflict(
        f"{data} holds other things than Milvus Lite's data, for example {names[0]}",
        hint="choose an empty folder, or one that does not exist yet, with --data-dir",
    )


def is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def old_database(data: Path, file: Path) -> Conflict:
    where = f"{data} is" if file == data else f"{data} holds {file.name},"
    return Conflict(
        f"{where} a database of Milvus Lite 2, which was a single SQLite file; the embedded engine (Milvus Lite 3)"
        " keeps its data in a folder and cannot read it",
        hint=f"export it with `milvus-lite dump` of milvus-lite 2 and insert it anew; {ANOTHER_FOLDER}",
    )


def open_elsewhere(data: Path) -> Conflict:
    return Conflict(
        f"another program has the data folder {data} open, for example a script that opened it with pymilvus",
        hint=f"close that program and call again, or {ANOTHER_FOLDER}",
    )


def unusable(data: Path, reason: str) -> Conflict:
    return Conflict(
        f"the embedded engine cannot use the data folder {data}: {reason}",
        hint=f"make it a folder on a local disk that this user may write to, or {ANOTHER_FOLDER}",
    )


def not_started(folder: EngineFolder, reason: str) -> Unavailable:
    return Unavailable(
        f"the embedded engine did not start: {reason}",
        hint=f"call again; what it said is in {folder.log}",
    )
