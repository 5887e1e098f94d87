"""`install HOST` and `uninstall HOST`: shown first, then written, with what was there kept beside it."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mcp_server_milvus.hosts.entry import entry_for, is_secret, start_of_this_server
from mcp_server_milvus.hosts.files import ConfigFile
from mcp_server_milvus.hosts.jsonc import Unreadable
from mcp_server_milvus.hosts.merging import with_entry, without_entry
from mcp_server_milvus.hosts.showing import difference, snippet
from mcp_server_milvus.hosts.table import HOSTS, Host, config_file
from mcp_server_milvus.redaction import Secrets
from mcp_server_milvus.settings import Settings, SettingsError, nearest
from mcp_server_milvus.text.visible import visible

DONE, NOT_DONE, USAGE_ERROR = 0, 1, 2

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""Hosts make tool names of it."""


@dataclass(frozen=True)
class Wish:
    """What was asked for: the host, the name of the entry, and whether to write it, without a question or at all."""

    host: Host
    name: str
    yes: bool
    only_print: bool

    @classmethod
    def of(cls, host: str, options: Mapping[str, Any]) -> "Wish":
        """The wish in the words of the command line.

        Raises:
            SettingsError: there is no such host, or the name is none.
        """
        if host not in HOSTS:
            raise SettingsError(f"there is no host {host!r}{nearest(host, HOSTS)}; hosts: {', '.join(HOSTS)}")
        if not NAME.fullmatch(options["name"]):
            raise SettingsError("name: must be 1 to 64 letters, digits, - and _, and begin with a letter or digit")
        return cls(HOSTS[host], options["name"], options["yes"], options["print"])


def install(wish: Wish, settings: Settings, flags: Mapping[str, Any]) -> int:
    """Puts this server, with the flags, into the host's configuration. Returns the exit code.

    Raises:
        SettingsError: a flag that makes no sense in a host, or no home folder.
    """
    host, secrets = wish.host, Secrets.of(settings)
    entry = entry_for(host, start_of_this_server(flags), flags)
    _tell_what_is_left_out(settings, flags)
    if wish.only_print:
        print(snippet(entry, host.servers, wish.name, secrets))
        _tell(f"for {_file(host)}; nothing was written" + ("; secrets are shown as ***" if "env" in entry else ""))
        return DONE
    return _changed(wish, secrets, lambda text: with_entry(text, host.servers, wish.name, entry))


def uninstall(wish: Wish, settings: Settings) -> int:
    """Takes the entry out of the host's configuration. Returns the exit code.

    Raises:
        SettingsError: there is no home folder.
    """
    return _changed(
        wish, Secrets.of(settings), lambda text: without_entry(text, wish.host.servers, wish.name), "is not there"
    )


def _changed(wish: Wish, secrets: Secrets, change: Callable[[str], str], nothing: str = "is there already") -> int:
    path = _file(wish.host)
    try:
        file = ConfigFile.read(path)
        text = change(file.text)
        if text == file.text:
            _tell(f"nothing to change: {wish.name} {nothing}, in {path}")
            return DONE
        print(difference(file.text, text, (wish.host.servers, wish.name), str(path), secrets))
        if (answer := _agreed(wish, file)) != DONE or wish.only_print:
            return answer
        backup = file.write(text, datetime.now().astimezone())
    except (Unreadable, OSError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        _tell(f"{path}: {reason}; nothing was changed")
        return NOT_DONE
    _tell(f"wrote {path}" + (f"; what was there is in {backup}" if backup else ""))
    _tell(f"restart {wish.host.title} to have it take notice")
    return DONE


def _agreed(wish: Wish, file: ConfigFile) -> int:
    """0 if the change may be written; otherwise why not was said, and this is the exit code."""
    if wish.yes or wish.only_print:
        return DONE
    folder = file.target.parent
    if not folder.is_dir():
        _tell(
            f"there is no folder {folder}: is {wish.host.title} installed? With --yes it is made; nothing was changed"
        )
        return USAGE_ERROR
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        _tell("there is no terminal to ask at: with --yes it is written; nothing was changed")
        return USAGE_ERROR
    try:
        agreed = input("Write this? [y/N] ").strip().lower() in {"y", "yes"}
    except (EOFError, KeyboardInterrupt):
        agreed = False
    if not agreed:
        _tell("nothing was changed")
    return DONE if agreed else NOT_DONE


def _tell_what_is_left_out(settings: Settings, flags: Mapping[str, Any]) -> None:
    """Says which settings are in force here and are not in the entry: the host's environment is not this one."""
    others = sorted(settings.model_fields_set - flags.keys() - ({"token"} if "@" in str(flags.get("uri")) else set()))
    if others:
        words = [f"{name} (a secret)" if is_secret(name) else name for name in others]
        file = "; the file of --config is read again" if "config" in flags else ""
        _tell(f"left out, as no flag gave them but the environment, .env or a file: {', '.join(words)}{file}")


def _file(host: Host) -> Path:
    try:
        home = str(Path.home())
    except RuntimeError:
        raise SettingsError("there is no home folder: set HOME") from None
    return Path(config_file(host, sys.platform, home, os.environ))


def _tell(line: str) -> None:
    print(f"mcp-server-milvus: {visible(line)}", file=sys.stderr)
