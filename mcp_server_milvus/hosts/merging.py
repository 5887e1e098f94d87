"""One entry put into a configuration, or taken out, and nothing else in the text touched: a member at a time.

What was put in is taken out to the byte, but for white space inside an object that is otherwise empty, and for the
object of all servers where there was none: it stays, empty.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mcp_server_milvus.hosts.jsonc import Braces, Member, Unreadable, braces_at, comments_in, root_of, value_of

OWN_VARIABLES = "MILVUS_"
"""What the variables begin with that are this server's. Others in the `env` of its entry are somebody's."""

LONGEST_GAP = 1_000
"""Characters in which a line should end that has nothing more in it."""

SAME_LINE = re.compile(r"(?:[ \t]*(?://[^\r\n]*|/\*[^*\r\n]*+(?:\*(?!/)[^*\r\n]*+)*+\*/))*+")
"""Comments that belong to what stands before them."""

INDENT = re.compile(r"[\r\n]([ \t]+)[^\s*/]")


@dataclass(frozen=True)
class Style:
    """How a file is written: its line ends, and one step of its indentation."""

    newline: str
    step: str

    @classmethod
    def of(cls, text: str) -> "Style":
        """The style of the first lines."""
        first = INDENT.search(text)
        return cls("\r\n" if "\r\n" in text else "\n", first[1] if first else "  ")

    def rendered(self, value: Any, indent: str) -> str:
        """The value as JSON; a list stands in one line."""
        if not isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False)
        inner = indent + self.step
        members = [
            f"{inner}{json.dumps(key, ensure_ascii=False)}: {self.rendered(each, inner)}"
            for key, each in cast("dict[str, Any]", value).items()
        ]
        return f"{{{self.newline}{f',{self.newline}'.join(members)}{self.newline}{indent}}}" if members else "{}"


def with_entry(text: str, servers: str, name: str, entry: Mapping[str, Any]) -> str:
    """The text in which the entry stands under the name. What it says besides, somebody's variables too, stays.

    Raises:
        Unreadable: the text is no object in JSON, or has something else where the servers should be.
    """
    if not text.strip():
        return Style("\n", "  ").rendered({servers: {name: dict(entry)}}, "") + "\n"
    old = _entry(text, servers, name)
    if not isinstance(old, dict) or "command" not in old:
        return text if old == entry else _put(text, (servers, name), dict(entry))
    known = cast("dict[str, Any]", old)
    for key, value in (_emptied(known) | dict(entry)).items():
        if key == "env" and isinstance(known.get("env"), dict):
            text = _with_variables(text, (servers, name, "env"), known["env"], value)
        elif known.get(key) != value:
            text = _put(text, (servers, name, key), value)
    return text


def _emptied(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry says no more if the next one does not say it."""
    return {"env": {}} if "env" in entry else {}


def _with_variables(text: str, path: Sequence[str], old: Mapping[str, Any], wanted: Mapping[str, str]) -> str:
    for variable in old:
        if variable.startswith(OWN_VARIABLES) and variable not in wanted:
            text = _drop(text, (*path, variable))
    for variable, value in wanted.items():
        if old.get(variable) != value:
            text = _put(text, (*path, variable), value)
    return text


def without_entry(text: str, servers: str, name: str) -> str:
    """The text without the entry; the same text if it has none.

    Raises:
        Unreadable: as `with_entry`.
    """
    return text if not text.strip() or _entry(text, servers, name) is None else _drop(text, (servers, name))


def _entry(text: str, servers: str, name: str) -> Any:
    member = root_of(text).find(servers)
    if member and text[member.value] != "{":
        raise Unreadable(f"{json.dumps(servers)} in it is not an object")
    entry = braces_at(text, member.value).find(name) if member else None
    return value_of(text[entry.value : entry.end]) if entry else None


def _put(text: str, path: Sequence[str], value: Any) -> str:
    """The text in which the path leads to the value; where there is no object on the way, one is made."""
    braces = root_of(text)
    for depth, key in enumerate(path[:-1]):
        member = braces.find(key)
        if member is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _inserted(text, braces, key, value)
        braces = braces_at(text, member.value)
    member = braces.find(path[-1])
    return _replaced(text, member, value) if member else _inserted(text, braces, path[-1], value)


