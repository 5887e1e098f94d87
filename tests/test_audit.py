"""Who called what, with which outcome: in a file that nothing escapes."""

import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp_types import CallToolResult
from pydantic import SecretStr

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.calls import call
from mcp_server_milvus.errors import Conflict
from mcp_server_milvus.policy import LOCAL
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset
from tests.agent import UNATTENDED

pytestmark = pytest.mark.anyio


class TellInput(Input):
    collection_name: str = "docs"
    db_name: str | None = None
    password: str = ""
    text: str = ""


class TellOutput(Output):
    hits: list[int]
    delete_count: int = 3


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def tell(_: App, args: TellInput) -> TellOutput:
    """Reads."""
    if args.text == "fail":
        raise Conflict("no")
    if args.text == "wait":
        await anyio.sleep_forever()
    return TellOutput(hits=[1, 2])


@tool(toolset=Toolset.SCHEMA, effect=Effect.MODIFY)
async def change(app: App, args: TellInput) -> TellOutput:
    """Changes something: as many hits as there are lines already."""
    if args.text == "wait":
        await anyio.sleep_forever()
    path = Path(app.settings.audit)
    return TellOutput(hits=[0] * (path.read_text().count("\n") if path.is_file() else 0))


@asynccontextmanager
async def audited(audit: Path | str, **settings: Any) -> AsyncGenerator[Client]:
    chosen = {"uri": "http://127.0.0.1:1", "audit": str(audit), "token": "root:Milvus-secret", **settings}
    async with (
        open_app(Settings.model_validate(UNATTENDED | chosen)) as app,
        Client(build_server(app, [tell, change])) as client,
    ):
        yield client


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcomes(path: Path) -> list[tuple[str, str]]:
    return [(line["tool"], line.get("outcome") or line["phase"]) for line in lines(path)]


def hits(result: CallToolResult) -> int:
    assert not result.is_error, result.structured_content
    assert result.structured_content is not None
    return len(result.structured_content["hits"])


async def test_a_call_is_one_line_and_one_that_changes_something_two_of_which_the_first_comes_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit"
    async with audited(path) as client:
        await client.call_tool("tell", {"db_name": "prod", "text": "root:Milvus-secret"})
        assert hits(await client.call_tool("change", {"collection_name": "users"})) == 2
    read, begin, end = lines(path)
    assert read.keys() == {
        *("time", "call", "caller", "transport", "tool", "effect", "db_name"),
        *("outcome", "duration_ms", "counts", "arguments"),
    }
    assert (read["caller"], read["tool"], read["effect"], read["db_name"]) == ("local", "tell", "read", "prod")
    assert (read["outcome"], read["counts"]) == ("ok", {"hits": 2, "delete_count": 3})
    assert read["arguments"].startswith("hmac-sha256:")
    assert datetime.fromisoformat(read["time"]).tzinfo
    assert (begin["phase"], begin["collection_name"], begin["db_name"]) == ("begin", "users", "default")
    assert begin["call"] == end["call"] != read["call"]
    assert "outcome" not in begin
    assert end["outcome"] == "ok"
    assert "secret" not in path.read_text()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_whatever_becomes_of_a_call_it_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    async with audited(path, max_calls_per_minute=4) as client:
        await client.call_tool("tell", {"text": "fail"})
        await client.call_tool("tell", {"txet": "misspelt"})
        await client.call_tool("drop_everything", {"collection_name": "docs\n{forged}"})
        for name in ("tell", "change"):
            with anyio.move_on_after(0.2):
                await client.call_tool(name, {"text": "wait"})
        with anyio.fail_after(10):
            while len(outcomes(path)) < 6:
                await anyio.sleep(0.01)
        await client.call_tool("tell", {})
    assert outcomes(path) == [
        ("tell", "conflict"),
        ("tell", "invalid_argument"),
        ("drop_everything", "invalid_argument"),
        ("tell", "cancelled"),
        ("change", "begin"),
        ("change", "cancelled"),
        ("tell", "limit_exceeded"),
    ]


