"""Every failure that there is becomes one of our errors, and carries nothing that a caller must not see."""

import inspect
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymilvus import exceptions as pymilvus

from mcp_server_milvus import errors
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.translate import CODES, MAX_MESSAGE, translate
from tests.milvus.conftest import Agent, rpc_error

TRIED = "Milvus at the configured uri (http, port 19530)"
FAILURES = [
    each for _, each in inspect.getmembers(pymilvus, inspect.isclass) if issubclass(each, pymilvus.MilvusException)
]
# What pymilvus raises before a request that a caller's arguments cannot cause or can mend.
EXPECTED: dict[type[Exception], type[errors.Error]] = {
    pymilvus.ConnectError: errors.Unavailable,
    pymilvus.MilvusUnavailableException: errors.Unavailable,
    pymilvus.ConnectionNotExistException: errors.Unavailable,
    pymilvus.ConnectionConfigException: errors.Unavailable,
    pymilvus.CollectionNotExistException: errors.NotFound,
    pymilvus.IndexNotExistException: errors.Conflict,
    pymilvus.PartitionAlreadyExistException: errors.AlreadyExists,
    pymilvus.ServerVersionIncompatibleException: errors.NotSupported,
    pymilvus.MilvusException: errors.MilvusFailed,
    pymilvus.DescribeCollectionException: errors.MilvusFailed,
}


@pytest.mark.parametrize("kind", FAILURES)
def test_every_exception_of_pymilvus_has_an_error_of_its_own(kind: type[pymilvus.MilvusException]) -> None:
    error = translated(kind(message="something"))
    assert type(error) is not errors.Internal
    assert isinstance(error, EXPECTED.get(kind, errors.InvalidArgument))


def test_pymilvus_has_no_exception_outside_its_tree() -> None:
    others = [
        each
        for _, each in inspect.getmembers(pymilvus, inspect.isclass)
        if issubclass(each, Exception) and each.__module__ == pymilvus.__name__
    ]
    assert others == FAILURES


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_every_status_of_grpc_has_an_error(code: grpc.StatusCode) -> None:
    for failure in (rpc_error(code, "something"), pymilvus.MilvusException(code=code, message="something")):  # pyright: ignore[reportArgumentType]
        error = translated(failure)
        assert type(error) is not errors.Internal
        assert error.message


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Denied),
        (grpc.StatusCode.PERMISSION_DENIED, errors.Denied),
        (grpc.StatusCode.UNIMPLEMENTED, errors.NotSupported),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.LimitExceeded),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgument),
        (grpc.StatusCode.INTERNAL, errors.MilvusFailed),
    ],
)
def test_a_status_means_what_it_says(code: grpc.StatusCode, expected: type[errors.Error]) -> None:
    assert isinstance(translated(rpc_error(code, "something")), expected)


def test_a_time_that_is_up_leaves_the_outcome_open() -> None:
    error = translated(TimeoutError())
    assert isinstance(error, errors.DeadlineExceeded)
    assert "look before repeating" in error.hint


def test_what_is_no_failure_of_milvus_is_left_alone() -> None:
    for failure in (ValueError("a bug"), KeyError("a bug"), OSError("a bug")):
        assert translate(failure, tried=TRIED) is None


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_refused_token_is_told_from_a_server_that_is_down(code: grpc.StatusCode) -> None:
    refused = pymilvus.MilvusException(code=2, message="Fail connecting to server on 10.1.2.3:19530. Timeout")
    refused.__cause__ = rpc_error(code, "auth check failure")
    assert isinstance(translated(refused), errors.Denied)


def test_a_failure_that_is_its_own_cause_is_translated() -> None:
    """pymilvus re-raises `e from e`."""
    failure = pymilvus.MilvusException(code=2, message="Fail connecting to server on 10.1.2.3:19530")
    failure.__cause__ = failure
    assert isinstance(translated(failure), errors.Unavailable)
    first, second = pymilvus.MilvusException(code=2), pymilvus.MilvusException(code=2)
    first.__cause__, second.__cause__ = second, first
    assert isinstance(translated(first), errors.Unavailable)


@pytest.mark.parametrize("port", [443, 8443, 19530])
def test_a_refused_token_shows_no_host(port: int) -> None:
    """However the host is written: a port like that of https may be left out of an address or not."""
    for host in ("milvus", "db.example.com", "10.1.2.3", "https://db.example.com"):
        details = f"Fail connecting to server on {host}:{port}, illegal connection params or server unavailable"
        refused = pymilvus.MilvusException(code=2, message=details)
        refused.__cause__ = rpc_error(grpc.StatusCode.UNAUTHENTICATED, f"auth check failure at {host}:{port}")
        error = translated(refused)
        assert isinstance(error, errors.Denied)
        assert "token" in error.hint
        assert host not in str(error.as_dict()).replace(TRIED, "")


@pytest.mark.parametrize("code", sorted(code for code, rule in CODES.items() if rule.error is not InvalidArgument))
def test_a_code_that_says_something_is_not_outranked_by_words_of_the_message(code: int) -> None:
    """A message repeats names of the caller's, which may read like anything."""
    for name in (
        "already_exists",
        "invalid expression",
        "rate limit",
        "access denied",
        "collection not loaded",
        "index not found",
        "duplicate",
    ):
        error = translated(pymilvus.MilvusException(code=code, message=f"something about {name!r}"))
        assert (type(error), error.hint) == (CODES[code].error, CODES[code].hint)


