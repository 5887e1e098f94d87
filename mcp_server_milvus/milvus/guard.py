"""What stands between a caller and Milvus: every request and every answer, judged by one table.

Nothing that reaches Milvus names what is out of a caller's reach: such a name, and an alias of such a collection, is
replaced by one that nothing has, so that Milvus itself says that there is none. An RPC that the table does not have is
refused for whoever does not reach everything, or does not see every field.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# protobuf has no types.

import functools
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from mcp_server_milvus.errors import Denied
from mcp_server_milvus.milvus import tenancy
from mcp_server_milvus.milvus.functions import require_inside
from mcp_server_milvus.milvus.masking import Mask
from mcp_server_milvus.reach import IN_TRASH, TRASH_PREFIX, Reach, unmatched
from mcp_server_milvus.request_ids import UNDER_WAY

NOT_FOUND = frozenset({100, 800})
"""Milvus's codes of a collection and of a database that are not there."""

DEFAULT = "default"

BESIDE = {
    "collection_names": (
        *("collection_ids", "created_timestamps", "created_utc_timestamps", "inMemory_percentages"),
        *("query_service_available", "shards_num"),
    ),
    "db_names": ("created_timestamp", "db_ids"),
}
"""The lists of an answer that go with a list of names."""


@dataclass(frozen=True)
class Rule:
    """How one RPC is judged.

    `named` are the fields of its request with names of collections or aliases, replaced by those of the collections;
    `aliases` those that have to stay what they are; `new` those of what it would create. `jobs` are fields with numbers
    that only whoever was told them may ask for. Where `optional`, a request may name nothing. `for_tenants` says
    whether callers with a mandatory filter may send it, `for_some` whether those may who reach only some collections.
    """

    named: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    databases: tuple[str, ...] = ("db_name",)
    new_databases: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    optional: bool = False
    for_tenants: bool = False
    for_some: bool = True


def _of_collection(**options: Any) -> Rule:
    return Rule(named=("collection_name",), **options)


