"""One client per database, made when it is first needed, shared by all calls, replaced when its connection is lost."""

import asyncio
import copy
import importlib
import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from mcp_server_milvus.errors import DeadlineExceeded, Error, LimitExceeded, NotFound, Unavailable
from mcp_server_milvus.garbage import kept_imports
from mcp_server_milvus.milvus.embedded import EmbeddedEngine
from mcp_server_milvus.milvus.names import require_name
from mcp_server_milvus.milvus.turns import Turns
from mcp_server_milvus.reach import EVERYTHING, Reach
from mcp_server_milvus.settings import Settings

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.capabilities import Backend
    from mcp_server_milvus.milvus.client import Client

MODULES_WITH_PYMILVUS = ("mcp_server_milvus.milvus.client", "mcp_server_milvus.milvus.translate")
MOST_IDLE = 32
"""Databases whose clients are kept while no call uses them."""


@dataclass
class _Connection:
    """A client and how many calls use it now; a retired one is closed when the last of them ends."""

    client: "Client"
    uri: str
    borrowers: int = 0
    retired: bool = False


class ClientPool:
    """The clients of one endpoint and identity, as far as one caller reaches.

    Borrow one with `async with pool.client(db_name) as client:`. Every failure inside that block leaves it as one of
    our errors, and the block ends within the settings' `timeout` seconds, connecting included.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = EmbeddedEngine(settings.embedded_dir) if settings.embedded_dir else None
        self._credentials = settings.credentials
        self._limiter = anyio.Semaphore(settings.max_concurrency, fast_acquire=True)
        self._connections: dict[str, _Connection] = {}
        self._connecting = Turns()
        self._last_writes: dict[str, dict[str, int]] = {}
        self.computing = anyio.CapacityLimiter(1)
        """Of threads that only compute: no two run at once, and each that tries makes the event loop wait 5 ms."""
        self._reach = EVERYTHING
        self._absent = f"_absent_{secrets.token_hex(12)}"
        self.tried = _tried(settings)
        """What a call talks to, in words without a host name."""

    def seen_by(self, reach: Reach) -> Self:
        """The same connections, for whoever reaches this much of what is behind them."""
        seen = copy.copy(self)
        seen._reach = reach  # noqa: SLF001  # its own
        return seen

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    @property
    def is_busy(self) -> bool:
        """Whether a call uses one of its clients."""
        return any(connection.borrowers for connection in self._connections.values())

    async def aclose(self) -> None:
        """Closes the clients, and lets go of the engine."""
        with anyio.CancelScope(shield=True):
            async with AsyncExitStack() as closing:
                if self._engine:
                    closing.push_async_callback(self._engine.aclose)
                for connection in self._connections.values():
                    closing.push_async_callback(connection.client.close)
                self._connections.clear()

    @property
    def engine(self) -> EmbeddedEngine | None:
        """The embedded engine, where there is one."""
        return self._engine

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    @property
    def known_backend(self) -> "Backend | None":
        """What its clients are connected to, whether it answers now or not; None before the first."""
        return next((each.client.backend for each in list(self._connections.values())), None)

    @property
    def borrowed(self) -> int:
        """How many calls use them now."""
        return sum(connection.borrowers for connection in list(self._connections.values()))

    async def warm_up(self) -> None:
        """Imports pymilvus in a thread, so that the first call need not wait for it."""
        await anyio.to_thread.run_sync(_import_pymilvus, abandon_on_cancel=True)

    async def backend(self, db_name: str) -> "Backend":
        """What the database's clients are connected to."""
        async with self.client(db_name) as client:
            return client.backend

    @asynccontextmanager
    async def client(self, db_name: str, *, seconds: float | None = None) -> AsyncGenerator["Client"]:
        """A connected client of the database ("": the account's own), for at most `seconds` (default: the timeout).

        Raises:
            InvalidArgument: the database's name is no name.
            Unavailable: Milvus cannot be reached.
            DeadlineExceeded: the time was up.
            Error: whatever else failed inside the block.
        """
        if db_name:
            require_name("db_name", db_name)
        limit = self._settings.timeout
        connection = client = None
        waiting = True
        asked = db_name
        if not self._reach.sees_database(db_name):
            db_name = self._absent  # Milvus itself says that it is not there
        try:
            with Translation(self.tried):
                with anyio.CancelScope(deadline=asyncio.get_running_loop().time() + (seconds or limit)) as in_time:
                    async with self._limiter:
                        waiting = False
                        connection = self._ready(db_name)
                        if connection is None:
                            with anyio.fail_after(limit):
                                connection = await self._connected(db_name)
                        connection.borrowers += 1
                        client = connection.client.seen_by(self._reach)
                        yield client
                if in_time.cancelled_caught:
                    raise TimeoutError
        except Error as error:
            if isinstance(error, Unavailable | DeadlineExceeded) or _says_it_is_absent(error, db_name):
                self._retire(db_name, connection)
                if self._engine:
                    self._engine.doubt()
            told = self._explained(error, limit, waiting=waiting, connected=connection is not None)
            self._tell_in_callers_words(told, client, asked)
            raise told from (error.__cause__ if told is error else error)
        finally:
            if connection:
                connection.borrowers -= 1
                await _close_unused(connection)
                if len(self._connections) > MOST_IDLE:
                    await self._close_surplus()
            self._forget_unused(db_name, connection)

    def _explained(self, error: Error, limit: float, *, waiting: bool, connected: bool) -> Error:
        """The error itself, or the one that says what it means at this point of a call."""
        if self._engine and isinstance(error, Unavailable):
            error.hint = "call again: an engine that has ended is started anew"
        if waiting and isinstance(error, Unavailable | DeadlineExceeded):
            return LimitExceeded(
                f"{self._settings.max_concurrency} calls are under way and none ended within {limit:g} s",
                hint="call again when they have, or start the server with a larger --max-concurrency",
            )
        if not connected and isinstance(error, DeadlineExceeded):
            return Unavailable(
                f"{self.tried} did not answer within {limit:g} s", hint="check that Milvus runs; then call again"
            )
        return error

    def _tell_in_callers_words(self, error: Error, client: "Client | None", asked: str) -> None:
        if client and client.guard:
            error.message = client.guard.in_callers_words(error.message)
        error.message = error.message.replace(self._absent, asked)

    async def forget(self, db_name: str) -> None:
        """Closes the client of a database that is gone, and forgets what was written there."""
        self._last_writes.pop(db_name, None)
        connection = self._connections.get(db_name)
        self._retire(db_name, connection)
        if connection:
            await _close_unused(connection)

    def _ready(self, db_name: str) -> _Connection | None:
        """The connection of a database, unless it has to be looked whether it still leads to the engine."""
        connection = self._connections.get(db_name)
        if connection is None or (self._engine and self._engine.seen_at != connection.uri):
            return None
        self._connections[db_name] = self._connections.pop(db_name)  # the last one: it is the one used most recently
        return connection

    async def _connected(self, db_name: str) -> _Connection:
        async with self._connecting.of(db_name):
            uri = await self._address()
            connection = self._connections.get(db_name)
            if connection and connection.uri != uri:
                self._retire(db_name, connection)  # the engine died, and this is the next one's address
                await _close_unused(connection)
                connection = None
            if connection is None:
                await self.warm_up()
                connection = _Connection(await self._connect(uri, db_name), uri)
            self._connections.pop(db_name, None)
            self._connections[db_name] = connection
            return connection

    async def _address(self) -> str:
        """Where Milvus is. An engine starts beside the import of pymilvus: both take a second."""
        if self._engine is None:
            return self._settings.uri
        if not _is_imported():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.warm_up)
                tasks.start_soon(self._engine.address)
        return await self._engine.address()

    async def _connect(self, uri: str, db_name: str) -> "Client":
        from mcp_server_milvus.milvus.client import connect
        from mcp_server_milvus.milvus.quirks import quiet_pymilvus

        quiet_pymilvus()
        return await connect(
            uri,
            credentials=self._credentials,
            db_name=db_name,
            last_writes=self._last_writes.setdefault(db_name, {}),
            computing=self.computing,
            seconds=self._settings.timeout,
        )

    def _retire(self, db_name: str, connection: _Connection | None) -> None:
        """Makes the next call connect anew. Calls that are under way keep the old connection to their end."""
        if connection:
            connection.retired = True
            if self._connections.get(db_name) is connection:
                del self._connections[db_name]

    async def _close_surplus(self) -> None:
        """Closes what was used least recently of those that nobody uses."""
        idle = [(name, each) for name, each in self._connections.items() if not each.borrowers]
        surplus = idle[:-MOST_IDLE]
        for name, each in surplus:
            self._retire(name, each)
        for name, each in surplus:
            await _close_unused(each)
            self._forget_unused(name, each)

    def _forget_unused(self, db_name: str, connection: _Connection | None) -> None:
        """Keeps nothing of a database that no client is of and where nothing was written: anybody can name one."""
        is_used = db_name in self._connections or db_name in self._connecting or (connection and connection.borrowers)
        if not is_used and not self._last_writes.get(db_name):
            self._last_writes.pop(db_name, None)


