"""A change of a configuration as people are shown it: a diff without secrets, ours or another server's."""

import difflib
import json
from collections.abc import Iterator
from typing import Any, cast

from mcp_server_milvus.hosts.jsonc import Braces, braces_at, root_of, strings_in, value_of
from mcp_server_milvus.redaction import MASK, Secrets
from mcp_server_milvus.text.visible import visible
from mcp_server_milvus.titles import SECRET_FLAGS

LONGEST_LINE = 400
"""Characters. A file in one line is shown with line breaks."""


def difference(before: str, after: str, path: tuple[str, str], file: str, secrets: Secrets) -> str:
    """A unified diff. Values outside the entry at the path are masked, and so is what is secret inside it."""
    lines = difflib.unified_diff(
        _masked(before, path).splitlines(), _masked(after, path).splitlines(), file, file, lineterm=""
    )
    told = "\n".join(visible(secrets.masked(line)) for line in lines)
    return told or f"{visible(file)}: only values change that are not shown"


def snippet(entry: dict[str, Any], servers: str, name: str, secrets: Secrets) -> str:
    """The entry where it belongs, as JSON."""
    text = json.dumps({servers: {name: entry}}, indent=2, ensure_ascii=False)
    return "\n".join(visible(secrets.masked(line)) for line in _masked(text, (servers, name)).splitlines())


def _masked(text: str, path: tuple[str, str]) -> str:
    """The text with every string masked that is a value, but for those of the entry that nothing keeps secret."""
    if not text.strip():
        return ""
    if max(map(len, text.splitlines())) > LONGEST_LINE:
        text = json.dumps(value_of(text), indent=2, ensure_ascii=False)
    shown = frozenset(_shown(text, path))
    pieces, done = list[str](), 0
    for string, is_value in strings_in(text):
        if is_value and string.start() not in shown:
            pieces += [text[done : string.start()], f'"{MASK}"']
            done = string.end()
    return "".join([*pieces, text[done:]])


def _shown(text: str, path: tuple[str, str]) -> Iterator[int]:
    """Where the values are in the text that everybody may see."""
    entry = _object(text, _object(text, root_of(text), path[0]), path[1])
    for member in entry.members if entry else ():
        if member.key not in {"type", "command", "args"}:
            continue
        flag = ""
        for string, _ in strings_in(text[member.value : member.end]):
            value = cast("str", json.loads(string[0]))
            if value in SECRET_FLAGS or SECRET_FLAGS.isdisjoint((flag, value.partition("=")[0])):
                yield member.value + string.start()
            flag = value


def _object(text: str, within: Braces | None, key: str) -> Braces | None:
    member = within.find(key) if within else None
    return braces_at(text, member.value) if member and text[member.value] == "{" else None
