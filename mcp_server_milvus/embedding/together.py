"""One asks, and all who want the same meanwhile share what comes of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

from mcp_server_milvus.errors import EmbedderFailed

T = TypeVar("T")


@dataclass
class _Asked(Generic[T]):
    """`outcome` is None while it is under way, and for ever if the one who asked has given up."""

    over: anyio.Event = field(default_factory=anyio.Event)
    outcome: T | EmbedderFailed | None = None


class Together(Generic[T]):
    """What is asked at present, each under the text that tells it from the others."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked[T]] = {}

    async def ask(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, or what it gave to another who came before; if that one has given up, the next one asks.

        Raises:
            EmbedderFailed: as `ask`, a copy for each.
        """
        while asked := self._asked.get(what):
            await asked.over.wait()
            if isinstance(asked.outcome, EmbedderFailed):
                raise again(asked.outcome)
            if asked.outcome is not None:
                return asked.outcome
        return await self._ask(what, ask)

    async def _ask(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        asked = self._asked[what] = _Asked[T]()
        try:
            asked.outcome = answer = await ask()
        except EmbedderFailed as failure:
            asked.outcome = again(failure)
            raise
        finally:
            del self._asked[what]
            asked.over.set()
        return answer


def again(failure: EmbedderFailed) -> EmbedderFailed:
    """The same failure for another call, which may add to it, and without the frames of the first."""
    return type(failure)(failure.message, hint=failure.hint)
