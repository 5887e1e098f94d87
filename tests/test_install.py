"""Into hosts and out again: the real command in a home folder of its own, and a server started from what it wrote."""

import base64
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from mcp_server_milvus.hosts.command import Wish, install, uninstall
from mcp_server_milvus.hosts.entry import UVX, entry_for, is_of_uv
from mcp_server_milvus.hosts.jsonc import value_of
from mcp_server_milvus.hosts.links import cursor_link, cursor_page, vscode_link, vscode_page
from mcp_server_milvus.hosts.table import HOSTS, Host, config_file, shown_file
from mcp_server_milvus.settings import SettingsError, load_settings

ROOT = Path(__file__).parents[1]
SECRET = "s3cr3t-Pa55-word"
OTHERS = "their-0wn-t0ken"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="where the files are is that of Linux here")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    home.mkdir()
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MILVUS_", "XDG_", "PYTHONPATH"))
    }
    return inherited | {"PYTHONPATH": str(ROOT), "HOME": str(home)}


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    def command(*arguments: str, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *through, "-m", "mcp_server_milvus", *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=tmp_path,
            env=environment,
            timeout=60,
        )

    return command


def file_of(host: str, home: Path) -> Path:
    file = Path(config_file(HOSTS[host], "linux", str(home), {}))
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("host", HOSTS.values(), ids=list(HOSTS))
def test_what_is_installed_starts_a_server_with_its_settings(
    host: Host, run: Run, home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    flags = ("--read-only", "--toolsets=search,-hybrid_search", "--data-dir", "data", f"--metrics-token={SECRET}")
    done = run("install", host.name, "--yes", *flags)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    file = Path(config_file(host, "linux", str(home), {}))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    entry = json.loads(file.read_text("utf-8"))[host.servers]["milvus"]
    assert entry.get("type", "none") == ("stdio" if host.has_type else "none")
    assert entry["env"] == {"MILVUS_MCP_METRICS_TOKEN": SECRET}
    assert SECRET not in str([entry["command"], entry["args"]])
    assert entry["args"][-2:] == ["--data-dir", str(tmp_path / "data")]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    parameters = StdioServerParameters(
        command=entry["command"], args=entry["args"], env=environment | entry["env"], cwd=elsewhere
    )

    async def listed() -> set[str]:
        with anyio.fail_after(60):
            async with Client(stdio_client(parameters)) as client:
                return {tool.name for tool in (await client.list_tools()).tools}

    tools = anyio.run(listed)
    assert "search" in tools
    assert tools.isdisjoint({"hybrid_search", "insert"})


CONFIG = f"""// mine
{{
    "theme": "dark", // at night
    "context_servers": {{
        // the first
        "github": {{"command": "gh", "env": {{"TOKEN": "{OTHERS}"}}}}, /* keep */
    }},
    "tabs": [1, 2,], // the end
}}
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_install_adds_one_entry_keeps_a_copy_and_is_undone_to_the_byte(
    run: Run, home: Path, newline: str, mark: str
) -> None:
    file = file_of("zed", home)
    before = (mark + CONFIG.replace("\n", newline)).encode()
    file.write_bytes(before)
    file.chmod(0o640)
    done = run("install", "zed", "--yes", "--name", "vectors", f"--token={SECRET}", "--uri", "http://h:1")
    assert done.returncode == 0, done.stderr
    after = file.read_bytes().decode()
    assert all(line in after for line in before.decode().split(newline))
    assert after.count("\r\n") == (after.count("\n") if newline == "\r\n" else 0)
    assert after.startswith(mark)
    value = value_of(after.removeprefix("\ufeff"))
    assert value["tabs"] == [1, 2]
    assert list(value["context_servers"]) == ["github", "vectors"]
    assert value["context_servers"]["vectors"]["env"] == {"MILVUS_MCP_TOKEN": SECRET}
    assert SECRET not in done.stdout + done.stderr
    assert OTHERS not in done.stdout + done.stderr
    assert '+        "vectors": {' in done.stdout
    assert not [line for line in done.stdout.splitlines() if re.match(r"-(?!--)", line)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    [backup] = file.parent.glob("settings.json.backup-*")
    assert (backup.read_bytes(), stat.S_IMODE(backup.stat().st_mode)) == (before, 0o640)

    again = run("install", "zed", "--yes", "--name", "vectors", f"--token={SECRET}", "--uri", "http://h:1")
    assert (again.returncode, again.stdout) == (0, "")
    assert "nothing to change" in again.stderr
    assert file.read_bytes().decode() == after

    gone = run("uninstall", "zed", "--yes", "--name", "vectors")
    assert gone.returncode == 0
    assert SECRET not in gone.stdout + gone.stderr
    assert file.read_bytes() == before
    assert len(list(file.parent.iterdir())) == 3


def test_another_entry_of_the_name_is_changed_in_its_own_keys_only(run: Run, home: Path) -> None:
    file = file_of("gemini", home)
    old = {
        "command": "old",
        "args": ["--token", OTHERS],
        "env": {"MILVUS_TOKEN": OTHERS, "HTTPS_PROXY": "http://p:1"},
        "trust": True,
    }
    file.write_text(json.dumps({"mcpServers": {"milvus": old}, "ui": 1}), "utf-8")
    done = run("install", "gemini", "--yes", "--password", SECRET, "--user", "root")
    assert done.returncode == 0, done.stderr
    entry = json.loads(file.read_text("utf-8"))["mcpServers"]["milvus"]
    assert entry["args"][-2:] == ["--user", "root"]
    assert entry["env"] == {"HTTPS_PROXY": "http://p:1", "MILVUS_MCP_PASSWORD": SECRET}
    assert entry["trust"] is True
    assert OTHERS not in done.stdout
    assert SECRET not in done.stdout


def test_a_change_of_nothing_but_a_secret_shows_neither(run: Run, home: Path) -> None:
    file = file_of("zed", home)
    assert run("install", "zed", "--yes", "--token", OTHERS).returncode == 0
    done = run("install", "zed", "--yes", "--token", SECRET)
    assert done.returncode == 0
    assert "only values change that are not shown" in done.stdout
    assert not [secret for secret in (SECRET, OTHERS) if secret in done.stdout + done.stderr]
    assert SECRET in file.read_text("utf-8")


def test_help_names_every_host(run: Run) -> None:
    told = run("--help").stdout
    assert [host for host in HOSTS if host not in told] == []


def test_without_a_yes_and_a_terminal_nothing_is_written(run: Run, home: Path) -> None:
    file = file_of("cursor", home)
    file.write_text('{"mcpServers": {}}\n', "utf-8")
    before = everything_in(home)
    done = run("install", "cursor")
    assert (done.returncode, everything_in(home)) == (2, before)
    assert "--yes" in done.stderr
    assert '+{"mcpServers": {"milvus": {' in done.stdout
    assert run("uninstall", "cursor").returncode == 0
    assert run("uninstall", "cursor", "--print").returncode == 0
    assert everything_in(home) == before


def test_print_shows_the_entry_and_writes_nothing(run: Run, home: Path) -> None:
    done = run("install", "vscode", "--print", f"--uri=http://root:{SECRET}@h:19530", "--no-drop", "--no-auto-load")
    assert done.returncode == 0
    entry = json.loads(done.stdout)["servers"]["milvus"]
    assert entry["args"][-4:] == ["--uri", "http://h:19530", "--no-drop", "--no-auto-load"]
    assert entry["env"] == {"MILVUS_MCP_TOKEN": "***"}
    assert SECRET not in done.stdout + done.stderr
    assert everything_in(home) == {}


def test_what_no_flag_gave_is_not_copied_and_that_is_said(run: Run, environment: dict[str, str], home: Path) -> None:
    environment["MILVUS_TOKEN"] = SECRET
    done = run("install", "cursor", "--print")
    assert SECRET not in done.stdout + done.stderr
    assert "env" not in json.loads(done.stdout)["mcpServers"]["milvus"]
    assert "token (a secret)" in done.stderr
    assert everything_in(home) == {}


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1), ("\x04", 1)])
def test_at_a_terminal_it_asks(environment: dict[str, str], home: Path, answer: str, code: int) -> None:
    import pty  # which Windows lacks

    file_of("claude-code", home)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_server_milvus", "install", "claude-code"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        cwd=home,
    )
    os.close(theirs)
    try:
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait(60)
        os.close(ours)
    assert b'"milvus"' in shown
    assert (home / ".claude.json").exists() == (code == 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"mcpServers": {"a": 1,, }}', "line 1, column 24"),
        (b'{\n  "mcpServers": /* no end', "line 2, column 17: a comment without an end"),
        (b'["mcpServers"]', "it is not an object"),
        (b'{"mcpServers": []}', '"mcpServers" in it is not an object'),
        (b'{"mcpServers": {}, "mcpServers": {}}', '"mcpServers" is there 2 times'),
        (b'{"mcpServers": {"a": NaN}}', "NaN is not JSON"),
        (b'{"a": "\xff"}', "it is not UTF-8: byte 7"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b'"' + b'\\"' * 2_000_000, "line 1, column 1"),
        (b"/*" * 2_000_000, "a comment without an end"),
        (b" " * (17 * 2**20), "more than 16 MB"),
    ],
    ids=range(11),
)
def test_what_cannot_be_read_is_refused_and_stays(
    home: Path,
    content: bytes,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(home))
    file = file_of("cursor", home)
    file.write_bytes(content)
    wish = Wish.of("cursor", {"name": "milvus", "yes": True, "print": False})
    settings = load_settings({})
    assert (install(wish, settings, {}), uninstall(wish, settings)) == (1, 1)
    out, err = capsys.readouterr()
    assert not out
    assert err.count(said) == err.count("nothing was changed") == 2
    assert everything_in(home) == {".cursor/mcp.json": content}


def test_a_file_that_may_not_be_written_is_left_and_a_folder_is_none(run: Run, home: Path) -> None:
    file = file_of("windsurf", home)
    file.write_text("{}", "utf-8")
    file.chmod(0o444)
    done = run("install", "windsurf", "--yes")
    assert (done.returncode, everything_in(home)) == (1, {".codeium/windsurf/mcp_config.json": b"{}"})
    assert "may not be written" in done.stderr
    file_of("cursor", home).mkdir()
    done = run("install", "cursor", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "it is not a file" in done.stderr


def test_a_link_stays_a_link_and_an_empty_file_is_filled(run: Run, home: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_bytes(b"\n")
    file = file_of("claude-desktop", home)
    file.symlink_to(real)
    assert run("install", "claude-desktop", "--yes").returncode == 0
    assert file.is_symlink()
    assert json.loads(real.read_text("utf-8"))["mcpServers"].keys() == {"milvus"}


def test_a_host_that_is_not_there_is_said_and_made_room_for_only_with_yes(run: Run, home: Path) -> None:
    done = run("install", "claude-desktop")
    assert done.returncode == 2
    assert "is Claude Desktop installed?" in done.stderr
    assert list(home.iterdir()) == []
    assert run("uninstall", "claude-desktop", "--yes").returncode == 0
    assert list(home.iterdir()) == []
    assert run("install", "claude-desktop", "--yes").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["install"], "install: wrong arguments"),
        (["install", "curser"], "there is no host 'curser' (did you mean cursor?)"),
        (["install", "cursor", "--name", "a b"], "name: must be"),
        (["install", "cursor", "--transport", "http"], "transport: a host starts this server over stdio"),
        (["uninstall", "cursor", "--uri", "http://h:1"], "leave out --uri"),
    ],
)
def test_bad_usage_exits_2(run: Run, home: Path, arguments: list[str], said: str) -> None:
    done = run(*arguments, "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert everything_in(home) == {}


def test_it_imports_neither_the_protocol_nor_milvus(run: Run) -> None:
    done = run("install", "zed", "--print", through=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "mcp_server_milvus" in imported
    assert imported.isdisjoint({"mcp", "mcp_types", "pymilvus", "milvus_lite", "grpc", "starlette", "numpy"})


def test_the_files_of_the_three_systems() -> None:
    def told(host: str, system: str, **environment: str) -> Any:
        home = r"C:\Users\me" if system == "win32" else "/home/me"
        return config_file(HOSTS[host], system, home, environment)

    roaming = PureWindowsPath(r"C:\Users\me\AppData\Roaming")
    support = PurePosixPath("/home/me/Library/Application Support")
    assert told("claude-desktop", "darwin") == support / "Claude/claude_desktop_config.json"
    assert told("claude-desktop", "win32") == roaming / "Claude/claude_desktop_config.json"
    assert told("vscode", "linux") == PurePosixPath("/home/me/.config/Code/User/mcp.json")
    assert told("vscode", "linux", XDG_CONFIG_HOME="/cfg") == PurePosixPath("/cfg/Code/User/mcp.json")
    assert told("vscode", "linux", XDG_CONFIG_HOME="cfg") == PurePosixPath("/home/me/.config/Code/User/mcp.json")
    assert told("zed", "win32", APPDATA=r"D:\App") == PureWindowsPath(r"D:\App\Zed\settings.json")
    assert told("zed", "darwin", XDG_CONFIG_HOME="/cfg") == PurePosixPath("/home/me/.config/zed/settings.json")
    assert told("claude-code", "win32") == PureWindowsPath(r"C:\Users\me\.claude.json")
    assert told("gemini", "freebsd") == PurePosixPath("/home/me/.gemini/settings.json")
    assert shown_file(HOSTS["zed"], "win32") == r"%APPDATA%\Zed\settings.json"
    assert shown_file(HOSTS["cursor"], "win32") == r"%USERPROFILE%\.cursor\mcp.json"


def test_an_environment_of_uv_is_started_by_uvx(tmp_path: Path) -> None:
    assert is_of_uv(Path("/home/me/.cache/uv/archive-v0/AbC_d"))
    assert not is_of_uv(tmp_path)
    (tmp_path / "uv-receipt.toml").touch()
    assert is_of_uv(tmp_path)


def test_the_links_hold_the_entry() -> None:
    entry = entry_for(HOSTS["cursor"], UVX, {"collections": "größer/+&?"})
    for link in (cursor_link("milvus", entry), cursor_page("milvus", entry)):
        asked = parse_qs(urlsplit(link).query, strict_parsing=True)
        assert asked["name"] == ["milvus"]
        assert json.loads(base64.b64decode(asked["config"][0], validate=True)) == entry
    assert json.loads(unquote(vscode_link("milvus", entry).removeprefix("vscode:mcp/install?"))) == {
        "name": "milvus",
        **entry,
    }
    assert json.loads(parse_qs(urlsplit(vscode_page("milvus", entry)).query)["config"][0]) == entry


def test_a_flag_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match="collections: it is not UTF-8"):
        entry_for(HOSTS["cursor"], UVX, {"collections": "\udcff"})
