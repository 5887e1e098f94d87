"""What is wrong with a filter, for who wrote it: where, the fields that there are, and a corrected form if it is plain.

Both backends say it in words of their own (`EXPLANATIONS`); what they leave out is found here.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from mcp_server_milvus.errors import InvalidFilter
from mcp_server_milvus.milvus.filters import pointed
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.vocabulary import DataType

EXPLANATIONS = (
    re.compile(r"(?P<reason>[^\n]*) at column (?P<column>\d+)\n  (?P<text>[^\n]*)(?P<rest>.*)", re.DOTALL),
    re.compile(
        r".*?cannot parse expression: (?P<text>.*), error: (line \d+:(?P<before>\d+) )?(?P<reason>[^\n]*)", re.DOTALL
    ),
)
"""Milvus Lite counts columns from 1, Milvus from 0 where it counts at all."""

NOISE = re.compile(r" expecting \{.*|available fields: .*|(?<=invalid expression): .*", re.DOTALL)
"""What a grammar could have gone on with, a list of names without types, and the filter once more."""

WORD = re.compile(r"[A-Za-z_$][\w$]*")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
PIECE = re.compile(rf"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|{WORD.pattern}|\d+(?:\.\d+)?|[<>=!&|]+|\s+|.", re.DOTALL)
KEYWORDS = frozenset({"and", "or", "not", "in", "like", "is", "null", "true", "false", "exists", "between", "escape"})
OPERATORS = {"=": "==", "===": "==", "<>": "!=", "=<": "<=", "=>": ">=", "&": "and", "|": "or"}
SQL_NULL = {"==": "is", "!=": "is not"}
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "like"})
JOINING = frozenset({"and", "or", "not", "in", "like"})
"""Words that can follow a name or a value."""

CLOSE = 0.75
"""How like a field's name another must be to be taken for it: `yeer` is (0.75), `note` for `vector` is not."""


def explained(error: InvalidFilter, schema: CollectionSchema) -> InvalidFilter:
    """The error with the place, the fields and, as its hint, a corrected form."""
    fields = f"fields: {', '.join(str(field) for field in schema.fields if not field.type.is_vector)}"
    if schema.enable_dynamic_field:
        fields += "; any other name is read from the dynamic field"
    found = next((match for form in EXPLANATIONS if (match := form.fullmatch(error.message))), None)
    if found is None:
        return InvalidFilter(f"{error.message}\n{fields}", hint=error.hint)
    text, skipped = _own_part(found["text"], schema.primary_key)
    better = corrected(text, schema)
    column = _said_column(found) or _seen_column(found["reason"], found["text"], schema)
    told = found.groupdict().get("rest") or ""
    reason = NOISE.sub("", f"{found['reason']}{told.partition('^')[2].lstrip('^')}").strip().replace("\n", "; ")
    plain = better != text and not text.endswith("…") and better.split()[-1] not in JOINING
    return InvalidFilter(
        f"filter: {reason}\n{pointed(text, max(0, column - skipped))}\n{fields}",
        hint=f"perhaps: {better}" if plain else error.hint,
    )


def near_misses(schema: CollectionSchema, matching: str, output_fields: Sequence[str] | None) -> list[str]:
    """A note on each name that the dynamic field is asked for and that looks like a field's own."""
    if not schema.enable_dynamic_field or not (matching or output_fields):
        return []
    asked = [("filter", name) for name in _names(matching)] + [("output_fields", name) for name in output_fields or ()]
    return [
        f"{where}: {name!r} is no field and is read from the dynamic field; did you mean {close}?"
        for where, name in dict.fromkeys(asked)
        if (close := _meant(name, schema))
    ]


def corrected(text: str, schema: CollectionSchema) -> str:
    """The filter as it was probably meant; the same text where nothing is plainly wrong."""
    pieces = PIECE.findall(text)
    spoken = [number for number, piece in enumerate(pieces) if not piece.isspace()]
    for place, number in enumerate(spoken):
        piece = pieces[number]
        before = [pieces[each] for each in spoken[max(0, place - 2) : place]]
        following = pieces[spoken[place + 1]] if place + 1 < len(spoken) else ""
        pieces[number] = _corrected_piece(piece, before, following, schema)
    _undo_sql(pieces, spoken)
    return "".join(pieces)


