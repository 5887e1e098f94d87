"""What an operator asks of a Milvus: how it is, what it holds, and to put that in order."""

from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import AfterValidator, Field

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import Denied, InvalidArgument, NotSupported
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import cursor_fingerprint, decode_cursor, encode_cursor, fitting
from mcp_server_milvus.milvus.schema import CollectionSchema, Index
from mcp_server_milvus.milvus.waiting import (
    Compaction,
    flush_all_and_wait,
    refresh_and_wait,
    wait_for_compaction,
    wait_for_index,
)
from mcp_server_milvus.tool import BoundedOutput, Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

MAX_DATABASES = 100
"""Databases that server_info names; list_databases names all."""

NOTHING_TO_COMPACT = -1
"""The job that Milvus names when there is none."""

AS_THE_SERVER_CHOOSES = 2**63 - 1
"""The target size in MB by which Milvus understands that it is to choose."""


def _is_number(text: str) -> str:
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise ValueError(f"{text[:80]!r} is not the number of a job")
    return text


JobId = Annotated[str, AfterValidator(_is_number)]
"""Text, since Milvus's numbers are too large for the numbers of JSON."""


class ServerInfoInput(Input):
    """Nothing but the database to connect to."""

    db_name: Name | None = None


class ServerInfoOutput(BoundedOutput):
    """A backend as this server sees it."""

    backend: str = Field(description="Kind and version")
    kind: str = Field(description="embedded, STANDALONE or DISTRIBUTED, as the backend says")
    healthy: bool
    reasons: list[str] | None = Field(None, description="Why it is not healthy, in its own words")
    databases: list[str] | None = Field(None, description="Absent: this account may not list them")
    default_database: str
    supported: list[str]
    not_supported: list[str]
    types: list[str]
    functions: list[str]


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def server_info(app: App, args: ServerInfoInput) -> ServerInfoOutput:
    """Tells version, health, databases and capabilities of the connected Milvus."""
    async with app.clients.client(app.database(args.db_name)) as client:
        backend = client.backend
        healthy, reasons = await client.health()
        detail = cast("Any", await client.get_server_version(detail=True))
    databases = await _databases(app, args.db_name)
    return ServerInfoOutput(
        backend=str(backend),
        kind=str(detail["deploy_mode"]),
        healthy=healthy,
        reasons=reasons or None,
        databases=databases[:MAX_DATABASES] if databases is not None else None,
        default_database=app.settings.db_name,
        supported=[str(feature) for feature in Feature if backend.has(feature)],
        not_supported=[str(feature) for feature in Feature if not backend.has(feature)],
        types=[str(kind) for kind in backend.types],
        functions=[str(kind) for kind in backend.functions],
        applied_limits=[f"{MAX_DATABASES} of {len(databases)} databases; list_databases shows all"]
        if databases and len(databases) > MAX_DATABASES
        else None,
    )


class CollectionInput(Input):
    """Which collection."""

    collection_name: Name
    db_name: Name | None = None


class CollectionStatsOutput(Output):
    """What a collection holds, and in which state."""

    collection_name: str
    loaded: bool
    loading_percent: int | None = Field(None, description="Absent when nothing is being loaded")
    entity_count: int | None = Field(None, description="Entities that can be read; absent when it is not loaded")
    row_count: int = Field(description="Entities flushed, deleted ones included until they are compacted away")
    segments: dict[str, int] | None = Field(None, description="How many there are in each state")
    indexes: list[dict[str, Any]]


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def collection_stats(app: App, args: CollectionInput) -> CollectionStatsOutput:
    """Counts a collection's entities and segments, with the state of loading and indexes."""
    async with app.clients.client(app.database(args.db_name)) as client:
        state = cast("Any", await client.get_load_state(args.collection_name))
        loaded = state["state"].name == "Loaded"
        return CollectionStatsOutput(
            collection_name=args.collection_name,
            loaded=loaded,
            loading_percent=state.get("progress") if state["state"].name == "Loading" else None,
            entity_count=await client.entity_count(args.collection_name, loaded=True) if loaded else None,
            row_count=await _row_count(client, args.collection_name),
            segments=await _segments_by_state(client, args.collection_name),
            indexes=[_index_state(index) for index in await client.describe_indexes(args.collection_name)],
        )


