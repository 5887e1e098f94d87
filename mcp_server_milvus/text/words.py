"""The words of a text in any script, those that say something, and where a text may be cut between two of them."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

UNSPACED = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
    "\uac00-\ud7af"  # Korean, whose spaces divide phrases
)
"""Characters of scripts that put no space between words, as part of a regular expression's `[…]`."""

MARKS = (
    "\u00ad\u200b-\u200d\ufe00-\ufe0f\ufe20-\ufe2f\U0001f3fb-\U0001f3ff"  # invisible, or they change the one before
    "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\u302a-\u302f\u3099\u309a"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0730-\u074a\u08d3-\u08ff"  # Arabic
    "\u0900-\u0963\u0971-\u0df3"  # India
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u17b4-\u17d3\u17dd"
    "\u0f71-\u0f84\u0f86-\u0fbc"  # Tibetan
)
"""Characters that belong to the one before them and are no letters for `\\w`: accents, vowel signs, joiners."""

CLOSERS = "\u3001\u3002\uff0c\uff0e\uff01\uff1f\uff1b\uff1a\uff61\u300d\u300f\uff09\u3011\u300b\u2026\u201d\u2019"
"""Punctuation that Chinese and Japanese never begin a line with."""

LETTER = rf"[^\W_{UNSPACED}]"
WORD = re.compile(
    rf"(?P<unspaced>(?=\w)[{UNSPACED}][{MARKS}]*+)"
    rf"|{LETTER}++(?:(?:[{MARKS}]++|['\u2019](?={LETTER})|(?<=\d)[.,](?=\d)){LETTER}*+)*+(?:(?:\+\+|\#)(?![\w+\#]))?"
)
"""Possessive throughout: no text makes it go back, so it is linear, and keeps nothing, in the length of the text."""

BORDER = rf"(?:(?<=\S)(?=\s)|(?<=[{UNSPACED}{MARKS}{CLOSERS}])(?<![\u200b-\u200d])(?=[^\s{MARKS}{CLOSERS}]))"
FIRST_BORDER = re.compile(rf"(?s:.)*?{BORDER}")
LAST_BORDER = re.compile(rf"(?s:.)+{BORDER}")

BETWEEN_CHARACTERS = re.compile(rf"(?<!\u200d)(?![{MARKS}])")

INVISIBLE = {ord(character): None for character in "\u00ad\u200b\u200c\u200d"}
LONGEST_NORMALISED = 64
"""Characters. Normalising takes the square of a run of marks, so a longer word is compared as it is spelt."""

FUNCTION_WORDS = """
    a an the this that these those such same other another each every either neither both all any some none no
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself
    she her hers herself it its itself they them their theirs themselves one ones
    someone something anyone anything everyone everything nobody nothing
    who whom whose which what whatever whichever when where why how
    am is are was were be been being have has had having do does did doing done
    can cannot could will would shall should may might must ought
    of in on at by to from into onto for with without within about against among between during through
    throughout upon via per toward towards over under above below before after along across around behind beyond up out
    and or but nor not if then else than as so because since while although though unless until whether
    there here also just only too very again ever yet still even quite rather
    aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't shouldn't wasn't weren't won't wouldn't
    i'm i've i'd i'll you're you've you'd you'll he's she's it's we're we've we'd we'll they're they've they'd they'll
    that's there's here's what's who's where's how's let's
"""
STOP_WORDS = frozenset(FUNCTION_WORDS.split())
"""English words that hold a sentence together and say nothing about its subject, casefolded."""

BOOLEAN_WORDS = frozenset({"AND", "OR", "NOT"})
"""Written large by people who expect a query language."""


class Word(NamedTuple):
    """A word as it is compared, and where it is spelt: `original[start:end]`."""

    text: str
    """Casefolded, in Unicode's compatible composed form, with a straight apostrophe."""
    start: int
    end: int
    joined: bool
    """A character of a script without spaces that directly follows another one."""


def words(text: str) -> Iterator[Word]:
    """The words in order: in scripts without spaces each character is one.

    Apostrophes, decimals and the signs of `C++` and `C#` belong to a word; hyphens and underscores divide words.
    """
    neighbour = -1
    for found in WORD.finditer(text):
        start, end = found.span()
        unspaced = found.lastgroup is not None
        yield Word(_folded(found.group()), start, end, unspaced and start == neighbour)
        neighbour = end if unspaced else -1


def _folded(word: str) -> str:
    if word.isascii():
        return word.lower()
    if word.isalpha() and unicodedata.is_normalized("NFKC", word):
        return word.casefold()
    if len(word) <= LONGEST_NORMALISED:
        word = unicodedata.normalize("NFKC", word.translate(INVISIBLE))
    return word.casefold().replace("\u2019", "'")


def content_words(query: str) -> str:
    """The query without its stop words, spelt and ordered as it was; the query itself if nothing else is in it.

    Capitals tell an acronym from a stop word (`IT`, `US`, `WHO`), except in a query that has nothing but capitals.
    """
    shouted = query.isupper()
    kept = [token for token in query.split() if not _says_nothing(token, shouted=shouted)]
    return " ".join(kept) if any(WORD.search(token) for token in kept) else query


def _says_nothing(token: str, *, shouted: bool) -> bool:
    """Whether what stands between two spaces is only stop words. A compound (`to-do`) is a word of its own."""
    found = list(words(token))
    if not found or any(word.text not in STOP_WORDS for word in found):
        return False
    inner = token[found[0].start : found[-1].end]
    return "-" not in inner and (len(inner) == 1 or shouted or not inner.isupper() or inner in BOOLEAN_WORDS)


def first_border(text: str, start: int, end: int) -> int | None:
    """The first place from `start` up to `end`, both included, where a word is over and the text may be cut."""
    found = FIRST_BORDER.match(text, start, end + 1)
    return found and found.end()


def last_border(text: str, start: int, end: int) -> int | None:
    """The last place after `start` and not after `end` where a word is over and the text may be cut."""
    found = LAST_BORDER.match(text, start, end + 1)
    return found and found.end()


def whole_character(text: str, start: int, end: int) -> int:
    """`end`, or a place shortly before it and after `start` that divides no character from its marks."""
    for place in range(end, max(start, end - LONGEST_NORMALISED), -1):
        if BETWEEN_CHARACTERS.match(text, place):
            return place
    return end