def _undo_sql(pieces: list[str], spoken: Sequence[int]) -> None:
    """`in (…)`, `== null` and a `;` at the end, as Milvus writes them."""
    for number, following in pairwise(spoken):
        if pieces[number] in SQL_NULL and pieces[following] == "null":
            pieces[number] = SQL_NULL[pieces[number]]
        closing = next((each for each in spoken if each > following and pieces[each] == ")"), None)
        if pieces[number] == "in" and pieces[following] == "(" and closing:
            pieces[following], pieces[closing] = "[", "]"
    if spoken and pieces[spoken[-1]] == ";":
        del pieces[spoken[-1] :]


def _corrected_piece(piece: str, before: Sequence[str], following: str, schema: CollectionSchema) -> str:
    if piece in OPERATORS:
        return OPERATORS[piece]
    if piece.isupper() and piece.lower() in KEYWORDS:
        return piece.lower()
    compared = schema.by_name.get(before[0]) if len(before) > 1 and before[1] in COMPARISONS else None
    if compared and compared.type.is_string and _is_unquoted(piece, schema):
        return f'"{piece}"'
    if compared and compared.type.is_integer and NUMBER.fullmatch(piece[1:-1]) and piece[0] in "\"'":
        return piece[1:-1]
    return (_meant(piece, schema) or piece) if _is_name(piece) and following != "(" else piece


def _is_unquoted(piece: str, schema: CollectionSchema) -> bool:
    if NUMBER.fullmatch(piece):
        return True
    return _is_name(piece) and piece not in schema.by_name


def _meant(name: str, schema: CollectionSchema) -> str:
    """The field whose name is like this one, which is none's."""
    if name in schema.by_name or name in {"$meta", "*"}:
        return ""
    spelt = {field.lower(): field for field in schema.by_name}
    return next((spelt[close] for close in difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=CLOSE)), "")


def _names(text: str) -> Iterator[str]:
    """The names that a filter reads: no strings, no keywords, no functions."""
    pieces = [piece for piece in PIECE.findall(text) if not piece.isspace()]
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=False):
        if _is_name(piece) and following != "(":
            yield piece


def _own_part(text: str, primary_key: Field) -> tuple[str, int]:
    """What the caller wrote of a filter to which a condition on the key was added, and how far in that begins."""
    added = re.fullmatch(rf"\((?P<own>.*)\) and \({re.escape(primary_key.name)} (!=|>|<=|in) .*\)", text, re.DOTALL)
    return (added["own"], 1) if added else (text, 0)


def _said_column(found: re.Match[str]) -> int:
    """Where the mistake is, counted from 1, if the backend says so; else 0."""
    groups = found.groupdict()
    if groups.get("column"):
        return int(groups["column"])
    return int(groups["before"]) + 1 if groups.get("before") else 0


def _seen_column(reason: str, text: str, schema: CollectionSchema) -> int:
    """Where the mistake must be: at the name that the backend says, or at the first piece that cannot stand there."""
    named = re.search(r"field (\S+) not exist", reason)
    if named and (place := re.search(rf"\b{re.escape(named[1])}\b", text)):
        return place.start() + 1
    before: list[str] = []
    for match in PIECE.finditer(text):
        piece = match.group()
        if piece.isspace():
            continue
        if _is_misplaced(piece, before, schema):
            return match.start() + 1
        before.append(piece)
    return 0


def _is_misplaced(piece: str, before: Sequence[str], schema: CollectionSchema) -> bool:
    is_operand = bool(WORD.fullmatch(piece) or NUMBER.fullmatch(piece) or piece[0] in "\"'")
    after_operand = bool(before) and (NUMBER.fullmatch(before[-1]) or before[-1][0] in "\"'" or _is_name(before[-1]))
    if after_operand and is_operand and piece not in JOINING:
        return True
    if set(piece) <= set("<>=!&|"):
        return piece not in {*COMPARISONS, "&&", "||", "!"}
    compared = schema.by_name.get(before[-2]) if len(before) > 1 and before[-1] in COMPARISONS else None
    if compared is None or not is_operand or compared.type is DataType.JSON:
        return piece not in KEYWORDS and piece.lower() in KEYWORDS
    return compared.type.is_string != (piece[0] in "\"'") and piece not in schema.by_name


def _is_name(piece: str) -> bool:
    return bool(WORD.fullmatch(piece)) and piece.lower() not in KEYWORDS