ANYBODY = Rule(for_tenants=True)
READ = _of_collection(for_tenants=True)
CHANGE = _of_collection()
OF_ALL = Rule(for_some=False)

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Connect", "GetVersion", "CheckHealth", "AllocTimestamp", "ListDatabases"), ANYBODY),
    **dict.fromkeys(
        (
            *("DescribeCollection", "HasCollection", "ShowPartitions", "HasPartition", "DescribeIndex"),
            *("GetLoadState", "GetLoadingProgress", "LoadCollection", "LoadPartitions"),
            *("Query", "Search", "HybridSearch", "Insert", "Upsert", "Delete"),
        ),
        READ,
    ),
    **dict.fromkeys(
        (
            *("DropCollection", "ReleaseCollection", "TruncateCollection", "ReleasePartitions"),
            *("AlterCollection", "AlterCollectionField", "AddCollectionField", "AddCollectionStructField"),
            *("AddCollectionFunction", "AlterCollectionFunction", "DropCollectionFunction", "AlterCollectionSchema"),
            *("CreatePartition", "DropPartition", "GetCollectionStatistics", "GetPartitionStatistics"),
            *("CreateIndex", "AlterIndex", "DropIndex", "TransferReplica"),
            *("CreateSnapshot", "DropSnapshot", "ListSnapshots", "DescribeSnapshot", "ListRestoreSnapshotJobs"),
        ),
        CHANGE,
    ),
    **dict.fromkeys(
        (
            *("FlushAll", "GetFlushAllState", "ListResourceGroups", "DescribeResourceGroup", "CreateResourceGroup"),
            *("UpdateResourceGroups", "DropResourceGroup"),
            *("CreateCredential", "UpdateCredential", "DeleteCredential", "ListCredUsers", "SelectUser", "SelectGrant"),
            *("CreateRole", "AlterRole", "DropRole", "SelectRole", "OperateUserRole", "OperatePrivilege"),
            *("OperatePrivilegeV2", "CreatePrivilegeGroup", "DropPrivilegeGroup", "ListPrivilegeGroups"),
            "OperatePrivilegeGroup",
        ),
        OF_ALL,
    ),
    "ShowCollections": Rule(named=("collection_names",), optional=True, for_tenants=True),
    "DescribeDatabase": ANYBODY,
    "CreateDatabase": Rule(databases=(), new_databases=("db_name",)),
    "AlterDatabase": OF_ALL,
    "DropDatabase": OF_ALL,
    "CreateCollection": Rule(new=("collection_name",)),
    "RenameCollection": Rule(named=("oldName",), new=("newName",), databases=("db_name", "newDBName")),
    "CreateAlias": Rule(named=("collection_name",), new=("alias",)),
    "AlterAlias": Rule(named=("collection_name",), aliases=("alias",)),
    "DropAlias": Rule(aliases=("alias",)),
    "DescribeAlias": Rule(aliases=("alias",), for_tenants=True),
    "ListAliases": _of_collection(optional=True, for_tenants=True),
    "Flush": Rule(named=("collection_names",)),
    "GetFlushState": _of_collection(optional=True),
    "GetPersistentSegmentInfo": Rule(named=("collectionName",), databases=("dbName",)),
    "GetReplicas": _of_collection(jobs=("collectionID",), optional=True),
    "ManualCompaction": _of_collection(jobs=("collectionID",), optional=True),
    "GetCompactionState": Rule(jobs=("compactionID",)),
    "RestoreSnapshot": Rule(
        named=("collection_name",), new=("target_collection_name",), databases=("db_name", "target_db_name")
    ),
    "GetRestoreSnapshotState": Rule(jobs=("job_id",)),
    "RunAnalyzer": _of_collection(optional=True, for_tenants=True),
}
"""Every RPC that this package sends, itself or by a method of pymilvus. None of another is sent for a caller who does
not reach everything, or does not see every field."""

TOLD_JOBS = {"ManualCompaction": "compactionID", "RestoreSnapshot": "job_id", "DescribeCollection": "collectionID"}
"""The field of an answer that tells a number with which the caller may ask further, as long as the client is its."""

Send = Callable[[Any], Awaitable[Any]]
"""Sends a request to Milvus and returns its answer."""