def _tried(settings: Settings) -> str:
    if settings.embedded_dir:
        return "the embedded Milvus Lite engine"
    parts = urlsplit(settings.uri)
    return f"Milvus at the configured uri ({parts.scheme}, port {parts.port or 19530})"


def _says_it_is_absent(error: Error, db_name: str) -> bool:
    if not db_name or not isinstance(error, NotFound):
        return False
    from mcp_server_milvus.milvus.translate import is_without_database

    return is_without_database(error, db_name)


async def _close_unused(connection: _Connection) -> None:
    if connection.retired and connection.borrowers == 0:
        with anyio.CancelScope(shield=True):
            await connection.client.close()


class Translation:
    """A block that every failure leaves as one of our errors."""

    def __init__(self, tried: str) -> None:
        self._tried = tried

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, traceback: object) -> None:
        if isinstance(failure, ExceptionGroup):  # of a task group inside the block
            failure = _first(cast("ExceptionGroup[Exception]", failure))
            if isinstance(failure, Error):
                raise failure
        if not isinstance(failure, Exception) or isinstance(failure, Error):
            return
        if isinstance(failure.__cause__, Error):  # ours, which pymilvus has wrapped in one of its own
            raise failure.__cause__
        from mcp_server_milvus.milvus.translate import translate

        error = translate(failure, tried=self._tried)
        if error:
            raise error from failure


def _first(group: "ExceptionGroup[Exception]") -> Exception:
    failure = group.exceptions[0]
    return _first(cast("ExceptionGroup[Exception]", failure)) if isinstance(failure, ExceptionGroup) else failure


def _is_imported() -> bool:
    return all(module in sys.modules for module in MODULES_WITH_PYMILVUS)


def _import_pymilvus() -> None:
    """Once; its 160,000 objects stay, so that the garbage collector need not stop every call to look at them."""
    if _is_imported():
        return
    with kept_imports():
        for module in MODULES_WITH_PYMILVUS:
            importlib.import_module(module)
