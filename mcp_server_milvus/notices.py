"""Who is told of changes: clients of the newer protocol that listen, and the one at the other end of stdio."""

from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import SubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import INVALID_PARAMS, EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_server_milvus.addresses import collection_address, parsed
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.vocabulary import Effect, Toolset, Transport

LISTED_ANEW = frozenset(
    {"create_collection", "drop_collection", "restore_collection", "restore_snapshot", "alter_collection"}
)
"""Tools after which there may be other collections than before; `alter_collection` renames."""

IN_COLLECTIONS = frozenset({Toolset.DATA, Toolset.SCHEMA, Toolset.OPERATIONS})

MOST_SUBSCRIBED = 1_000
"""Addresses that one client may be told of."""


class Subscribed:
    """What the client at the other end of stdio wants to be told of, in the older protocol."""

    def __init__(self) -> None:
        self.addresses: set[str] = set()

    async def subscribe(self, _: Any, params: SubscribeRequestParams) -> EmptyResult:
        """Notes one address more.

        Raises:
            MCPError: it is none of a collection or an entity, or there are too many.
        """
        if parsed(params.uri) is None or len(self.addresses) >= MOST_SUBSCRIBED:
            raise MCPError(INVALID_PARAMS, f"subscribe to at most {MOST_SUBSCRIBED} collections")
        self.addresses.add(params.uri)
        return EmptyResult()

    async def unsubscribe(self, _: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        """Forgets it."""
        self.addresses.discard(params.uri)
        return EmptyResult()


class Notices:
    """Tells of what calls have changed: over the bus whoever listens, and the client at the other end of stdio.

    Whoever listens is told, whoever it is: this is for servers that know no callers apart.
    """

    def __init__(self, bus: SubscriptionBus, subscribed: Subscribed, settings: Settings) -> None:
        self._bus = bus
        self._subscribed = subscribed
        self._settings = settings

    async def tell(
        self, tool: Tool[Any, Any], arguments: dict[str, Any], request: ServerRequestContext[Any, Any]
    ) -> None:
        """Tells of what a call has changed that has succeeded. Asks Milvus nothing."""
        if tool.effect is Effect.READ or tool.toolset not in IN_COLLECTIONS:
            return
        name = arguments.get("collection_name")
        if isinstance(name, str):
            address = collection_address(arguments.get("db_name") or self._settings.db_name, name)
            await self._bus.publish(ResourceUpdated(uri=address))
            if address in self._subscribed.addresses:
                await request.session.send_resource_updated(address)
        if tool.name in LISTED_ANEW:
            await self.tell_of_list(request)

    async def tell_of_list(self, request: ServerRequestContext[Any, Any]) -> None:
        """Tells that there are other resources than before."""
        await self._bus.publish(ResourcesListChanged())
        over_stdio = self._settings.transport is Transport.STDIO
        if over_stdio and request.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            await request.session.send_resource_list_changed()
