"""What is logged: text or lines of JSON, by one handler, without secrets, with the id of the call."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from mcp.client import Client

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.logs import JsonLines, TextLines
from mcp_server_milvus.redaction import Secrets
from mcp_server_milvus.request_ids import HEADER, META, given_id, under_way
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings, load_settings
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Effect, Toolset
from tests.agent import served
from tests.milvus.conftest import failing_milvus

pytestmark = pytest.mark.anyio

SECRET = 'p"ss\\wörd-7'
SECRETS = Secrets.of(Settings.model_validate({"token": f"root:{SECRET}", "embed_api_key": "Milvus"}))
HOSTILE = (
    'first\nsecond\r\n{"level":"ERROR"}',
    "\x1b[2J\x1b]0;title\x07cleared",
    "\u202egnirts\u2028next\x85line",
    '"},{"level":"CRITICAL","message":"',
    "half a pair \ud800",
)


class ListedLines(logging.Handler):
    """A handler that keeps its lines."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@contextmanager
def logged(name: str, formatter: logging.Formatter) -> Generator[ListedLines]:
    handler, logger = ListedLines(formatter), logging.getLogger(name)
    before, logger.propagate = logger.level, False
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = True


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_json_line_is_one_object_whatever_is_logged(hostile: str) -> None:
    with logged("hostile", JsonLines(SECRETS)) as log:
        logger = logging.getLogger("hostile")
        logger.warning(
            "%s", hostile, extra={"tool": hostile, "caller": hostile, "outcome": hostile, "unknown": hostile}
        )
        logger.error(hostile, exc_info=ValueError(hostile))
    assert len(log.objects) == 2
    for line, told in zip(log.lines, log.objects, strict=True):
        assert line.isascii()
        assert line.isprintable()
        texts = {name: value for name, value in told.items() if name != "exception"}
        assert all(value.isprintable() for value in texts.values())
        assert told["logger"] == "hostile"
        assert "unknown" not in told
    assert [told["level"] for told in log.objects] == ["WARNING", "ERROR"]
    assert "\nValueError" not in log.objects[1]["exception"]  # indented: no line of it looks like one of the log
    assert "ValueError" in log.objects[1]["exception"]


def test_no_string_of_a_json_line_has_a_secret() -> None:
    with logged("secretive", JsonLines(SECRETS)) as log:
        logger = logging.getLogger("secretive")
        extra = {"tool": SECRET, "caller": "Milvus", "outcome": f"x {SECRET}", "duration_ms": 1.5}
        logger.warning("token=%s and %s", "abc", SECRET, extra=extra)
        logger.warning("connecting to http://root:hunter2@milvus:19530")
        logger.warning("%d of it", SECRET)
        logger.warning("its own", extra={"secrets": Secrets(("its own",))})
        logger.error("failed", exc_info=RuntimeError(f"refused: {SECRET}"))
    assert json.dumps(SECRET)[1:-1] not in "".join(log.lines)
    assert "hunter2" not in "".join(log.lines)
    first, *_, own, failed = log.objects
    assert first["message"] == "token=*** and ***"
    assert {name: first[name] for name in extra} == {
        **dict.fromkeys(("tool", "caller"), "***"),
        "outcome": "x ***",
        "duration_ms": 1.5,
    }
    assert own["message"] == "***"
    assert failed["exception"].endswith("RuntimeError: refused: ***")
    assert first["time"].endswith("Z")
    assert len(first["time"]) == len("2026-01-01T00:00:00.000Z")


@pytest.mark.parametrize(
    ("meta", "headers", "expected"),
    [
        ({META: "req-1.a_B"}, {HEADER: "other"}, "req-1.a_B"),
        ({META: 7}, {HEADER: "other"}, "other"),
        ({META: "a" * 64}, None, "a" * 64),
        ({META: "a" * 65}, {HEADER: "a b"}, ""),
        ({META: "line\n"}, {HEADER: "é"}, ""),
        (None, None, ""),
    ],
)
def test_an_id_that_a_caller_gives_is_taken_when_it_is_one(meta: Any, headers: Any, expected: str) -> None:
    assert given_id(meta or {}, headers or {}) == expected


class Nothing(Input):
    """No arguments."""


class Told(Output):
    ok: bool


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def broken(app: App, args: Nothing) -> Told:
    """Has a fault."""
    del app, args
    logging.getLogger("some.library").warning("about to fail")
    raise KeyError("nobody expects this")


