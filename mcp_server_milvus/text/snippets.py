"""The passage of a text that a reader wants to see first."""

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from mcp_server_milvus.text.sentences import Span, sentences
from mcp_server_milvus.text.words import (
    STOP_WORDS,
    Word,
    content_words,
    first_border,
    last_border,
    whole_character,
    words,
)

SHORTEST_STEM = 4
LONGEST_SUFFIX = 3
MOST_MARKS = 14
"""Marked passages of a snippet: 4 characters each."""

SOUGHT_CHARACTERS = 2_000
"""Characters of a query whose words are marked: more of them would mark every passage alike."""

UNSEEN = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are no white space
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # they turn the order, divide, or fill
    "\ufe00-\ufe0d\U000e0000-\U000e0fff"  # tags, and variants of a character, which can spell out whole texts
)
"""Characters that a reader does not see and a model reads, as part of a regular expression's `[…]`."""

JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Characters that belong into some words and emoji, up to two in a row."""

INVISIBLE = re.compile(f"[{UNSEEN}{JOINERS}]{{3,}}+|[{UNSEEN}]")
POWER = re.compile(r"(?<=\w)\*\*++(?=\w)")
STARS = re.compile(r"\*\*++")
ODD_SPACE = re.compile(r"\s\s++|[^\S ]")
SIGN = re.compile(r"[ _\-/.']")
PARAGRAPH = "\n\n"
NEARBY = 20
"""Characters outside a window that tell whether a sentence begins or ends at its edge."""


class Hit(NamedTuple):
    start: int
    end: int
    term: int


class Sought:
    """The content words of a query, found once and then looked for in many texts."""

    def __init__(self, query: str) -> None:
        self._terms = _terms(query[:SOUGHT_CHARACTERS])
        self._shortened = {short: number for term, number in self._terms.items() for short in _shortened(term)}

    def snippet(self, text: str, *, length: int = 300) -> str:
        """The passage of about `length` characters with the most of the query's content words, each marked `**so**`.

        A word counts once, and more the rarer it is in this text; endings are forgiven (`wing`, `wings`). Without any
        of them it is the beginning of the text. It begins and ends with a sentence where it can, else with a word; `…`
        says that something was left out there. It is one line, at most 60 characters longer than `length`. What cannot
        be seen is left out, and `**` in the text itself, so that it marks nothing; between two letters or digits that
        becomes `^`, as in 2^10.
        """
        text = _plain(text)
        crowded = length * 2 // 3  # what is left makes whole sentences of it
        hits = list(_hits(text, self._terms, self._shortened, crowded))
        start, end = _widened(text, _best(hits, crowded), length)
        before, after = "… " if start else "", " …" if end < len(text) else ""
        return f"{before}{_marked(text, start, end, hits)}{after}".replace(PARAGRAPH, " ")


def _plain(text: str) -> str:
    """The text as it is seen, without asterisks that look like marks, its white space only " " and empty lines."""
    text = INVISIBLE.sub("", text)
    if "**" in text:
        text = STARS.sub("", POWER.sub("^", text))
    return ODD_SPACE.sub(lambda found: PARAGRAPH if found.group().count("\n") > 1 else " ", text).strip()


def _terms(query: str) -> dict[str, int]:
    """Each content word of the query with its number; neighbours in a script without spaces are one in pairs."""
    query_words = list(words(content_words(query)))
    found = [word for word in query_words if word.text not in STOP_WORDS] or query_words
    joined = {first.start for first, second in pairwise(found) if second.joined}
    singles = [word.text for word in found if not word.joined and word.start not in joined]
    pairs = [first.text + second.text for first, second in pairwise(found) if second.joined]
    return {term: number for number, term in enumerate(dict.fromkeys([*singles, *pairs]))}


def _hits(text: str, terms: Mapping[str, int], shortened: Mapping[str, int], length: int) -> Iterator[Hit]:
    """Where the terms are, in order."""
    known: dict[str, int | None] = {}
    before = Word("", 0, 0, joined=False)
    for word in words(text) if terms else ():
        if word.joined and (pair := terms.get(before.text + word.text)) is not None:
            yield Hit(before.start, word.end, pair)
        before = word
        if word.text not in known:
            known[word.text] = _term(word.text, terms, shortened)
        number = known[word.text]
        if number is not None and word.end - word.start <= length:
            yield Hit(word.start, word.end, number)


def _term(word: str, terms: Mapping[str, int], shortened: Mapping[str, int]) -> int | None:
    """The term that a word of the text is, but for the ending of one of them."""
    for spelling in (word, *_shortened(word)):
        if spelling in terms:
            return terms[spelling]
    return shortened.get(word)


def _shortened(word: str) -> Iterator[str]:
    """The word without an ending of up to three letters, and with `y` for `ies`."""
    for count in range(1, LONGEST_SUFFIX + 1):
        if len(word) - count >= SHORTEST_STEM and word[-count:].replace("'", "").isalpha():
            yield word[:-count]
    if word.endswith("ies") and len(word) > SHORTEST_STEM:
        yield word[:-3] + "y"


def _best(hits: Sequence[Hit], length: int) -> Span:
    """From the first to the last hit of the first window with the most weight of different terms, then of hits."""
    times = Counter(hit.term for hit in hits)
    # Whole numbers: sums of floats that come and go would not compare as equal.
    weights = {term: 100 + round(100 * math.log(len(hits) / count)) for term, count in times.items()}
    inside = Counter[int]()
    first, weight, best, span = 0, 0, (0, 0), (0, 0)
    for last, hit in enumerate(hits):
        weight += 0 if inside[hit.term] else weights[hit.term]
        inside[hit.term] += 1
        while hit.end - hits[first].start > length:
            inside[hits[first].term] -= 1
            weight -= 0 if inside[hits[first].term] else weights[hits[first].term]
            first += 1
        if (weight, last - first) > best:
            best, span = (weight, last - first), (hits[first].start, hit.end)
    return span


def _widened(text: str, core: Span, length: int) -> Span:
    """The window around `core`, from and to the border of a sentence where that leaves room, else of a word."""
    if len(text) <= length:
        return 0, len(text)
    earliest = max(0, core[1] - length)
    near = max(0, earliest - NEARBY), min(len(text), core[0] + length + NEARBY)
    spans = list(sentences(text, *near))
    starts = [start for start, _ in spans if earliest <= start <= core[0] and (start > near[0] or not start)]
    start = starts[-1] if starts else _start_of_a_word(text, core, length)
    limit = start + length
    if limit >= len(text):
        return min((each for each in starts if each >= len(text) - length), default=start), len(text)
    enough = max(core[1], start + length // 2)
    ends = [end for _, end in spans if enough <= end <= limit]
    return start, ends[-1] if ends else _end_of_a_word(text, max(core[1], start), limit)


def _start_of_a_word(text: str, core: Span, length: int) -> int:
    """Before `core`, which is then about in the middle."""
    start, end = core
    early = max(0, end - length, start - (length - (end - start)) // 2)
    border = first_border(text, early, start)
    if border is None:
        return start
    return border + (len(text[border:start]) - len(text[border:start].lstrip()))


def _end_of_a_word(text: str, start: int, limit: int) -> int:
    return last_border(text, start, limit) or whole_character(text, start, limit)


def _marked(text: str, start: int, end: int, hits: Sequence[Hit]) -> str:
    pieces: list[str] = []
    for first, last in _runs(text, start, end, hits):
        pieces += [text[start:first], "**", text[first:last], "**"]
        start = last
    return "".join([*pieces, text[start:end]])


def _runs(text: str, start: int, end: int, hits: Sequence[Hit]) -> list[Span]:
    """The first hits of the window; those with nothing but a space or a sign between them are one."""
    runs: list[Span] = []
    for hit in hits[bisect_left(hits, (start,)) :]:
        if hit.end > end:
            break
        if runs and (hit.start <= runs[-1][1] or SIGN.fullmatch(text, runs[-1][1], hit.start)):
            runs[-1] = runs[-1][0], max(hit.end, runs[-1][1])
        else:
            runs.append((hit.start, hit.end))
    return runs[:MOST_MARKS]
