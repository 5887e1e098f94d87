"""Filter expressions that are safe to send: values become literals here, on every backend, never by pasting text.

Milvus 2.3 and Milvus Lite know no templates, so `{name}` is rendered here; and pymilvus pastes VARCHAR keys unquoted,
by which one hostile key deleted a whole collection.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from mcp_server_milvus.errors import InvalidArgument, InvalidFilter
from mcp_server_milvus.milvus.schema import CollectionSchema, Field

SAFE_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly (RFC 8259, section 6). Larger keys travel as strings."""

LITERAL_RANGE = (-(2**63) + 1, 2**63 - 1)
"""Integers that a filter can hold: Milvus reads the sign apart from the digits, so -2^63 has no literal."""

KEY_RANGE = (LITERAL_RANGE[0], LITERAL_RANGE[1] - 1)
"""Integers that can be primary keys. Milvus 2.3.5 takes the largest INT64 as a key and never finds it again."""

ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
"""The escapes that both backends read. Every other character stands for itself: Milvus Lite knows no `\\u`."""

MAX_KEYS = 10_000
"""Keys of one call; an expression with more takes Milvus longer to parse than to run."""

HALF_A_PAIR = "text holds half a surrogate pair, which is no character"

LONGEST_FILTER = 65_536
LONGEST_RENDERED = 4 * 1024 * 1024
"""Characters of a filter as a caller writes it, and with its parameters: room for 10,000 keys of 400 characters."""

TOLD_BITS = 256
"""Size of the largest integer that a message shows."""

SHOWN_AROUND = 60
"""Characters of a wrong filter that a message shows on each side of the place."""

TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|\{([A-Za-z_]\w*)\}|.', re.DOTALL)
STRICT_TOKEN = re.compile(
    r"""[ \t\r\n]+
    |(?P<string>"(?:\\["'\\nrt]|[^"\\])*"|'(?:\\["'\\nrt]|[^'\\])*')
    |(?P<number>(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))
    |(?P<name>\$meta\b|[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>==|!=|<=|>=|&&|\|\||\*\*|[<>!=()\[\],+*/%-])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
"""What both backends read in the same way. Whatever else a filter holds, one of them might read as something else:
`010` is 8 for Milvus, and 10 for Milvus Lite."""

UNESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
CONJUNCTIONS = frozenset({"and", "&&"})
KEYWORDS = frozenset({"and", "or", "not", "in", "like", "is", "null", "exists", "true", "false"})
KEYWORDS_AS_WRITTEN = KEYWORDS | {word.upper() for word in KEYWORDS} | {"True", "False"}
"""No field can be found by these. In other letters they are names for one backend or both."""

CONNECTIVES = CONJUNCTIONS | {"or", "||", "not", "!"}
DIVISION = re.compile(r"/(?!\s*-?\s*(?=[0-9.]*[1-9])(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?![\w.]))")
"""A division by something else than a whole number or a decimal fraction that is not zero."""

BRACKETS = {")": "(", "]": "["}
QUOTES = frozenset("\"'")


def literal(value: Any) -> str:
    """The value as Milvus's filter language writes it.

    Raises:
        InvalidArgument: the language has no such value (null, NaN, an object, text with half a surrogate pair).
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            if not LITERAL_RANGE[0] <= value <= LITERAL_RANGE[1]:
                raise InvalidArgument(
                    f"filter value {_told(value)} is outside of {LITERAL_RANGE[0]} to {LITERAL_RANGE[1]}"
                )
            return str(value)
        case float():
            if not math.isfinite(value):
                raise InvalidArgument(f"filter value {value} is not a finite number")
            return repr(value)
        case str():
            return f'"{_encodable(value).translate(ESCAPES)}"'
        case list():
            return f"[{', '.join(literal(item) for item in cast('list[Any]', value))}]"
        case _:
            raise InvalidArgument(
                f"a filter value of type {type(value).__name__} cannot be written in a filter",
                hint="values are strings, numbers, booleans and lists of them",
            )


def keys_filter(schema: CollectionSchema, ids: Sequence[int | str]) -> str:
    """`pk in [ … ]` for keys of the primary key's own type.

    Raises:
        InvalidArgument: a key is of the wrong type, or an integer that a JSON reader may have rounded.
    """
    require_few(ids)
    return f"{schema.primary_key.name} in {literal([checked_key(schema.primary_key, key) for key in ids])}"


def require_few(ids: Sequence[int | str]) -> None:
    """Nothing, if there are keys, and no more of them than one call may have.

    Raises:
        InvalidArgument: there are none, or too many.
    """
    if not 0 < len(ids) <= MAX_KEYS:
        raise InvalidArgument(f"ids: {len(ids)} keys; between 1 and {MAX_KEYS} are possible in one call")


def checked_key(primary_key: Field, key: int | str) -> int | str:
    """The key in the primary key's own type; digits in a string are an INT64 key.

    Raises:
        InvalidArgument: it is of the wrong type, or an integer that a JSON reader may have rounded.
    """
    if primary_key.type.is_string:
        if not isinstance(key, str):
            raise InvalidArgument(
                f"key {_told(key)} is a number; the primary key is {primary_key}", hint="give keys as strings"
            )
        return key
    if isinstance(key, str):
        if not re.fullmatch(r"-?[0-9]{1,19}", key):
            raise InvalidArgument(f"key {key[:80]!r} is not a whole number; the primary key is {primary_key}")
        key = int(key)
    elif abs(key) > SAFE_INTEGER:
        raise InvalidArgument(
            f"key {_told(key)} is beyond 2^53, where JSON readers round numbers: it may not be the key that was meant",
            hint=f'give it as a string: "{_told(key)}", with the digits that a result showed',
        )
    if not KEY_RANGE[0] <= key <= KEY_RANGE[1]:
        raise InvalidArgument(f"key {key} is outside the range of keys; the primary key is {primary_key}")
    return key


def portable_key(key: int | str) -> int | str:
    """The key as results carry it: a string where a JSON reader would round the number."""
    return str(key) if isinstance(key, int) and abs(key) > SAFE_INTEGER else key


def rendered(template: str, params: Mapping[str, Any] | None) -> str:
    """The filter with each `{name}` replaced by the literal of its parameter. Braces inside strings are text.

    Raises:
        InvalidFilter: it is too long, brackets or quotes are not closed, or a name has no parameter or a parameter no
            name.
    """
    if not template and not params:
        return ""
    _require_short(len(template), LONGEST_FILTER)
    _require_closed(template)
    given = dict(params or {})
    literals: dict[str, str] = {}
    size = len(template)

    def replaced(token: re.Match[str]) -> str:
        name = token.group(1)
        if name is None:
            return token.group()
        if name not in given:
            raise InvalidFilter(
                f"filter has {{{name}}} but filter_params has no {name!r}",
                hint="give a value for every {name} in the filter",
            )
        if name not in literals:
            literals[name] = literal(given[name])
        nonlocal size
        size += len(literals[name])
        _require_short(size, LONGEST_RENDERED)
        return literals[name]

    text = TOKEN.sub(replaced, _encodable(template))
    if unused := sorted(given.keys() - literals.keys()):
        raise InvalidFilter(
            f"filter_params {unused} do not occur in the filter",
            hint="write {name} without quotes where the value belongs",
        )
    _require_safe_divisors(text)
    return text


def both(first: str, second: str) -> str:
    """Entities that match both filters; an empty filter matches everything."""
    return f"({first}) and ({second})" if first and second else first or second


@dataclass(frozen=True)
class Token:
    """One word of a filter: a string, number, name or mark, as it is written again. `value` is what a string says.

    It stood in `text[start:end]` of the filter.
    """

    kind: str
    text: str
    value: str = ""
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)


def understood(text: str) -> list[Token]:
    """The words of a filter, of which nothing is left to the reading of a backend.

    Raises:
        InvalidFilter: it has something else than words that both backends read alike, or brackets that do not match.
    """
    tokens: list[Token] = []
    place = 0
    while place < len(text):
        found = STRICT_TOKEN.match(text, place)
        if found is None:
            _require_closed(text)
            raise InvalidFilter(
                f"filter: {text[place]!r} is not understood here\n{pointed(text, place + 1)}",
                hint='a filter reads like: year > 1990 and title like "a%" and tag in ["x", "y"]',
            )
        span = place, found.end()
        place = found.end()
        if found.lastgroup == "string":
            value = re.sub(r"\\(.)", lambda escape: UNESCAPED.get(escape[1], escape[1]), found.group()[1:-1])
            tokens.append(Token("string", literal(value), value, *span))
        elif found.lastgroup:
            tokens.append(Token(found.lastgroup, found.group(), "", *span))
    _require_closed(canonical(tokens))
    return tokens


def canonical(tokens: Sequence[Token]) -> str:
    """The filter that these words are, written in one way. Milvus 2.3.5 takes no space around the key of a path."""
    words = zip([None, *tokens], tokens, strict=False)
    return "".join(token.text if _clings(before, token) else f" {token.text}" for before, token in words)


def _clings(before: Token | None, token: Token) -> bool:
    if before is None or before.text == "[" or token.text == "]":
        return True
    return token.text == "[" and (before.text == "]" or (before.kind == "name" and before.text.lower() != "in"))


