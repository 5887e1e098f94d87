"""Every failure of pymilvus, gRPC and Milvus as one of our errors. `tests/milvus/test_translate.py` proves it total."""

import json
import re
from dataclasses import dataclass

import grpc
from pymilvus import exceptions as pymilvus

from mcp_server_milvus.errors import (
    AlreadyExists,
    Conflict,
    ConnectionLost,
    DeadlineExceeded,
    Denied,
    Error,
    Interrupted,
    InvalidArgument,
    InvalidFilter,
    LimitExceeded,
    MilvusFailed,
    NotFound,
    NotLoaded,
    NotSupported,
    TooManyCalls,
    Unavailable,
)

MAX_MESSAGE = 500
"""Characters of a Milvus message that are passed on; what follows is its call stack."""

READ_FIRST, READ_LAST = 3_000, 1_000
"""Characters of a message that are looked into. It may repeat what a caller wrote, of any length, and some of the
patterns below take a time that grows with its square."""

CONNECT_FAILED = 2
"""pymilvus's code for a connection that could not be made. Milvus itself uses it for "service unavailable"."""


@dataclass(frozen=True)
class Rule:
    """What a failure becomes, and the hint for the caller."""

    error: type[Error]
    hint: str = ""


NOT_LOADED = Rule(NotLoaded, "call load_collection, then call again")
NO_DATABASE = Rule(NotFound, "list_databases shows what there is")
LIST_COLLECTIONS = Rule(NotFound, "list_collections shows what there is")
RELEASE_FIRST = Rule(Conflict, "call release_collection first, or build_index with replace: true")
BAD_FILTER = Rule(InvalidFilter, 'a filter reads like: year > 1990 and title like "a%" and tag in ["x", "y"]')
RETRY_LATER = Rule(LimitExceeded, "wait a moment, or send less at once")
BUSY = Rule(TooManyCalls, RETRY_LATER.hint)
NOT_HERE = Rule(NotSupported, "this backend has no such operation")
INTERRUPTED = Rule(Interrupted, "if this was a write, look before repeating it")
OUTCOME_UNKNOWN = Rule(
    DeadlineExceeded, "if this was a write, look before repeating it; a longer --timeout gives it more time"
)

UNREADABLE = "an entity holds it, perhaps too deep: leave its field out of output_fields, or filter the entity out"

PHRASES: tuple[tuple[str, Rule], ...] = (
    (r"parse expression|create expr plan|invalid expression|unknown escape sequence|\bat column \d+\n", BAD_FILTER),
    (r"invalid integer literal", BAD_FILTER),  # of so many digits that where it stands is not looked at
    (r"int too large|recursion depth", BAD_FILTER),
    (r"unsupported (right )?data ?type json", BAD_FILTER),  # a comparison with a name of the dynamic field
    (r"\[errno \d+\].*a part of the entities may be in", INTERRUPTED),
    (
        r"\[errno \d+\]",
        Rule(MilvusFailed, "the embedded engine cannot write its data folder: check its disk and its rights"),
    ),
    (r"^unknown field|unknown column|field .* not exist.*expression", BAD_FILTER),
    (r"collection not loaded|not been loaded|is not loaded|not fully loaded", NOT_LOADED),
    (r"release.* first|is loaded, please release|cannot drop.*load|loaded.*release", RELEASE_FIRST),
    (r"database.*(not found|does not exist)", NO_DATABASE),
    (r"(can't find|can not find) collection|collection .*(not found|does not exist)", LIST_COLLECTIONS),
    (r"partition.*(not found|does not exist)", Rule(NotFound, "describe_collection shows the partitions")),
    (r"index.*(not found|not exist)|there is no vector index", Rule(Conflict, "call build_index first")),
    (r"database.*not empty", Rule(Conflict, "drop_collection each of its collections first")),
    (r"nodes not enough", Rule(LimitExceeded, "each replica needs a query node of its own: ask for fewer replicas")),
    (r"already exists?|duplicate|conflicts with an existing", Rule(AlreadyExists)),
    (r"not found the role", Rule(NotFound, "list_roles shows what there is")),
    (r"not found the user", Rule(NotFound, "list_users shows what there is")),
    (r"not found the (privilege|object type)", Rule(InvalidArgument, "list_privileges shows what there is")),
    (r"role that it has privileges", Rule(Conflict, "describe_role shows its privileges: revoke_privilege each")),
    (r"authorization from the md", Rule(Conflict, "this Milvus checks no accounts: it has authorization turned off")),
    (r"out of range|invalid index type|invalid parameter", Rule(InvalidArgument)),
    (
        r"denied|privilege|not authorized|unauthenticated|auth check failure",
        Rule(Denied, "the Milvus account lacks the right"),
    ),
    (r"quota|memory limit|disk limit|message larger than max", RETRY_LATER),
    (r"rate limit|request limit", BUSY),
    (r"not supported|unsupported|unimplemented", Rule(NotSupported)),
)
"""What the text says, where codes say less: Milvus 2.3 uses 65535 and Milvus Lite 6 for nearly everything."""

