"""Values become literals, never syntax: whatever they are, on a real engine."""

import json
import math
import re
import string
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server_milvus.errors import InvalidArgument, InvalidFilter
from mcp_server_milvus.milvus.filters import (
    KEY_RANGE,
    LITERAL_RANGE,
    LONGEST_FILTER,
    LONGEST_RENDERED,
    MAX_KEYS,
    after_key,
    both,
    checked_key,
    keys_filter,
    literal,
    portable_key,
    rendered,
)
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.text.visible import escaped
from mcp_server_milvus.vocabulary import DataType
from tests.milvus.conftest import Agent

HOSTILE = [
    "'",
    '"',
    "\\",
    '\\"',
    "\\\\",
    "\n",
    "\r",
    "\t",
    "\0",
    "{name}",
    "{}",
    "%",
    "_",
    "]",
    ")",
    "é",
    "😀",
    "\u2028",
    "$",
    "\x7f",
]
HOSTILE_KEYS = [
    "",
    " ",
    "zz'] or pk != '' or pk in ['q",
    'zz"] or pk != "" or pk in ["q',
    '\\"] or pk != "',
    "a\\",
    "a\nb",
    "\\n",
    "\\u0041",
    "{name}",
    "1",
    "true",
    "%",
    "x" * 300,
]
TEXT = st.one_of(
    st.sampled_from(HOSTILE_KEYS),
    st.lists(st.sampled_from(HOSTILE), max_size=6).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
INTEGERS = st.one_of(st.integers(*LITERAL_RANGE), st.sampled_from([0, -1, 2**53, 2**63 - 1, -(2**63) + 1]))
KEYS = INTEGERS.filter(lambda key: key <= KEY_RANGE[1])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WITH_AN_ENGINE = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)

TEXT_KEY = Field("pk", DataType.VARCHAR, is_primary=True, max_length=1000)
INT_KEY = Field("pk", DataType.INT64, is_primary=True)


@pytest.fixture(scope="module")
async def keyed(lite: Agent) -> Agent:
    """A collection `f_keys` with text keys, and `f_values` with a field of each type."""
    vector = {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}
    text_key = {"name": "pk", "type": "VARCHAR", "is_primary": True, "max_length": 2000}
    int_key = {"name": "pk", "type": "INT64", "is_primary": True}
    values = [
        {"name": "text", "type": "VARCHAR", "max_length": 2000},
        {"name": "whole", "type": "INT64"},
        {"name": "real", "type": "DOUBLE"},
        {"name": "flag", "type": "BOOL"},
    ]
    await lite.call("create_collection", collection_name="f_keys", fields=[text_key, vector])
    await lite.call("create_collection", collection_name="f_values", fields=[int_key, vector, *values])
    await lite.call("create_collection", collection_name="f_numbers", fields=[int_key, vector])
    return lite


@given(TEXT)
def test_a_text_literal_is_one_token_that_reads_back_as_the_text(text: str) -> None:
    written = literal(text)
    assert re.fullmatch(r'"(?:\\.|[^"\\])*"', written, re.DOTALL)
    assert unescaped(written[1:-1]) == text


@given(st.one_of(INTEGERS, FLOATS, st.booleans()))
def test_a_number_literal_reads_back_as_the_number(value: float) -> None:
    read = json.loads(literal(value))
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "value", [None, math.nan, math.inf, -math.inf, {"a": 1}, 2**63, -(2**63), "\ud800", ["a", None], [["\udfff"]]]
)
def test_what_the_language_has_no_literal_for_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument):
        literal(value)


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_a_filter_of_keys_has_no_syntax_but_its_own(keys: list[str]) -> None:
    matched = re.fullmatch(r"pk in \[(.*)\]", keys_filter(schema(TEXT_KEY), keys), re.DOTALL)
    assert matched
    tokens = re.findall(r'"(?:\\.|[^"\\])*"', matched[1], re.DOTALL)
    assert ", ".join(tokens) == matched[1]
    assert [unescaped(token[1:-1]) for token in tokens] == keys


@pytest.mark.parametrize("keys", [[], ["k"] * (MAX_KEYS + 1)])
def test_none_and_too_many_keys_are_refused(keys: list[int | str]) -> None:
    with pytest.raises(InvalidArgument):
        keys_filter(schema(TEXT_KEY), keys)


