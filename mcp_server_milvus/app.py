"""What a tool works with: settings, clients, schemas and embedders, opened once per process."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from mcp_server_milvus.audit import AuditLog
from mcp_server_milvus.embedding.binding import PROPERTY, Binding, bindings_in, mapped
from mcp_server_milvus.embedding.embedders import Embedders
from mcp_server_milvus.errors import InvalidFilter, NotLoaded
from mcp_server_milvus.limits import Gate
from mcp_server_milvus.meter import Meter
from mcp_server_milvus.milvus.cache import SchemaCache
from mcp_server_milvus.milvus.filter_help import explained
from mcp_server_milvus.milvus.identities import Identities
from mcp_server_milvus.milvus.pool import ClientPool
from mcp_server_milvus.milvus.properties import KeptProperties
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.waiting import ReportProgress, load_and_wait
from mcp_server_milvus.policy import LOCAL, Caller, Policy
from mcp_server_milvus.reach import EVERYTHING
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.signing import Signatures
from mcp_server_milvus.vocabulary import MilvusIdentity

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

Result = TypeVar("Result")

ACCOUNT_DIGITS = 12
"""Of the digest by which two Milvus accounts of one caller are told apart."""


async def report_nothing(progress: float, total: float | None, message: str | None) -> None:
    """Progress for a caller that does not listen."""


@dataclass(frozen=True)
class App:
    """One server's working parts, as one caller sees them. A call gets a copy with its own `report_progress`."""

    settings: Settings
    clients: ClientPool
    schemas: SchemaCache
    embedders: Embedders
    properties: KeptProperties
    gate: Gate
    policy: Policy
    signatures: Signatures
    audit: AuditLog
    identities: Identities
    report_progress: ReportProgress = report_nothing
    is_serving: bool = False
    meter: Meter = field(default_factory=Meter)

    def seen_by(self, caller: Caller) -> "App":
        """The same for another caller."""
        return self if caller == self.policy.caller else self.within(Policy(self.settings, caller))

    def with_trash(self) -> "App":
        """The same, and the dropped collections among the others, by the names that they have in the trash."""
        reach = self.policy.reach.with_trash()
        return replace(self, clients=self.clients.seen_by(reach), schemas=self.schemas.seen_by(reach))

    def with_everything(self) -> "App":
        """The same with all that there is on the caller's connection: for keeping house, never for an answer."""
        return replace(self, clients=self.clients.seen_by(EVERYTHING), schemas=self.schemas.seen_by(EVERYTHING))

    def with_every_field(self) -> "App":
        """The same, with the values of masked fields too: for entities that are kept, and shown to nobody."""
        reach = self.policy.reach.with_every_field()
        return replace(self, clients=self.clients.seen_by(reach), schemas=self.schemas.seen_by(reach))

    def within(self, policy: Policy) -> "App":
        """The same for whom this policy is."""
        reach = policy.reach
        clients, schemas = self.clients, self.schemas
        if self.settings.milvus_identity is MilvusIdentity.CALLER:
            clients, schemas = self.identities.of(policy.caller.credentials)
        return replace(self, policy=policy, clients=clients.seen_by(reach), schemas=schemas.seen_by(reach))

    async def caller_name(self) -> str:
        """The caller's name, and where callers bring their own Milvus accounts, which one: those are as many callers.

        The account is told by a digest, which means something only to servers that share the data folder.
        """
        caller = self.policy.caller
        if caller.credentials is None:
            return caller.name
        secret = caller.credentials.get_secret_value()
        digest = await anyio.to_thread.run_sync(self.signatures.digest, "account", secret)
        return f"{caller.name}#{digest[:ACCOUNT_DIGITS]}"

    def database(self, db_name: str | None) -> str:
        """The database of a call: the one it names, or the setting's."""
        return db_name or self.settings.db_name

    def bindings(self, db_name: str, schema: CollectionSchema) -> dict[str, Binding]:
        """Which vector fields of a collection are made from which text, by vector field.

        Other clients may have dropped the fields, or written into the properties what makes no sense.
        """
        if not self.settings.embed_map and PROPERTY not in schema.properties:
            return {}
        found = mapped(self.settings.mapped_fields, db_name, schema.name) | bindings_in(schema.properties)
        fields = schema.by_name
        return {
            name: each
            for name, each in found.items()
            if name in fields
            and fields[name].holds_embeddings
            and each.text_field in fields
            and fields[each.text_field].holds_text
        }

    async def with_schema(
        self,
        db_name: str,
        collection_name: str,
        use: Callable[["Client", CollectionSchema], Awaitable[Result]],
        *,
        seconds: float | None = None,
    ) -> Result:
        """What `use` returns for a client and the schema; once more if the collection has changed meanwhile."""

        async def borrowed(schema: CollectionSchema) -> Result:
            return await self.with_client(db_name, schema, use, seconds=seconds)

        return await self.schemas.used_by(db_name, collection_name, borrowed)

    async def with_client(
        self,
        db_name: str,
        schema: CollectionSchema,
        use: Callable[["Client", CollectionSchema], Awaitable[Result]],
        *,
        seconds: float | None = None,
    ) -> Result:
        """What `use` returns for a client and this schema, which tells what is wrong with a filter."""
        try:
            async with self.clients.client(db_name, seconds=seconds) as client:
                return await use(client, schema)
        except InvalidFilter as error:
            raise explained(error, schema) from error

    async def read(
        self, db_name: str, collection_name: str, use: Callable[["Client", CollectionSchema], Awaitable[Result]]
    ) -> tuple[Result, bool]:
        """As `with_schema`, on a loaded collection. The second value says whether it had to be loaded first.

        Raises:
            NotLoaded: the collection is not loaded and the settings forbid loading it.
        """
        return await self.loaded_if_needed(
            db_name, collection_name, lambda: self.with_schema(db_name, collection_name, use)
        )

    async def loaded_if_needed(
        self, db_name: str, collection_name: str, attempt: Callable[[], Awaitable[Result]]
    ) -> tuple[Result, bool]:
        """What `attempt` returns, once more after loading if the collection was not loaded, and whether that was so.

        Raises:
            NotLoaded: the collection is not loaded and the settings forbid loading it.
        """
        try:
            return await attempt(), False
        except NotLoaded:
            if not self.settings.auto_load:
                raise
        async with self.clients.client(db_name, seconds=self.settings.build_timeout) as client:
            await load_and_wait(client, collection_name, self.report_progress)
        self.schemas.forget(db_name, collection_name)
        return await attempt(), True


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncGenerator[App]:
    """The App of this process, until the block ends. Connects to nothing and imports no pymilvus yet."""
    async with AsyncExitStack() as stack:
        clients = await stack.enter_async_context(ClientPool(settings))
        embedders = await stack.enter_async_context(Embedders(settings.all_embedders))
        properties = KeptProperties(settings.data_dir, settings.uri)
        signatures = Signatures(settings.data_dir)
        policy = Policy(settings, LOCAL)
        everything = App(
            settings=settings,
            clients=clients,
            schemas=SchemaCache(clients, properties, ttl=settings.schema_ttl),
            embedders=embedders,
            properties=properties,
            gate=Gate(settings),
            policy=policy,
            signatures=signatures,
            audit=stack.enter_context(closing(AuditLog(settings, signatures))),
            identities=await stack.enter_async_context(aclosing(Identities(settings, properties))),
        )
        yield everything.within(policy)
