"""Snapshots: a collection as it was at one moment, to go back to. Milvus has them from 3.0 on."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import MilvusFailed
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.names import Name, SnapshotName
from mcp_server_milvus.milvus.waiting import wait_for_restored
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client


class SnapshotInput(Input):
    """Which snapshot of which collection."""

    snapshot_name: SnapshotName
    collection_name: Name
    db_name: Name | None = None


class CreateSnapshotInput(SnapshotInput):
    """A new snapshot."""

    description: str = ""


class CreatedOutput(Output):
    """That it is there."""

    created: bool = True


@tool(toolset=Toolset.OPERATIONS, effect=Effect.CREATE)
async def create_snapshot(app: App, args: CreateSnapshotInput) -> CreatedOutput:
    """Flushes a collection and keeps it as it is now."""
    async with _snapshots(app, args.db_name, "create_snapshot") as client:
        await client.flush(args.collection_name)  # a snapshot has only what is flushed
        await client.create_snapshot(
            args.snapshot_name,
            args.collection_name,
            db_name=app.database(args.db_name),
            description=args.description,
        )
    return CreatedOutput()


class ListSnapshotsInput(Input):
    """Whose snapshots."""

    collection_name: Name
    db_name: Name | None = None


class ListSnapshotsOutput(Output):
    """Names, sorted."""

    snapshots: list[str]


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def list_snapshots(app: App, args: ListSnapshotsInput) -> ListSnapshotsOutput:
    """Lists a collection's snapshots."""
    async with _snapshots(app, args.db_name, "list_snapshots") as client:
        found = await client.list_snapshots(args.collection_name, db_name=app.database(args.db_name))
    return ListSnapshotsOutput(snapshots=sorted(found))


class SnapshotOutput(Output):
    """A snapshot."""

    snapshot_name: str
    collection_name: str
    description: str | None = None
    partitions: list[str]
    created: int = Field(description="Milliseconds since 1970")


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def describe_snapshot(app: App, args: SnapshotInput) -> SnapshotOutput:
    """Describes a snapshot."""
    async with _snapshots(app, args.db_name, "describe_snapshot") as client:
        found = await client.describe_snapshot(
            args.snapshot_name, args.collection_name, db_name=app.database(args.db_name)
        )
    return SnapshotOutput(
        snapshot_name=found.name,
        collection_name=found.collection_name,
        description=found.description or None,
        partitions=found.partition_names,
        created=found.create_ts,
    )


class RestoreSnapshotInput(Input):
    """Which snapshot, and as what."""

    snapshot_name: SnapshotName
    source_collection_name: Name
    target_collection_name: Name
    wait: bool = False
    db_name: Name | None = None


class RestoreOutput(Output):
    """A restoration, and how far it is."""

    job_id: str
    state: str
    percent: int
    collection_name: str
    reason: str | None = Field(None, description="Why it failed")


@tool(toolset=Toolset.OPERATIONS, effect=Effect.CREATE)
async def restore_snapshot(app: App, args: RestoreSnapshotInput) -> RestoreOutput:
    """Makes a new collection from a snapshot. Returns a job_id, or waits."""
    db_name = app.database(args.db_name)
    async with _snapshots(app, args.db_name, "restore_snapshot") as client:
        job_id = await client.restore_snapshot(
            args.snapshot_name,
            args.source_collection_name,
            args.target_collection_name,
            source_db_name=db_name,
            target_db_name=db_name,
        )
        app.schemas.forget(db_name, args.target_collection_name)
        if args.wait:
            return _succeeded(await wait_for_restored(client, job_id, app.report_progress))
        return _restoration(await client.get_restore_snapshot_state(job_id))


class ListRestoresInput(Input):
    """Of which database."""

    db_name: Name | None = None


class ListRestoresOutput(Output):
    """Restorations that Milvus still knows."""

    jobs: list[RestoreOutput]


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def list_restore_snapshot_jobs(app: App, args: ListRestoresInput) -> ListRestoresOutput:
    """Tells how far each restore_snapshot is."""
    async with _snapshots(app, args.db_name, "list_restore_snapshot_jobs") as client:
        found = await client.list_restore_snapshot_jobs(db_name=app.database(args.db_name))
    return ListRestoresOutput(jobs=[_restoration(job) for job in found])


class DroppedOutput(Output):
    """That it is gone."""

    dropped: bool = True


@tool(toolset=Toolset.OPERATIONS, effect=Effect.DELETE)
async def drop_snapshot(app: App, args: SnapshotInput) -> DroppedOutput:
    """Drops a snapshot."""
    async with _snapshots(app, args.db_name, "drop_snapshot") as client:
        await client.drop_snapshot(args.snapshot_name, args.collection_name, db_name=app.database(args.db_name))
    return DroppedOutput()


@asynccontextmanager
async def _snapshots(app: App, db_name: str | None, where: str) -> "AsyncGenerator[Client]":
    """A client of a Milvus that has snapshots, for as long as building may take."""
    async with app.clients.client(app.database(db_name), seconds=app.settings.build_timeout) as client:
        client.backend.require(Feature.SNAPSHOTS, where=where)
        yield client


def _restoration(job: Any) -> RestoreOutput:
    return RestoreOutput(
        job_id=str(job.job_id),
        state=job.state.removeprefix("RestoreSnapshot"),
        percent=job.progress,
        collection_name=job.collection_name,
        reason=job.reason or None,
    )


def _succeeded(job: Any) -> RestoreOutput:
    told = _restoration(job)
    if told.state == "Failed":
        raise MilvusFailed(f"the snapshot was not restored: {told.reason or 'Milvus does not say why'}")
    return told


TOOLS = (
    create_snapshot,
    list_snapshots,
    describe_snapshot,
    restore_snapshot,
    list_restore_snapshot_jobs,
    drop_snapshot,
)
