"""`mcp-server-milvus doctor`, as a person starts it."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.agent import agent_on
from tests.openai_server import openai_server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
NOTHING_LISTENS = "http://127.0.0.1:1"
STATES = {"ok", "warning", "failure"}


class Doctor:
    """The command in a folder of its own, with none of this machine's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "share" / "mcp-server-milvus"

    async def says(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILVUS_")}
        share = str(self.folder / "share")
        own = {"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": share, "LOCALAPPDATA": share}

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "mcp_server_milvus", "doctor", *arguments],
                check=False,
                capture_output=True,
                text=True,
                encoding="utf-8",
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=inherited | own | environment,
                timeout=60,
            )

        return await anyio.to_thread.run_sync(run)

    async def finds(self, *arguments: str, code: int, **environment: str) -> dict[str, dict[str, str]]:
        """Its findings by their check."""
        result = await self.says("--json", *arguments, **environment)
        assert (result.returncode, result.stderr) == (code, "")
        told: dict[str, Any] = json.loads(result.stdout)
        assert told.keys() == {"ok", "summary", "findings"}
        assert told["ok"] == (code == 0)
        found: list[dict[str, str]] = told["findings"]
        assert told["summary"] == {state: sum(each["state"] == state for each in found) for state in STATES}
        for each in found:
            assert each.keys() == {"check", "state", "said", "remedy"}
            assert bool(each["remedy"]) == (each["state"] != "ok")
        return {each["check"]: each for each in found}


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


async def test_a_healthy_installation_is_told_in_aligned_lines_and_its_engine_let_go(doctor: Doctor) -> None:
    result = await doctor.says("--db-name", "default")
    assert (result.returncode, result.stderr) == (0, "")
    *lines, empty, summary = result.stdout.splitlines()
    assert empty == ""
    assert summary == f"{len(lines)} ok, 0 warnings, 0 failures"
    assert {line[:27].split()[0] for line in lines} == {"ok"}
    assert all(line[8] == " " != line[9] and line[27:29] == "  " != line[29:31] for line in lines)
    assert "\033" not in result.stdout
    assert "Milvus Lite 3" in result.stdout
    assert "default (--db-name)" in result.stdout
    assert not (doctor.data / "collections").exists() or not any((doctor.data / "collections").iterdir())
    address = doctor.data / ".engine" / "address"
    with anyio.fail_after(20):
        while address.exists():
            await anyio.sleep(0.02)


async def test_each_setting_is_told_with_where_it_comes_from_and_no_secret_is(doctor: Doctor) -> None:
    secrets = {f"s3cr3t-{name}-9431" for name in ("token", "password", "key", "metrics", "own", "uri")}
    (doctor.folder / ".env").write_text("MILVUS_MCP_MAX_OFFSET=77\nMILVUS_MCP_PASSWORD=s3cr3t-password-9431\n")
    config = doctor.folder / "settings.toml"
    config.write_text(
        'max_scan = 500\nmetrics_token = "s3cr3t-metrics-9431"\n'
        '[embedders.own]\nbackend = "openai"\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n'
        'api_key = "s3cr3t-own-9431"\ntimeout = 0.5\n'
    )
    arguments = ("--config", str(config), "--port", "8123", "--embed-api-key", "s3cr3t-key-9431")
    uri = "http://root:s3cr3t-uri-9431@127.0.0.1:1"
    environment = {"MILVUS_URI": uri, "MILVUS_TOKEN": "s3cr3t-token-9431", "MILVUS_MCP_USER": "root"}
    plain, found = await asyncio.gather(
        doctor.says(*arguments, **environment), doctor.finds(*arguments, code=1, **environment)
    )
    told = {check: each["said"] for check, each in found.items()}
    assert told["setting port"] == "8123 (--port)"
    assert told["setting uri"] == f"{NOTHING_LISTENS} (MILVUS_URI)"
    assert told["setting token"] == "set (MILVUS_TOKEN)"
    assert told["setting max_offset"] == f"77 (MILVUS_MCP_MAX_OFFSET in {doctor.folder / '.env'})"
    assert told["setting max_scan"] == f"500 (max_scan in {config})"
    assert told["setting password"].startswith("set (")
    assert told["setting confirm"] == "always (default)"
    assert found["Milvus"]["state"] == found["embedder own"]["state"] == "failure"
    assert plain.returncode == 1
    for secret in secrets:
        assert secret not in json.dumps(found) + plain.stdout + plain.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [("MILVUS_MCP_PORT=many", "port: "), ("MILVUS_MCP_TIMEOU=3", "did you mean MILVUS_MCP_TIMEOUT?")],
)
async def test_a_wrong_setting_is_a_finding(doctor: Doctor, line: str, said: str) -> None:
    (doctor.folder / ".env").write_text(line + "\n")
    found = await doctor.finds(code=1)
    assert found.keys() == {"packages", "settings"}
    assert said in found["settings"]["said"]
    assert "many" not in found["settings"]["said"]