def _drop(text: str, path: Sequence[str]) -> str:
    braces = root_of(text)
    for key in path[:-1]:
        member = braces.find(key)
        if member is None:
            return text
        braces = braces_at(text, member.value)
    member = braces.find(path[-1])
    return _removed(text, braces, member) if member else text


def _replaced(text: str, member: Member, value: Any) -> str:
    """With another value in the member, and the comments of the old one before it."""
    style, indent = Style.of(text), _indent(text, member.start)
    comments = "".join(f"{comment}{style.newline}{indent}" for comment in comments_in(text, member.value, member.end))
    return text[: member.value] + comments + style.rendered(value, indent) + text[member.end :]


def _inserted(text: str, braces: Braces, key: str, value: Any) -> str:
    """With one more member, the last; in a line of its own unless the others share one."""
    style = Style.of(text)
    if not braces.members:
        return _filled(text, braces, key, value, style)
    last = braces.members[-1]
    after = last.end if last.comma is None else last.comma + 1
    head = text[: last.end] + "," if last.comma is None else text[:after]
    if not _is_spread(text, braces):
        one_line = json.dumps({key: value}, ensure_ascii=False)[1:-1]
        return f"{head} {one_line}{',' if last.comma is not None else ''}{text[after:]}"
    comments = SAME_LINE.match(text, after)
    place = comments.end() if comments else after
    indent = _indent(text, last.start)
    member = f"{style.newline}{indent}{json.dumps(key, ensure_ascii=False)}: {style.rendered(value, indent)}"
    return head + text[after:place] + member + ("," if last.comma is not None else "") + text[place:]


def _filled(text: str, braces: Braces, key: str, value: Any, style: Style) -> str:
    """With the first member in an empty object."""
    inside = text[braces.start + 1 : braces.closing]
    if not inside.strip() and _line(text, braces.start).lstrip().startswith("{"):
        return f"{text[: braces.start]}{json.dumps({key: value}, ensure_ascii=False)}{text[braces.closing + 1 :]}"
    indent = _indent(text, braces.start)
    comments = SAME_LINE.match(text, braces.start + 1)
    place = comments.end() if comments else braces.start + 1
    inner = indent + style.step
    member = f"{style.newline}{inner}{json.dumps(key, ensure_ascii=False)}: {style.rendered(value, inner)}"
    rest = text[place : braces.closing] if inside.strip() else f"{style.newline}{indent}"
    return text[:place] + member + rest + text[braces.closing :]


def _removed(text: str, braces: Braces, member: Member) -> str:
    """Without the member, the white space before it, and one comma: its own, or that of the one before."""
    place = braces.members.index(member)
    before = braces.members[place - 1] if place else None
    start = _cut_from(text, before.end if before else braces.start, member)
    if member.comma is not None:
        cuts = [(start, member.end), (member.comma, member.comma + 1)]
    elif before and before.comma is not None:
        cuts = [(before.comma, before.comma + 1), (start, member.end)]
    else:
        cuts = [(start, member.end)]
    left = text
    for start, end in reversed(cuts):
        left = left[:start] + left[end:]
    around = comments_in(text, braces.start, member.start) + comments_in(text, member.end, braces.closing)
    if around or len(braces.members) > 1:
        return left
    return text[: braces.start] + "{}" + text[braces.closing + 1 :]


def _cut_from(text: str, previous: int, member: Member) -> int:
    """Where to begin when the member goes: at the token before it, but a comment keeps the end of its line."""
    comma = member.end if member.comma is None else member.comma
    rest = text[member.end : comma] + text[comma : comma + LONGEST_GAP].removeprefix("," if member.comma else "")
    last = comments_in(text, previous, member.before)[-1:]
    is_line = last and last[0].startswith("//") and text.endswith(last[0], 0, member.before)
    if not is_line or rest.lstrip(" \t").startswith(("\r", "\n")):
        return member.before
    return member.before + (2 if text.startswith("\r\n", member.before) else 1)


def _is_spread(text: str, braces: Braces) -> bool:
    """Whether the first member is in another line than the brace."""
    return "\n" in text[braces.start : braces.members[0].start]


def _indent(text: str, place: int) -> str:
    """The white space with which the line of the place begins."""
    line = _line(text, place)
    return line[: len(line) - len(line.lstrip(" \t"))]


def _line(text: str, place: int) -> str:
    """What stands before the place in its line."""
    return text[text.rfind("\n", 0, place) + 1 : place]
