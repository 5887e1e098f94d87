"""Rewrites what is derived from the code: contracts, server.json, the example, and the tables of README.md.

The tables stand between markers: `<!-- tools: begin -->` and `<!-- tools: end -->`; likewise hosts, settings, errors.
With --check nothing is written, and each file that is not up to date is named.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from mcp_server_milvus import __version__, errors
from mcp_server_milvus.commands import contract
from mcp_server_milvus.hosts.entry import UVX, entry_for
from mcp_server_milvus.hosts.links import cursor_page, vscode_page
from mcp_server_milvus.hosts.merging import with_entry
from mcp_server_milvus.hosts.table import HOSTS, SYSTEMS, shown_file
from mcp_server_milvus.settings import FILE_ONLY, PREFIX, UNPREFIXED, Settings, is_switch
from mcp_server_milvus.tools import TOOLS

ROOT = Path(__file__).resolve().parents[1]
CONTRACTS = ROOT / "tools" / "contracts"
README = ROOT / "README.md"
EXAMPLE = ROOT / "claude_config.example.json"
SUPPORT: dict[str, dict[str, str]] = json.loads((ROOT / "tools" / "support.json").read_text("utf-8"))
"""What the tests saw of each tool on each backend (`pytest --record-support`)."""

SERVER = ROOT / "server.json"
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
REGISTRY_NAME = "io.github.OWNER/mcp-server-milvus"
"""In the registry of MCP servers, where README.md's saying the same shows whose it is. OWNER is whoever publishes."""

ASKED = ("uri", "token", "db_name", "data_dir", "read_only", "files_dir", "embedder", "embed_model", "embed_api_key")
"""The settings that a host asks for which installs from the registry. None is required."""

SEEN = {"works": "yes", "refused": "no", "not seen": "?"}


class NoPlace(Exception):
    """The README, or a marker in it, is missing; the message says which."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Rewrites contracts, server.json, the example and the README's tables."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not up to date")
    check = parser.parse_args().check
    wanted, problems = contracts() | {EXAMPLE: example(), SERVER: as_json(listing())}, list[str]()
    try:
        wanted[README] = readme()
    except NoPlace as reason:
        problems.append(str(reason))
    changed = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    gone = sorted(set(CONTRACTS.glob("*.json")) - wanted.keys())
    if check:
        problems += [f"{shown(path)} is not up to date: run tools/generate.py" for path in changed]
        problems += [f"{shown(path)} describes a tool that is gone: run tools/generate.py" for path in gone]
    else:
        write({path: wanted[path] for path in changed}, gone)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def write(changed: dict[Path, str], gone: list[Path]) -> None:
    for path, text in changed.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
        print(f"wrote {shown(path)}")
    for path in gone:
        path.unlink()
        print(f"removed {shown(path)}")


def contracts() -> dict[Path, str]:
    return {CONTRACTS / f"{tool.name}.json": as_json(contract(tool), sort_keys=True) for tool in TOOLS}


def as_json(value: dict[str, Any], *, sort_keys: bool = False) -> str:
    return json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n"


def listing() -> dict[str, Any]:
    """What the registry of MCP servers is told."""
    return {
        "$schema": SCHEMA,
        "name": REGISTRY_NAME,
        "title": "Milvus",
        "description": "AI agents run a Milvus vector database by themselves: embedded with no set-up, or your server.",
        "version": __version__,
        "packages": [
            {
                "registryType": "pypi",
                "identifier": "mcp-server-milvus",
                "version": __version__,
                "runtimeHint": "uvx",
                "transport": {"type": "stdio"},
                "environmentVariables": [variable(name, Settings.model_fields[name]) for name in ASKED],
            }
        ],
    }


def variable(name: str, field: FieldInfo) -> dict[str, Any]:
    described = {"name": PREFIX + name.upper(), "description": f"{field.description}."}
    if isinstance(field.default, SecretStr):
        return {**described, "isSecret": True}
    kind = {"format": "boolean"} if is_switch(name) else {"format": "filepath"} if name.endswith("_dir") else {}
    value = default(field).strip("`") if field.default_factory is None else ""
    return {**described, **kind, **({"default": value} if value else {})}


def example() -> str:
    """The configuration of Claude Desktop that starts this server from the registry."""
    host = HOSTS["claude-desktop"]
    return with_entry("", host.servers, "milvus", entry_for(host, UVX, {}))


def readme() -> str:
    """The README with its tables as they should be.

    Raises:
        NoPlace: there is no README, or it lacks a marker.
    """
    if not README.is_file():
        raise NoPlace(f"{shown(README)} is missing: its tables have no place")
    text = README.read_text("utf-8")
    text = filled(text, "hosts", f"{table(host_rows())}\n\n{links()}")
    text = filled(text, "tools", table(tool_rows()))
    text = filled(text, "settings", table(setting_rows()))
    return filled(text, "errors", table(error_rows()))


def filled(text: str, block: str, content: str) -> str:
    begin, end = f"<!-- {block}: begin -->", f"<!-- {block}: end -->"
    between = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    if not between.search(text):
        raise NoPlace(f"{shown(README)} lacks the markers {begin} and {end}, in this order")
    return between.sub(lambda _: f"\n{content}\n", text, count=1)


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Markdown; the first row is the header."""
    header, *body = rows
    lines = [header, ("---",) * len(header), *body]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())


