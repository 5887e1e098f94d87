"""The command `mcp-server-milvus`: arguments and environment in, a running command out."""

import argparse
import functools
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import anyio

from mcp_server_milvus import __version__
from mcp_server_milvus.garbage import kept_imports
from mcp_server_milvus.logs import set_up_logs
from mcp_server_milvus.settings import (
    FILE_ONLY,
    Settings,
    SettingsError,
    is_switch,
    load_settings,
    nearest,
    settings_and_origins,
)
from mcp_server_milvus.titles import without_secrets_in_title
from mcp_server_milvus.vocabulary import Transport

OK, TOOL_ERROR, USAGE_ERROR = 0, 1, 2
COMMANDS = ("serve", "call", "tools", "install", "uninstall", "doctor", "token", "demo")

EPILOG = """\
commands:
  serve                 serve MCP clients (the default)
  call TOOL JSON|-      run one tool and print its result; - reads the arguments from standard input
  tools [--json]        list the tools; --json prints their contracts
  install HOST [flags]  have a host start this server with these flags: claude-desktop, claude-code, cursor, vscode,
                        windsurf, gemini, zed; shows the change and asks; --print shows the entry, --yes asks nothing
  uninstall HOST        take it out of that host again
  token [NAME]          make a token for a client over http, and its entry for the file of --auth-tokens
  demo                  show the whole main job on a temporary database
  doctor [--json]       check settings, folders, Milvus and embedders, and say what to do about what is wrong

Every flag can also be set as MILVUS_MCP_<FLAG> (and MILVUS_URI, MILVUS_TOKEN, MILVUS_DB) in the environment or in .env,
or as a key of the TOML file of --config. A flag beats the environment, the environment beats the file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit code: 0, 1 for an error of a tool or server, 2 for bad usage."""
    try:
        arguments = without_secrets_in_title() if argv is None else argv
        options = vars(_parser().parse_intermixed_args(arguments))
        command, rest = options.pop("command"), options.pop("arguments")
        if (command, rest) == ("doctor", []):
            return _doctor(options)  # which begins without settings: that they are wrong is one of its findings
        settings = load_settings(_flags(options), options.get("config"))
        set_up_logs(settings)
        return _run(command, rest, settings, options, arguments)
    except SettingsError as error:
        print(f"mcp-server-milvus: {error}", file=sys.stderr)
        return USAGE_ERROR


def _run(command: str, rest: list[str], settings: Settings, options: dict[str, Any], given: Sequence[str]) -> int:
    match command, rest:
        case "serve", []:
            return _serve(settings, given)
        case "call", [tool, arguments]:
            return _call(settings, tool, sys.stdin.read() if arguments == "-" else arguments)
        case "tools", []:
            return _tools(settings, as_json=options["json"])
        case "install" | "uninstall", [host]:
            return _in_host(settings, host, options, installing=command == "install")
        case "token", [] | [_]:
            return _token(*rest)
        case "demo", []:
            return _demo(settings, legacy=options["legacy"])
        case _:
            raise SettingsError(_misuse(command))


def _misuse(command: str) -> str:
    if command not in COMMANDS:
        return f"unknown command {command}{nearest(command, COMMANDS)}"
    return f"{command}: wrong arguments; see mcp-server-milvus --help"


