"""JSON with comments and trailing commas: what it says, and where in the text each member stands.

Texts are hostile: each is read in one pass, whatever is in it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

TOKEN = re.compile(
    r"""
    (?P<comment> //[^\r\n]*+ | /\*(?:.*?\*/|.*\Z) )
    | (?P<string> "[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z) )
    | (?P<mark> [{}\[\],:] )
    | (?P<word> [^\s"/{}\[\],:]++ | / )
    """,
    re.VERBOSE | re.DOTALL,
)
"""What has no end goes to the end of the text, so that nothing is looked at twice."""

NOT_BLANK = re.compile(r"[^\r\n]")


class Unreadable(ValueError):
    """The text is no JSON, not even with comments; the message says where."""


class Member(NamedTuple):
    """A member of an object. `before` is where the token in front of it ends; `comma` stands behind it, if one does."""

    key: str
    before: int
    start: int
    value: int
    end: int
    comma: int | None


class Braces(NamedTuple):
    """Where an object begins and where its closing brace is, with what stands between."""

    start: int
    closing: int
    members: tuple[Member, ...]

    def find(self, key: str) -> Member | None:
        """The member with the key.

        Raises:
            Unreadable: there are two, and nobody knows which a host takes.
        """
        found = [member for member in self.members if member.key == key]
        if len(found) > 1:
            raise Unreadable(f"{json.dumps(key)} is there {len(found)} times")
        return found[0] if found else None


def value_of(text: str) -> Any:
    """What the text says.

    Raises:
        Unreadable: it is not JSON with comments.
    """
    try:
        return json.loads(_without_extras(text), parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise Unreadable(f"{position(text, error.pos)}: {error.msg}") from None
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits, or NaN
        raise Unreadable(str(error)) from None


def braces_at(text: str, start: int) -> Braces:
    """The object that begins there. The text is one that `value_of` takes."""
    members: list[Member] = []
    key, key_before, value = None, start, -1
    depth, before, end = 0, start, start
    for token in TOKEN.finditer(text, start):
        mark, kind = token.group(), token.lastgroup
        if kind != "comment":
            if depth == 1 and key and mark in {",", "}"}:
                comma = token.start() if mark == "," else None
                members.append(Member(json.loads(key[0]), key_before, key.start(), value, end, comma))
                key, value = None, -1
            elif depth == 1 and not key and kind == "string":
                key, key_before = token, before
            elif depth == 1 and value < 0 and mark != ":":
                value = token.start()
            depth += (mark in {"{", "["}) - (mark in {"}", "]"})
            if not depth:
                return Braces(start, token.start(), tuple(members))
            end = token.end()
        before = token.end()
    raise Unreadable("it ends too early")


def root_of(text: str) -> Braces:
    """The object that the text is.

    Raises:
        Unreadable: it is no JSON, or something else than an object.
    """
    if not isinstance(value_of(text), dict):
        raise Unreadable("it is not an object")
    return braces_at(text, next(token.start() for token in TOKEN.finditer(text) if token.lastgroup != "comment"))


def comments_in(text: str, start: int, end: int) -> list[str]:
    """The comments between two places."""
    return [token[0] for token in TOKEN.finditer(text, start, end) if token.lastgroup == "comment"]


def strings_in(text: str) -> Iterator[tuple[re.Match[str], bool]]:
    """Each string, and whether it is a value; otherwise it is a key."""
    last = None
    for token in TOKEN.finditer(text):
        if token.lastgroup == "comment":
            continue
        if last:
            yield last, token[0] != ":"
        last = token if token.lastgroup == "string" else None
    if last:
        yield last, True


def position(text: str, offset: int) -> str:
    """`line 3, column 7`."""
    before = text[:offset]
    return f"line {before.count(chr(10)) + 1}, column {offset - before.rfind(chr(10))}"


def _without_extras(text: str) -> str:
    """Plain JSON of the same length: spaces for comments, and for commas after which nothing comes."""
    pieces: list[str] = []
    done = 0
    for start, end in _extras(text):
        pieces += [text[done:start], NOT_BLANK.sub(" ", text[start:end])]
        done = end
    return "".join([*pieces, text[done:]])


def _extras(text: str) -> Iterator[tuple[int, int]]:
    """Where comments and the commas before closing brackets are; those in between come late, but in order."""
    last, comma, held = "{", -1, list[tuple[int, int]]()
    for token in TOKEN.finditer(text):
        mark = token[0]
        if token.lastgroup == "comment":
            _require_end(text, token)
            held.append(token.span())
            continue
        if comma >= 0 and mark in {"}", "]"}:
            yield comma, comma + 1
        yield from held
        held, comma = [], token.start() if mark == "," and last not in {"{", "[", ",", ":"} else -1
        last = mark
    yield from held


def _require_end(text: str, comment: re.Match[str]) -> None:
    mark = comment[0]
    if mark.startswith("/*") and not (mark.endswith("*/") and len(mark) >= len("/**/")):
        raise Unreadable(f"{position(text, comment.start())}: a comment without an end")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