class FlushInput(Input):
    """Which collection, if not all."""

    collection_name: Name | None = Field(None, description="Default: all")
    db_name: Name | None = None


class FlushOutput(Output):
    """That all that was written before is sealed and stored."""

    flushed: bool = True
    row_count: int | None = Field(None, description="Of the collection, deleted entities included")


@tool(toolset=Toolset.OPERATIONS, effect=Effect.CREATE)
async def flush(app: App, args: FlushInput) -> FlushOutput:
    """Flushes what was written, so that it is stored, indexed and searched fast."""
    async with app.clients.client(app.database(args.db_name), seconds=app.settings.build_timeout) as client:
        if args.collection_name is None:
            await flush_all_and_wait(client, app.report_progress)
            return FlushOutput(row_count=None)
        await _row_count(client, args.collection_name)  # Milvus Lite flushes what is not there with success
        await client.flush(args.collection_name)
        return FlushOutput(row_count=await _row_count(client, args.collection_name))


class CompactInput(Input):
    """Which collection, and how."""

    collection_name: Name
    is_clustering: bool = Field(default=False, description="By the clustering key")
    is_l0: bool = Field(default=False, description="Only apply deletions")
    target_size: int | None = Field(None, ge=1, description="MB")
    wait: bool = False
    db_name: Name | None = None


class CompactOutput(Output):
    """The job, and how far it is."""

    job_id: str | None = Field(None, description="For compaction_state; absent: there was nothing to compact")
    state: str = Field(description="Executing, Completed, or UndefiedState")
    executing_plans: int | None = None
    completed_plans: int | None = None
    timed_out_plans: int | None = None


@tool(toolset=Toolset.OPERATIONS, effect=Effect.MODIFY)
async def compact(app: App, args: CompactInput) -> CompactOutput:
    """Starts merging small segments and removing deleted entities. Returns a job_id, or waits."""
    db_name = app.database(args.db_name)
    async with app.clients.client(db_name, seconds=app.settings.build_timeout if args.wait else None) as client:
        _require_compaction(client, args)
        job_id = await client.compact(
            args.collection_name, is_clustering=args.is_clustering, is_l0=args.is_l0, target_size=args.target_size
        )
        return await _compacted(app, client, job_id, wait=args.wait)


class CompactionStateInput(Input):
    """Which job."""

    job_id: JobId
    wait: bool = False
    db_name: Name | None = None


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def compaction_state(app: App, args: CompactionStateInput) -> CompactOutput:
    """Tells how far a compaction is, or waits for its end."""
    db_name, job_id = app.database(args.db_name), int(args.job_id)
    async with app.clients.client(db_name, seconds=app.settings.build_timeout if args.wait else None) as client:
        client.backend.require(Feature.COMPACTION, where="compaction_state")
        return await _compacted(app, client, job_id, wait=args.wait)


class ListSegmentsInput(Input):
    """Which page of which collection's segments."""

    collection_name: Name
    limit: int = Field(100, ge=1, le=1_000)
    cursor: str | None = None
    db_name: Name | None = None


class Segment(Output):
    """One segment."""

    segment_id: str
    state: str
    num_rows: int
    level: str
    is_sorted: bool | None = None
    compacted_from: list[str] | None = None


class ListSegmentsOutput(Output):
    """Segments by number."""

    segments: list[Segment]
    total: int
    next_cursor: str | None = None


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def list_segments(app: App, args: ListSegmentsInput) -> ListSegmentsOutput:
    """Lists the segments in which a collection is stored."""
    db_name = app.database(args.db_name)
    fingerprint = cursor_fingerprint("list_segments", db_name, args.collection_name)
    after = int(decode_cursor(args.cursor, fingerprint)) if args.cursor else -1
    async with app.clients.client(db_name) as client:
        client.backend.require(Feature.SEGMENTS, where="list_segments")
        found = sorted(await client.list_segments(args.collection_name), key=lambda each: each.segment_id)
    following = [_segment(each) for each in found if each.segment_id > after]
    page = following[: args.limit]
    page = page[: fitting([each.model_dump(exclude_none=True) for each in page], app.settings.max_result_bytes)]
    return ListSegmentsOutput(
        segments=page,
        total=len(found),
        next_cursor=encode_cursor(fingerprint, int(page[-1].segment_id)) if len(page) < len(following) else None,
    )


