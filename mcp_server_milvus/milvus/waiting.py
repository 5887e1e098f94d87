"""Waiting for what Milvus does in the background, with progress. The pool's deadline bounds every wait."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from mcp_server_milvus.errors import MilvusFailed
from mcp_server_milvus.milvus.schema import Index

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

ReportProgress = Callable[[float, float | None, str | None], Awaitable[None]]
"""Tells the caller how far a call is: done, total if known, and a few words."""

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5


async def load_and_wait(
    client: "Client", collection_name: str, report_progress: ReportProgress, **options: Any
) -> None:
    """Loads the collection and returns when all of it is in memory. The options are those of `start_loading`."""
    await client.start_loading(collection_name, **options)
    await _complete(lambda: client.loading_progress(collection_name), f"loading {collection_name}", report_progress)


async def load_partitions_and_wait(
    client: "Client", collection_name: str, partition_names: list[str], report_progress: ReportProgress
) -> None:
    """Loads these partitions and returns when all of them are in memory."""
    await client.start_loading_partitions(collection_name, partition_names)
    await _complete(
        lambda: client.loading_progress(collection_name, partition_names),
        f"loading {len(partition_names)} partitions of {collection_name}",
        report_progress,
    )


async def refresh_and_wait(client: "Client", collection_name: str, report_progress: ReportProgress) -> None:
    """Loads what was imported since the collection was loaded, and returns when all of it is in memory."""
    await client.start_loading(collection_name, refresh=True)
    await _complete(lambda: client.refresh_progress(collection_name), f"refreshing {collection_name}", report_progress)


@dataclass(frozen=True)
class Compaction:
    """How far a compaction is: Milvus's word for its state, and its plans by what became of them."""

    state: str
    executing_plans: int
    completed_plans: int
    timed_out_plans: int


async def wait_for_compaction(client: "Client", job_id: int, report_progress: ReportProgress) -> Compaction:
    """The compaction once it is over."""
    async for _ in _pauses():
        found = await client.compaction(job_id)
        if found.state != "Executing":
            return found
        total = found.completed_plans + found.executing_plans
        await report_progress(found.completed_plans, total, "compacting")
    raise AssertionError  # the pauses never end


async def wait_for_restored(client: "Client", job_id: int, report_progress: ReportProgress) -> Any:
    """The job of restoring a snapshot once it is over, as pymilvus tells it."""
    async for _ in _pauses():
        job = await client.get_restore_snapshot_state(job_id)
        if job.state in {"RestoreSnapshotCompleted", "RestoreSnapshotFailed"}:
            return job
        await report_progress(job.progress, 100, f"restoring {job.collection_name}")
    raise AssertionError  # the pauses never end


async def flush_all_and_wait(client: "Client", report_progress: ReportProgress) -> None:
    """Flushes every collection of the client's database and returns when all that was written before is flushed."""
    if client.backend.is_lite:  # which flushes one collection at a time, and answers when it is done
        names = await client.list_collections()
        for done, name in enumerate(names):
            await report_progress(done, len(names), f"flushing {name}")
            await client.flush(name)
        return
    since = await client.start_flushing_all()
    async for _ in _pauses():
        if await client.flushed_all(since):
            return
        await report_progress(0, None, "flushing all collections")


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


async def _complete(percent_done: Callable[[], Awaitable[int]], told: str, report_progress: ReportProgress) -> None:
    """Returns when it is 100 percent."""
    async for _ in _pauses():
        percent = await percent_done()
        if percent >= 100:  # noqa: PLR2004  # percent
            return
        await report_progress(percent, 100, told)


async def _pauses() -> AsyncIterator[None]:
    """At once, then after pauses in seconds that double up to the longest."""
    pause = FIRST_PAUSE
    while True:
        yield
        await anyio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