CODES: dict[int, Rule] = {
    3: RETRY_LATER,
    4: BUSY,
    7: RETRY_LATER,
    8: BUSY,
    9: Rule(Denied, "Milvus refuses writes for now: it is out of memory or disk"),
    10: NOT_HERE,
    35: Rule(AlreadyExists, "build_index with replace: true replaces an index"),
    100: LIST_COLLECTIONS,
    101: NOT_LOADED,
    102: RETRY_LATER,
    103: NOT_LOADED,
    104: RELEASE_FIRST,
    200: Rule(NotFound, "describe_collection shows the partitions"),
    201: NOT_LOADED,
    202: NOT_LOADED,
    300: Rule(NotFound, "list_resource_groups shows what there is"),
    301: Rule(AlreadyExists),
    302: RETRY_LATER,
    303: Rule(InvalidArgument),
    304: Rule(Conflict),
    400: NOT_LOADED,
    700: Rule(Conflict, "call build_index first"),
    701: Rule(NotSupported),
    702: Rule(AlreadyExists),
    800: NO_DATABASE,
    802: Rule(InvalidArgument),
    1100: Rule(InvalidArgument),
    1101: Rule(InvalidArgument),
    1400: Rule(Denied, "check the token, or user and password"),
    1401: Rule(Denied, "the Milvus account lacks the right"),
    1600: Rule(NotFound, "list_aliases shows what there is"),
    1601: Rule(AlreadyExists, "an alias and a collection cannot have the same name"),
    1602: Rule(AlreadyExists),
    1700: Rule(InvalidArgument, "describe_collection shows the fields"),
}
"""Milvus's error codes from 2.3 on (`pkg/util/merr/errors.go`), and Milvus Lite's 35."""

TOO_LARGE = "message larger than max"
"""How gRPC says that a request or an answer is too large, with the code of a server that is busy."""

NEVER_SENT = r"fail(ed)? (to )?connect|connection refused|name resolution|should create connection first"
"""How gRPC and pymilvus say that there was no connection to send anything on."""