def test_an_invalid_parameter_stays_one_whatever_it_is_called() -> None:
    for name in ("already_exists", "rate limit", "access denied", "collection not loaded", "duplicate"):
        error = translated(pymilvus.MilvusException(code=1100, message=f"invalid parameter {name!r}"))
        assert type(error) is InvalidArgument
    bad_filter = pymilvus.MilvusException(code=1100, message="failed to create query plan: cannot parse expression: x")
    assert isinstance(translated(bad_filter), errors.InvalidFilter)


MESSAGES = [
    "Fail connecting to server on db.example.com:19530, illegal connection params or server unavailable",
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.1.2.3:19530: connection refused",
    "failed to connect to all addresses; last error: ipv6:%5B2001:db8::5%5D:19530: refused",
    "node not match at db.example.com:21123",
    "fail to search on QueryNode 7: worker(7) query failed: => 10.1.2.3:21123 is not there",
    "broken at unix:/tmp/mcp-milvus-x1y2z3a4/engine.sock: socket closed",
    "broken\nstack trace: /go/src/github.com/milvus-io/milvus/pkg/tracer/stack_trace.go:51\n/usr/lib/x/y.go:3",
    'Traceback (most recent call last):\n  File "/home/someone/app/server.py", line 3, in <module>\nValueError: no',
]
SECRETS = (
    "example.com",
    "10.1.2.3",
    "2001:db8",
    "engine.sock",
    ".go:",
    "/home/someone",
    "Traceback",
    "/go/src",
    "21123",
)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("code", [1, 2, 6, 65535, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
def test_no_address_path_or_stack_trace_survives(message: str, code: Any) -> None:
    failures: list[Exception] = [pymilvus.MilvusException(code=code, message=message)]
    if isinstance(code, grpc.StatusCode):
        failures.append(rpc_error(code, message))
    for failure in failures:
        shown = str(translated(failure).as_dict())
        assert [secret for secret in SECRETS if secret in shown] == []


@given(st.text(), st.one_of(st.integers(-1, 3000), st.sampled_from(list(grpc.StatusCode))))
@settings(deadline=None, max_examples=200)
def test_any_code_with_any_text_becomes_an_error_of_bounded_length(text: str, code: Any) -> None:
    error = translated(pymilvus.MilvusException(code=code, message=text))
    assert type(error) is not errors.Internal
    assert len(error.message) <= MAX_MESSAGE + 1


def test_a_message_of_many_megabytes_is_no_burden() -> None:
    for text in ("a" * 2_000_000, "/a" * 200_000, "worker(1) query failed: " * 50_000, "1.1.1." * 100_000):
        assert len(translated(pymilvus.MilvusException(code=65535, message=text)).message) <= MAX_MESSAGE + 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("describe_collection", {"collection_name": "t_nowhere"}, "not_found"),
        ("query", {"collection_name": "t_codes", "filter": "id >> 3"}, "invalid_filter"),
        ("query", {"collection_name": "t_codes", "filter": "nofield % 2 == 0"}, "invalid_filter"),
        ("delete", {"collection_name": "t_codes", "filter": "id >> 3"}, "invalid_filter"),
        ("count", {"collection_name": "t_codes", "filter": "id == "}, "invalid_filter"),
        ("search", {"collection_name": "t_codes", "vector": [1, 2], "filter": "id in 3"}, "invalid_filter"),
        ("query", {"collection_name": "t_codes", "partition_names": ["nowhere"]}, "not_found"),
        (
            "insert",
            {"collection_name": "t_codes", "data": [{"id": 1, "vector": [1, 2]}], "partition_name": "nowhere"},
            "not_found",
        ),
        ("list_collections", {"db_name": "t_nowhere"}, "not_found"),
        ("build_index", {"collection_name": "t_codes", "field_name": "vector", "metric_type": "IP"}, "conflict"),
    ],
)
async def test_a_failure_of_milvus_lite_becomes_a_code(
    lite: Agent, tool: str, arguments: dict[str, Any], code: str
) -> None:
    await lite.call("create_collection", collection_name="t_codes", dimension=2)
    refusal = await lite.refused(tool, **arguments)
    assert refusal["code"] == code, refusal
    assert "/" not in refusal["message"]


@pytest.mark.anyio
async def test_a_collection_that_is_not_loaded_says_so(lite: Agent) -> None:
    await lite.call("create_collection", collection_name="t_released", dimension=2)
    await lite.call("release_collection", collection_name="t_released")
    with pytest.raises(errors.NotLoaded):
        async with lite.app.clients.client("default") as client:
            await client.query("t_released", filter="id > 1")


@pytest.mark.anyio
async def test_an_operation_that_the_backend_lacks_says_so(lite: Agent) -> None:
    with pytest.raises(errors.NotSupported):
        async with lite.app.clients.client("default") as client:
            await client.list_users()


def translated(failure: Exception) -> errors.Error:
    error = translate(failure, tried=TRIED)
    assert error is not None
    return error
