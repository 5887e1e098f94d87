"""What a client reads by its address: guides, collections and entities. The latter two are read by the tools' own path.

So the audit log, limits, scopes, tenants and masks hold for a resource as for a call.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from mcp_types import Resource as ListedResource
from mcp_types import ResourceTemplate as ListedTemplate

from mcp_server_milvus.addresses import (
    COLLECTION_TEMPLATE,
    DEFAULT,
    ENTITY_TEMPLATE,
    Address,
    collection_address,
    guide_address,
    parsed,
)
from mcp_server_milvus.app import App
from mcp_server_milvus.compact import compact
from mcp_server_milvus.guides import GUIDES
from mcp_server_milvus.milvus.capabilities import Backend

JSON, MARKDOWN = "application/json", "text/markdown"
MOST_LISTED = 100
"""Collections among the resources: hosts show them to people. `list_collections` has them all."""

LITE = Backend((0, 0, 0), is_lite=True)
"""The embedded engine, of whichever version."""

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Calls a tool for the caller and returns its structured result.

Raises MCPError where it fails.
"""


async def listed(app: App, tools: Collection[str], ask: Ask) -> list[ListedResource]:
    """The guides; and once something has used the database, its collections: to list them starts nothing."""
    guides = [
        ListedResource(uri=guide_address(name), name=name, description=guide.title, mime_type=MARKDOWN)
        for name, guide in GUIDES.items()
    ]
    if not app.clients.connections or not {"list_collections", "describe_collection"} <= set(tools):
        return guides
    try:
        found = await ask("list_collections", {"limit": MOST_LISTED})
    except MCPError:
        return guides
    return [*guides, *(_collection(app, each) for each in found["collections"])]


def _collection(app: App, described: dict[str, Any]) -> ListedResource:
    """By its name alone: its description is stored text, which hosts would show as this server's own."""
    name = described["name"]
    return ListedResource(uri=collection_address(app.settings.db_name, name), name=name, mime_type=JSON)


def templates(tools: Collection[str]) -> list[ListedTemplate]:
    """The addresses that a client can make."""
    found: list[ListedTemplate] = []
    if "describe_collection" in tools:
        found.append(
            ListedTemplate(
                uri_template=COLLECTION_TEMPLATE,
                name="collection",
                description=f"Schema, indexes and entity count of a collection; db: {DEFAULT!r} if there is no other",
                mime_type=JSON,
            )
        )
    if "get" in tools:
        found.append(
            ListedTemplate(
                uri_template=ENTITY_TEMPLATE,
                name="entity",
                description="An entity by its primary key; what is no letter or digit is percent-encoded",
                mime_type=JSON,
            )
        )
    return found


async def read(app: App, uri: str, tools: Collection[str], ask: Ask) -> tuple[str, str]:
    """The text of a resource, and its media type.

    Raises:
        MCPError: there is none, or the tool that reads it has failed.
    """
    for name, guide in GUIDES.items():
        if uri == guide_address(name):
            return guide.text(_backend(app)), MARKDOWN
    address = parsed(uri)
    tool = "describe_collection" if address and address.id is None else "get"
    if address is None or tool not in tools:
        raise not_found(uri)
    arguments = {"collection_name": address.collection_name, **_database(app, address)}
    if address.id is None:
        return compact(await ask(tool, arguments)), JSON
    result = await ask(tool, arguments | {"ids": [address.id]})
    if not result["entities"]:
        raise not_found(uri)
    return compact(result), JSON


def not_found(uri: str) -> MCPError:
    """How it is said that there is no such resource."""
    return MCPError(INVALID_PARAMS, "there is no such resource", data={"uri": ascii(uri[:200])[1:-1]})


def failed(error: dict[str, Any]) -> MCPError:
    """A tool's error as that of a request which is no call."""
    code = INTERNAL_ERROR if error["code"] == "internal" or error["retriable"] else INVALID_PARAMS
    return MCPError(code, f"{error['message']}; {error['hint']}" if error["hint"] else error["message"], data=error)


def _database(app: App, address: Address) -> dict[str, str]:
    own = app.settings.db_name or DEFAULT
    return {} if address.db_name == own else {"db_name": address.db_name}


def _backend(app: App) -> Backend | None:
    """What was connected to; or what the settings tell of it. Reading a guide asks Milvus nothing."""
    return app.clients.known_backend or (LITE if app.clients.engine else None)