GRPC: dict[grpc.StatusCode, Rule] = {
    grpc.StatusCode.UNAVAILABLE: Rule(Unavailable, "check that Milvus runs and that the uri is right; then call again"),
    grpc.StatusCode.DEADLINE_EXCEEDED: OUTCOME_UNKNOWN,
    grpc.StatusCode.CANCELLED: Rule(Unavailable, "the connection was closed during the call; call again"),
    grpc.StatusCode.UNAUTHENTICATED: Rule(Denied, "check the token, or user and password"),
    grpc.StatusCode.PERMISSION_DENIED: Rule(Denied, "the Milvus account lacks the right"),
    grpc.StatusCode.UNIMPLEMENTED: NOT_HERE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BUSY,
    grpc.StatusCode.INVALID_ARGUMENT: Rule(InvalidArgument),
    grpc.StatusCode.NOT_FOUND: Rule(NotFound),
    grpc.StatusCode.ALREADY_EXISTS: Rule(AlreadyExists),
    grpc.StatusCode.FAILED_PRECONDITION: Rule(Conflict),
    grpc.StatusCode.OUT_OF_RANGE: Rule(InvalidArgument),
    grpc.StatusCode.ABORTED: INTERRUPTED,
    grpc.StatusCode.DATA_LOSS: INTERRUPTED,
    grpc.StatusCode.INTERNAL: INTERRUPTED,
    grpc.StatusCode.UNKNOWN: INTERRUPTED,
}

CLIENT_SIDE: dict[type[Exception], Rule] = {
    pymilvus.ConnectError: GRPC[grpc.StatusCode.UNAVAILABLE],
    pymilvus.MilvusUnavailableException: GRPC[grpc.StatusCode.UNAVAILABLE],
    pymilvus.ConnectionNotExistException: GRPC[grpc.StatusCode.UNAVAILABLE],
    pymilvus.ConnectionConfigException: Rule(Unavailable, "check the uri"),
    pymilvus.CollectionNotExistException: LIST_COLLECTIONS,
    pymilvus.IndexNotExistException: Rule(Conflict, "call build_index first"),
    pymilvus.PartitionAlreadyExistException: Rule(AlreadyExists),
    pymilvus.ServerVersionIncompatibleException: NOT_HERE,
    **dict.fromkeys(
        (
            pymilvus.ParamError,
            pymilvus.DataTypeNotMatchException,
            pymilvus.DataTypeNotSupportException,
            pymilvus.DataNotMatchException,
            pymilvus.SchemaMismatchRetryableException,
            pymilvus.PrimaryKeyException,
            pymilvus.PartitionKeyException,
            pymilvus.ClusteringKeyException,
            pymilvus.FieldsTypeException,
            pymilvus.FunctionsTypeException,
            pymilvus.FieldTypeException,
            pymilvus.AutoIDException,
            pymilvus.InvalidConsistencyLevel,
            pymilvus.AmbiguousIndexName,
            pymilvus.CannotInferSchemaException,
            pymilvus.SchemaNotReadyException,
        ),
        Rule(InvalidArgument),
    ),
}
"""What pymilvus itself raises before or instead of a request."""


def translate(failure: Exception, *, tried: str) -> Error | None:
    """The failure as one of our errors, or None for what is no failure of Milvus. `tried` says what was called."""
    if isinstance(failure, TimeoutError):
        return DeadlineExceeded(f"no answer from {tried} in time", hint=OUTCOME_UNKNOWN.hint)
    if isinstance(failure, grpc.RpcError):
        return _from_grpc(failure, tried)
    if isinstance(failure, pymilvus.MilvusException):
        return _from_milvus(failure, tried)
    if isinstance(failure, json.JSONDecodeError | RecursionError):
        return MilvusFailed(f"{tried} answered with JSON that cannot be read", hint=UNREADABLE)
    return None


def is_without_database(error: Error, db_name: str) -> bool:
    """Whether it says that there is no such database."""
    return type(error) is NO_DATABASE.error and error.hint == NO_DATABASE.hint and db_name in error.message


def is_refusal(failure: Exception) -> bool:
    """Whether Milvus answered that it will not do this, so that nothing was done."""
    error = translate(failure, tried="Milvus")
    refused = isinstance(error, (Denied, InvalidArgument, MilvusFailed, NotSupported))
    return refused and not isinstance(error, Interrupted)