def host_rows() -> Iterator[tuple[str, ...]]:
    yield "host", "command", "file on Linux, macOS, Windows"
    for host in HOSTS.values():
        files = dict.fromkeys(shown_file(host, system) for system in SYSTEMS)
        yield host.title, f"`mcp-server-milvus install {host.name}`", ", ".join(f"`{file}`" for file in files)


def links() -> str:
    """One click each, for what is in the registry."""
    cursor = cursor_page("milvus", entry_for(HOSTS["cursor"], UVX, {}))
    vscode = vscode_page("milvus", entry_for(HOSTS["vscode"], UVX, {}))
    return f"Or with one click: [add to Cursor]({cursor}), [add to VS Code]({vscode})."


def tool_rows() -> Iterator[tuple[str, ...]]:
    yield "tool", "toolset", "what it does", "effect", *SUPPORT
    for tool in TOOLS:
        seen = (SEEN[outcomes.get(tool.name, "not seen")] for outcomes in SUPPORT.values())
        yield f"`{tool.name}`", tool.toolset, tool.description, tool.effect, *seen


def setting_rows() -> Iterator[tuple[str, ...]]:
    yield "flag", "variable", "default", "meaning"
    unprefixed = {name: variable for variable, name in UNPREFIXED.items()}
    for name, field in Settings.model_fields.items():
        if name in FILE_ONLY:
            continue
        switch = "[no-]" if is_switch(name) and not name.startswith("no_") else ""
        variables = [variable for variable in (PREFIX + name.upper(), unprefixed.get(name)) if variable]
        yield (
            f"`--{switch}{name.replace('_', '-')}`",
            ", ".join(f"`{variable}`" for variable in variables),
            default(field),
            f"{field.description}.",
        )


def default(field: FieldInfo) -> str:
    """As one would write it in the environment. A secret is not shown, nor a folder that depends on the machine."""
    if field.default_factory is not None:
        return "the platform's folder for a user's data"
    match field.default:
        case None | "" | SecretStr():
            return ""
        case bool() as value:
            return f"`{str(value).lower()}`"
        case float() as value if value.is_integer():
            return f"`{int(value)}`"
        case value:
            return f"`{value}`"


def error_rows() -> Iterator[tuple[str, ...]]:
    yield "code", "meaning", "retriable"
    for error in below(errors.Error):
        meaning = (error.__doc__ or "").partition("\n")[0]
        yield f"`{error.code}`", meaning, "yes" if error.retriable else "no"


def below(error: type[errors.Error]) -> Iterator[type[errors.Error]]:
    """The tree's classes that have a code of their own, in the order in which its top draws them."""
    for child in error.__subclasses__():
        if "code" in vars(child):
            yield child
        yield from below(child)


if __name__ == "__main__":
    sys.exit(main())
