"""Traces: what a collector is sent of a call, and that nobody pays for them who has not asked."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import anyio
import grpc
import pytest
from mcp.server.mcpserver import MCPServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import ProxyTracerProvider, StatusCode
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from mcp_server_milvus import tracing
from mcp_server_milvus.milvus import spans
from tests.milvus.conftest import rpc_error

pytestmark = pytest.mark.anyio

TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PRIVATE = "zanzibar"


@dataclass
class Collector:
    """What was sent to it, as bytes and as spans."""

    endpoint: str = ""
    bodies: list[bytes] = field(default_factory=list[bytes])

    @property
    def resource(self) -> dict[str, Any]:
        (first, *_) = self._requests
        return attributes(first.resource_spans[0].resource)

    @property
    def spans(self) -> dict[str, Any]:
        """The last of each name."""
        return {
            span.name: span
            for request in self._requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        }

    @property
    def _requests(self) -> list[Any]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]


def attributes(told: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in told.attributes}


@contextmanager
def collecting() -> Generator[Collector]:
    """A collector on the loopback interface that speaks OTLP over HTTP."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
            """Not on the test's stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def served(messages: list[dict[str, Any]], folder: Path, **environment: str) -> tuple[list[dict[str, Any]], str]:
    """What a server answers over stdio, and what it logs."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    first = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
    result = subprocess.run(
        [sys.executable, "-m", "mcp_server_milvus", "--data-dir", str(folder)],
        input="".join(json.dumps(each) + "\n" for each in [first, *messages]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | environment,
    )
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def calling(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    meta = {"traceparent": f"00-{TRACE}-{CALLERS_SPAN}-01"}
    params = {"name": name, "arguments": arguments, "_meta": meta}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


def test_a_collector_gets_the_requests_to_milvus_under_the_call_under_the_span_of_the_caller(tmp_path: Path) -> None:
    with collecting() as collector:
        answers, log = served(
            [calling(1, "describe_collection", collection_name="traced_books"), calling(2, "list_databases")],
            tmp_path / "data",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        )
    outcomes = {each["id"]: each["result"].get("isError", False) for each in answers}
    assert outcomes == {0: False, 1: True, 2: False}, log
    described, milvus = collector.spans["tools/call describe_collection"], collector.spans["milvus.ShowPartitions"]
    assert (described.trace_id.hex(), described.parent_span_id.hex()) == (TRACE, CALLERS_SPAN)
    assert (milvus.trace_id.hex(), milvus.parent_span_id) == (TRACE, described.span_id)
    told = attributes(milvus)
    assert told["error.type"] == told.pop("db.response.status_code")
    assert told == {
        "db.system.name": "milvus",
        "db.namespace": "default",
        "db.operation.name": "ShowPartitions",
        "db.collection.name": "traced_books",
        "rpc.grpc.status_code": 0,
        "error.type": told["error.type"],
    }
    listed, databases = collector.spans["tools/call list_databases"], collector.spans["milvus.ListDatabases"]
    assert databases.parent_span_id == listed.span_id
    assert "error.type" not in attributes(databases)
    assert collector.resource.items() >= {"service.name": "mcp-server-milvus", "deployment.environment": "test"}.items()


def test_nothing_of_what_is_asked_or_stored_is_in_a_span(tmp_path: Path) -> None:
    vector = [0.123456789, 0.5]
    with collecting() as collector:
        answers, log = served(
            [calling(1, "create_collection", collection_name="traced_private", dimension=2)],
            tmp_path / "data",
            OTEL_TRACES_EXPORTER="none",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )
        assert collector.bodies == []
        answers, log = served(
            [
                calling(
                    1, "insert", collection_name="traced_private", data=[{"id": 1, "vector": vector, "s": PRIVATE}]
                ),
                calling(2, "search", collection_name="traced_private", vector=vector, filter=f"s == '{PRIVATE}'"),
                calling(3, "query", collection_name="traced_private", filter=f"{PRIVATE} =="),
            ],
            tmp_path / "data",
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.endpoint}/v1/traces",
        )
    assert len(answers) == 4, log
    assert {"milvus.Insert", "milvus.Search"} <= collector.spans.keys()
    sent = b"".join(collector.bodies)
    assert b"traced_private" in sent
    assert PRIVATE.encode() not in sent
    assert b"0.1234" not in sent


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Inside it, a call is traced."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "TRACER", provider.get_tracer("test"))
    with provider.get_tracer("test").start_as_current_span("call"):
        yield exporter
    provider.shutdown()


async def test_a_failure_is_told_by_its_kind_and_never_by_its_text(recorded: InMemorySpanExporter) -> None:
    async def lost() -> Any:
        raise rpc_error(grpc.StatusCode.UNAVAILABLE, f"{PRIVATE} at 10.1.2.3:19530")

    async def refused() -> Any:
        return milvus_pb2.QueryResults(status=common_pb2.Status(code=100, reason=PRIVATE))

    async def never() -> Any:
        await anyio.sleep_forever()

    request = milvus_pb2.FlushRequest(collection_names=["one"])
    with pytest.raises(grpc.aio.AioRpcError):
        await spans.traced("Flush", "prod", request, lost)
    await spans.traced("Query", "prod", milvus_pb2.QueryRequest(collection_name="one"), refused)
    with anyio.move_on_after(0.01):
        await spans.traced("Search", "prod", milvus_pb2.SearchRequest(), never)
    flushed, queried, searched = recorded.get_finished_spans()
    for span, kind in ((flushed, "UNAVAILABLE"), (queried, "100"), (searched, "cancelled")):
        assert (span.attributes or {})["error.type"] == kind
        assert span.status.status_code is StatusCode.ERROR
        assert span.events == ()
        assert PRIVATE not in span.to_json()
    assert [(span.attributes or {}).get("db.collection.name") for span in (flushed, queried, searched)] == [
        "one",
        "one",
        None,
    ]
    assert (flushed.attributes or {})["rpc.grpc.status_code"] == 14


def test_without_a_provider_nothing_is_traced(recorded: InMemorySpanExporter) -> None:
    assert spans.is_traced()
    told: list[bool] = []
    elsewhere = Thread(target=lambda: told.append(spans.is_traced()))  # where no call is under way
    elsewhere.start()
    elsewhere.join()
    assert told == [False]
    assert recorded.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("endpoint", "provider", "begins_spans"),
    [("", ProxyTracerProvider(), False), ("", TracerProvider(), True), ("http://127.0.0.1:9", None, True)],
    ids=["nobody", "a program's own", "a collector"],
)
async def test_spans_are_begun_only_where_somebody_records_them(
    endpoint: str, provider: Any, *, begins_spans: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setattr(tracing, "get_tracer_provider", lambda: provider)
    server = MCPServer("any")
    others = [each for each in server.middleware if type(each).__name__ != tracing.SPANS]
    assert len(others) == len(server.middleware) - 1
    async with tracing.tracing(server):
        assert (tracing.SPANS in map(type_name, server.middleware)) is begins_spans
        assert [each for each in server.middleware if each in others] == others


def type_name(each: object) -> str:
    return type(each).__name__


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_the_standard_variables_ask_for_traces(environment: dict[str, str], expected: bool) -> None:  # noqa: FBT001
    assert tracing.is_wanted(environment) is expected


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp"}, 'pip install "mcp-server-milvus[otel]"'),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console by http/protobuf is asked for"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp by grpc is asked for"),
    ],
)
def test_what_cannot_be_exported_is_said_once_and_serves_all_the_same(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.WARNING):
        assert tracing._provider(environment) is None
    (message,) = caplog.messages
    assert said in message


async def test_a_collector_that_does_not_answer_holds_the_end_up_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = Event()

    class Stuck:
        def shutdown(self) -> None:
            released.wait()

    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.05)
    exporting: Any = tracing._Exporting()
    exporting._provider = Stuck()
    with anyio.fail_after(5):
        await exporting.end()
    released.set()
