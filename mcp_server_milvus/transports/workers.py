"""Several processes that serve one port: the parent listens, starts them, replaces those that die, and ends them.

A worker is this command once more, which inherits the listening socket, and two pipes in the place of its standard
input and output. On the one it says that it serves. The other says nothing, but ends with the parent, however that
ends, and then the worker answers what is in flight and ends, too.

No worker knows what another keeps in memory, so nothing may be kept there: no sessions. What calls need of one another
is in the data folder: the key that signs confirmations, and which of them were used.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import anyio
from anyio.abc import ByteReceiveStream, Process

from mcp_server_milvus.settings import Settings, SettingsError
from mcp_server_milvus.titles import CARRIED, apart
from mcp_server_milvus.transports.listening import as_tcp, listener
from mcp_server_milvus.vocabulary import Transport

LISTENER = "_MCP_SERVER_MILVUS_LISTENER"
"""Environment variable in which a worker is told the number of the descriptor on which to listen."""

SERVES = b"\0serves\n"
"""What a worker says, after whatever else was printed before."""

LONGEST_START = 120.0
"""Seconds after which a worker that does not serve is ended."""

FIRST_TRIES = 3
"""Workers that may end before the first one serves; then there will be none."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a worker is replaced: twice as many after each that has not served."""

OK, FAILED, USAGE_ERROR = 0, 1, 2
STDIN, STDOUT, STDERR = 0, 1, 2
LOGGER = logging.getLogger(__name__)


def require_shareable(settings: Settings) -> None:
    """Raises SettingsError where several workers could not do what one does."""
    if sys.platform == "win32":
        raise SettingsError("workers: on Windows no process inherits a socket; start several servers instead")
    if settings.transport is not Transport.HTTP or not settings.stateless:
        raise SettingsError(
            "workers: a session is known to one process only; with more than 1 set transport http, and stateless"
        )
    if settings.metrics_port or settings.metrics_token.get_secret_value():
        raise SettingsError(
            "workers: each counts for itself, so there is no /metrics with more than 1: unset metrics_port and "
            "metrics_token, or start several servers behind a balancer"
        )


@dataclass(frozen=True)
class Inherited:
    """What a worker has from its parent."""

    listener: socket.socket

    def tell_that_it_serves(self) -> None:
        os.write(STDOUT, SERVES)
        os.dup2(STDERR, STDOUT)  # for stray prints, which nobody reads there

    async def parent_ended(self) -> None:
        """Waits for it, or for the parent to end its workers."""
        await anyio.wait_readable(STDIN)


def inherited() -> Inherited | None:
    """What this process has from its parent, if it is a worker."""
    number = int(os.environ.pop(LISTENER, "0"))
    if not number:
        return None
    os.set_inheritable(number, False)  # noqa: FBT003
    with socket.socket(fileno=os.dup(number)) as same:
        return Inherited(as_tcp(number, socket.AddressFamily(same.family)))


async def serve_with_workers(settings: Settings, arguments: Sequence[str]) -> int:
    """Serves with as many workers as the settings say until SIGTERM or SIGINT; a second signal ends all at once.

    `arguments` are those of this process. Returns the exit code: 0, or 1 or 2 where no worker ever served.

    Raises:
        SettingsError: the settings are not for several processes.
        OSError: nothing can listen at the host and port of the settings; the text says why.
    """
    require_shareable(settings)
    with listener(settings.host, settings.port) as door:
        secret, plain = apart(arguments)
        workers = _Workers(
            command=[sys.executable, "-P", "-m", "mcp_server_milvus", *plain],
            environment=os.environ
            | {CARRIED: json.dumps(secret), LISTENER: str(door.fileno()), "PYTHONPATH": os.pathsep.join(sys.path)},
            door=door,
        )
        await workers.serve(settings.workers)
        return workers.exit_code


@dataclass(eq=False)
class _Workers:
    """The workers of this process, each kept up by a task of its own."""

    command: Sequence[str]
    environment: Mapping[str, str]
    door: socket.socket
    exit_code: int = OK
    _pipe: tuple[int, int] = field(default_factory=os.pipe)
    _running: set[Process] = field(default_factory=set[Process])
    _starts: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])
    _has_served: bool = False
    _settled: anyio.Event = field(default_factory=anyio.Event)  # one serves, or none ever will
    _ending: anyio.Event = field(default_factory=anyio.Event)

    async def serve(self, count: int) -> None:
        """Until all have ended. Others are started once one serves: what is wrong with them all is said once."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_on_signals)
            async with anyio.create_task_group() as kept:
                kept.start_soon(self._keep_one)
                await self._settled.wait()
                for _ in range(count - 1):
                    kept.start_soon(self._keep_one)
            tasks.cancel_scope.cancel()

    async def _end_on_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if self._ending.is_set():
                    self._end_at_once(number)
                self._end()

    def _end(self) -> None:
        """Not by a signal: a service manager may have sent one to every process, and two are too many."""
        if not self._ending.is_set():
            self._ending.set()
            self._settled.set()
            for start in self._starts:
                start.cancel()
            self.door.close()  # or clients would wait for workers that take no more of them
            for end in self._pipe:
                os.close(end)

    def _end_at_once(self, number: signal.Signals) -> None:
        for process in self._running:
            with suppress(ProcessLookupError):  # it has just ended
                process.kill()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    async def _keep_one(self) -> None:
        """Has one worker run, and another one when it has died."""
        failures = 0
        while not self._ending.is_set():
            try:
                served, code = await self._run_one()
            except OSError:
                if self._ending.is_set():  # which has closed what the worker was to inherit
                    return
                raise
            failures = 0 if served else failures + 1
            if not self._ending.is_set() and code != USAGE_ERROR:
                LOGGER.warning("a worker has ended with %d", code)
            if not self._has_served and (failures == FIRST_TRIES or code == USAGE_ERROR):
                self.exit_code = USAGE_ERROR if code == USAGE_ERROR else FAILED
                self._end()
            else:
                with anyio.move_on_after(min(SHORTEST_PAUSE * 2**failures, LONGEST_PAUSE)):
                    await self._ending.wait()

    async def _run_one(self) -> tuple[bool, int]:
        """Whether it has served before it ended, and its exit code."""
        async with await self._started() as process:
            self._running.add(process)
            served = await self._serves_in_time(process)
            if served:
                self._has_served = True
                self._settled.set()
            code = await process.wait()
            self._running.remove(process)
            return served, code

    async def _started(self) -> Process:
        return await anyio.open_process(
            self.command,
            stdin=self._pipe[0],
            stdout=subprocess.PIPE,
            stderr=None,
            env=self.environment,
            pass_fds=(self.door.fileno(),),
            start_new_session=True,  # so that Ctrl-C reaches the parent alone
        )

    async def _serves_in_time(self, process: Process) -> bool:
        """Waits until it says that it serves, or has ended. Ends one that takes too long, or is wanted no more."""
        with anyio.move_on_after(LONGEST_START) as start:
            self._starts.add(start)
            if self._ending.is_set():
                start.cancel()
            try:
                return await _tells_that_it_serves(process)
            finally:
                self._starts.remove(start)
        with suppress(ProcessLookupError):
            process.kill()
        return False


async def _tells_that_it_serves(process: Process) -> bool:
    said = b""
    with suppress(anyio.EndOfStream):
        while not said.endswith(SERVES):
            said = (said + await cast("ByteReceiveStream", process.stdout).receive())[-len(SERVES) :]
    return said.endswith(SERVES)
