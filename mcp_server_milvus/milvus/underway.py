"""Requests under way at once, and the keys they write: two with the same key are never under way together.

Milvus carries out requests that are under way at once in any order, so of an entity that a file holds twice either line
could stay, and an insert that looks first which keys are there would not see those of the other request.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

import anyio
import numpy as np

MOST_KEYS = 1 << 20
"""Keys that are remembered, in 8 bytes each."""


class UnderWay:
    """Room for so many requests at once."""

    def __init__(self, at_once: int) -> None:
        self._room = anyio.Semaphore(at_once)
        self._keys: dict[int, AbstractSet[int | str]] = {}
        self._left = anyio.Event()

    async def enter(self, number: int, keys: AbstractSet[int | str]) -> None:
        """Returns when there is room for the request, and none under way has one of its keys."""
        await self._room.acquire()
        while not all(keys.isdisjoint(each) for each in self._keys.values()):
            await self._left.wait()
        self._keys[number] = keys

    def leave(self, number: int) -> None:
        """Makes room again."""
        del self._keys[number]
        self._room.release()
        self._left.set()
        self._left = anyio.Event()


class KnownKeys:
    """Keys as 64-bit digests. Says of a key that it was added when it was, and now and then when it was not.

    Once `MOST_KEYS` are known it says so of every key.
    """

    def __init__(self) -> None:
        self._digests: Any = np.empty(0, np.int64)

    def add(self, keys: Iterable[int | str]) -> None:
        """Remembers the keys."""
        if len(self._digests) < MOST_KEYS:
            added = np.sort(_digests(keys))
            self._digests = np.insert(self._digests, np.searchsorted(self._digests, added), added)

    def may_have(self, keys: Iterable[int | str]) -> bool:
        """Whether one of the keys may have been added."""
        if len(self._digests) >= MOST_KEYS:
            return True
        sought = _digests(keys)
        before, through = (self._digests.searchsorted(sought, side) for side in ("left", "right"))
        return bool((before < through).any())


def _digests(keys: Iterable[int | str]) -> Any:
    return np.fromiter(map(hash, keys), np.int64)
