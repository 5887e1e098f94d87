"""Clients of the callers' own Milvus accounts: a pool and a schema cache for each, shared with nobody else."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from pydantic import SecretStr

from mcp_server_milvus.errors import Denied
from mcp_server_milvus.milvus.cache import SchemaCache
from mcp_server_milvus.milvus.pool import ClientPool
from mcp_server_milvus.milvus.properties import KeptProperties
from mcp_server_milvus.settings import Settings

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

MOST = 100
"""Accounts whose connections are kept at one time, calls that are under way not counted."""

IDLE_SECONDS = 600.0


class Identities:
    """What there is of each account. Connections are made when they are needed, and closed when unused for a while."""

    def __init__(self, settings: Settings, kept: KeptProperties) -> None:
        self._settings = settings
        self._kept = kept
        self._limiter = anyio.Semaphore(settings.max_concurrency)
        self._known: dict[str, tuple[OwnClients, SchemaCache]] = {}
        self._used: dict[str, float] = {}

    def of(self, credentials: SecretStr | None) -> tuple[ClientPool, SchemaCache]:
        """The clients and schemas of an account. Without credentials they refuse every call."""
        secret = credentials.get_secret_value() if credentials and not self._settings.embedded_dir else ""
        if secret not in self._known:
            self._drop_one_without_connections()
            clients = OwnClients(self._settings, self, secret, self._limiter)
            self._known[secret] = clients, SchemaCache(clients, self._kept, ttl=self._settings.schema_ttl)
        return self._known[secret]

    def _drop_one_without_connections(self) -> None:
        """Keeps it in bounds what there is of accounts that anybody names, whether Milvus knows them or not.

        Of what a call uses at this moment it lets go when that call ends.
        """
        if len(self._known) >= MOST:
            unused = (secret for secret, (clients, _) in self._known.items() if not clients.connections)
            self._known.pop(next(unused, ""), None)

    @property
    def pools(self) -> tuple[ClientPool, ...]:
        """The clients of every account that is known now."""
        return tuple(clients for clients, _ in self._known.values())

    def use(self, secret: str) -> None:
        """Notes that an account's clients are used now."""
        self._used.pop(secret, None)
        self._used[secret] = anyio.current_time()

    async def let_go(self, used: "OwnClients") -> None:
        """Closes what was not used for long, and what was used least recently where there is too much.

        `used` is what a call has ended with; it may have been let go already, while it waited.
        """
        if not any(used.shares_with(clients) for clients, _ in self._known.values()) and not used.is_busy:
            await used.aclose()
        latest = anyio.current_time() - IDLE_SECONDS
        surplus = len(self._used) - MOST
        for number, (secret, last) in enumerate(list(self._used.items())):
            clients, _ = self._known.get(secret, (None, None))
            if clients is None:
                del self._used[secret]
            elif (number < surplus or last < latest) and not clients.is_busy:
                del self._used[secret], self._known[secret]
                await clients.aclose()

    async def aclose(self) -> None:
        """Closes everything."""
        for clients, _ in self._known.values():
            await clients.aclose()


class OwnClients(ClientPool):
    """The clients of one account."""

    def __init__(self, settings: Settings, identities: Identities, secret: str, limiter: anyio.Semaphore) -> None:
        super().__init__(settings)
        self._identities = identities
        self._credentials = secret
        self._limiter = limiter

    def shares_with(self, other: ClientPool) -> bool:
        """Whether both have the same connections."""
        return self._connections is other._connections  # noqa: SLF001  # of its own kind

    @asynccontextmanager
    async def client(self, db_name: str, *, seconds: float | None = None) -> AsyncGenerator["Client"]:
        """As any pool's.

        Raises:
            Denied: the caller has shown no account.
        """
        if not self._credentials:
            raise Denied(
                "calls use the caller's own Milvus account, and this caller has shown none",
                hint="send its token or user:password with the request, as the operator of this server says",
            )
        self._identities.use(self._credentials)
        try:
            async with super().client(db_name, seconds=seconds) as client:
                yield client
        finally:
            with anyio.CancelScope(shield=True):
                await self._identities.let_go(self)
