"""What a chunk holds, and where a text is divided."""

import re
import time
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_server_milvus.text.chunks import Chunk, chunks
from tests.text.test_words import GENEROUS, HOSTILE, MANY

PIECES = st.sampled_from(
    [
        *("a", "wing", "boundary", "x" * 30, "3.14", "e.g.", "Dr.", "A.", "flow.", "Why?", "stop!)", "東京", "大阪。"),
        *(" ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\n \n\n", "\t", "\u3000", "\u2028", "\x1c"),
        *("\n# Title\n", "\n## Sub\n\n", "\n```\ncode\n```\n", "\n~~~ py\n", "\n- item", "\n1. item", "| a | b |\n"),
        *("e\u0301", "👩\u200d🚀", "\u0301", "\0"),
    ]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=80)
SIZES = st.integers(1, 60)
SHARES = st.floats(0, 0.49)


def texts(text: str, size: int, overlap: int = 0) -> list[str]:
    return [chunk.text for chunk in chunks(text, size=size, overlap=overlap)]


@settings(deadline=None, max_examples=40)
@given(TEXTS, SIZES, SHARES)
@example("\u0301" * 9, 3, 0.4)
@example("aaa\r\naa\n~~~ py\n\r\naaaa", 4, 0.0)
def test_every_chunk_is_the_original_where_it_says_and_nothing_is_lost(text: str, size: int, share: float) -> None:
    found = chunks(text, size=size, overlap=int(size * share))
    covered: set[int] = set()
    for chunk in found:
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip()
        assert 0 < len(chunk.text) <= size
        covered.update(range(chunk.start, chunk.end))
    assert all(place in covered or character.isspace() for place, character in enumerate(text))


@settings(deadline=None, max_examples=40)
@given(TEXTS, SIZES, SHARES)
def test_a_chunk_repeats_no_more_of_the_one_before_than_asked_for(text: str, size: int, share: float) -> None:
    overlap = int(size * share)
    for before, after in pairwise(chunks(text, size=size, overlap=overlap)):
        assert before.start < after.start
        assert before.end < after.end
        assert before.end - after.start <= overlap
        assert not text[before.end : after.start].strip()


@settings(deadline=None, max_examples=40)
@given(TEXTS, SIZES)
def test_a_text_that_fits_is_one_chunk_and_a_blank_one_none(text: str, size: int) -> None:
    found = chunks(text, size=size, overlap=0)
    stripped = text.strip()
    assert (not found) == (not stripped)
    if 0 < len(stripped) <= size:
        assert [chunk.text for chunk in found] == [stripped]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["a", "of", "wing", "layer", "stall.", "\n\n", "\n"])), st.integers(8, 40), SHARES)
def test_no_word_that_fits_is_divided(pieces: list[str], size: int, share: float) -> None:
    text = " ".join(pieces)
    borders = {0, len(text), *(place for found in re.finditer(r"\S+", text) for place in found.span())}
    for chunk in chunks(text, size=size, overlap=int(size * share)):
        assert {chunk.start, chunk.end} <= borders


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["One two. Three four.", "Five.", "# Six", "Seven eight nine."])), st.integers(20, 90))
def test_without_overlap_the_next_paragraph_would_not_have_fitted(paragraphs: list[str], size: int) -> None:
    text = "\n\n".join(paragraphs)
    for before, after in pairwise(chunks(text, size=size, overlap=0)):
        following = re.search(r"(?:# Six\s+)*[^\n]+", text[after.start :])
        assert following
        assert before.text.endswith(".") or set(before.text.split("\n\n")) == {"# Six"}
        assert after.start + following.end() - before.start > size


def test_whole_paragraphs_are_packed_while_they_fit() -> None:
    assert texts("One one.\n\nTwo two.\n\nThree three.", 20) == ["One one.\n\nTwo two.", "Three three."]


def test_a_long_paragraph_is_divided_between_sentences_and_fills_what_is_left() -> None:
    assert texts("Short.\n\nFirst sentence here. Second one. Third one is here.", 40) == [
        "Short.\n\nFirst sentence here. Second one.",
        "Third one is here.",
    ]


