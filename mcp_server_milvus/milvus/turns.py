"""Locks by key, of which there are only those that somebody holds or waits for."""

from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

import anyio


class Turns:
    """Whoever asks for the same key waits for its turn."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, anyio.Lock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._locks

    @asynccontextmanager
    async def of(self, key: Hashable) -> AsyncGenerator[None]:
        """Lets one in at a time for each key, for as long as the block runs."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = anyio.Lock(fast_acquire=True)
        try:
            async with lock:
                yield
        finally:
            if is_unused(lock) and self._locks.get(key) is lock:
                del self._locks[key]


def is_unused(lock: anyio.Lock) -> bool:
    """Whether nobody holds it or waits for it."""
    return not lock.locked()  # one that is let go while others wait is the next one's at once
