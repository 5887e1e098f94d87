"""Frames of JSON-RPC that nobody means: whole ones, changed at a byte or at a value, and what no parser takes."""

import copy
import json
import random
from typing import Any

MEGABYTE = 2**20

ENVELOPE = {
    "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
}
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**63,
    10**400,
    "",
    "x",
    "é🎉\u202e",
    "\0",
    "x" * 70_000,
    [],
    {},
    [1],
    {"a": {"b": []}},
    "tools/call",
    "initialize",
    "notifications/initialized",
)
NO_MESSAGES = (
    b"",
    b" \t ",
    b"{",
    b"}",
    b"[",
    b'"',
    b"null",
    b"7",
    b"nan",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"[]",
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
    b'{"jsonrpc":"2.0","id":1e400,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
    b'{"jsonrpc":"2.0","method":"\xed\xa0\x80"}',
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'"' + b"x" * MEGABYTE,
    b"1" * 5000,
)
"""What is no request, to any parser."""


class Frames:
    """Frames from a seed. Each has an id of its own, unless the id is what was changed."""

    def __init__(self, seed: int, *, modern: bool) -> None:
        self._random = random.Random(seed)  # noqa: S311  # no secret
        self._modern = modern
        self._count = 0

    def next(self) -> bytes:
        """One frame, without an end of line in it."""
        self._count += 1
        if self._random.random() < 0.15:
            return self._random.choice(NO_MESSAGES)
        frame = self._whole()
        for _ in range(self._random.choice((0, 1, 1, 2))):
            self._change_a_value(frame)
        line = json.dumps(frame, ensure_ascii=self._random.random() < 0.5).encode()
        if self._random.random() < 0.3:
            line = self._with_other_bytes(line)
        return line.replace(b"\n", b" ")

    def _whole(self) -> dict[str, Any]:
        envelope = copy.deepcopy(ENVELOPE) if self._modern else {}
        method, params = self._random.choice(
            (
                ("ping", {}),
                ("tools/list", {}),
                ("resources/list", {}),
                ("prompts/list", {}),
                ("server/discover", {}),
                ("no/such/method", {}),
                ("notifications/progress", {"progressToken": 1, "progress": 1}),
                ("tools/call", {"name": "list_collections", "arguments": {}}),
                ("tools/call", {"name": "query", "arguments": {"collection_name": "none", "filter": "id > 1"}}),
                ("tools/call", {"name": "nothing", "arguments": {}}),
            )
        )
        frame = {"jsonrpc": "2.0", "method": method, "params": params | envelope}
        return frame if method.startswith("notifications/") else {"id": f"frame {self._count}"} | frame

    def _change_a_value(self, frame: dict[str, Any]) -> None:
        inside: Any = frame
        while self._random.random() < 0.4 and (deeper := [each for each in inside.values() if isinstance(each, dict)]):
            inside = self._random.choice(deeper)
        name = self._random.choice([*inside, "id", "extra"])
        if self._random.random() < 0.3:
            inside.pop(name, None)
        else:
            inside[name] = self._random.choice(ODD)

    def _with_other_bytes(self, line: bytes) -> bytes:
        at = self._random.randrange(len(line))
        match self._random.randrange(5):
            case 0:
                return line[:at]
            case 1:
                return line[:at] + bytes([self._random.randrange(256)]) + line[at + 1 :]
            case 2:
                return (
                    line[:at]
                    + self._random.choice((b"\0", b"\xff", b'"', b"{", b"\\ud800", b"\r", b"1e400"))
                    + line[at:]
                )
            case 3:
                return b"\xef\xbb\xbf" + line
            case _:
                return line[:-1] + b"," + line[1:]


def awaits(line: bytes) -> str | int | None:
    """The id for which a client would wait, if it had sent this: that of a whole request."""
    try:
        frame: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(frame, dict) or frame.keys() & {"result", "error"}:
        return None
    request_id = frame.get("id")
    return request_id if type(request_id) in (int, str) and "\ud800" not in str(request_id) else None
