"""Where the sentences of a text begin and end."""

import re
from collections.abc import Iterator

Span = tuple[int, int]
"""Where a piece of a text begins and ends, in characters: `text[start:end]`."""

STOPS = ".!?\u2026\u0964\u061f\u06d4"
ENDING = re.compile(
    rf"(?<![{STOPS}])[{STOPS}]++[\"'\u201d\u2019)\]\u00bb*_]*+(?=\s)"
    "|[\u3002\uff01\uff1f\uff61]++[\u300d\u300f\uff09\u3011\u300b\u201d\u2019]*+"
    r"|\n(?=[^\S\n]*+(?:\n|\||[-*+\u2022]\s|\d{1,3}[.)]\s))"  # a blank line, a line of a table, an item of a list
)
"""No match begins inside a run of stops: ten million of them are looked at once."""

ABBREVIATIONS = frozenset(
    {
        *("mr", "mrs", "ms", "dr", "prof", "rev", "hon", "messrs", "capt", "lt", "sgt", "gov"),
        *("eg", "ie", "cf", "vs", "viz", "al", "ca", "approx", "resp", "incl", "esp"),
    }
)
"""What comes after them belongs to the same sentence. Casefolded, without the stop."""

BEFORE_A_NUMBER = frozenset(
    {
        *("no", "nos", "fig", "figs", "eq", "eqs", "ref", "refs", "tab"),
        *("vol", "vols", "p", "pp", "pg", "ch", "chap", "sec", "sect"),
        *("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
    }
)
BEFORE_A_SMALL_LETTER = frozenset({"etc", "inc", "ltd", "co", "corp", "jr", "sr", "dept", "est", "univ"})

INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*+")
LONGEST_ABBREVIATION = 12


def sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """The sentences of `text[start:end]`, each without the white space around it."""
    begun = start
    for found in ENDING.finditer(text, start, end):
        if found.group() != "." or not _is_abbreviation(text, start, found.start()):
            yield from trimmed(text, begun, found.end())
            begun = found.end()
    yield from trimmed(text, begun, end)


def trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    """The span without the white space around it; nothing if there is nothing else in it."""
    if piece := text[start:end].rstrip():
        yield start + len(piece) - len(piece.lstrip()), start + len(piece)


def _is_abbreviation(text: str, start: int, stop: int) -> bool:
    """Whether the full stop at `stop` belongs to the word before it (or to the number of an item) only."""
    line = text[max(start, stop - LONGEST_ABBREVIATION) : stop].rpartition("\n")[2]
    word = line[line.rfind(" ") + 1 :].lstrip("([{\"'").lower()
    following = text[stop + 1 : stop + 3].strip()[:1]
    if (following.isdigit() and word in BEFORE_A_NUMBER) or (following.islower() and word in BEFORE_A_SMALL_LETTER):
        return True
    is_number_of_an_item = word.isdigit() and line.strip() == word and len(line) < LONGEST_ABBREVIATION
    return is_number_of_an_item or word in ABBREVIATIONS or INITIALS.fullmatch(word) is not None