class _Parser(argparse.ArgumentParser):
    """A parser that names the nearest right flag and leaves printing to `main`."""

    def error(self, message: str) -> NoReturn:
        _, _, unrecognized = message.partition("unrecognized arguments: ")
        unknown = next((word.partition("=")[0] for word in unrecognized.split() if word.startswith("-")), "")
        flags = [flag for action in self._actions for flag in action.option_strings]
        raise SettingsError(f"unknown flag {unknown}{nearest(unknown, flags)}" if unknown else message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mcp-server-milvus",
        description="A Model Context Protocol server through which AI agents run a Milvus vector database.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", default="serve", metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("arguments", nargs="*", default=[], metavar="ARGUMENT", help="of the command")
    parser.add_argument("--version", action="version", version=f"mcp-server-milvus {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("--legacy", action="store_true", default=False, help="demo: as a client of the older protocol")
    parser.add_argument("--json", action="store_true", default=False, help="tools, doctor: print JSON")
    parser.add_argument("--name", default="milvus", help="install, uninstall: name of the entry in the host")
    parser.add_argument(
        "--print", action="store_true", default=False, help="install, uninstall: show, and write nothing"
    )
    parser.add_argument("--yes", action="store_true", default=False, help="install, uninstall: write without asking")
    for name, field in Settings.model_fields.items():
        if name in FILE_ONLY:
            continue
        flag = "--" + name.replace("_", "-")
        help_text = (field.description or "").replace("%", "%%")
        if name.startswith("no_"):  # argparse would take its flag for the denial of another
            parser.add_argument(flag, action="store_true", help=help_text)
        elif is_switch(name):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
        else:
            parser.add_argument(flag, metavar="VALUE", help=help_text)
    _add_old_flags(parser)
    return parser


def _add_old_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of zilliztech/mcp-server-milvus."""
    for old, new in (("--milvus-uri", "uri"), ("--milvus-token", "token"), ("--milvus-db", "db_name")):
        parser.add_argument(old, dest=new, help=argparse.SUPPRESS)
    for old, transport in (("--sse", Transport.SSE), ("--streamable-http", Transport.HTTP)):
        parser.add_argument(old, dest="transport", action="store_const", const=transport, help=argparse.SUPPRESS)


def _flags(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in Settings.model_fields}


def _serve(settings: Settings, given: Sequence[str]) -> int:
    parent = None
    try:
        if settings.workers > 1:
            from mcp_server_milvus.transports.workers import inherited, serve_with_workers

            parent = inherited()
            if parent is None:
                return anyio.run(serve_with_workers, settings, given)
        with kept_imports():
            from mcp_server_milvus.commands import serve
        anyio.run(serve, settings, parent)
    except OSError as error:
        print(f"mcp-server-milvus: {error}", file=sys.stderr)
        return TOOL_ERROR
    return OK


def _call(settings: Settings, name: str, text: str) -> int:
    from mcp_server_milvus.commands import call_once

    try:
        arguments = json.loads(text)
    except ValueError as error:
        print(f"mcp-server-milvus: call {name}: the arguments are not JSON: {error}", file=sys.stderr)
        return USAGE_ERROR
    if not isinstance(arguments, dict):
        print(f"mcp-server-milvus: call {name}: the arguments must be a JSON object", file=sys.stderr)
        return USAGE_ERROR
    return anyio.run(call_once, settings, name, cast("dict[str, Any]", arguments))


def _tools(settings: Settings, *, as_json: bool) -> int:
    from mcp_server_milvus.commands import contract, table
    from mcp_server_milvus.tools import TOOLS

    print(json.dumps([contract(tool) for tool in TOOLS], indent=2) if as_json else table(settings))
    return OK


def _in_host(settings: Settings, host: str, options: dict[str, Any], *, installing: bool) -> int:
    from mcp_server_milvus.hosts.command import Wish, install, uninstall

    wish = Wish.of(host, options)
    flags = {name: value for name, value in options.items() if name == "config"} | _flags(options)
    if installing:
        return install(wish, settings, flags)
    if flags:
        raise SettingsError(f"uninstall takes no settings: leave out --{next(iter(flags)).replace('_', '-')}")
    return uninstall(wish, settings)


def _token(name: str = "NAME") -> int:
    from mcp_server_milvus.auth.tokens import entry_for, new_token

    token = new_token()
    print(f"For the client, and for nobody else: {token}", file=sys.stderr)
    print(entry_for(name, token))
    return OK


def _demo(settings: Settings, *, legacy: bool) -> int:
    from mcp_server_milvus.demo import run_demo

    return anyio.run(functools.partial(run_demo, settings, legacy=legacy))


def _doctor(options: dict[str, Any]) -> int:
    from mcp_server_milvus.doctor.report import Report, examine

    wants_colors = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    report = Report(as_json=options["json"], colors=wants_colors)
    try:
        settings, origins = settings_and_origins(_flags(options), options.get("config"))
    except SettingsError as error:
        return report.without_settings(str(error))
    logging.basicConfig(level=logging.CRITICAL)  # what else would be logged is among the findings
    return anyio.run(examine, settings, origins, report)
