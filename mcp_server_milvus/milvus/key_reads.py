"""Reads by key that come at one time, as one request: of 32 calls, their requests cost more than all the rest of them.

One that comes alone is sent at once. What comes while it is under way waits for its end, and is then sent together.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcp_server_milvus.milvus.ranking import Key
from mcp_server_milvus.milvus.turns import Turns

FEW = 16
"""Keys of a read that shares requests. A larger one is worth its own, and nobody is to wait for it."""

MOST_CHARACTERS = 16_384
"""Of the keys of one request, together; a call may have more alone."""

Entities = Mapping[Key, Mapping[str, Any]]
Send = Callable[[Sequence[Key]], Awaitable[Entities]]
"""Asks for the entities of these keys, and returns those that there are."""


@dataclass
class _Batch:
    """Keys that will be asked for together; whoever of its callers is let in first asks."""

    keys: dict[Key, None] = field(default_factory=dict[Key, None])
    characters: int = 0
    callers: int = 0
    entities: Entities | None = None

    def has_room(self, keys: Sequence[Key], characters: int, most: int) -> bool:
        return len(self.keys) + len(keys) <= most and self.characters + characters <= MOST_CHARACTERS

    def add(self, keys: Sequence[Key], characters: int) -> None:
        self.keys.update(dict.fromkeys(keys))
        self.characters += characters


class KeyReads:
    """The reads by key of all who share a connection. Nobody fails, or waits in vain, because of another."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._waiting: dict[Hashable, _Batch] = {}

    async def read(self, kind: Hashable, keys: Sequence[Key], send: Send, *, most: Callable[[], int]) -> Entities:
        """The entities of these keys that there are, and perhaps some that others have asked for.

        `kind` is all that requests must have in common to be one; `most` tells how many keys one may have that is made
        of several. An answer is to a request that was sent after this call: it shows every write that had ended before.
        Where the request of others fails, their keys and these are asked for again, so that each meets its own failure.
        """
        if len(keys) > FEW:
            return await send(keys)
        characters = len(repr(keys))
        batch = self._waiting.get(kind)
        if batch is None or not batch.has_room(keys, characters, most()):
            batch = self._waiting[kind] = _Batch()
        batch.add(keys, characters)
        batch.callers += 1
        try:
            async with self._turns.of(kind):
                if batch.entities is None:
                    self._close(kind, batch)
                    batch.entities = await send(list(batch.keys))
                return batch.entities
        finally:
            batch.callers -= 1
            if not batch.callers:
                self._close(kind, batch)

    def _close(self, kind: Hashable, batch: _Batch) -> None:
        """Lets nobody else into the batch."""
        if self._waiting.get(kind) is batch:
            del self._waiting[kind]
