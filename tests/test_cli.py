"""The command, as a person or a host starts it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_server_milvus import __version__
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Toolset

ROOT = Path(__file__).parents[1]
CONTRACTS = ROOT / "tools" / "contracts"
SECRET = "s3cr3t-Pa55"
NOTHING_LISTENS = "http://127.0.0.1:1"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command in an empty folder, with its data there and none of this machine's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILVUS_")}
    own = {"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path / "share"), "LOCALAPPDATA": str(tmp_path / "share")}

    def command(
        *arguments: str, given: str = "", environment: dict[str, str] | None = None, through: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *(through or ("-m", "mcp_server_milvus")), *arguments],
            check=False,
            input=given,
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=tmp_path,
            env=inherited | own | (environment or {}),
            timeout=60,
        )

    return command


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"mcp-server-milvus {__version__}\n")


def test_help_shows_the_commands_and_every_setting_and_no_value_of_one(run: Run) -> None:
    result = run("--help", environment={"MILVUS_TOKEN": SECRET})
    assert result.returncode == 0
    for word in (
        "call TOOL JSON|-",
        "tools [--json]",
        "demo",
        "--db-name",
        "--max-result-bytes",
        "--config",
        "--embed-model",
    ):
        assert word in result.stdout
    assert "--embedders" not in result.stdout
    assert "--milvus-uri" not in result.stdout
    assert SECRET not in result.stdout


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_what_needs_no_server_imports_none(run: Run, argument: str) -> None:
    result = run(argument, through=("-X", "importtime", "-m", "mcp_server_milvus"))
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "mcp_server_milvus" in imported
    assert imported & {"mcp", "mcp_types", "pymilvus", "milvus_lite", "grpc", "starlette", "numpy"} == set()


@pytest.mark.parametrize("arguments", [["tools"], ["tools", "--json"]])
def test_listing_the_tools_imports_no_pymilvus(run: Run, arguments: list[str]) -> None:
    result = run(*arguments, through=("-X", "importtime", "-m", "mcp_server_milvus"))
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "mcp_server_milvus" in imported
    assert imported & {"pymilvus", "milvus_lite", "grpc", "pandas", "numpy"} == set()


def test_tools_is_a_table_of_all_tools_with_what_each_toolset_weighs(run: Run) -> None:
    result = run("tools", "--toolsets", "data,+search,-delete", "--files-dir", ".")
    assert (result.returncode, result.stderr) == (0, "")
    table, _, totals = result.stdout.partition("\n\n")
    header, *lines = table.splitlines()
    assert header.split() == ["tool", "toolset", "effect", "bytes", "what", "it", "does"]
    rows = [line.split() for line in lines]
    assert [(name, toolset, effect) for name, toolset, _, effect, *_ in rows] == [
        (tool.name, tool.toolset, tool.effect) for tool in TOOLS
    ]
    on = {tool.name for tool in TOOLS if tool.toolset is Toolset.DATA} - {"delete"} | {"search"}
    assert {name for name, _, state, *_ in rows if state == "on"} == on
    weights = {name: int(size) for name, _, _, _, size, *_ in rows}
    data = [tool.name for tool in TOOLS if tool.toolset is Toolset.DATA]
    said = totals.splitlines()
    assert f"data: {len(data)} tools, {sum(weights[name] for name in data)} bytes" in said
    assert f"on: {len(data)} tools, {sum(weights[name] for name in on)} bytes" in said
    assert said[-1] == f"all: {len(TOOLS)} tools, {sum(weights.values())} bytes"


def test_a_tool_that_is_not_offered_cannot_be_called(run: Run) -> None:
    result = run("call", "delete", "{}", "--toolsets=-delete")
    assert (result.returncode, result.stdout) == (2, "")
    assert "there is no tool 'delete'" in result.stderr


def test_a_call_of_a_tool_that_is_not_offered_is_audited_as_any_other(run: Run, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    for name in ("delete", "no_such_tool"):
        assert run("call", name, "{}", "--toolsets=-delete", "--audit", str(audit)).returncode == 2
    told = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert [(each["tool"], each["outcome"], each["transport"]) for each in told] == [
        ("delete", "invalid_argument", "command line"),
        ("no_such_tool", "invalid_argument", "command line"),
    ]


def test_tools_json_is_the_contracts(run: Run) -> None:
    result = run("tools", "--json")
    contracts = [json.loads((CONTRACTS / f"{tool.name}.json").read_text("utf-8")) for tool in TOOLS]
    assert (result.returncode, json.loads(result.stdout)) == (0, contracts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--uir", "http://h:1"], "unknown flag --uir (did you mean --uri?)"),
        ([f"--tokn={SECRET}"], "unknown flag --tokn (did you mean --token?)"),
        (["call", "count", "{}", "--tokn", SECRET], "unknown flag --tokn (did you mean --token?)"),
        (["--milvus-ur", "x"], "unknown flag --milvus-ur (did you mean --milvus-uri?)"),
        (["-u", "x"], "unknown flag -u"),
        (["--token"], "argument --token: expected one argument"),
        (["--toolsets", "serch"], "toolsets: 'serch' is no toolset (did you mean search?)"),
        (["tools", "--toolsets=+serch"], "toolsets: there is no tool 'serch' (did you mean search?)"),
        (["serv"], "unknown command serv (did you mean serve?)"),
        (["serve", "now"], "serve: wrong arguments"),
        (["tools", "all"], "tools: wrong arguments"),
        (["call"], "call: wrong arguments"),
        (["call", "count"], "call: wrong arguments"),
        (["call", "count", "{}", "{}"], "call: wrong arguments"),
        (["call", "count", "{collection_name: docs}"], "call count: the arguments are not JSON"),
        (["call", "count", '["docs"]'], "call count: the arguments must be a JSON object"),
        (["call", "cuont", "{}"], "there is no tool 'cuont' (did you mean count?)"),
        (["--port", "http"], "port: "),
        (["--config", "nowhere.toml"], "there is no file nowhere.toml"),
        (["--embedder", "openai", f"--embed-api-key={SECRET}"], "the embedder openai needs a model: set embed_model"),
        (["--databases", "team_*"], "databases: 'team_*' leaves out 'default'"),
        (["--audit", "nowhere/audit.jsonl"], "audit: there is no folder nowhere"),
        (["--auth-tokens", "tokens.toml"], "stdio has one client and no tokens"),
        (["--embedders", "{}"], "unknown flag --embedders (did you mean --embedder?)"),
    ],
)
def test_bad_usage_is_said_in_a_line_and_exits_2(run: Run, arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("mcp-server-milvus: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr


def test_an_unknown_variable_exits_2(run: Run) -> None:
    result = run("tools", environment={"MILVUS_MCP_PROT": "1"})
    assert (result.returncode, result.stdout) == (2, "")
    assert "MILVUS_MCP_PROT (did you mean MILVUS_MCP_PORT?)" in result.stderr


def test_an_unknown_variable_in_dotenv_exits_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"MILVUS_MCP_PASSWRD={SECRET}\n", "utf-8")
    result = run("tools")
    assert result.returncode == 2
    assert "MILVUS_MCP_PASSWRD (did you mean MILVUS_MCP_PASSWORD?)" in result.stderr
    assert SECRET not in result.stderr


def test_an_unknown_key_exits_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('urii = "http://h:1"\n', "utf-8")
    result = run("tools", "--config", "settings.toml")
    assert result.returncode == 2
    assert "unknown key 'urii' in settings.toml (did you mean uri?)" in result.stderr


def test_a_port_that_is_taken_is_said_in_a_line_and_exits_1(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("--sse", "--port", str(taken.getsockname()[1]))
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    assert "mcp-server-milvus: " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["call", "count", '{"collection_name": "docs"}', "--uri", NOTHING_LISTENS],
        ["--uri", NOTHING_LISTENS, "call", "count", '{"collection_name": "docs"}'],
        ["call", "--uri", NOTHING_LISTENS, "count", '{"collection_name": "docs"}'],
        ["call", "count", "--milvus-uri", NOTHING_LISTENS, '{"collection_name": "docs"}'],
    ],
)
def test_an_error_of_a_tool_is_json_and_exits_1_wherever_the_flags_stand(run: Run, arguments: list[str]) -> None:
    result = run(*arguments, "--timeout", "5", f"--token=root:{SECRET}")
    assert result.returncode == 1
    assert json.loads(result.stdout)["code"] == "milvus_unavailable"
    assert result.stdout.count("\n") == 1
    assert SECRET not in result.stdout + result.stderr


def test_wrong_arguments_of_a_tool_are_an_error_of_the_tool(run: Run) -> None:
    result = run("call", "count", '{"colection_name": "docs"}', "--uri", NOTHING_LISTENS)
    assert result.returncode == 1
    assert "did you mean 'collection_name'?" in json.loads(result.stdout)["message"]


def test_calls_on_the_embedded_database_print_only_their_results(run: Run, tmp_path: Path) -> None:
    """Each is a process of its own: what one wrote the next one reads."""

    def called(tool: str, arguments: dict[str, Any], *, piped: bool = False) -> dict[str, Any]:
        text = json.dumps(arguments)
        result = run("call", tool, "-", given=text) if piped else run("call", tool, text)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count("\n") == 1
        return json.loads(result.stdout)

    entities = [{"id": number, "vector": [number, 1.0], "title": f"größer als {number}"} for number in range(3)]
    assert called("create_collection", {"collection_name": "docs", "dimension": 2})["created"] is True
    assert called("insert", {"collection_name": "docs", "data": entities}, piped=True) == {"insert_count": 3}
    assert called("count", {"collection_name": "docs"}) == {"count": 3}
    found = called("query", {"collection_name": "docs", "filter": "id == 2", "output_fields": ["title"]}, piped=True)
    assert [entity["title"] for entity in found["entities"]] == ["größer als 2"]
    if sys.platform not in {"darwin", "win32"}:
        assert (tmp_path / "share" / "mcp-server-milvus").is_dir()


def test_a_path_that_ends_in_db_is_an_embedded_database(run: Run, tmp_path: Path) -> None:
    result = run("call", "list_collections", "{}", "--uri", "agents.db")
    assert (result.returncode, json.loads(result.stdout)) == (0, {"collections": []})
    assert (tmp_path / "agents.db").is_dir()
    assert not (tmp_path / "share").exists()


def test_without_a_command_it_serves_and_ends_with_its_input(run: Run) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for arguments in ([], ["serve"]):
        result = run(*arguments, given=json.dumps(request) + "\n")
        assert result.returncode == 0
        assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [1]
