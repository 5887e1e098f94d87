"""Text without what its reader cannot see: control characters, bidi controls, tags, joiners that join nothing.

The patterns are compiled when they are first used, for which no handshake waits.
"""

import re

SPACES = "[\x0b\x0c\x85\u2028\u2029]"
"""Characters that separate words, or lines, and are told as a space."""

EMOJI = "\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
TAKES_STYLE = f"#*0-9\u00a9\u00ae\u203c\u2049\u20e3\u2122\u2139{EMOJI}"
"""What VARIATION SELECTOR-15 and -16 make a text or an emoji."""

MONGOLIAN = "\u1820-\u18aa"
JOINING = (
    "\u0590-\u061b\u061d-\u109f\u1780-\u17b3\u17b6-\u17ff\u1820-\u18af\u1900-\u1cff\ua800-\uabff\ufb50-\ufdcf"
    "\ufdf0-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff"
)
"""Scripts in which (non-)joiners decide how a word is written: Persian, Arabic, the Indic ones and their neighbours."""

ALWAYS = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff"
)
"""What shows nothing wherever it stands. Half a surrogate pair is among it: no client could read the message."""

HIDDEN = f"[{ALWAYS}]+"

STYLES, FORMS = "\ufe0e\ufe0f", "\u180b-\u180d\u180f"
JOINERS = f"[\u200c\u200d{STYLES}{FORMS}]+"
"""What shows nothing but decides how its neighbours are written."""

JOINED = (
    f"(?s)[{JOINING}][\u200c\u200d].?|[{EMOJI}]\ufe0f?\u200d[{EMOJI}]"
    f"|[{TAKES_STYLE}][{STYLES}].?|[{MONGOLIAN}][{FORMS}].?"
)
"""One of these between characters of which it decides that."""

CLOAKED = f"[{ALWAYS}\x0b\x0c\x85\u2028\u2029\u200c\u200d{STYLES}{FORMS}]"
"""All of these, wherever they stand."""

PRINTABLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0" + "".join(
    map(chr, range(0xFE00, 0xFE10))
)
"""Of these characters, those that `str.isprintable` calls printable; those of plane 14 but for its tags are too."""

ESCAPED = re.compile(r"\\(?:u00|u2028|u2029|[bf])")
"""Control characters in JSON."""


def visible(text: str) -> str:
    """The text as its reader sees it. What shows nothing is gone, but for joiners where they join."""
    if text.isascii() and text.isprintable():
        return text
    return re.sub(JOINERS, _where_they_join, re.sub(HIDDEN, "", re.sub(SPACES, " ", text)))


def escaped(text: str) -> str:
    """The text with what shows nothing written out as its code, so that two keys never look the same."""
    return text if visible(text) == text else re.sub(CLOAKED, lambda found: f"\\u{ord(found[0]):04x}", text)


def may_hide(json: str, encoded: bytes) -> bool:
    """Whether a text in compact JSON may have something that `visible` takes away. Some microseconds for 32 KiB.

    `encoded` is the same in UTF-8.
    """
    if "\\" in json and ESCAPED.search(json):
        return True
    if json.isascii():
        return "\x7f" in json
    if not json.isprintable() and not json.replace("\xa0", " ").replace("\u3000", " ").isprintable():
        return True
    return b"\xf3" in encoded or any(each in json for each in PRINTABLE)


def _where_they_join(joiners: re.Match[str]) -> str:
    start, end = joiners.span()
    return joiners.group() if re.fullmatch(JOINED, joiners.string[max(start - 1, 0) : end + 1]) else ""
