"""Databases of the connected Milvus."""

from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset


class ListDatabasesInput(Input):
    """No arguments but the one that every tool has."""

    db_name: str | None = Field(None, description="Not needed: all databases are listed")


class ListDatabasesOutput(Output):
    """The names, and which one calls use that name none."""

    databases: list[str]
    default: str


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def list_databases(app: App, args: ListDatabasesInput) -> ListDatabasesOutput:
    """Lists the databases. Every other tool takes one as db_name."""
    async with app.clients.client(app.database(args.db_name)) as client:
        names = await client.list_databases()
    return ListDatabasesOutput(databases=sorted(names), default=app.settings.db_name)


TOOLS = (list_databases,)
