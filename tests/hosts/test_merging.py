"""Entries in texts of every make: comments, trailing commas, line ends, odd white space, at any depth."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server_milvus.hosts.jsonc import Unreadable, comments_in, root_of, value_of
from mcp_server_milvus.hosts.merging import with_entry, without_entry

ENTRY = {"command": "uvx", "args": ["mcp-server-milvus", "--db-name", 'größer "x" // no comment'], "env": {"A": "1"}}
EMPTY_INSIDE = re.compile(r"\{\s+\}")

Draw = Callable[[st.SearchStrategy[Any]], Any]

COMMENTS = st.sampled_from(["// c\n", "/* d */", '/* } , " */', "/**/", '// "e": {\n', "/* f\n * g */", "//\n"])
GAPS = st.lists(st.one_of(st.sampled_from(["", " ", "\n", "\t", "\n    "]), COMMENTS), max_size=3).map("".join)
KEYS = st.sampled_from(["a", "b", "c", "größe", "x y", 'quo"te', "//", "/*", "\\", "}", "command", "args", "env"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5), KEYS
)


@st.composite
def objects(draw: Draw, depth: int = 2, more: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    """An object and a text that says it. Each of `more` is a key that holds an object."""
    keys = draw(st.permutations([*draw(st.lists(KEYS, unique=True, max_size=3)), *more]))
    value, members = dict[str, Any](), list[str]()
    for key in keys:
        value[key], text = draw(objects(depth - 1) if key in more else values(depth - 1))
        shown = json.dumps(key, ensure_ascii=draw(st.booleans()))
        members.append(f"{draw(GAPS)}{shown}{draw(GAPS)}:{draw(GAPS)}{text}{draw(GAPS)}")
    return value, f"{{{draw(GAPS) if not members else ''}{_listed(draw, members)}}}"


@st.composite
def values(draw: Draw, depth: int) -> tuple[Any, str]:
    kind = draw(st.sampled_from(["scalar", "list", "object"] if depth > 0 else ["scalar"]))
    if kind == "object":
        return draw(objects(depth))
    if kind == "list":
        found = [draw(values(depth - 1)) for _ in range(draw(st.integers(0, 2)))]
        texts = [f"{draw(GAPS)}{text}{draw(GAPS)}" for _, text in found]
        return [each for each, _ in found], f"[{_listed(draw, texts)}]"
    value = draw(SCALARS)
    return value, json.dumps(value, ensure_ascii=draw(st.booleans()))


def _listed(draw: Draw, texts: list[str]) -> str:
    trailing = f",{draw(GAPS)}" if texts and draw(st.booleans()) else ""
    return ",".join(texts) + trailing


@st.composite
def files(draw: Draw) -> tuple[dict[str, Any], str]:
    """A whole file, with servers or without."""
    value, text = draw(objects(3, ("servers",) if draw(st.booleans()) else ()))
    text = draw(GAPS) + text + draw(GAPS)
    return value, text.replace("\n", "\r\n") if draw(st.booleans()) else text


def comments(text: str) -> list[str]:
    return comments_in(text, 0, len(text))


@settings(max_examples=200, deadline=None)
@given(files())
def test_an_entry_is_put_in_and_taken_out_and_nothing_else_changes(file: tuple[dict[str, Any], str]) -> None:
    value, before = file
    assert value_of(before) == value
    after = with_entry(before, "servers", "milvus", ENTRY)
    wanted = value | {"servers": value.get("servers", {}) | {"milvus": ENTRY}}
    assert value_of(after) == wanted
    assert list(value_of(after)) == list(wanted)
    assert list(value_of(after)["servers"]) == list(wanted["servers"])
    assert comments(after) == comments(before)
    assert with_entry(after, "servers", "milvus", ENTRY) == after
    again = without_entry(after, "servers", "milvus")
    assert without_entry(again, "servers", "milvus") == again
    assert comments(again) == comments(before)
    if "servers" in value:
        assert EMPTY_INSIDE.sub("{}", again) == EMPTY_INSIDE.sub("{}", before)
    else:
        assert value_of(again) == value | {"servers": {}}


@settings(max_examples=200, deadline=None)
@given(files(), st.data())
def test_an_entry_takes_the_place_of_another_and_no_comment_is_lost(
    file: tuple[dict[str, Any], str], data: st.DataObject
) -> None:
    value, before = file
    there = [name for name in value.get("servers", {}) if value["servers"][name] is not None]
    if not there:
        return
    name = data.draw(st.sampled_from(there))
    old = value["servers"][name]
    wanted: dict[str, Any] = dict(ENTRY)
    if isinstance(old, dict) and "command" in old:
        env = old["env"] if isinstance(old.get("env"), dict) else {}
        wanted = old | ENTRY | {"env": env | {"A": "1"}}
    after = with_entry(before, "servers", name, ENTRY)
    assert value_of(after) == value | {"servers": value["servers"] | {name: wanted}}
    assert comments(after) == comments(before)
    gone = without_entry(before, "servers", name)
    assert value_of(gone) == value | {
        "servers": {other: each for other, each in value["servers"].items() if other != name}
    }


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('{}[]",:/*\\\n\r a1u'), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        plain = json.loads(text)
    except ValueError:
        plain = None
    try:
        value = value_of(text)
    except Unreadable:
        assert plain is None
        return
    assert plain in (None, value)
    if isinstance(value, dict):
        assert [member.key for member in root_of(text).members] or not value


@pytest.mark.parametrize("text", ["[,]", "{,}", "[1,,]", '{"a":,}', "{'a': 1}", '{"a": 1} // x\n{', "/*/", "", "[1 2]"])
def test_what_is_no_json_with_comments_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        value_of(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", '{\n  "s": {\n    "m": {\n      "command": "c"\n    }\n  }\n}'),
        ('{"s":{}}', '{"s":{"m": {"command": "c"}}}'),
        ('{"s":{"a":{}}}', '{"s":{"a":{}, "m": {"command": "c"}}}'),
        ('{\n\t"s": {}\n}', '{\n\t"s": {\n\t\t"m": {\n\t\t\t"command": "c"\n\t\t}\n\t}\n}'),
        (
            '{\n "s": {\n  "a": 1 // one\n  // end\n }\n}',
            '{\n "s": {\n  "a": 1, // one\n  "m": {\n   "command": "c"\n  }\n  // end\n }\n}',
        ),
        (
            '{\n  "s": {\n    "m": {"command": "old", "x": 1},\n  },\n}',
            '{\n  "s": {\n    "m": {"command": "c", "x": 1},\n  },\n}',
        ),
        (
            '{\n  "s": {\n    "m": {\n      "url": "u" // why\n    }\n  }\n}',
            '{\n  "s": {\n    "m": // why\n    {\n      "command": "c"\n    }\n  }\n}',
        ),
    ],
)
def test_an_entry_is_written_as_its_file_is(before: str, after: str) -> None:
    assert with_entry(before, "s", "m", {"command": "c"}) == after
