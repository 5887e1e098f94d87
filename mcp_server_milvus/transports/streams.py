"""The process's standard input and output as an asyncio reader and writer, be they pipes, files or a terminal."""

import asyncio
import contextlib
import os
import stat
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any, Protocol, cast

import anyio.to_thread

if sys.platform == "linux":
    import fcntl


PIPE_BYTES = 2**20
"""What Linux allows every user in a pipe; and what is read at once, where asyncio would read a quarter of it."""


class Writer(Protocol):
    """What is used of `asyncio.StreamWriter`."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...


@contextlib.asynccontextmanager
async def standard_streams(reader: asyncio.StreamReader, on_lost: Callable[[], None]) -> AsyncGenerator[Writer]:
    """Standard input, fed to `reader`, and a writer to standard output, which is written out at the end of the block.

    Meanwhile descriptors 0 and 1 are the null device and standard error, so that a stray print or a child that reads
    does the conversation no harm. `on_lost` is called when nobody reads the output any more.
    """
    with _claimed() as (stdin, stdout):
        async with _reading(stdin, stdout, reader), _writing(stdout, stdin, on_lost) as writer:
            yield writer


@contextlib.contextmanager
def _claimed() -> Generator[tuple[int, int]]:
    """Duplicates of 0 and 1. They stay open: a thread may wait at one for as long as the process lives."""
    stdin, stdout = os.dup(0), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    try:
        yield stdin, stdout
    finally:
        sys.stdout.flush()  # what was printed meanwhile goes to standard error
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)


def _loop_can_serve(fd: int, other: int) -> bool:
    """Whether `fd` is a pipe or a socket. Not one socket for both: there asyncio takes any input for a hang-up."""
    status = os.fstat(fd)
    is_pipe = stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)
    return sys.platform != "win32" and is_pipe and not os.path.samestat(status, os.fstat(other))


@contextlib.asynccontextmanager
async def _reading(fd: int, other: int, reader: asyncio.StreamReader) -> AsyncGenerator[None]:
    if not _loop_can_serve(fd, other):
        _feed_from_thread(fd, reader)
        yield
        return
    _widen(fd)
    with _made_blocking_again(fd):
        protocol = asyncio.StreamReaderProtocol(reader)
        pipe = os.fdopen(os.dup(fd), "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        cast("Any", transport).max_size = PIPE_BYTES
        try:
            yield
        finally:
            transport.close()


def _widen(fd: int) -> None:
    """Lets a pipe hold more than the usual 64 KiB, so that a message of some MB does not come in 40 pieces.

    The event loop waits some 5 ms for each while a thread computes.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a socket, or more than this user may have
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _feed_from_thread(fd: int, reader: asyncio.StreamReader) -> None:
    """Not a thread of anyio's: one that waits at a terminal would keep the process from ending."""
    loop = asyncio.get_running_loop()

    def feed() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ended first
            with contextlib.suppress(OSError):
                while chunk := os.read(fd, 65536):
                    loop.call_soon_threadsafe(reader.feed_data, chunk)
            loop.call_soon_threadsafe(reader.feed_eof)

    threading.Thread(target=feed, name="standard input", daemon=True).start()


@contextlib.asynccontextmanager
async def _writing(fd: int, other: int, on_lost: Callable[[], None]) -> AsyncGenerator[Writer]:
    if not _loop_can_serve(fd, other):
        file = _FileWriter(fd, on_lost)
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                await file.drain()
        return
    loop = asyncio.get_running_loop()
    with _made_blocking_again(fd):
        pipe = os.fdopen(os.dup(fd), "wb", buffering=0)
        transport, protocol = await loop.connect_write_pipe(lambda: _LostProtocol(on_lost), pipe)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        try:
            yield writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.contextmanager
def _made_blocking_again(fd: int) -> Generator[None]:
    """The event loop makes a descriptor non-blocking for everybody who shares it, the parent process too."""
    blocking = os.get_blocking(fd)
    try:
        yield
    finally:
        os.set_blocking(fd, blocking)


class _LostProtocol(asyncio.StreamReaderProtocol):
    def __init__(self, on_lost: Callable[[], None]) -> None:
        super().__init__(asyncio.StreamReader())
        self._on_lost = on_lost

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_lost()


class _FileWriter:
    """Writes in a thread, in order, what the event loop must not wait for: a file, a terminal."""

    def __init__(self, fd: int, on_lost: Callable[[], None]) -> None:
        self._file = os.fdopen(fd, "wb", buffering=0, closefd=False)
        self._on_lost = on_lost
        self._pending = bytearray()
        self._turn = anyio.Lock()

    def write(self, data: bytes) -> None:
        self._pending += data

    async def drain(self) -> None:
        async with self._turn:
            data, self._pending = memoryview(self._pending), bytearray()
            try:
                with anyio.CancelScope(shield=True):  # what was taken is written
                    await anyio.to_thread.run_sync(self._write_all, data)
            except OSError:
                self._on_lost()
                raise

    def _write_all(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) :]
