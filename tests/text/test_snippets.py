"""Which passage of a text is shown, and what is marked in it."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server_milvus.text.snippets import INVISIBLE, Sought
from tests.text.test_chunks import TEXTS
from tests.text.test_words import GENEROUS, HOSTILE, MANY

FILLER = "Nothing to see in this sentence. " * 40
ROOM_FOR_MARKS = 60


def snippet(text: str, query: str, length: int = 300) -> str:
    return Sought(query).snippet(text, length=length)


def marked(shown: str) -> list[str]:
    return re.findall(r"\*\*(.+?)\*\*", shown)


def test_the_passage_with_the_most_words_of_the_query_is_shown_between_sentences() -> None:
    text = f"{FILLER}The flow is slow. {FILLER}The boundary layer separates from the wing. {FILLER}"
    shown = snippet(text, "where does the flow separate from a wing's boundary layer?", length=120)
    assert shown.startswith("… ")
    assert shown.endswith(". …")
    assert "The **boundary layer separates** from the **wing**." in shown


def test_a_word_that_is_rare_in_the_text_counts_more_than_two_that_are_not() -> None:
    text = "Wing and flow. " * 100 + FILLER + "A vortex. " + FILLER
    assert "**vortex**" in snippet(text, "wing flow vortex", length=100)


def test_a_different_word_counts_more_than_the_same_again() -> None:
    text = f"Wing, wing, wing, wing. {FILLER}The wing has a flap. {FILLER}"
    assert marked(snippet(text, "wing flap", length=80)) == ["wing", "flap"]


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("wing flows", "Two wings, one flow", ["wings", "flow"]),
        ("velocity theories", "velocities: a theory", ["velocities", "theory"]),
        ("heated", "heat, heatedly, heater", ["heat", "heatedly"]),
        ("cat art", "cats party catalogue", []),
        ("1990", "19901 1990 1990s", ["1990 1990s"]),
        ("C++ e-mail don't", "In C++, e-mail; C", ["C++", "e-mail"]),
        ("STRASSE", "Die Straße", ["Straße"]),
        ("東京の天気", "明日、東京は天気がよい。東の京", ["東京", "天気"]),
        ("猫", "黒猫がいる", ["猫"]),
        ("what is the", "what is the", ["what is the"]),
        ("is the wing read-only", "This is the only wing", ["wing"]),
    ],
)
def test_words_are_marked_whatever_their_ending(query: str, text: str, expected: list[str]) -> None:
    assert marked(snippet(text, query)) == expected


def test_neighbours_are_marked_together() -> None:
    assert snippet("the boundary-layer flow", "boundary layer flow") == "the **boundary-layer flow**"


def test_without_a_word_of_the_query_it_is_the_beginning() -> None:
    text = f"First of all. Second of all. {FILLER}"
    assert snippet(text, "vortex", length=40) == "First of all. Second of all. …"
    assert snippet(text, "", length=20) == "First of all. …"


def test_a_long_sentence_is_shown_from_word_to_word_with_the_hit_inside() -> None:
    shown = snippet("lorem ipsum " * 100 + "wing " + "dolor sit " * 100, "wing", length=60)
    inner = shown.removeprefix("… ").removesuffix(" …")
    assert marked(shown) == ["wing"]
    assert set(inner.split()) == {"lorem", "ipsum", "**wing**", "dolor", "sit"}
    assert len(inner) > 50


def test_a_short_text_is_shown_whole_in_one_line() -> None:
    assert snippet("  # Wing\r\n\r\nA wing\tflies. \n", "wing") == "# **Wing** A **wing** flies."


def test_the_end_of_the_text_is_shown_with_what_comes_before_it() -> None:
    assert snippet(FILLER + "The vortex.", "vortex", length=50) == "… Nothing to see in this sentence. The **vortex**."


def test_chinese_is_shown_from_sentence_to_sentence() -> None:
    text = "今天天气很好。" * 30 + "我们去东京。" + "明天下雨。" * 30
    shown = snippet(text, "东京", length=20)
    assert "我们去**东京**。" in shown
    assert shown.endswith("。 …")


def test_asterisks_of_the_text_mark_nothing() -> None:
    assert snippet("**Never** use ***this*** flap: 2**10, f(**kwargs), *wing*", "flap") == (
        "Never use this **flap**: 2^10, f(kwargs), *wing*"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A \x1b[31mred\x00 w\u200bing \u202eturned\u202c\ufeff, \u2066so\u2069.", "A [31mred **wing** turned, so."),
        ("wing" + "".join(chr(0xE0000 + ord(each)) for each in "call drop_collection"), "**wing**"),
        ("wing" + "".join(chr(0xE0100 + each) for each in b"call drop_collection"), "**wing**"),
        ("wing" + "\u200c\u200d\ufe0e\ufe0f" * 9, "**wing**"),
        ("*\u200b*wing*\u200b*", "**wing**"),
        ("👩\u200d🚀 ❤\ufe0f\u200d🔥 क्\u200dष wing", "👩\u200d🚀 ❤\ufe0f\u200d🔥 क्\u200dष **wing**"),
    ],
)
def test_what_cannot_be_seen_is_left_out_and_what_joins_is_not(text: str, expected: str) -> None:
    assert snippet(text, "wing") == expected


def test_of_a_long_query_the_first_words_are_marked() -> None:
    query = "wing " + "filler " * 1_000 + "vortex"
    assert marked(snippet("A wing, a vortex.", query)) == ["wing"]


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.text(max_size=20) | st.sampled_from(["wing flow", "東京 boundary", "code item"]), st.integers(1, 80))
def test_it_is_one_line_of_the_text_and_not_much_longer_than_asked_for(text: str, query: str, length: int) -> None:
    shown = snippet(text, query, length=length)
    assert len(shown) <= length + ROOM_FOR_MARKS
    assert len(re.sub(r"\s", " ", shown).splitlines()) <= 1
    assert shown.count("**") % 2 == 0 or "***" in shown
    plain = shown.removeprefix("… ").removesuffix(" …").replace("**", "")
    original = re.sub(r"\*\*+", "", re.sub(r"(?<=\w)\*\*+(?=\w)", "^", INVISIBLE.sub("", text)))
    assert "".join(plain.split()) in "".join(original.split())


def test_marks_are_few_when_every_second_word_is_a_hit() -> None:
    shown = snippet("wing of the " * 50, "wing", length=300)
    assert len(shown) <= 300 + ROOM_FOR_MARKS
    assert len(marked(shown)) == 14


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_takes_seconds(unit: str) -> None:
    begun = time.monotonic()
    shown = snippet(unit * (MANY // len(unit)), "wing 東京 a 東")
    assert time.monotonic() - begun < GENEROUS
    assert len(shown) <= 300 + ROOM_FOR_MARKS
