"""A filter taken apart: the conditions that `and` or `or` joins, and what each of them compares with which values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, cast

from mcp_server_milvus.errors import InvalidFilter
from mcp_server_milvus.milvus.filters import CONJUNCTIONS, KEYWORDS_AS_WRITTEN, Token, literal, understood

DISJUNCTIONS = frozenset({"or", "||"})
ORDERS = frozenset({"<", "<=", ">", ">="})
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Comparison:
    """`field == value`, `field["key"] in [values]`, `field like "pattern"`, `field < value`, in one leg of a filter.

    The value stands in `leg[start:end]`; of a list it is its first one, and `end` is 0 where it has several.
    """

    field: str
    path: tuple[str | int, ...]
    operator: str
    values: tuple[Any, ...]
    start: int
    end: int

    @property
    def name(self) -> str:
        """What is compared, as a filter writes it."""
        return self.field + "".join(f"[{literal(key)}]" for key in self.path)

    def replaced(self, leg: str, value: Any) -> str:
        """The leg with another value."""
        return f"{leg[: self.start]}{literal(value)}{leg[self.end :]}"


def legs_of(text: str) -> tuple[str, list[str]]:
    """What joins the legs of a filter, `and` or `or`, and the legs; one leg where it cannot be taken apart."""
    try:
        tokens = _bare(understood(text))
    except InvalidFilter:
        return "and", [text]
    if not tokens:
        return "and", [text]
    for joined, marks in (("or", DISJUNCTIONS), ("and", CONJUNCTIONS)):
        parts = _split(tokens, marks)
        if len(parts) > 1 and all(parts):
            return joined, [text[part[0].start : part[-1].end] for part in parts]
    return "and", [text]


def comparisons(leg: str) -> Iterator[Comparison]:
    """What a leg asks of fields, as far as it is plain; nothing of what it negates."""
    try:
        tokens = understood(leg)
    except InvalidFilter:
        return
    if any(token.kind != "string" and token.text.lower() in {"not", "!", "!="} for token in tokens):
        return
    for place, token in enumerate(tokens):
        following = tokens[place + 1].text if place + 1 < len(tokens) else ""
        is_field = token.kind == "name" and token.text not in KEYWORDS_AS_WRITTEN and following != "("
        if is_field and (found := _comparison(tokens, place)):
            yield found


def _bare(tokens: list[Token]) -> list[Token]:
    """Without the brackets around all of it."""
    partners = _partners(tokens)
    first, last = 0, len(tokens) - 1
    while first < last and tokens[first].text == "(" and partners[first] == last:
        first, last = first + 1, last - 1
    return tokens[first : last + 1]


def _partners(tokens: Sequence[Token]) -> dict[int, int]:
    """Where each bracket that is opened is closed."""
    opened: list[int] = []
    partners: dict[int, int] = {}
    for place, token in enumerate(tokens):
        if _step(token) > 0:
            opened.append(place)
        elif _step(token) < 0:
            partners[opened.pop()] = place
    return partners


def _split(tokens: Sequence[Token], marks: frozenset[str]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += _step(token)
        if depth == 0 and token.kind != "string" and token.text.lower() in marks:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _step(token: Token) -> int:
    if token.kind != "mark":
        return 0
    return (token.text in {"(", "["}) - (token.text in {")", "]"})


def _comparison(tokens: Sequence[Token], place: int) -> Comparison | None:
    name = tokens[place].text
    path: list[str | int] = []
    place += 1
    while [token.text for token in tokens[place : place + 3 : 2]] == ["[", "]"]:
        key = tokens[place + 1]
        path.append(key.value if key.kind == "string" else int(key.text) if key.text.isdigit() else key.text)
        place += 3
    operator = tokens[place].text.lower() if place < len(tokens) else ""
    values = _values(tokens, place + 1, operator)
    if not values:
        return None
    if name == "$meta" and path and isinstance(path[0], str):
        name = cast("str", path.pop(0))
    last = values[0][2] if len(values) == 1 else 0
    return Comparison(name, tuple(path), operator, tuple(each[0] for each in values), values[0][1], last)


def _values(tokens: Sequence[Token], place: int, operator: str) -> list[tuple[Any, int, int]]:
    """The values that are compared, each with where it stands; none where something else stands there."""
    if operator in {"==", "like", *ORDERS}:
        signed = tokens[place : place + 1] and tokens[place].text == "-"
        value = _value(tokens[place : place + 2] if signed else tokens[place : place + 1])
        return [value] if value else []
    if operator != "in" or not tokens[place : place + 1] or tokens[place].text != "[":
        return []
    inside = list(takewhile(lambda token: token.text not in {"[", "]", "("}, islice(tokens, place + 1, None)))
    if tokens[place + 1 + len(inside)].text != "]":
        return []
    parts = _split(inside, frozenset({","}))
    found = [value for part in parts if (value := _value(part))]
    return found if len(found) == len(parts) else []


def _value(tokens: Sequence[Token]) -> tuple[Any, int, int] | None:
    match tokens:
        case [Token("string", _, value) as token]:
            return value, token.start, token.end
        case [Token("number", digits) as token]:
            return _number(digits), token.start, token.end
        case [Token("mark", "-") as sign, Token("number", digits) as token]:
            return -_number(digits), sign.start, token.end
        case [Token("name", word) as token] if word.lower() in BOOLEANS:
            return BOOLEANS[word.lower()], token.start, token.end
        case _:
            return None


def _number(digits: str) -> int | float:
    return int(digits) if digits.isdigit() else float(digits)