@dataclass
class Guard:
    """The judgement of all that one caller sends by one client, while it has it."""

    reach: Reach
    db_name: str
    stub: Any = None
    is_lite: bool = False
    absent: dict[str, str] = field(default_factory=dict[str, str])
    _described: dict[str, Any] = field(default_factory=dict[str, Any])
    _told: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])

    @property
    def counts_all(self) -> bool:
        """Whether the caller may know how many entities there are of everybody."""
        return not self.reach.mandatory_filter

    async def answered(self, rpc: str, request: Any, **options: Any) -> Any:
        """Milvus's answer to a request, as far as the caller reaches.

        Raises:
            Denied: it would create something with a name out of reach, read a masked field, or have Milvus call out.
            AioRpcError: PERMISSION_DENIED, as Milvus itself refuses an account.
        """
        rule = RULES.get(rpc)
        if rule is None and not self.reach.masked_fields and not self.reach.is_restricted:
            rule = CHANGE
        if rule is None or not self._permits(rule):
            raise refusal(rpc)
        require_inside(rpc, request)
        send = functools.partial(getattr(self.stub, rpc), **options)
        if self.reach.is_restricted and (rule.named or rule.aliases or rule.new):
            self._require_database(request, options.get("metadata"))
        await self._name(request, rule)
        if self.reach.mandatory_filter or self.reach.masked_fields:
            answer = await self._read_or_written(rpc, request, send)
        else:
            answer = await send(request)
        if not rule.for_tenants:
            self._described.clear()  # it may have changed what names mean
        return await self._shown(rpc, request, answer)

    def in_callers_words(self, text: str) -> str:
        """A message of Milvus's with the names that the caller has used."""
        for stand_in, name in self.absent.items():
            text = text.replace(stand_in, name)
        return text

    def stand_in(self, name: str) -> str:
        """A name that nothing has, in place of this one."""
        stand_in = f"_absent_{secrets.token_hex(12)}"
        self.absent[stand_in] = name
        return stand_in

    async def described(self, name: str) -> Any:
        """What Milvus says of the collection or alias; None if there is none. It is asked once."""
        if name not in self._described:
            request = milvus_pb2.DescribeCollectionRequest(collection_name=name)
            answer = await self.sent("DescribeCollection", request)
            if answer.status.code not in NOT_FOUND:
                check_status(answer.status)
            self._described[name] = None if answer.status.code in NOT_FOUND else answer
        return self._described[name]

    async def sent(self, rpc: str, request: Any) -> Any:
        """Milvus's own answer to a request of this guard, which looks at more than the caller may."""
        return await getattr(self.stub, rpc)(
            request, metadata=[("dbname", self.db_name), ("client-request-id", UNDER_WAY.get())]
        )

    async def real_name(self, name: str) -> str | None:
        """The name of the collection behind a name or alias; None if there is none for the caller."""
        if not self.reach.sees(name):
            return None
        if not (self.reach.picks_collections or self.reach.mandatory_filter):
            return name
        found = await self.described(name)
        if found is None or not self.reach.sees(found.schema.name):
            return None
        if not tenancy.has_tenants(found.schema, self.reach.mandatory_filter):
            return None
        return found.schema.name if self.reach.picks_collections else name

    def _permits(self, rule: Rule) -> bool:
        if self.reach.mandatory_filter and not rule.for_tenants:
            return False
        return rule.for_some or not self.reach.is_restricted

    def _require_database(self, request: Any, metadata: Any) -> None:
        """Raises a refusal if the request is about another database than the client's: the names are judged in that."""
        told = dict(metadata or ()).get("dbname", "") or DEFAULT
        asked = getattr(request, "db_name", "") or getattr(request, "dbName", "") or told
        if {told, asked} != {self.db_name or DEFAULT}:
            raise refusal("another database")

    async def _name(self, request: Any, rule: Rule) -> None:
        """Replaces the names in a request by those of what the caller reaches, or by such as nothing has."""
        reach = self.reach
        for each in rule.named:
            await self._name_field(request, each, optional=rule.optional)
        for each in rule.aliases:
            if await self.real_name(getattr(request, each)) is None:
                setattr(request, each, self.stand_in(getattr(request, each)))
        for each in rule.new:
            await self._require_new(getattr(request, each))
        for each in rule.databases:
            asked = getattr(request, each, "")
            if asked and not reach.sees_database(asked):
                setattr(request, each, self.stand_in(asked))
        for each in rule.new_databases:
            _require_name(getattr(request, each), reach.databases, "databases")
        for each in rule.jobs if reach.is_restricted else ():
            number = getattr(request, each)
            if number and (each, number) not in self._told:
                raise refusal(each)

    async def _name_field(self, request: Any, each: str, *, optional: bool) -> None:
        given = getattr(request, each, "")
        if isinstance(given, str):
            if given or (self.reach.is_restricted and not optional):
                real = await self.real_name(given) or self.stand_in(given)
                if real != given:
                    setattr(request, each, real)
            return
        if not given and not optional and self.reach.is_restricted:
            raise refusal(each)
        given[:] = [await self.real_name(name) or self.stand_in(name) for name in given]

    async def _require_new(self, name: str) -> None:
        reach = self.reach
        if reach.in_trash and IN_TRASH.fullmatch(name):
            return  # patterns are for what callers name
        if name.startswith(TRASH_PREFIX) and not reach.sees(name):
            raise Denied(f"names like {name!r} are kept for dropped collections", hint="choose another name")
        _require_name(name, reach.collections, "collections")
        if reach.picks_collections and await self.described(name) and await self.real_name(name) is None:
            raise Denied(f"the name {name!r} is taken", hint="choose another name")

    async def _read_or_written(self, rpc: str, request: Any, send: Send) -> Any:
        """The answer to a request of a caller who does not see every entity, or not every field."""
        mask = Mask(self)
        await mask.judge(rpc, request)
        if self.reach.mandatory_filter:
            await tenancy.judge(self, rpc, request)
        return await mask.applied(rpc, request, await send(request))

    async def _shown(self, rpc: str, request: Any, answer: Any) -> Any:
        """The answer without the names of what is out of reach."""
        reach = self.reach
        if not reach.in_trash:
            answer = _out_of_trash(rpc, request, answer)
        if rpc in TOLD_JOBS:
            self._told.add((TOLD_JOBS[rpc], getattr(answer, TOLD_JOBS[rpc])))
        match rpc:
            case "ShowCollections":
                _keep(answer, "collection_names", reach.sees)
            case "ListDatabases":
                _keep(answer, "db_names", reach.sees_database)
            case "DescribeCollection":
                _keep(answer, "aliases", reach.sees)
            case "ListAliases" if not request.collection_name and reach.picks_collections:
                there = {name for name in answer.aliases if await self.real_name(name)}
                _keep(answer, "aliases", there.__contains__)
            case "ListAliases":
                _keep(answer, "aliases", reach.sees)
            case "ListRestoreSnapshotJobs":
                kept = [job for job in answer.jobs if reach.sees(job.collection_name)]
                del answer.jobs[:]
                answer.jobs.extend(kept)
            case "DescribeIndex" if reach.mandatory_filter:
                tenancy.hide_counts(answer)
            case _:
                pass
        return answer