@pytest.mark.parametrize(
    "key",
    [
        "1 or 1 == 1",
        "",
        "1.0",
        "0x1",
        "\u0661",
        " 1",
        "1\n",
        "-",
        "--1",
        "9" * 19,
        "1" * 20,
        str(-(2**63)),
        str(2**63 - 1),
    ],
)
def test_text_that_is_no_whole_number_is_no_integer_key(key: str) -> None:
    with pytest.raises(InvalidArgument):
        checked_key(INT_KEY, key)


@pytest.mark.parametrize("key", [2**53, -(2**53), 2**63 - 2])
def test_a_number_that_a_json_reader_may_have_rounded_must_be_a_string(key: int) -> None:
    with pytest.raises(InvalidArgument) as raised:
        checked_key(INT_KEY, key)
    assert f'"{key}"' in raised.value.hint
    assert checked_key(INT_KEY, str(key)) == key


@given(KEYS)
def test_a_key_that_a_result_shows_is_the_key_that_a_call_means(key: int) -> None:
    assert checked_key(INT_KEY, json.loads(json.dumps(portable_key(key)))) == key


def test_a_number_is_no_text_key() -> None:
    with pytest.raises(InvalidArgument):
        checked_key(TEXT_KEY, 1)


@given(TEXT, TEXT)
def test_a_value_never_changes_the_filter_around_it(before: str, value: str) -> None:
    template = f"a == {literal(before)} and b == {{v}} and c in [{{v}}]"
    if "{" in before and re.search(r"\{[A-Za-z_]\w*\}", before):
        assert literal(before) in rendered(template, {"v": value})
    expected = f"a == {literal(before)} and b == {literal(value)} and c in [{literal(value)}]"
    assert rendered(template, {"v": value}) == expected


@pytest.mark.parametrize("quoted", ['"{name}"', "'{name}'", '"\\"{name}"', "'it\\'s {name}'", '"a" + "{name}"'])
def test_braces_inside_strings_are_text(quoted: str) -> None:
    assert rendered(f"title == {quoted}", None) == f"title == {quoted}"
    with pytest.raises(InvalidFilter):
        rendered(f"title == {quoted}", {"name": 1})


@pytest.mark.parametrize(
    "template",
    ["(a > 1", "a > 1)", "a in [1", "a in 1]", "(a in [1)]", 'a == "x', "a == 'x", 'a == "x\\"', "1 == 1) or (1 == 1"],
)
def test_a_bracket_or_quote_without_its_partner_is_refused(template: str) -> None:
    with pytest.raises(InvalidFilter):
        rendered(template, None)


def test_a_parameter_that_is_missing_is_named() -> None:
    with pytest.raises(InvalidFilter, match="'year'"):
        rendered("year > {year}", {})


def test_a_parameter_that_is_not_used_is_named() -> None:
    with pytest.raises(InvalidFilter, match="year"):
        rendered("id > 1", {"year": 1})


def test_two_filters_are_joined_without_leaking() -> None:
    assert both("a == 1 or b == 2", "c == 3") == "(a == 1 or b == 2) and (c == 3)"
    assert (both("", "b"), both("a", ""), both("", "")) == ("b", "a", "")
    assert after_key(TEXT_KEY, 'a"b') == 'pk > "a\\"b"'


@given(st.text(alphabet=string.printable, max_size=40))
def test_any_template_is_rendered_or_refused(template: str) -> None:
    try:
        text = rendered(template, None)
    except InvalidArgument:
        return
    assert text == template


@pytest.mark.anyio
@given(key=TEXT, bystander=TEXT)
@WITH_AN_ENGINE
async def test_a_text_key_gets_and_deletes_exactly_its_entity(keyed: Agent, key: str, bystander: str) -> None:
    await exactly_one_entity(keyed, "f_keys", key, bystander)


@pytest.mark.anyio
@pytest.mark.parametrize("key", HOSTILE_KEYS)
async def test_a_hostile_key_gets_and_deletes_exactly_its_entity(keyed: Agent, key: str) -> None:
    await exactly_one_entity(keyed, "f_keys", key, "bystander")


@pytest.mark.anyio
@given(key=KEYS)
@WITH_AN_ENGINE
async def test_an_integer_key_gets_and_deletes_exactly_its_entity(keyed: Agent, key: int) -> None:
    await exactly_one_entity(keyed, "f_numbers", portable_key(key), 77)


