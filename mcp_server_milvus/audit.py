"""Who called what, on which collection, with which outcome: one line of JSON for each call.

A call that may change something has a line before it runs, too, and does not run when that cannot be written. Each
line is one write at the end of the file, so that several servers may share it; where the file was moved away, a new
one is begun.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from secrets import token_hex
from time import perf_counter
from typing import Any, cast

import anyio.to_thread

from mcp_server_milvus.errors import Internal
from mcp_server_milvus.milvus.results import masked
from mcp_server_milvus.redaction import Secrets
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.signing import Signatures

STDERR = "stderr"
TELL_THE_OPERATOR = "tell the operator of this server"
LONGEST_NAME = 255

NOT_COUNTED = frozenset({"applied_limits", "notes"})


@dataclass(frozen=True)
class Call:
    """What is known of a call before it runs. `secrets` and the values of arguments named like some are masked."""

    caller: str
    transport: str
    session: str
    tool: str
    effect: str
    db_name: str
    arguments: Mapping[str, Any]
    secrets: Secrets
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    given_id: str = ""
    started: float = field(default_factory=perf_counter)

    @cached_property
    def number(self) -> str:
        """What its lines have in common, and no other call has."""
        return token_hex(6)

    @property
    def request_id(self) -> str:
        """What others know it by: the id that its caller gave it, which another call may have too, or its number."""
        return self.given_id or self.number


class AuditLog:
    """The lines of this process. Without a file, or `stderr`, nothing is written and everything succeeds."""

    def __init__(self, settings: Settings, signatures: Signatures) -> None:
        self._target = settings.audit
        self._with_arguments = settings.audit_arguments
        self._digest = partial(signatures.digest, "arguments")
        self._lock = threading.Lock()
        self._file = -1
        self._is_torn = False  # a full disk took the beginning of a line

    async def begin(self, call: Call) -> None:
        """Says that the call is about to run.

        Raises:
            Internal: that cannot be written, so the call must not run.
        """
        if not await self._written(call, {"phase": "begin"}):
            raise Internal("the audit log cannot be written, so nothing was done", hint=TELL_THE_OPERATOR)

    async def end(self, call: Call, outcome: str, structured: Mapping[str, Any]) -> bool:
        """Says how the call ended; False when that cannot be written."""
        if not self._target:
            return True
        milliseconds = round(1000 * (perf_counter() - call.started), 1)
        counts = counted(structured) if outcome == "ok" else {}
        return await self._written(call, {"outcome": outcome, "duration_ms": milliseconds, "counts": counts})

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._let_go()

    async def _written(self, call: Call, more: Mapping[str, Any]) -> bool:
        """Whether the line is in the log, or there is no log. Everything that takes time is done in a thread."""
        if not self._target:
            return True
        is_written = False
        with anyio.CancelScope(shield=True):
            is_written = await anyio.to_thread.run_sync(self._write, call, more)
        return is_written  # noqa: RET504  # not inside the scope, of which pyright thinks that it ends cancellations

    def _write(self, call: Call, more: Mapping[str, Any]) -> bool:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        line = {
            "time": now,
            "call": call.number,
            "request_id": call.given_id,
            "caller": call.caller,
            "transport": call.transport,
            "session": call.session,
            "tool": call.tool[:LONGEST_NAME],
            "effect": call.effect,
            "db_name": _name(call.arguments.get("db_name")) or call.db_name,
            "collection_name": _name(call.arguments.get("collection_name")),
            **more,
            "arguments": shown_arguments(call) if self._with_arguments else digest_of_arguments(call, self._digest),
        }
        told = {name: value for name, value in line.items() if value not in ("", {})}
        text = json.dumps(told, separators=(",", ":")).encode() + b"\n"
        with self._lock, suppress(OSError):
            file = self._opened()
            given = b"\n" + text if self._is_torn else text
            self._is_torn = os.write(file, given) < len(given)
            return not self._is_torn
        return False

    def _opened(self) -> int:
        """The file's descriptor; of a new file, where the old one was moved away."""
        if self._target == STDERR:
            return 2
        path = Path(self._target).expanduser()
        if self._file >= 0:
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(self._file)):
                    return self._file
            self._let_go()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        return self._file

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def shown_arguments(call: Call) -> Any:
    """The arguments without secrets."""
    return _without_secrets(masked(call.arguments), call.secrets)


def digest_of_arguments(call: Call, digest: Callable[[str], str]) -> str:
    """What tells calls with the same arguments, to servers that share the data folder, and to nobody the arguments."""
    return f"hmac-sha256:{digest(json.dumps(shown_arguments(call), sort_keys=True, separators=(',', ':')))}"


def counted(structured: Mapping[str, Any]) -> dict[str, int]:
    """What a result says in numbers: its counts, and how many hits, entities, collections are in it."""
    counts: dict[str, int] = {}
    for name, value in structured.items():
        if isinstance(value, list) and name not in NOT_COUNTED:
            counts[name] = len(cast("list[Any]", value))
        elif isinstance(value, int) and not isinstance(value, bool) and (name == "count" or name.endswith("_count")):
            counts[name] = value
    return counts


def _name(value: Any) -> str:
    return value[:LONGEST_NAME] if isinstance(value, str) else ""


def _without_secrets(value: Any, secrets: Secrets) -> Any:
    match value:
        case str():
            return secrets.masked(value)
        case list():
            return [_without_secrets(each, secrets) for each in cast("list[Any]", value)]
        case dict():
            return {key: _without_secrets(each, secrets) for key, each in cast("dict[str, Any]", value).items()}
        case _:
            return value
