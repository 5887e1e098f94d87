"""The hosts: where each keeps its servers, and how an entry looks there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Literal

System = Literal["linux", "darwin", "win32"]


@dataclass(frozen=True)
class Host:
    """A program that starts MCP servers. Its `files` are of Linux, macOS and Windows, below the folders of `folder`."""

    name: str
    title: str
    files: tuple[str, str, str]
    servers: str = "mcpServers"
    has_type: bool = False
    """Whether an entry says that it is of type stdio."""


def _everywhere(file: str) -> tuple[str, str, str]:
    return file, file, file


HOSTS = {
    host.name: host
    for host in (
        Host(
            "claude-desktop",
            "Claude Desktop",
            (
                "CONFIG/Claude/claude_desktop_config.json",
                "APPLICATION_SUPPORT/Claude/claude_desktop_config.json",
                "APPDATA/Claude/claude_desktop_config.json",
            ),
        ),
        Host("claude-code", "Claude Code", _everywhere("HOME/.claude.json"), has_type=True),
        Host("cursor", "Cursor", _everywhere("HOME/.cursor/mcp.json")),
        Host(
            "vscode",
            "VS Code",
            ("CONFIG/Code/User/mcp.json", "APPLICATION_SUPPORT/Code/User/mcp.json", "APPDATA/Code/User/mcp.json"),
            servers="servers",
            has_type=True,
        ),
        Host("windsurf", "Windsurf", _everywhere("HOME/.codeium/windsurf/mcp_config.json")),
        Host("gemini", "Gemini CLI", _everywhere("HOME/.gemini/settings.json")),
        Host(
            "zed",
            "Zed",
            ("CONFIG/zed/settings.json", "HOME/.config/zed/settings.json", "APPDATA/Zed/settings.json"),
            servers="context_servers",
        ),
    )
}
"""As their documentation says in November 2026:

- Claude Desktop: modelcontextprotocol.io/quickstart/user; on Linux, which has no official build, as in its packages.
- Claude Code: code.claude.com/docs/en/mcp, the user's scope.
- Cursor: cursor.com/docs/context/mcp.
- VS Code: code.visualstudio.com/docs/copilot/reference/mcp-configuration, the file of the default profile.
- Windsurf: docs.windsurf.com/windsurf/cascade/mcp.
- Gemini CLI: `docs/tools/mcp-server.md` in google-gemini/gemini-cli.
- Zed: zed.dev/docs/ai/mcp and zed.dev/docs/configuring-zed.
"""

SYSTEMS: tuple[System, ...] = ("linux", "darwin", "win32")


def config_file(host: Host, system: str, home: str, environment: Mapping[str, str]) -> PurePath:
    """The file in which the host has the servers of a user. A system that is not known is taken for Linux."""
    known: System = "win32" if system == "win32" else "darwin" if system == "darwin" else "linux"
    start, _, rest = host.files[SYSTEMS.index(known)].partition("/")
    return folder(start, known, home, environment) / rest


def folder(name: str, system: System, home: str, environment: Mapping[str, str]) -> PurePath:
    """HOME, CONFIG, APPLICATION_SUPPORT or APPDATA. What the environment says counts only as an absolute path."""
    path = PureWindowsPath if system == "win32" else PurePosixPath
    variable, below = {
        "HOME": ("", ""),
        "CONFIG": ("XDG_CONFIG_HOME", ".config"),
        "APPLICATION_SUPPORT": ("", "Library/Application Support"),
        "APPDATA": ("APPDATA", "AppData/Roaming"),
    }[name]
    given = path(environment.get(variable, ""))
    return given if given.is_absolute() else path(home) / below


def shown_file(host: Host, system: System) -> str:
    """The file as one tells a person: `~/.cursor/mcp.json`, or `%APPDATA%` and what follows."""
    start, _, rest = host.files[SYSTEMS.index(system)].partition("/")
    told = {"CONFIG": "~/.config", "APPLICATION_SUPPORT": "~/Library/Application Support", "APPDATA": "%APPDATA%"}
    if system == "win32":
        return str(PureWindowsPath(told.get(start, "%USERPROFILE%")) / rest)
    return f"{told.get(start, '~')}/{rest}"