async def test_wrong_usage_is_no_finding(doctor: Doctor) -> None:
    for wrong in ("patient", "--jsn"):
        result = await doctor.says(wrong)
        assert (result.returncode, result.stdout) == (2, "")


async def test_a_milvus_that_is_down_is_told_and_the_rest_is_still_checked(doctor: Doctor) -> None:
    found = await doctor.finds("--uri", NOTHING_LISTENS, code=1)
    assert found["network"]["state"] == found["Milvus"]["state"] == "failure"
    assert "127.0.0.1:1" in found["network"]["said"]
    assert "--uri" in found["network"]["remedy"]
    assert "database" not in found
    assert found["data folder"]["state"] == found["disk"]["state"] == "ok"


async def test_a_milvus_that_never_answers_takes_no_longer_than_the_timeout_of_each_check(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        found = await doctor.finds("--uri", f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "1", code=1)
        assert time.monotonic() - begun < 15
    assert found["network"]["state"] == "ok"
    assert found["Milvus"]["state"] == "failure"


async def test_a_port_that_speaks_no_tls_is_told_as_such(doctor: Doctor) -> None:
    async with openai_server() as endpoint:
        uri = endpoint.base_url.removesuffix("/v1").replace("http:", "https:")
        found = await doctor.finds("--uri", uri, "--timeout", "2", code=1)
    assert found["network"]["state"] == "ok"
    assert "http://" in found["TLS"]["remedy"]


async def test_a_data_folder_that_is_a_file_is_told_with_what_to_do(doctor: Doctor) -> None:
    doctor.data.parent.mkdir()
    doctor.data.write_text("no folder")
    found = await doctor.finds(code=1)
    assert "is a file" in found["data folder"]["said"]
    assert "--data-dir" in found["data folder"]["remedy"]
    assert found["Milvus"]["state"] == "failure"
    assert doctor.data.read_text() == "no folder"


async def test_an_embedder_is_asked_one_text_and_compared_with_what_is_bound(doctor: Doctor) -> None:
    async with openai_server() as endpoint:
        asked = {"embedder": "openai", "embed_model": "bag-of-words", "embed_base_url": endpoint.base_url}
        flags = [word for name, value in asked.items() for word in ("--" + name.replace("_", "-"), value)]
        uri = str(doctor.folder / "bound.db")
        async with agent_on(uri, **asked) as agent:
            await agent.call("create_collection", collection_name="doctor_bound", text_field="body")
        found = await doctor.finds("--uri", uri, *flags, code=0)
        assert found["embedder default"]["said"] == "openai bag-of-words answers, dimension 16"
        assert found["bound collections"]["state"] == "ok"
        endpoint.dim = 8
        found = await doctor.finds("--uri", uri, *flags, code=1)
        assert found["embedder default"]["said"].endswith("dimension 8")
        assert "dim: 8, not 16" in found["bound collections"]["said"]
    found = await doctor.finds("--uri", uri, *flags, "--embed-timeout", "0.5", code=1)
    assert found["embedder default"]["state"] == "failure"
    assert "--embed-base-url" in found["embedder default"]["remedy"]
    assert found["Milvus"]["state"] == "ok"


async def test_what_serving_over_http_would_stumble_over_is_told(doctor: Doctor) -> None:
    tokens = doctor.folder / "tokens.toml"
    tokens.write_text("[tokens.x]\nsha256 = 'no digest'\nscopes = ['read']\n")
    tokens.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = await doctor.finds(
            *("--transport", "http", "--port", str(taken.getsockname()[1]), "--uri", NOTHING_LISTENS),
            *("--auth-tokens", str(tokens), "--certfile", str(doctor.folder / "none"), "--keyfile", "none"),
            *("--audit", str(doctor.folder), "--toolsets", "serch"),
            code=1,
        )
    wrong = {check for check, each in found.items() if each["state"] == "failure"}
    assert wrong >= {"port", "access", "certificate", "audit", "tools"}
    assert "no digest" not in json.dumps(found)
