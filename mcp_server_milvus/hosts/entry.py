"""The entry of this server in a host: how it is started again, with the settings that were given as flags."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr

from mcp_server_milvus.hosts.table import Host
from mcp_server_milvus.settings import PREFIX, Settings, SettingsError, credentials_apart, is_switch
from mcp_server_milvus.vocabulary import Transport

COMMAND = "mcp-server-milvus"
PATHS = frozenset({"data_dir", "auth_tokens", "certfile", "keyfile", "embed_model_dir", "files_dir", "audit"})
"""Settings that are paths: a host starts servers in a folder of its choice. `config` is one, too."""


class Start(NamedTuple):
    """How the server is started: a command and its first arguments."""

    command: str
    args: tuple[str, ...]


UVX = Start("uvx", (COMMAND,))


def start_of_this_server(flags: Mapping[str, Any]) -> Start:
    """How the server that runs now can be started again: by uvx if uv has installed it, else by its own path."""
    if is_of_uv(Path(sys.prefix)):
        extra = ("--from", f"{COMMAND}[local]") if flags.get("embedder") == "fastembed" else ()
        return Start(shutil.which("uvx") or "uvx", (*extra, COMMAND))
    script = Path(sysconfig.get_path("scripts")) / (f"{COMMAND}.exe" if sys.platform == "win32" else COMMAND)
    return Start(str(script), ()) if script.is_file() else Start(sys.executable, ("-m", "mcp_server_milvus"))


def is_of_uv(prefix: Path) -> bool:
    """Whether the environment is one that `uvx` or `uv tool install` made: it may be gone tomorrow."""
    return (prefix / "uv-receipt.toml").is_file() or any(
        part.startswith(("archive-v", "environments-v")) for part in prefix.parts
    )


def entry_for(host: Host, start: Start, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The entry in that host. Secrets among the flags are in its `env`: anybody can read the arguments of a process.

    Raises:
        SettingsError: a flag that makes no sense there, or that cannot be written in JSON.
    """
    if flags.get("transport", Transport.STDIO) != Transport.STDIO:
        raise SettingsError("transport: a host starts this server over stdio; install it without that flag")
    known = credentials_apart(flags)
    secrets = {PREFIX + name.upper(): _text(name, value) for name, value in known.items() if is_secret(name)}
    plain = [word for name, value in known.items() if not is_secret(name) for word in _words(name, value)]
    kind = {"type": "stdio"} if host.has_type else {}
    env = {"env": secrets} if secrets else {}
    return {**kind, "command": start.command, "args": [*start.args, *plain], **env}


def is_secret(name: str) -> bool:
    """Whether the setting's value is kept secret."""
    field = Settings.model_fields.get(name)
    return field is not None and isinstance(field.default, SecretStr)


def _words(name: str, value: Any) -> Iterator[str]:
    """The flag as arguments. One whose value looks like a flag is one argument."""
    flag = name.replace("_", "-")
    if name in Settings.model_fields and is_switch(name):
        yield f"--{flag}" if value else f"--no-{flag}"
        return
    text = _text(name, value)
    if name == "config" or name in PATHS or (name == "uri" and text.endswith(".db")):
        text = _absolute(name, text)
    yield from [f"--{flag}={text}"] if text.startswith("-") or not text else [f"--{flag}", text]


def _absolute(name: str, text: str) -> str:
    """The path, from whatever folder; several are separated as in PATH."""
    if not text or (name, text) == ("audit", "stderr"):
        return text
    paths = text.split(os.pathsep) if name == "files_dir" else [text]
    return os.pathsep.join(str(Path(path).expanduser().absolute()) for path in paths if path)


def _text(name: str, value: Any) -> str:
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{name}: it is not UTF-8, and so has no place in JSON") from None
    return text