@pytest.mark.anyio
@given(text=TEXT, whole=INTEGERS, real=FLOATS, flag=st.booleans())
@WITH_AN_ENGINE
async def test_a_value_finds_exactly_the_entities_that_have_it(
    keyed: Agent,
    text: str,
    whole: int,
    real: float,
    flag: bool,  # noqa: FBT001  # what hypothesis draws
) -> None:
    await finds_exactly_what_was_stored(keyed, "f_values", {"text": text, "whole": whole, "real": real, "flag": flag})


@pytest.mark.anyio
@pytest.mark.parametrize("text", HOSTILE)
async def test_a_hostile_value_finds_exactly_the_entities_that_have_it(keyed: Agent, text: str) -> None:
    values = {"text": text, "whole": LITERAL_RANGE[0], "real": -0.1, "flag": True}
    await finds_exactly_what_was_stored(keyed, "f_values", values)


async def exactly_one_entity(server: Agent, name: str, key: Any, bystander: Any) -> None:
    """Of an entity and one beside it, the key gets the first, and a delete by the key leaves the other."""
    keys = list(dict.fromkeys([key, bystander]))
    await server.call("upsert", collection_name=name, data=[{"pk": each, "vector": [1, 0]} for each in keys])
    got = await server.call("get", collection_name=name, ids=[key])
    assert [each["pk"] for each in got["entities"]] == [shown(key)]
    assert (await server.call("delete", collection_name=name, ids=[key]))["delete_count"] == 1
    left = keys[1:]
    assert [each["pk"] for each in await server.found(name)] == [shown(each) for each in left]
    if left:
        await server.call("delete", collection_name=name, ids=left)


def shown(key: Any) -> Any:
    """A key as a result carries it: the characters that nobody sees are written out."""
    return escaped(key) if isinstance(key, str) else key


async def finds_exactly_what_was_stored(server: Agent, name: str, values: dict[str, Any]) -> None:
    """Beside an entity with other values, each value alone and in a list finds the one that has it."""
    other = {
        "text": values["text"] + "x",
        "whole": 5 if values["whole"] != 5 else 6,
        "real": 1e300,
        "flag": not values["flag"],
    }
    entities = [{"pk": 1, "vector": [1, 0]} | values, {"pk": 2, "vector": [1, 0]} | other]
    await server.call("upsert", collection_name=name, data=entities)
    for field, value in values.items():
        for template, param in ((f"{field} == {{v}}", value), (f"{field} in {{v}}", [value])):
            found = await server.found(name, filter=template, filter_params={"v": param})
            assert [each["pk"] for each in found] == [1], (field, value, template)


def test_a_filter_has_its_length_and_parameters_make_it_longer() -> None:
    longest = 'text == "' + "x" * (LONGEST_FILTER - 10) + '"'
    assert rendered(longest, None) == longest
    keys = [f"{number:0300}" for number in range(MAX_KEYS)]
    assert len(rendered("pk in {keys}", {"keys": keys})) > 3_000_000
    too_long = [(f"{longest} ", None), ("a in {v}" * 8_000, {"v": keys}), ("a == {v}", {"v": "x" * LONGEST_RENDERED})]
    for template, params in too_long:
        with pytest.raises(InvalidFilter, match="characters or more") as refused:
            rendered(template, params)
        assert "filter_params" in refused.value.hint


def test_a_number_of_more_digits_than_python_writes_is_refused_in_words() -> None:
    key = Field("pk", DataType.INT64, is_primary=True)
    for number in (10**5_000, -(10**5_000)):
        with pytest.raises(InvalidArgument, match="16,610 bits is outside of"):
            literal([number])
        with pytest.raises(InvalidArgument, match="16,610 bits is beyond"):
            checked_key(key, number)
        with pytest.raises(InvalidArgument, match="type dict cannot"):
            literal({"a": number})


def schema(key: Field) -> CollectionSchema:
    fields = (key, Field("vector", DataType.FLOAT_VECTOR, dim=2))
    return CollectionSchema("c", fields, functions=(), indexes=(), enable_dynamic_field=False)


def unescaped(text: str) -> str:
    """What a reader of the filter language makes of the inside of a string."""
    named = {"n": "\n", "r": "\r", "t": "\t"}
    return re.sub(r"\\(.)", lambda found: named.get(found[1], found[1]), text, flags=re.DOTALL)
