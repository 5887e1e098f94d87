"""Waiting for what Milvus does in the background, with progress. The pool's deadline bounds every wait."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from mcp_server_milvus.errors import MilvusFailed
from mcp_server_milvus.milvus.schema import Index

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.quirks import Client

ReportProgress = Callable[[float, float | None, str | None], Awaitable[None]]
"""Tells the caller how far a call is: done, total if known, and a few words."""

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5


async def load_and_wait(client: "Client", collection_name: str, report_progress: ReportProgress) -> None:
    """Loads the collection and returns when all of it is in memory."""
    await client.start_loading(collection_name)
    async for _ in _pauses():
        percent = await client.loading_progress(collection_name)
        if percent >= 100:  # noqa: PLR2004  # percent
            return
        await report_progress(percent, 100, f"loading {collection_name}")


async def wait_for_index(
    client: "Client", collection_name: str, field_name: str, report_progress: ReportProgress
) -> Index:
    """The index on the field, once it is built.

    Raises:
        MilvusFailed: it could not be built, or was dropped meanwhile.
    """
    async for _ in _pauses():
        found = next(
            (index for index in await client.describe_indexes(collection_name) if index.field_name == field_name), None
        )
        if found is None or found.state == "failed":
            raise MilvusFailed(
                f"the index on {field_name} was not built: {found.failure if found else 'it was dropped meanwhile'}"
            )
        if found.state == "finished":
            return found
        await report_progress(found.indexed_entities or 0, found.total_entities, f"building the index on {field_name}")
    raise AssertionError  # the pauses never end


async def _pauses() -> AsyncIterator[None]:
    """At once, then after pauses in seconds that double up to the longest."""
    pause = FIRST_PAUSE
    while True:
        yield
        await anyio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
