"""Aliases: second names of collections, which can be pointed elsewhere at any moment."""

from typing import TYPE_CHECKING

import anyio
from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import AlreadyExists, NotFound
from mcp_server_milvus.losses.structures import alias_lost
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import cursor_fingerprint, decode_cursor, encode_cursor, fitting
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

LOOK_UPS_AT_ONCE = 8
PAGE = 200
"""Aliases that one answer lists."""


class PointAliasInput(Input):
    """Which alias, and of which collection."""

    collection_name: Name
    alias: Name
    db_name: Name | None = None


class AliasOutput(Output):
    """One alias, as it is now."""

    alias: str
    collection_name: str


class CreateAliasOutput(AliasOutput):
    """The alias, and whether it is new."""

    created: bool = Field(description="False: it was there already, the same")


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def create_alias(app: App, args: PointAliasInput) -> CreateAliasOutput:
    """Creates an alias of a collection."""
    db_name = app.database(args.db_name)
    collection_name = (await app.schemas.refresh(db_name, args.collection_name)).name
    async with app.schemas.creating(db_name, args.alias), app.clients.client(db_name) as client:
        there = await client.alias_target(args.alias)
        if there is None:
            await client.create_alias(collection_name, args.alias)
            await client.forget_schemas(args.alias)
        elif there != collection_name:
            raise AlreadyExists(f"{args.alias!r} is an alias of {there!r}", hint="alter_alias points it elsewhere")
    app.schemas.forget(db_name, args.alias)
    return CreateAliasOutput(alias=args.alias, collection_name=collection_name, created=there is None)


class AlterAliasOutput(AliasOutput):
    """The alias, and what it was an alias of."""

    previous: str


@tool(toolset=Toolset.SCHEMA, effect=Effect.MODIFY)
async def alter_alias(app: App, args: PointAliasInput) -> AlterAliasOutput:
    """Points an alias at another collection."""
    db_name = app.database(args.db_name)
    collection_name = (await app.schemas.refresh(db_name, args.collection_name)).name
    async with app.clients.client(db_name) as client:
        previous = await _required_target(client, args.alias)
        await client.alter_alias(collection_name, args.alias)
        await client.forget_schemas(args.alias)
    app.schemas.forget(db_name, args.alias)
    return AlterAliasOutput(alias=args.alias, collection_name=collection_name, previous=previous)


class DropAliasInput(Input):
    """Which alias."""

    alias: Name
    db_name: Name | None = None


class DropAliasOutput(Output):
    """That the alias is gone; the collection is not."""

    dropped: bool
    collection_name: str


@tool(toolset=Toolset.SCHEMA, effect=Effect.DELETE, loses=alias_lost)
async def drop_alias(app: App, args: DropAliasInput) -> DropAliasOutput:
    """Drops an alias; its collection stays."""
    db_name = app.database(args.db_name)
    async with app.clients.client(db_name) as client:
        collection_name = await _required_target(client, args.alias)
        await client.drop_alias(args.alias)
        await client.forget_schemas(args.alias)
    app.schemas.forget(db_name, args.alias)
    return DropAliasOutput(dropped=True, collection_name=collection_name)


class ListAliasesInput(Input):
    """Of which collection, or which page of all."""

    collection_name: Name | None = None
    cursor: str | None = None
    db_name: Name | None = None


class ListAliasesOutput(Output):
    """Aliases by name."""

    aliases: list[AliasOutput]
    next_cursor: str | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def list_aliases(app: App, args: ListAliasesInput) -> ListAliasesOutput:
    """Lists aliases with their collections."""
    db_name = app.database(args.db_name)
    fingerprint = cursor_fingerprint("list_aliases", db_name, args.collection_name or "")
    after = str(decode_cursor(args.cursor, fingerprint)) if args.cursor else ""
    of_one = (await app.schemas.refresh(db_name, args.collection_name)).name if args.collection_name else None
    async with app.clients.client(db_name) as client:
        names = await (client.aliases(of_one) if of_one else client.all_aliases())
        following = [name for name in names if name > after]
        shown = following[:PAGE]
        targets = dict.fromkeys(shown, of_one) if of_one else await _targets(client, shown)
    lines = [AliasOutput(alias=name, collection_name=target) for name in shown if (target := targets[name])]
    kept = lines[: fitting([line.model_dump() for line in lines], app.settings.max_result_bytes)]
    last = kept[-1].alias if len(kept) < len(lines) else max(shown, default="")
    more = last < max(following, default="")
    return ListAliasesOutput(aliases=kept, next_cursor=encode_cursor(fingerprint, last) if more else None)


async def _required_target(client: "Client", alias: str) -> str:
    """The collection of the alias. Milvus drops an alias that does not exist without a word."""
    target = await client.alias_target(alias)
    if target is None:
        raise NotFound(f"there is no alias {alias!r}", hint="list_aliases shows what there is")
    return target


async def _targets(client: "Client", aliases: list[str]) -> dict[str, str | None]:
    """The collection of each alias; None of one that is gone meanwhile."""
    targets: dict[str, str | None] = {}
    at_once = anyio.CapacityLimiter(LOOK_UPS_AT_ONCE)

    async def look_up(alias: str) -> None:
        async with at_once:
            targets[alias] = await client.alias_target(alias)

    async with anyio.create_task_group() as tasks:
        for alias in aliases:
            tasks.start_soon(look_up, alias)
    return targets


TOOLS = (list_aliases, create_alias, alter_alias, drop_alias)