def names_in(tokens: Sequence[Token]) -> set[str]:
    """Every name of a field in a filter, and every key of the dynamic field."""
    following = zip(tokens, [*tokens[1:], None], strict=False)
    named = {token.text for token, then in following if token.kind == "name" and not (then and then.text == "(")}
    names = named - KEYWORDS_AS_WRITTEN
    after = zip(tokens, tokens[1:], tokens[2:], strict=False)
    return names | {key.value for meta, _, key in after if meta.text == "$meta"}


def equalities(mandatory: str) -> dict[str, Any] | None:
    """What a filter of the form `field == literal and …` asks of each entity, by field; None of any other filter."""
    tokens = [token for token in understood(mandatory) if token.text not in {"(", ")"}]
    asked: dict[str, Any] = {}
    terms: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind != "string" and token.text.lower() in CONJUNCTIONS:
            terms.append([])
        else:
            terms[-1].append(token)
    for term in terms:
        match term:
            case [Token("name", name), Token("mark", "=="), *literal_tokens] if name not in asked:
                asked[name] = _constant(literal_tokens)
            case _:
                return None
    return None if None in asked.values() else asked


def _constant(tokens: Sequence[Token]) -> str | int | bool | None:
    """The value of a text, a whole number or a boolean; None of anything else."""
    match tokens:
        case [Token("string", _, value)]:
            return value
        case [Token("number", digits)] if digits.isdigit():
            return int(digits)
        case [Token("mark", "-"), Token("number", digits)] if digits.isdigit():
            return -int(digits)
        case [Token("name", word)]:
            return {"true": True, "false": False}.get(word.lower())
        case _:
            return None


def after_key(primary_key: Field, key: int | str) -> str:
    """The filter for entities whose key comes after `key` in the order of keys."""
    return f"{primary_key.name} > {literal(key)}"


def any_key(primary_key: Field) -> str:
    """The filter that every entity matches."""
    name = primary_key.name
    return f'{name} >= ""' if primary_key.type.is_string else f"{name} > 0 or {name} <= 0"


def pointed(text: str, column: int) -> str:
    """The part of the text around a column (counted from 1) in one line, and a caret under it; 0 points nowhere."""
    start = max(0, column - 1 - SHOWN_AROUND)
    shown = " ".join(text[start : column + SHOWN_AROUND].split("\n"))
    return f"  {shown}" + (f"\n  {' ' * (column - 1 - start)}^" if column > 0 else "")


def _tokens_outside_strings(text: str) -> Iterator[tuple[str, int]]:
    """Each with its column."""
    for token in TOKEN.finditer(text):
        if token.group()[0] not in QUOTES or len(token.group()) == 1:
            yield token.group(), token.start() + 1


def _require_closed(text: str) -> None:
    """A filter that closes a bracket it did not open would escape from the brackets that we put around it."""
    opened: list[tuple[str, int]] = []
    partner = "every bracket needs its partner"
    for mark, column in _tokens_outside_strings(text):
        if mark in "([":
            opened.append((mark, column))
        elif mark in BRACKETS and (not opened or opened.pop()[0] != BRACKETS[mark]):
            raise InvalidFilter(f"filter: {mark!r} closes nothing\n{pointed(text, column)}", hint=partner)
        elif mark in QUOTES:
            hint = 'write text as "…", and a " inside it as \\"'
            raise InvalidFilter(f"filter: a {mark} is not closed\n{pointed(text, column)}", hint=hint)
    if opened:
        mark, column = opened[-1]
        raise InvalidFilter(f"filter: {mark!r} is not closed\n{pointed(text, column)}", hint=partner)


def _require_short(size: int, most: int) -> None:
    if size > most:
        raise InvalidFilter(
            f"filter: {size:,} characters or more, where {most:,} are possible",
            hint="give long lists as filter_params, `field in {name}`, and split longer ones over several calls",
        )


def _told(number: int) -> str:
    """The number, or only its size: Python writes no more than 4,300 digits."""
    return str(number) if number.bit_length() <= TOLD_BITS else f"of {number.bit_length():,} bits"


def _require_safe_divisors(text: str) -> None:
    """Nothing, if every division is by a number that is not zero: by another, a Milvus 2.3.5 server ends at once."""
    if "/" not in text:
        return
    bare = TOKEN.sub(lambda token: token.group() if len(token.group()) == 1 else " " * len(token.group()), text)
    if found := DIVISION.search(bare):
        raise InvalidFilter(
            f"filter: only a number that is not zero can divide\n{pointed(text, found.start() + 1)}",
            hint="write the other side of the comparison as a multiple, or compare in your own code",
        )


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(HALF_A_PAIR) from None
    return text
