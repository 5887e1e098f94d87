"""Arguments of a tool as nobody means them: made from its JSON schema and from what is there, and then spoilt.

A call begins with what is right for the tool, so that it comes far; other arguments of the schema are added, some are
replaced by names and values that exist, and then most calls are changed at a place or two, however deep.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]

DEEPEST = 190
"""Levels of the deepest value: the SDK's parser takes no more than 200, the message itself counted."""

MEGABYTE = 2**20


@dataclass(frozen=True)
class Seen:
    """Stands for the last value that a result had under this name: a cursor, a token, the name of what is kept."""

    name: str


def nested(levels: int, innermost: Any) -> Any:
    """The value in lists and objects, by turns."""
    value = innermost
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


NUMBERS = (0, 1, -1, 2, 7, 100, 16_384, 65_536, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 10**4000)
FLOATS = (0.5, -0.0, 1e-320, 1e38, 1e39, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "a\udfffb",
    "\u202e\u2066 invisible \u200b",
    "é́🎉",
    "🎉" * 300,
    "_",
    "a.b",
    "../../etc/passwd",
    "/etc/passwd",
    "zz'] or pk != '' or pk in ['q",
    '"); drop table p; --',
    "{}",
    "{x}",
    "%s%n",
    "null",
    "true",
    "NaN",
    "1" * 5000,
    "(" * 3000,
    "x" * 65_536,
    "x" * MEGABYTE,
)
SPOILT: tuple[Any, ...] = (
    None,
    True,
    False,
    *NUMBERS,
    *FLOATS,
    *TEXTS,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"__proto__": {}},
    list(range(300)),
    [[0.0] * 8] * 3,
    dict.fromkeys(map(str, range(300))),
    nested(DEEPEST, None),
    nested(30, 10**400),
    Seen("next_cursor"),
    Seen("confirm"),
    Seen("kept_as"),
)

_number = st.sampled_from(NUMBERS) | st.integers(-10, 100)
_text = st.sampled_from(TEXTS) | st.text(max_size=12)
_names = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=5,
)
_plain = {"string": _text, "integer": _number, "number": _number | st.sampled_from(FLOATS), "boolean": st.booleans()}
_spoilt = st.sampled_from(SPOILT).map(copy.deepcopy) | _json
_odd_names = _names | st.sampled_from(("", "\0", "confirm", "db_name", "name"))
_changes = st.sampled_from(("replace", "replace", "replace", "remove", "add"))
_coin = st.booleans()
_about_one = st.sampled_from((0, 1, 1, 2))


def fitting(schema: Schema) -> st.SearchStrategy[Any]:
    """What the schema takes."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([fitting(each) for each in schema["anyOf"]])
    if schema.get("type") == "array":
        return st.lists(fitting(schema["items"]), max_size=4)
    return _object(schema) if schema.get("type") == "object" else _plain.get(schema.get("type", ""), _json)


def _object(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    named = {name: fitting(each) for name, each in schema.get("properties", {}).items()}
    if not named:
        return st.dictionaries(_names, _json, max_size=4)
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: each for name, each in named.items() if name in required},
        optional={name: each for name, each in named.items() if name not in required},
    )


class Calls:
    """What calls of a tool are made of. `right` are those that succeed, `known` values that exist, by argument."""

    def __init__(self, schema: Schema, right: Sequence[dict[str, Any]], known: Mapping[str, Sequence[Any]]) -> None:
        self.right = st.sampled_from(right).map(copy.deepcopy)
        self.names = st.sampled_from(sorted(schema["properties"]))
        self.wild = {name: fitting(each) for name, each in schema["properties"].items()}
        self.sane = self.wild | {
            name: st.sampled_from(known[name]).map(copy.deepcopy) for name in self.wild if name in known
        }

    @property
    def all(self) -> st.SearchStrategy[dict[str, Any]]:
        """Arguments of one call, in every other case with something wrong in them."""
        return _sane(self) | _wild(self)


@st.composite
def _sane(draw: st.DrawFn, of: Calls) -> dict[str, Any]:
    """A call that goes far: what is right, at most with another value or two that may be."""
    arguments = draw(of.right)
    for _ in range(draw(_about_one)):
        name = draw(of.names)
        arguments[name] = draw(of.sane[name])
    return arguments


@st.composite
def _wild(draw: st.DrawFn, of: Calls) -> dict[str, Any]:
    """A call with something wrong in it, somewhere."""
    arguments = draw(_sane(of))
    if draw(_coin):
        name = draw(of.names)
        arguments[name] = draw(of.wild[name])
    for _ in range(draw(_about_one)):
        _spoil(draw, arguments)
    return arguments


def _spoil(draw: st.DrawFn, arguments: dict[str, Any]) -> None:
    """Changes one place: what is there becomes something else, is left out, or gets company."""
    inside: Any = arguments
    while draw(_coin) and (deeper := [each for each in _values(inside) if isinstance(each, dict | list)]):
        inside = draw(st.sampled_from(deeper))
    places: list[Any] = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
    do = draw(_changes) if places else "add"
    if do == "remove":
        del inside[draw(st.sampled_from(places))]
    elif do == "replace":
        inside[draw(st.sampled_from(places))] = draw(_spoilt)
    elif isinstance(inside, dict):
        inside[draw(_odd_names)] = draw(_spoilt)
    else:
        inside.append(draw(_spoilt))


def _values(inside: Any) -> list[Any]:
    return list(inside.values()) if isinstance(inside, dict) else inside


def resolved(value: Any, seen: Mapping[str, Any]) -> Any:
    """The value with what each `Seen` in it stands for."""
    match value:
        case Seen():
            return seen.get(value.name, f"no {value.name} yet")
        case dict():
            return {name: resolved(each, seen) for name, each in value.items()}
        case list():
            return [resolved(each, seen) for each in value]
        case _:
            return value