class OptimizeInput(Input):
    """Which collection, and to what."""

    collection_name: Name
    target_size: int | None = Field(None, ge=1, description="MB")
    wait: bool = True
    db_name: Name | None = None


@tool(toolset=Toolset.OPERATIONS, effect=Effect.MODIFY)
async def optimize(app: App, args: OptimizeInput) -> CompactOutput:
    """Merges a collection into few large segments, then indexes and loads these."""
    db_name = app.database(args.db_name)

    async def improve(client: "Client", schema: CollectionSchema) -> CompactOutput:
        client.backend.require(Feature.TARGET_SIZE, where="optimize")
        if args.wait:
            await _wait_for_indexes(app, client, schema)
        job_id = await client.compact(args.collection_name, target_size=args.target_size or AS_THE_SERVER_CHOOSES)
        compacted = await _compacted(app, client, job_id, wait=args.wait)
        if args.wait:
            await _wait_for_indexes(app, client, schema)
            if await client.is_loaded(args.collection_name):
                await refresh_and_wait(client, args.collection_name, app.report_progress)
        return compacted

    return await app.with_schema(db_name, args.collection_name, improve, seconds=app.settings.build_timeout)


async def _compacted(app: App, client: "Client", job_id: int, *, wait: bool) -> CompactOutput:
    if job_id == NOTHING_TO_COMPACT:
        return CompactOutput(job_id=None, state="Completed")
    if wait:
        return _told(job_id, await wait_for_compaction(client, job_id, app.report_progress))
    return _told(job_id, await client.compaction(job_id))


async def _databases(app: App, db_name: str | None) -> list[str] | None:
    """The names, or None where this account may not see them."""
    try:
        async with app.clients.client(app.database(db_name)) as client:
            return sorted(await client.list_databases())
    except (Denied, NotSupported):
        return None


async def _row_count(client: "Client", collection_name: str) -> int:
    stats = cast("dict[str, Any]", await client.get_collection_stats(collection_name))
    return int(stats.get("row_count", 0))


async def _segments_by_state(client: "Client", collection_name: str) -> dict[str, int] | None:
    if not client.backend.has(Feature.SEGMENTS):
        return None
    states = [segment.state_name for segment in await client.list_segments(collection_name)]
    return {state: states.count(state) for state in sorted(set(states))}


def _index_state(index: Index) -> dict[str, Any]:
    told = {
        "field_name": index.field_name,
        "index_type": index.index_type,
        "state": index.state,
        "indexed_entities": index.indexed_entities,
        "total_entities": index.total_entities,
        "failure": index.failure or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _require_compaction(client: "Client", args: CompactInput) -> None:
    """A server takes what it does not know, and compacts as ever."""
    client.backend.require(Feature.COMPACTION, where="compact")
    if args.is_clustering:
        client.backend.require(Feature.CLUSTERING_KEY, where="is_clustering")
    if args.is_l0:
        client.backend.require(Feature.L0_COMPACTION, where="is_l0")
    if args.target_size:
        client.backend.require(Feature.TARGET_SIZE, where="target_size")
    if args.is_l0 and args.is_clustering:
        raise InvalidArgument("is_l0 and is_clustering are two kinds of compaction", hint="ask for one of them")


def _told(job_id: int, state: Compaction) -> CompactOutput:
    return CompactOutput(
        job_id=str(job_id),
        state=state.state,
        executing_plans=state.executing_plans,
        completed_plans=state.completed_plans,
        timed_out_plans=state.timed_out_plans,
    )


def _segment(described: Any) -> Segment:
    return Segment(
        segment_id=str(described.segment_id),
        state=described.state_name,
        num_rows=described.num_rows,
        level=described.level_name,
        is_sorted=described.is_sorted or None,
        compacted_from=[str(number) for number in described.compaction_from] or None,
    )


async def _wait_for_indexes(app: App, client: "Client", schema: CollectionSchema) -> None:
    for index in schema.indexes:
        await wait_for_index(client, schema.name, index.field_name, app.report_progress)


TOOLS = (server_info, collection_stats, flush, compact, compaction_state, list_segments, optimize)
