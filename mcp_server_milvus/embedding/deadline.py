"""How long a call waits for embedders."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from mcp_server_milvus.errors import EmbedderUnavailable


@asynccontextmanager
async def within(seconds: float, *, hint: str = "call again") -> AsyncGenerator[None]:
    """What is awaited inside has so many seconds, all of it together.

    Raises:
        EmbedderUnavailable: they are up; the hint says what to do then.
    """
    with anyio.move_on_after(seconds) as deadline:
        yield
    if deadline.cancelled_caught:
        raise EmbedderUnavailable(f"the embedder did not answer within {seconds:g} s", hint=hint) from None