class GuardedStub:
    """A gRPC stub behind a guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __getattr__(self, rpc: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(self._guard.answered, rpc)


def refusal(what: str) -> grpc.aio.AioRpcError:
    """How a Milvus refuses an account what it may not do."""
    nothing = grpc.aio.Metadata()
    said = f"{what}: the caller has no privilege to do this"
    return grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, nothing, nothing, said, said)


def _out_of_trash(rpc: str, request: Any, answer: Any) -> Any:
    """The answer, or that there is nothing, where an alias still leads to a dropped collection."""
    if rpc == "DescribeCollection" and IN_TRASH.fullmatch(answer.schema.name):
        said = f"collection not found[collection={request.collection_name}]"
        status = common_pb2.Status(code=100, error_code=common_pb2.CollectionNotExists, reason=said)
        return milvus_pb2.DescribeCollectionResponse(status=status)
    if rpc == "DescribeAlias" and IN_TRASH.fullmatch(answer.collection):
        said = f"alias not found[alias={request.alias}]"
        status = common_pb2.Status(code=1600, error_code=common_pb2.UnexpectedError, reason=said)
        return milvus_pb2.DescribeAliasResponse(status=status)
    return answer


def _require_name(name: str, lists: tuple[tuple[str, ...], ...], setting: str) -> None:
    """Raises Denied if something of this name would be out of the reach of whoever creates it."""
    if patterns := unmatched(lists, name):
        raise Denied(f"{setting}: {name!r} is none of {', '.join(patterns)}", hint="choose a name that fits")


def _keep(answer: Any, names: str, seen: Callable[[str], bool]) -> None:
    """Leaves only what is seen in an answer's list of names, and in the lists beside it."""
    given = list(getattr(answer, names))
    kept = [number for number, name in enumerate(given) if seen(name)]
    for column in (names, *BESIDE.get(names, ())) if len(kept) < len(given) else ():
        values = getattr(answer, column)
        values[:] = [values[number] for number in kept if len(values) == len(given)]
