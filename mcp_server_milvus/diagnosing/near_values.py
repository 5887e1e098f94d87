"""Stored values that are nearly what a filter asks for: in other letters, of another type, spelt otherwise."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from mcp_server_milvus.diagnosing.findings import shown_value
from mcp_server_milvus.milvus.filter_legs import ORDERS, Comparison

SHOWN = 3
"""Stored values that are told."""

COMPARED_LENGTH = 200
"""Characters of a text that is looked at for likeness, which takes their square."""

CLOSE = 0.6


@dataclass(frozen=True)
class Near:
    """What is stored instead, in words; and the value that was probably meant, if that is plain."""

    told: str
    meant: Any = None


def near_values(asked: Comparison, stored: Sequence[Any]) -> Near:
    """What is stored where a comparison finds nothing. `stored` are values of a sample: some, without nulls."""
    wanted = asked.values[0]
    if all(isinstance(value, list) for value in stored):
        return Near(f"{asked.name} holds lists: array_contains({asked.name}, {shown_value(wanted)}) looks into them")
    plain = [value for value in stored if isinstance(value, str | int | float)]
    if isinstance(wanted, bool) or not plain:
        return Near(_stored(asked, stored))
    return _near_text(asked, plain) if isinstance(wanted, str) else _near_number(asked, plain)


def value_at(value: Any, path: Sequence[str | int]) -> Any:
    """What is at a path inside of a value; None if nothing is."""
    for key in path:
        match value:
            case dict() if isinstance(key, str):
                value = cast("dict[str, Any]", value).get(key)
            case list() if isinstance(key, int):
                value = next(iter(cast("list[Any]", value)[key : key + 1]), None)
            case _:
                return None
    return value


def _near_text(asked: Comparison, stored: Sequence[Any]) -> Near:
    texts = [value for value in stored if isinstance(value, str)]
    if not texts:
        same = next((value for value in stored for wanted in asked.values if str(value) == wanted), None)
        return Near(f"{asked.name} holds numbers, such as {_few(stored)}, and no texts", same)
    for wanted in asked.values:
        if same := _same_letters(asked.operator, wanted, texts):
            return Near(f"stored is {shown_value(same)}, not {shown_value(wanted)}", same)
    short = list(dict.fromkeys(text for text in texts if len(text) <= COMPARED_LENGTH))
    wanted = str(asked.values[0]).strip("%")[:COMPARED_LENGTH]
    close = difflib.get_close_matches(wanted, short, n=SHOWN, cutoff=CLOSE)
    return Near(
        f"close to {shown_value(wanted)}: {', '.join(map(shown_value, close))}" if close else _stored(asked, texts)
    )


def _same_letters(operator: str, wanted: Any, texts: Sequence[str]) -> str:
    """What was meant, if a stored text differs in case or outer space alone."""
    if not isinstance(wanted, str):
        return ""
    if operator != "like":
        sought = wanted.strip().casefold()
        return next((text for text in texts if text.strip().casefold() == sought), "")
    core = wanted.strip("%")
    for text in texts if core and not set(core) & set("%_") else ():
        place = text.lower().find(core.lower())
        if place >= 0:
            return wanted.replace(core, text[place : place + len(core)])
    return ""


def _near_number(asked: Comparison, stored: Sequence[Any]) -> Near:
    numbers = [value for value in stored if not isinstance(value, str)]
    if not numbers:
        same = next((value for value in stored for wanted in asked.values if value == str(wanted)), None)
        return Near(f"{asked.name} holds texts, such as {_few(stored)}, and no numbers", same)
    if asked.operator in ORDERS or len(set(numbers)) > SHOWN:
        return Near(f"{asked.name} goes from {shown_value(min(numbers))} to {shown_value(max(numbers))} in a sample")
    return Near(_stored(asked, numbers))


def _stored(asked: Comparison, stored: Sequence[Any]) -> str:
    return f"{asked.name} holds such as {_few(stored)}"


def _few(stored: Sequence[Any]) -> str:
    """The most frequent values."""
    return ", ".join(value for value, _ in Counter(map(shown_value, stored)).most_common(SHOWN))
