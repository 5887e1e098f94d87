"""Locks on files, by which processes that know nothing of each other agree on who does what.

A lock belongs to the open file behind it: it ends with `release()` or with the process, however that dies. The
descriptor is closed on exec (Python's default), so no process that is started here inherits a lock.
"""

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from mcp_server_milvus.errors import Unavailable

POLL_SECONDS = 0.03

T = TypeVar("T")

if sys.platform == "win32":  # this branch is unverified
    import msvcrt
    import secrets

    # There are no shared locks here: a shared one is a random byte of the range, an exclusive one the whole range. Two
    # that share meet on the same byte once in a million times, and the loser tries again.
    RANGE_BYTES = 1 << 20

    def lock_shared(descriptor: int) -> None:
        os.lseek(descriptor, secrets.randbelow(RANGE_BYTES), os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def lock_exclusive(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, RANGE_BYTES)

    def unlock(_descriptor: int) -> None:
        """Nothing: closing the file unlocks it."""

    def held_exclusively(_path: Path) -> bool:
        """False: a look would take the lock itself."""
        return False

else:
    import fcntl

    def lock_shared(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def lock_exclusive(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(descriptor: int) -> None:
        """Ends the lock in forked children too, which share the open file; closing would end it only here."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def held_exclusively(path: Path) -> bool:
        """Whether anybody holds the exclusive lock on a file. Writes nothing."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not succeeds(lock_shared, descriptor)
        finally:
            os.close(descriptor)


def succeeds(lock: Callable[[int], None], descriptor: int) -> bool:
    """Whether the lock was free. Raises OSError when the file system has no locks."""
    try:
        lock(descriptor)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


class FileLock:
    """One holder's lock on one file, which is made when missing and never removed. Attempts never wait."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether the lock is held, and on the file that others find under its path (somebody may have removed it)."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def try_shared(self) -> bool:
        """Whether nobody held it exclusively; then it is held here, beside others that share it."""
        return self._try(lock_shared, self._opened_somehow())

    def try_exclusive(self) -> bool:
        """Whether nobody else held it; then it is held here alone."""
        return self._try(lock_exclusive, self._opened())

    def _opened(self) -> int:
        self.release()
        return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def _opened_somehow(self) -> int:
        """Also where nothing may be written any more: whoever only shares can still look."""
        try:
            return self._opened()
        except OSError as problem:
            if problem.errno in {errno.EROFS, errno.EACCES} and self._path.exists():
                return os.open(self._path, os.O_RDONLY)
            raise

    def _try(self, lock: Callable[[int], None], descriptor: int) -> bool:
        locked = False
        try:
            locked = succeeds(lock, descriptor)
        finally:
            if not locked:
                os.close(descriptor)
        self._descriptor = descriptor if locked else None
        return locked

    @contextmanager
    def sharing(self) -> Generator[bool]:
        """Whether nobody holds it exclusively, nor can within the block."""
        try:
            yield self.try_shared()
        finally:
            self.release()

    def release(self) -> None:
        """Nothing is held afterwards, whatever was before."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        unlock(descriptor)
        os.close(descriptor)


class Patience:
    """A wait of so many seconds in all, for threads, which `given_up` ends at once."""

    def __init__(self, seconds: float, given_up: threading.Event) -> None:
        self._deadline = time.monotonic() + seconds
        self._given_up = given_up

    @property
    def left(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._deadline - time.monotonic())

    def until(self, attempt: Callable[[], T | None], otherwise: str) -> T:
        """The first result of `attempt` that is true. Raises Unavailable, with `otherwise`, at the deadline."""
        while not (result := attempt()):
            if self._given_up.wait(min(POLL_SECONDS, self.left)):
                raise no_longer_used()
            if not self.left:
                raise Unavailable(otherwise, hint="call again in a moment")
        return result


def no_longer_used() -> Unavailable:
    return Unavailable("the server is closing and no longer uses the embedded engine")
