"""Undo: what was dropped or deleted is listed, restored, or purged for good."""

from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.dropped import Dropped, listed, purge, sweep, tidy
from mcp_server_milvus.errors import NotFound
from mcp_server_milvus.losses.structures import kept_lost
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import fitting
from mcp_server_milvus.tool import BoundedOutput, Input, Output, tool
from mcp_server_milvus.undo import as_time
from mcp_server_milvus.vocabulary import Effect, Toolset

ALL = "all"


class ListDroppedInput(Input):
    """Of which database."""

    db_name: Name | None = None


class DroppedLine(Output):
    """Something that can be restored: a collection, or entities of one."""

    id: str
    tool: str = Field(description="What dropped it")
    collection_name: str | None = None
    entity_count: int | None = None
    dropped_at: str | None = None
    kept_until: str


class ListDroppedOutput(BoundedOutput):
    """The newest first."""

    dropped: list[DroppedLine]


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def list_dropped(app: App, args: ListDroppedInput) -> ListDroppedOutput:
    """Lists what restore_collection can take back."""
    db_name = app.database(args.db_name)
    await sweep(app, db_name)
    found = await listed(app, db_name)
    await tidy(app, db_name, [each.name for each in found if each.is_collection])
    lines = [_line(each) for each in found]
    kept = lines[: fitting([line.model_dump(exclude_none=True) for line in lines], app.settings.max_result_bytes)]
    left_out = len(lines) - len(kept)
    return ListDroppedOutput(
        dropped=kept, applied_limits=[f"{left_out} older ones are not shown"] if left_out else None
    )


class RestoreCollectionInput(Input):
    """What, and by which name."""

    id: Name = Field(description="kept_as, or of list_dropped")
    new_name: Name | None = None
    db_name: Name | None = None


class RestoreCollectionOutput(Output):
    """What is there again."""

    collection_name: str
    entity_count: int | None = None
    already_there: int | None = Field(None, description="Entities whose keys are taken again; those were left")
    new_keys: bool | None = Field(None, description="Milvus gave the entities new keys")
    loaded: bool | None = None
    lost_aliases: list[str] | None = Field(None, description="They are another's now")


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def restore_collection(app: App, args: RestoreCollectionInput) -> RestoreCollectionOutput:
    """Takes back a drop, a truncation or a delete; replaces nothing."""
    from mcp_server_milvus.restoring import restore  # for which no handshake waits

    db_name = app.database(args.db_name)
    restored = await restore(app, db_name, args.id, args.new_name)
    await sweep(app, db_name)
    return RestoreCollectionOutput(
        collection_name=restored.collection_name,
        entity_count=restored.entity_count,
        already_there=restored.already_there or None,
        new_keys=restored.new_keys or None,
        loaded=restored.loaded,
        lost_aliases=list(restored.lost_aliases) or None,
    )


class PurgeDroppedInput(Input):
    """What."""

    id: Name = Field(description="Of list_dropped, or all")
    db_name: Name | None = None


class PurgeDroppedOutput(Output):
    """How many collections and deletions are gone."""

    purged: int


@tool(toolset=Toolset.OPERATIONS, effect=Effect.DELETE, loses=kept_lost)
async def purge_dropped(app: App, args: PurgeDroppedInput) -> PurgeDroppedOutput:
    """Removes what was dropped for good."""
    db_name = app.database(args.db_name)
    chosen = [each for each in await listed(app, db_name) if args.id in {each.name, ALL}]
    if not chosen and args.id != ALL:
        raise NotFound(f"nothing that was dropped is kept as {args.id!r}", hint="list_dropped shows what is")
    for each in chosen:
        await purge(app, db_name, each)
    await sweep(app, db_name)
    return PurgeDroppedOutput(purged=len(chosen))


def _line(each: Dropped) -> DroppedLine:
    return DroppedLine(
        id=each.name,
        tool=each.tool,
        collection_name=each.collection_name,
        entity_count=each.entity_count,
        dropped_at=as_time(each.dropped_at) if each.dropped_at else None,
        kept_until=as_time(each.until),
    )


TOOLS = (list_dropped, restore_collection, purge_dropped)
