"""Databases of the connected Milvus."""

from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.dropped import in_trash
from mcp_server_milvus.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from mcp_server_milvus.losses.structures import database_lost
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import masked
from mcp_server_milvus.milvus.specs import Properties, split_properties
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

DEFAULT_DATABASE = "default"
SHOWN_COLLECTIONS = 5
"""Collections that a message names."""


class ListDatabasesInput(Input):
    """No arguments but the one that every tool has."""

    db_name: str | None = None


class ListDatabasesOutput(Output):
    """The names, and which one calls use that name none."""

    databases: list[str]
    default: str


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def list_databases(app: App, args: ListDatabasesInput) -> ListDatabasesOutput:
    """Lists databases."""
    async with app.clients.client(app.database(args.db_name)) as client:
        names = await client.list_databases()
    return ListDatabasesOutput(databases=sorted(names), default=app.settings.db_name)


class DescribeDatabaseInput(Input):
    """Which database."""

    db_name: Name | None = None


class DescribeDatabaseOutput(Output):
    """What a database has."""

    db_name: str
    collection_count: int
    properties: dict[str, Any] | None = None
    notes: list[str] | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def describe_database(app: App, args: DescribeDatabaseInput) -> DescribeDatabaseOutput:
    """Describes a database: collection count, properties."""
    db_name = app.database(args.db_name)
    async with app.clients.client(db_name) as client:
        known = client.backend.has(Feature.DATABASE_PROPERTIES)
        collections = await client.list_collections()
        properties = await _properties(client, db_name or DEFAULT_DATABASE) if known else {}
        unknown = None if known else [f"properties: {client.backend} keeps none of a database"]
    return DescribeDatabaseOutput(
        db_name=db_name or DEFAULT_DATABASE,
        collection_count=len(collections),
        properties=masked(properties) or None,
        notes=unknown,
    )


class CreateDatabaseInput(Input):
    """The new database."""

    db_name: Name
    properties: Properties = Field(default_factory=dict)


class CreateDatabaseOutput(Output):
    """What there is now."""

    created: bool = Field(description="False: it was there already")
    db_name: str
    properties: dict[str, Any] | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def create_database(app: App, args: CreateDatabaseInput) -> CreateDatabaseOutput:
    """Creates a database."""
    wanted, _ = split_properties(args.properties)
    async with app.schemas.creating(args.db_name, ""), app.clients.client(app.settings.db_name) as client:
        if wanted:
            client.backend.require(Feature.DATABASE_PROPERTIES, where="properties")
        created = args.db_name not in await client.list_databases()
        if created:
            await client.create_database(args.db_name, wanted or None)
        there = await _properties(client, args.db_name) if wanted else {}
    if different := [name for name, value in wanted.items() if there.get(name) != value]:
        raise AlreadyExists(
            f"database {args.db_name!r} exists with other properties: {', '.join(different)}",
            hint="alter_database changes them",
        )
    return CreateDatabaseOutput(created=created, db_name=args.db_name, properties=masked(there) or None)


class AlterDatabaseInput(Input):
    """Which database, and its new properties."""

    db_name: Name
    properties: Properties


class AlterDatabaseOutput(Output):
    """The properties as they are now."""

    db_name: str
    properties: dict[str, Any]


@tool(toolset=Toolset.SCHEMA, effect=Effect.MODIFY)
async def alter_database(app: App, args: AlterDatabaseInput) -> AlterDatabaseOutput:
    """Changes properties of a database."""
    wanted, dropped = split_properties(args.properties)
    async with app.clients.client(app.settings.db_name) as client:
        client.backend.require(Feature.DATABASE_PROPERTIES, where="alter_database")
        if dropped:
            client.backend.require(Feature.DROP_PROPERTY, where=f"properties: {dropped[0]}")
        await _require_database(client, args.db_name)
        if wanted:
            await client.alter_database_properties(args.db_name, wanted)
        if dropped:
            await client.drop_database_properties(args.db_name, dropped)
        return AlterDatabaseOutput(db_name=args.db_name, properties=masked(await _properties(client, args.db_name)))


class DropDatabaseInput(Input):
    """Which database."""

    db_name: Name


class DropDatabaseOutput(Output):
    """That it is gone."""

    dropped: bool


@tool(toolset=Toolset.SCHEMA, effect=Effect.DELETE, loses=database_lost)
async def drop_database(app: App, args: DropDatabaseInput) -> DropDatabaseOutput:
    """Drops a database that has no collections."""
    if args.db_name in {DEFAULT_DATABASE, app.settings.db_name}:
        raise InvalidArgument(f"db_name: {args.db_name} is the default database, which is never dropped")
    async with app.clients.client(app.settings.db_name) as client:
        await _require_database(client, args.db_name)
    async with app.clients.client(args.db_name) as inside:
        collections = sorted(await inside.list_collections())
    if collections:
        more = ", …" if len(collections) > SHOWN_COLLECTIONS else ""
        raise Conflict(
            f"{args.db_name} has {len(collections)} collections: {', '.join(collections[:SHOWN_COLLECTIONS])}{more}",
            hint="drop_collection each of them first",
        )
    if dropped := await in_trash(app, args.db_name):
        raise Conflict(f"{args.db_name} has {len(dropped)} dropped collections", hint="purge_dropped, with id: all")
    async with app.clients.client(app.settings.db_name) as client:
        await client.drop_database(args.db_name)
    app.schemas.forget_database(args.db_name)
    await app.clients.forget(args.db_name)
    return DropDatabaseOutput(dropped=True)


async def _require_database(client: "Client", db_name: str) -> None:
    """Nothing, if it is there. Milvus 2.3.5 drops a database that is not there without a word."""
    if db_name not in await client.list_databases():
        raise NotFound(f"there is no database {db_name!r}", hint="list_databases shows what there is")


async def _properties(client: "Client", db_name: str) -> dict[str, str]:
    described = cast("dict[str, str]", await client.describe_database(db_name))
    return {name: str(value) for name, value in described.items() if name != "name"}


TOOLS = (list_databases, describe_database, create_database, alter_database, drop_database)
