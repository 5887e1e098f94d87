"""What counts as a word, and which words of a query say something."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server_milvus.text.words import STOP_WORDS, content_words, words

MANY = 100_000
HOSTILE = [
    *("a", ".", "\n", " ", "*", "'", "-", "`", "#", "東", "「", "。", "\u0301", "\u200d", "\u0e31", "😀"),
    *("a'", "1.", ". ", "a. ", "a\n", "a\n\n", "\n ", "# \n", "   #", "```\n", "```a\n", "~~~", "e\u0301\u0316"),
    *("- a\n", "1. ", ".)", '."', "a**", "東。", "wing ", "wing"),
]
"""Each is repeated to so many characters: where an expression goes back, their square takes minutes."""
GENEROUS = 20
"""Seconds."""


def spelt(text: str) -> list[str]:
    return [word.text for word in words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The WING stalls.", ["the", "wing", "stalls"]),
        ("Don\u2019t e-mail snake_case", ["don't", "e", "mail", "snake", "case"]),
        ("C++ and C#, not C", ["c++", "and", "c#", "not", "c"]),
        ("v2.3.5 took 1,000 ms. 404", ["v2.3.5", "took", "1,000", "ms", "404"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("cafe\u0301 \ufb01n soft\u00adware", ["café", "fin", "software"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("東京の天気, GPU東", ["東", "京", "の", "天", "気", "gpu", "東"]),
        ("한국", ["한", "국"]),
        ("😀 -- ...", []),
    ],
)
def test_the_words_of_a_text(text: str, expected: list[str]) -> None:
    assert spelt(text) == [unicodedata.normalize("NFKC", word) for word in expected]


def test_characters_of_a_script_without_spaces_are_joined_to_the_one_before() -> None:
    assert [word.joined for word in words("東京 and東 京")] == [False, True, False, False, False]


@settings(deadline=None, max_examples=40)
@given(st.text())
def test_words_lie_in_order_where_they_say(text: str) -> None:
    end = 0
    for word in words(text):
        assert end <= word.start < word.end <= len(text)
        assert not text[word.start].isspace()
        assert word.text
        end = word.end


@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(categories=["L", "N"])))
def test_every_letter_and_digit_is_in_a_word(text: str) -> None:
    assert sum(word.end - word.start for word in words(text)) == len(text)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("What is the effect of heat on a wing, and how does it stall?", "effect heat wing, stall?"),
        ("to be or not to be", "to be or not to be"),
        ("to be or not to be ?!", "to be or not to be ?!"),
        ("error 404 in C++", "error 404 C++"),
        ("don't e-mail the (a) to-do list", "e-mail to-do list"),
        ("Don\u2019t what's new", "new"),
        ("x == y && the z", "x == y && z"),
        ("is IT security for the US at the WHO", "IT security US WHO"),
        ("WHAT IS THE FLOW", "FLOW"),
        ("cats AND dogs and/or mice", "cats dogs mice"),
        ("the 東京の天気", "東京の天気"),
        ("", ""),
    ],
)
def test_a_query_without_what_says_nothing(query: str, expected: str) -> None:
    assert content_words(query) == expected


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([*sorted(STOP_WORDS), "wing", "Flow,", "?", "404"])).map(" ".join))
def test_content_words_are_what_is_left_of_the_query_and_never_nothing(query: str) -> None:
    left = content_words(query)
    assert content_words(left) == left
    remaining = iter(query.split())
    assert all(token in remaining for token in left.split())
    assert left or not query


def test_stop_words_are_words_and_none_is_left_out_by_its_spelling() -> None:
    assert {word for word in STOP_WORDS if spelt(word) != [word]} == set()


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_takes_seconds(unit: str) -> None:
    begun = time.monotonic()
    content_words(unit * (MANY // len(unit)))
    assert time.monotonic() - begun < GENEROUS
