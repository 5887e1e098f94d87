"""A long text as chunks to embed, each of which knows where it comes from."""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mcp_server_milvus.text.sentences import Span, sentences, trimmed
from mcp_server_milvus.text.words import first_border, last_border, whole_character

HEADING = r"[ ]{0,3}#{1,6}(?:[ \t][^\n]*+)?+(?=\n|\Z)"
FENCE = r"[ ]{0,3}(?:`{3,}+[^\n`]*+$|~{3})"
PARAGRAPH = re.compile(
    r"^(?:"
    r"(?P<code>[ ]{0,3}(?P<fence>`{3,}+(?=[^\n`]*+$)|~{3,}+)[^\n]*+"
    r"(?:(?s:.*?)\n[ ]{0,3}(?P=fence)[`~]*+[^\S\n]*+$|(?s:.*+)))"
    rf"|(?P<heading>{HEADING})"
    rf"|[^\n]++(?:\n(?![^\S\n]*+(?:\n|\Z)|{HEADING}|{FENCE})[^\n]++)*+"
    r")",
    re.MULTILINE,
)
"""Code between fences (to the end of the text if it is not closed), a heading, or lines up to a blank one."""

LINE = re.compile(r"[^\n]++")
SPACE = re.compile(r"\s*+")


@dataclass(frozen=True)
class Chunk:
    text: str
    """Exactly `original[start:end]`; begins and ends with what is not white space."""
    start: int
    """In characters (code points) of the original."""
    end: int


def chunks(text: str, *, size: int, overlap: int) -> list[Chunk]:
    """The text as chunks of at most `size` characters, which together hold all of it that is not white space.

    A chunk ends with the last whole paragraph that fits. A paragraph longer than `size` is divided between sentences
    (code: lines), a sentence longer than that between lines or words, and a word longer than that between characters.
    A heading stays with what follows it if they fit. A chunk begins with the last sentences of the one before it, at
    most `overlap` characters of them, where whole ones fit (inside a long sentence: its last words; never from
    inside code).

    Expects 0 < size and 0 <= overlap < size / 2.
    """
    return [Chunk(text[start:end], start, end) for start, end in _Divider.of(text, size, overlap).spans()]


@dataclass
class _Units:
    """Consecutive spans of a text, kept in arrays: ten million characters may be five million sentences."""

    starts: "array[int]" = field(default_factory=lambda: array("q"))
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    headings: bytearray = field(default_factory=bytearray)
    """For each, whether it is one."""
    inside_code: bytearray = field(default_factory=bytearray)
    """For each, whether it is a line of code but not the first, so that nobody would know it as code without that."""

    def add(self, spans: Iterable[Span], *, heading: bool = False, code: bool = False) -> None:
        for place, (start, end) in enumerate(spans):
            self.starts.append(start)
            self.ends.append(end)
            self.headings.append(heading)
            self.inside_code.append(code and place > 0)


@dataclass(frozen=True)
class _Divider:
    text: str
    size: int
    overlap: int
    paragraphs: _Units
    sentences: _Units

    @classmethod
    def of(cls, text: str, size: int, overlap: int) -> "_Divider":
        divider = cls(text, size, overlap, _Units(), _Units())
        for found in PARAGRAPH.finditer(text):
            heading, code = found["heading"] is not None, found["code"] is not None
            for start, end in trimmed(text, *found.span()):
                inner = _lines(text, start, end) if code or heading else sentences(text, start, end)
                divider.paragraphs.add([(start, end)], heading=heading)
                divider.sentences.add(inner, heading=heading, code=code)
        return divider

    def spans(self) -> Iterator[Span]:
        """Where each chunk begins and ends."""
        start = fresh = self._after_space(0)
        while fresh < len(self.text):
            end = self._end(fresh, start + self.size)
            end = start + len(self.text[start:end].rstrip())
            yield start, end
            fresh = self._after_space(end)
            start = self._start(start + 1, end, fresh)

    def _after_space(self, place: int) -> int:
        found = SPACE.match(self.text, place)
        return found.end() if found else place

    def _end(self, fresh: int, limit: int) -> int:
        """Where a chunk ends that holds something from `fresh` on and nothing from `limit` on."""
        for units in (self.paragraphs, self.sentences):
            following = bisect_right(units.ends, limit)
            if following == len(units.ends):
                return units.ends[-1]
            if units.ends[following] - units.starts[following] > self.size:
                continue  # fits in no chunk, so a part of it belongs here
            last = _before_headings(units, following - 1, fresh)
            if last >= 0 and units.ends[last] > fresh and (units is self.sentences or not units.headings[last]):
                return units.ends[last]
        return self._end_inside_a_sentence(fresh, limit)

    def _end_inside_a_sentence(self, fresh: int, limit: int) -> int:
        """After the last line or word that fits; if none does, after the sentence before, or between characters."""
        following = bisect_right(self.sentences.ends, limit)
        start = max(fresh, self.sentences.starts[following])
        if start < limit:
            line = self.text.rfind("\n", start, limit + 1)
            if lines := self.text[start : max(start, line)].rstrip():
                return start + len(lines)
            if border := last_border(self.text, start, limit):
                return border
        if following and self.sentences.ends[following - 1] > fresh:
            return self.sentences.ends[following - 1]
        return whole_character(self.text, fresh, limit)

    def _start(self, earliest: int, end: int, fresh: int) -> int:
        """Where the chunk begins that follows one that ended at `end`: there is room left for what comes first."""
        needed = self._needed(fresh)
        earliest = max(earliest, end - self.overlap, needed - self.size)
        if earliest >= end or needed == fresh:
            return fresh
        first, beyond = (bisect_left(self.sentences.starts, place) for place in (earliest, end))
        for sentence in range(first, beyond):
            if not self.sentences.inside_code[sentence]:
                return self.sentences.starts[sentence]
        if self.sentences.ends[bisect_left(self.sentences.ends, end)] == end:
            return fresh
        return self._after_space(first_border(self.text, earliest, end - 1) or end)

    def _needed(self, fresh: int) -> int:
        """The end of the paragraph, else the sentence, else the word at `fresh` that fits in a chunk; else `fresh`."""
        for units in (self.paragraphs, self.sentences):
            first = bisect_left(units.starts, fresh)
            if first < len(units.starts) and units.starts[first] == fresh:
                while units.headings[first] and first + 1 < len(units.starts) and self._fits(fresh, units.ends[first]):
                    first += 1
                if self._fits(fresh, units.ends[first]):
                    return units.ends[first]
        return first_border(self.text, fresh + 1, fresh + self.size) or fresh

    def _fits(self, start: int, end: int) -> bool:
        return end - start <= self.size


def _before_headings(units: _Units, last: int, fresh: int) -> int:
    """The last unit of a chunk without the headings at its end, unless it has nothing else to show from `fresh` on."""
    before = last
    while before > 0 and units.headings[before] and units.ends[before - 1] > fresh:
        before -= 1
    return last if before >= 0 and units.headings[before] else before


def _lines(text: str, start: int, end: int) -> Iterator[Span]:
    for found in LINE.finditer(text, start, end):
        yield from trimmed(text, *found.span())