async def test_a_call_has_one_id_in_its_log_lines_its_error_and_the_audit_log(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    settings = load_settings({"data_dir": tmp_path / "data", "audit": str(audit)})
    root = logging.getLogger()
    async with open_app(settings) as app, Client(build_server(app, [broken])) as client:
        with logged("", JsonLines(SECRETS)) as log:
            for meta in ({META: "asked-42"}, {META: "not an id"}):
                result = await client.call_tool("broken", {}, meta=meta)  # pyright: ignore[reportArgumentType]
                assert result.is_error
                told: Any = result.structured_content
                assert told["code"] == "internal"
                its = [each for each in log.objects if each.get("request_id") == told["request_id"]]
                assert [each["logger"] for each in its] == ["some.library", "mcp_server_milvus", "mcp_server_milvus"]
                assert "nobody expects this" in its[1]["exception"]
                assert {name: its[2][name] for name in ("tool", "caller", "outcome", "level")} == {
                    "tool": "broken",
                    "caller": "local",
                    "outcome": "internal",
                    "level": "INFO",
                }
                assert its[2]["duration_ms"] >= 0
        root.info("between calls")
    given, own = map(json.loads, audit.read_text().splitlines())
    assert given["request_id"] == "asked-42"
    assert given["call"] != "asked-42"
    assert own["call"] == told["request_id"]
    assert "request_id" not in own
    assert len(own["call"]) == 12


def test_text_lines_name_the_call_that_is_under_way() -> None:
    with logged("told", TextLines(SECRETS)) as log:
        logging.getLogger("told").info("before")
        with under_way("r-1"):
            logging.getLogger("told").info("in it")
    assert log.lines == ["INFO told: before", "INFO told [r-1]: in it"]


async def test_milvus_is_told_the_id_under_both_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, str]] = []

    class Watch(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            told.append(dict(client_call_details.metadata or ()))
            return await continuation(client_call_details, request)

    plain = grpc.aio.insecure_channel
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda to, options=None: plain(to, options, None, [Watch()]))
    async with failing_milvus("ShowCollections") as (uri, _):
        settings = load_settings({"uri": uri})
        async with open_app(settings) as app, Client(build_server(app, TOOLS)) as client:
            meta: Any = {META: "for-milvus"}
            assert (await client.call_tool("list_collections", {}, meta=meta)).is_error
    sent = told[-1]
    assert (sent["client-request-id"], sent["client_request_id"]) == ("for-milvus", "for-milvus")


def test_the_log_of_a_server_is_json_to_its_last_line_and_stdout_stays_clean(tmp_path: Path) -> None:
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "list_databases", "arguments": {}}},
    ]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mcp_server_milvus", "--log-format", "json", "--log-level", "DEBUG"),
            *("--data-dir", str(tmp_path / "data")),
        ],
        input="".join(json.dumps(each) + "\n" for each in messages),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["id"] for each in answers] == [1, 2]
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    (end,) = [line for line in lines if line.get("tool") == "list_databases"]
    assert (end["outcome"], end["logger"], len(end["request_id"])) == ("ok", "mcp_server_milvus", 12)
    assert {line["logger"].partition(".")[0] for line in lines} - {"mcp_server_milvus"}  # libraries speak the same


async def test_workers_log_json_too_and_an_answer_over_http_has_the_name_of_its_request(tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = ["--stateless", "--workers", "2", "--log-format", "json", "--log-level", "INFO"]
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_databases", "arguments": {}}}
    accept = {"Accept": "application/json, text/event-stream"}
    async with (
        served("http", *settings, "--data-dir", str(tmp_path / "data"), log=log) as url,
        httpx2.AsyncClient() as http,
    ):
        for request_id in ("from-the-proxy", "no id at all"):
            answer = await http.post(f"{url}/mcp", json=call, headers=accept | {"X-Request-Id": request_id}, timeout=60)
            assert answer.status_code == 200, answer.text
            assert answer.headers.get("x-request-id") == ("from-the-proxy" if request_id == "from-the-proxy" else None)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ends = [line["request_id"] for line in lines if line.get("tool") == "list_databases"]
    assert ends[0] == "from-the-proxy"
    assert len(ends[1]) == 12


def test_a_json_line_is_written_in_one_piece() -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(SECRETS))
    handler.handle(logging.makeLogRecord({"msg": "a\nb", "levelname": "INFO", "name": "x"}))
    assert json.loads(stream.getvalue()) | {"time": ""} == {
        "time": "",
        "level": "INFO",
        "logger": "x",
        "message": "a\\nb",
    }
    assert stream.getvalue().count("\n") == 1