def test_a_long_sentence_is_divided_between_words_and_a_long_word_between_characters() -> None:
    assert texts("alpha beta gamma delta", 11) == ["alpha beta", "gamma delta"]
    assert texts("ab " + "x" * 25, 10) == ["ab", "x" * 10, "x" * 10, "x" * 5]


def test_a_long_sentence_of_several_lines_is_divided_between_lines() -> None:
    assert texts("10:01 start ok\n10:02 stop it", 20) == ["10:01 start ok", "10:02 stop it"]


def test_abbreviations_decimals_and_initials_do_not_end_a_sentence() -> None:
    text = "See Fig. 3 by Dr. J. Smith, e.g. at Mach 3.14 etc. and so on. The answer is no. Then we stop."
    assert texts(text, 62) == [
        "See Fig. 3 by Dr. J. Smith, e.g. at Mach 3.14 etc. and so on.",
        "The answer is no. Then we stop.",
    ]
    assert texts(text, 20)[-2:] == ["The answer is no.", "Then we stop."]


def test_chinese_is_divided_after_its_own_punctuation_and_no_line_begins_with_it() -> None:
    assert texts("今天天气很好。我们去公园。", 8) == ["今天天气很好。", "我们去公园。"]
    assert texts("一二三四五\uff0c六七八九十", 5) == ["一二三四", "五\uff0c六七八", "九十"]


def test_a_heading_stays_with_what_follows_it() -> None:
    text = "First words here.\n\n# Title\n\nThe text below it.\n## Next\nMore."
    assert texts(text, 28) == ["First words here.", "# Title\n\nThe text below it.", "## Next\nMore."]
    assert texts("# Title\nOne sentence. Another sentence.", 24) == ["# Title\nOne sentence.", "Another sentence."]


def test_code_is_a_paragraph_of_its_own_and_is_divided_between_lines() -> None:
    code = "```py\n# no heading\n\nx = 1. \n```"
    assert texts(f"Before it.\n{code}\nAfter it.", 40) == ["Before it.", code, "After it."]
    assert texts(code, 20) == ["```py\n# no heading", "x = 1. \n```"]
    assert texts(f"{code}\nAfter it. And more.", 40, 15) == [code, "After it. And more."]
    assert texts("```inline``` is no code.\n\nNext.", 25) == ["```inline``` is no code.", "Next."]


def test_items_of_a_list_are_divided_before_they_begin() -> None:
    assert texts("- one two\n- three four\n- five", 22) == ["- one two\n- three four", "- five"]
    assert texts("1. one two\n2. three four", 15) == ["1. one two", "2. three four"]


def test_the_last_whole_sentences_are_repeated() -> None:
    text = "One one one. Two two. Three three three. Four."
    assert texts(text, 24, 10) == ["One one one. Two two.", "Three three three. Four."]
    assert texts(text, 30, 10) == ["One one one. Two two.", "Two two. Three three three.", "Four."]


def test_inside_a_long_sentence_the_last_words_are_repeated() -> None:
    assert texts("one two three four five six", 14, 6) == ["one two three", "three four", "four five six"]


def test_what_would_be_repeated_gives_way_to_a_paragraph_that_fits() -> None:
    assert texts("One. Two.\n\nThree three three.", 22, 8) == ["One. Two.", "Three three three."]


def test_a_character_keeps_its_marks() -> None:
    assert texts("e\u0301" * 5, 5) == ["e\u0301" * 2, "e\u0301" * 2, "e\u0301"]
    assert texts("x👩\u200d🚀", 3) == ["x", "👩\u200d🚀"]


def test_a_chunk_knows_where_it_comes_from() -> None:
    assert chunks("  One.\n\nTwo.  ", size=5, overlap=0) == [Chunk("One.", 2, 6), Chunk("Two.", 8, 12)]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_takes_seconds(unit: str) -> None:
    begun = time.monotonic()
    chunks(unit * (MANY // len(unit)), size=1000, overlap=200)
    assert time.monotonic() - begun < GENEROUS