def _from_grpc(failure: grpc.RpcError, tried: str) -> Error:
    code = _grpc_code(failure)
    rule = GRPC.get(code, INTERRUPTED)
    details = _looked_into(str(getattr(failure, "details", str)()))
    if rule.error is Unavailable:
        return _unavailable(details, rule, tried)
    if rule is BUSY and TOO_LARGE in details.lower():
        rule = RETRY_LATER
    return rule.error(cleaned(details or code.name), hint=rule.hint)


def _from_milvus(failure: pymilvus.MilvusException, tried: str) -> Error:
    message = _looked_into(str(failure.message))
    if isinstance(failure.code, grpc.StatusCode):
        rule = GRPC.get(failure.code, INTERRUPTED)
    elif failure.code == CONNECT_FAILED:
        return _from_connecting(failure, message, tried)
    else:
        rule = _by_code(failure.code, message) or CLIENT_SIDE.get(type(failure)) or Rule(MilvusFailed)
    if rule.error is Unavailable:
        return _unavailable(message, rule, tried)
    return rule.error(cleaned(message), hint=rule.hint)


def _unavailable(details: str, rule: Rule, tried: str) -> Error:
    """Whether the request can have reached Milvus decides what a caller may conclude from the failure."""
    if re.search(NEVER_SENT, details, re.IGNORECASE):
        return Unavailable(f"could not reach {tried}", hint=rule.hint)
    return ConnectionLost(f"the connection to {tried} broke", hint=rule.hint)


def _from_connecting(failure: pymilvus.MilvusException, message: str, tried: str) -> Error:
    """A refused token looks like a server that is down, but for the cause."""
    cause: BaseException | None = failure
    seen: set[BaseException] = set()
    while cause and not isinstance(cause, grpc.RpcError) and cause not in seen:  # pymilvus raises `e from e`
        seen.add(cause)
        cause = cause.__cause__
    refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
    if isinstance(cause, grpc.RpcError) and _grpc_code(cause) in refused:
        return Denied(f"{tried} refused the credentials", hint=GRPC[grpc.StatusCode.UNAUTHENTICATED].hint)
    return _unavailable(message, GRPC[grpc.StatusCode.UNAVAILABLE], tried)


def _grpc_code(failure: grpc.RpcError) -> grpc.StatusCode:
    """The status of the call. Only the subclasses that are raised have one; the class itself does not say so."""
    return getattr(failure, "code", lambda: grpc.StatusCode.UNKNOWN)()


def _by_code(code: int, message: str) -> Rule | None:
    """What the code says, where it says something. A message repeats words of the caller's, so it decides last."""
    known = CODES.get(code)
    if known and known.error is not InvalidArgument:
        return known
    lowered = message.lower()
    found = next((rule for phrase, rule in PHRASES if re.search(phrase, lowered)), None)
    return found if known is None or found is BAD_FILTER else known


NOISE = (
    r"\[\w+\] Retry [^,]*, ",
    r"^message=",
    r"failed to (search|query)[/\w]* delegator \d+ for channel \S+: ",
    r"fail to (search|query) on QueryNode \d+: ",
    r"(worker\(\d+\) (query|search) failed: *)+",
    r" => ",
    r"\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b",
    r"connecting to server on \S+",
    r"(?<![\w.-])[\w-]+(\.[\w-]+)+:\d{1,5}\b",
    r"(/[\w.@-]+){3,}(:\d+)?",
    r"ipv6:\S+",
    r"(stack trace:|Traceback \(most recent call last\)).*",
)
"""Wrappers of an inner message, addresses and source paths: nothing that a caller can use."""


def cleaned(message: str) -> str:
    """A text of Milvus's without call stacks, addresses and source paths."""
    message = _looked_into(message)
    for noise in NOISE:
        message = re.sub(noise, "", message, flags=re.DOTALL)
    message = message.strip()
    return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "…"


def _looked_into(message: str) -> str:
    """The beginning and the end of a message."""
    if len(message) <= READ_FIRST + READ_LAST:
        return message
    return f"{message[:READ_FIRST]}…{message[-READ_LAST:]}"