async def test_a_tool_that_a_caller_may_not_call_has_its_line_too(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    async with audited(path, read_only=True) as client:
        assert (await client.call_tool("change", {"collection_name": "docs"})).is_error
    (line,) = lines(path)
    assert (line["tool"], line["effect"], line["outcome"]) == ("change", "modify", "invalid_argument")


async def test_a_call_that_cannot_be_logged_does_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ran = tmp_path / "ran"

    @tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
    async def run(_: App, args: TellInput) -> TellOutput:
        """Leaves a trace."""
        ran.write_text(args.text)
        return TellOutput(hits=[])

    folder = tmp_path / "no"
    folder.mkdir()
    settings = Settings.model_validate(UNATTENDED | {"uri": "http://127.0.0.1:1", "audit": str(folder / "f")})
    folder.rmdir()
    async with open_app(settings) as app, Client(build_server(app, [tell, run])) as client:
        for name, what in (("run", "nothing was done"), ("tell", "nothing is returned")):
            error = (await client.call_tool(name, {})).structured_content
            assert error is not None
            assert error["code"] == "internal"
            assert f"audit log cannot be written, so {what}" in error["message"]
            assert error["hint"] == "tell the operator of this server"
            assert "hits" not in error
        assert not ran.exists()
        folder.mkdir()  # and it recovers
        assert not (await client.call_tool("run", {})).is_error
    assert ran.exists()
    assert "audit log cannot be written" in caplog.text


async def test_arguments_are_told_only_as_digests_that_do_not_depend_on_secrets(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(2):  # two servers that share the data folder
        async with audited(path) as client:
            for arguments in ({"text": "a", "password": "x"}, {"password": "y", "text": "a"}, {"text": "b"}):
                await client.call_tool("tell", arguments)
    one, same, other, *again = (line["arguments"] for line in lines(path))
    assert one == same != other
    assert again == [one, same, other]


async def test_who_guesses_arguments_cannot_tell_from_the_digest_that_they_are_right(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for folder in ("one", "other"):
        async with audited(path, data_dir=str(tmp_path / folder)) as client:
            await client.call_tool("tell", {"text": "a"})
    one, other = (line["arguments"] for line in lines(path))
    assert one != other
    assert hashlib.sha256(b'{"text":"a"}').hexdigest() not in one


async def test_callers_with_milvus_accounts_of_their_own_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    chosen = {"uri": "http://127.0.0.1:1", "audit": str(path), "max_calls_per_minute": 2}
    async with open_app(Settings.model_validate(UNATTENDED | chosen)) as app:
        for account in ("ann:secret", "ben:secret") * 2:
            caller = replace(LOCAL, credentials=SecretStr(account))
            result = await call(tell, app.seen_by(caller), {})
            assert isinstance(result, CallToolResult)
            assert not result.is_error  # nor does one use up what the other may
    ann, ben, *again = (line["caller"] for line in lines(path))
    assert again == [ann, ben]
    assert ann != ben
    assert all(each.startswith("local#") and len(each) <= 20 for each in (ann, ben))
    for guess in ("ann", hashlib.sha256(b"ann:secret").hexdigest()[:8]):
        assert guess not in path.read_text()


async def test_whole_arguments_are_told_without_their_secrets(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    async with audited(path, audit_arguments=True) as client:
        given = {"text": "see https://a:b@host\n\u202e", "password": "hunter2"}
        await client.call_tool("tell", given)
    (line,) = lines(path)
    assert line["arguments"] == {"text": "see https://***@host\n\u202e", "password": "***"}
    assert path.read_text().isascii()


async def test_a_file_that_is_moved_away_is_begun_anew_and_one_that_is_there_is_continued(tmp_path: Path) -> None:
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    path.write_text('{"tool":"earlier","outcome":"ok"}\n')
    async with audited(path) as client:
        await client.call_tool("tell", {})
        path.rename(old)
        await client.call_tool("tell", {"text": "fail"})
    assert outcomes(old) == [("earlier", "ok"), ("tell", "ok")]
    assert outcomes(path) == [("tell", "conflict")]


async def test_several_servers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    async with audited(path) as one, audited(path) as other, anyio.create_task_group() as tasks:
        for client in (one, other) * 40:
            tasks.start_soon(client.call_tool, "change", {"text": "x" * 3000}, None)
    assert len(lines(path)) == 160
    assert len({line["call"] for line in lines(path)}) == 80


async def test_without_the_setting_nothing_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with audited("") as client:
            assert not (await client.call_tool("tell", {})).is_error
    assert list(tmp_path.iterdir()) == []
    assert "audit" not in caplog.text


def test_the_lines_may_go_to_standard_error_of_a_server_over_stdio(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mcp_server_milvus", "--audit", "stderr", "--data-dir", str(tmp_path / "data")]
    call = {"name": "count", "arguments": {"collection_name": 5}}
    requests = [
        {
            "jsonrpc": "2.0",
            "id": 0,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "0"},
            },
        },
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
    ]
    result = subprocess.run(command, input=joined(requests), capture_output=True, text=True, check=True, timeout=60)
    (line,) = (json.loads(line) for line in result.stderr.splitlines() if line.startswith("{"))
    assert (line["tool"], line["transport"], line["outcome"]) == ("count", "stdio", "invalid_argument")
    assert "audit" not in result.stdout


def joined(requests: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(request) + "\n" for request in requests)
