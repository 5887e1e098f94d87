"""Entities and hits for a reader who pays per token: JSON-safe, short, exact where it matters, saying what was cut."""

import base64
import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from mcp_server_milvus.compact import compact, json_size
from mcp_server_milvus.errors import InvalidArgument, LimitExceeded
from mcp_server_milvus.milvus.filters import portable_key
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.text.visible import escaped
from mcp_server_milvus.vocabulary import DataType

TRIMMED_LENGTH = 1_000
"""Characters of a text that nobody asked for by name."""

ENVELOPE_BYTES = 512
"""What a result needs besides its entities."""

SECRET_KEY = re.compile(
    r"(api|access|account|encryption|private|secret|signing)[_.-]?key"
    r"|(token|secrets?|passw(or)?ds?|passphrase|pwd|credentials?|auth|authorization|cookie)(?![a-z])"
)
"""In lower case, words apart: `authToken` is one, `author`, `tokenizer` and `max_tokens` are none."""

DEEPEST = 240
"""Levels of a value that a result can hold: pydantic writes 255, of which the result itself needs some."""

CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
SCORE_DIGITS = 6


@dataclass(frozen=True)
class Passages:
    """A text field of which hits show a passage instead: `of(text)`, where the text has more characters than that.

    `asked` says that the caller wants passages, also of a field that is shown whole.
    """

    field: str
    longer_than: int
    of: Callable[[str], str]
    asked: bool = False


@dataclass
class Page:
    """Entities that fit one result. `asked` are the output fields that the caller named: those are not trimmed."""

    schema: CollectionSchema
    max_bytes: int
    asked: frozenset[str] = frozenset()
    passages: Passages | None = None
    entities: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _used: int = ENVELOPE_BYTES
    _trimmed: dict[str, int] = field(default_factory=dict[str, int])
    _shortened: bool = False
    _escaped: int = 0
    _passages_given: int = 0

    def admit(self, entity: Mapping[str, Any], **around: Any) -> bool:
        """Takes the entity if it fits. The first one always does, shortened if need be.

        `around` goes beside it: the `id` and the `score` of a hit, of whose fields the key is none then.
        """
        passage = self._passage(entity) if self.passages else {}
        replaced = self._replaced if passage else ()
        left_out = ("$meta", self.schema.primary_key.name, *replaced) if around else ("$meta", *replaced)
        fields = {name: self._plain(name, value) for name, value in entity.items() if name not in left_out}
        row = {**around, "id": self._key(around["id"]), "fields": fields, **passage} if around else fields
        size = json_size(row)
        if self._used + size > self.max_bytes:
            if self.entities:
                return False
            self._shorten(fields, size - (self.max_bytes - self._used))
            self._shortened = True
            size = json_size(row)
        self._used += size + 1
        self._passages_given += len(passage)
        self.entities.append(row)
        return True

    def limits(self, *, stopped: str = "") -> list[str] | None:
        """What was cut, in sentences; None when nothing was. `stopped` says how to get the entities left out."""
        said: list[str] = []
        if stopped:
            said.append(f"{self.max_bytes} bytes reached after {len(self.entities)}: {stopped}")
        if self._shortened:
            said.append(
                f"an entity exceeds {self.max_bytes} bytes, so its longest values are cut: name fewer output_fields"
            )
        if self._escaped:
            said.append(f"{self._escaped} keys have invisible characters, here written out as \\uXXXX")
        said += [
            f"{name}: {count} values trimmed to {TRIMMED_LENGTH} characters; name it in output_fields to get it whole"
            for name, count in self._trimmed.items()
        ]
        if self.passages and self._passages_given and not self.passages.asked:
            name, count = self.passages.field, self._passages_given
            said.append(f"{name}: passages instead of {count} whole texts; name it in output_fields to get it whole")
        return said or None

    def passage_characters(self, entities: Iterable[Mapping[str, Any]]) -> int:
        """In how many characters of these entities passages are to be found."""
        if self.passages is None:
            return 0
        texts = (entity.get(self.passages.field) for entity in entities)
        return sum(len(text) for text in texts if isinstance(text, str))

    @property
    def _replaced(self) -> frozenset[str]:
        """The field that a passage stands for: not one that the caller named."""
        return frozenset({self.passages.field} if self.passages else ()) - self.asked

    def _passage(self, entity: Mapping[str, Any]) -> dict[str, str]:
        if self.passages is None or not (self._replaced or self.passages.asked):
            return {}
        text = entity.get(self.passages.field)
        if not isinstance(text, str) or len(text) <= self.passages.longer_than:
            return {}
        return {"snippet": self.passages.of(text)}

    def _key(self, key: int | str) -> int | str:
        """A key as a reader tells it from every other one."""
        if isinstance(key, int):
            return portable_key(key)
        shown = shown_key(key)
        self._escaped += shown != key
        return shown

    def _plain(self, name: str, value: Any) -> Any:
        plain = plain_value(self.schema.by_name.get(name), value)
        key = self.schema.primary_key.name
        if name == key:
            return self._key(plain)
        if isinstance(plain, str) and len(plain) > TRIMMED_LENGTH and name not in self.asked:
            self._trimmed[name] = self._trimmed.get(name, 0) + 1
            return plain[:TRIMMED_LENGTH] + "…"
        return plain

    def _shorten(self, fields: dict[str, Any], excess: int) -> None:
        """Cuts the longest values until the entity fits, never the key; of a vector or object only the size stays."""
        names = fields.keys() - {self.schema.primary_key.name}
        for name in sorted(names, key=lambda each: json_size(fields[each]), reverse=True):
            if excess <= 0:
                return
            before = json_size(fields[name])
            fields[name] = _shortened(fields[name], before - excess)
            excess -= before - json_size(fields[name])


def shown_key(key: int | str) -> int | str:
    """The key as a reader tells it from every other one: a number as in `portable_key`, a text without cloaks."""
    return escaped(key) if isinstance(key, str) else portable_key(key)


def plain_value(known: Field | None, value: Any, levels: int = DEEPEST) -> Any:
    """The value as JSON has it: exact integers, the shortest decimals, a null for what is no number.

    Raises:
        LimitExceeded: it has more levels than this.
    """
    if not levels:
        raise LimitExceeded(
            f"a value has more than {DEEPEST} levels, which no result can hold",
            hint="leave its field out of output_fields, or filter the entity out",
        )
    if known and known.type.is_vector and value is not None:
        return _plain_vector(known, value)
    match value:
        case bool() | str() | None:
            plain = value
        case int():
            plain = portable_key(value)
        case float():
            single = known is not None and DataType.FLOAT in {known.type, known.element_type}
            plain = _plain_number(value, single=single)
        case dict():
            plain = {
                str(key): plain_value(None, inner, levels - 1) for key, inner in cast("dict[Any, Any]", value).items()
            }
        case bytes():
            plain = f"<{len(value)} bytes>"
        case _:
            plain = [plain_value(known, inner, levels - 1) for inner in value]
    return plain


def plain_score(score: float) -> float:
    """The score with the digits that an approximate search can mean."""
    return float(f"{score:.{SCORE_DIGITS}g}")


def masked(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, values with a key like a secret's hidden: Milvus describes an embedding API key in clear."""
    return {key: "***" if names_secret(key) else _masked_value(value) for key, value in params.items()}


def names_secret(key: str) -> bool:
    """Whether what has this key is probably a secret."""
    return bool(SECRET_KEY.search(CAMEL.sub("_", key).lower()))


def fitting(described: Sequence[Mapping[str, Any]], max_bytes: int) -> int:
    """How many of these objects, from the first, a result of that many bytes has room for; at least one."""
    used, count = ENVELOPE_BYTES, 0
    for each in described:
        used += json_size(each) + 1
        if used > max_bytes and count:
            break
        count += 1
    return count


def cursor_fingerprint(*parts: Any, packed: bytes = b"") -> str:
    """What ties a cursor to the question that it continues. `packed` is of it, and no JSON."""
    return hashlib.sha256(compact(parts).encode(errors="replace") + packed).hexdigest()[:12]


def encode_cursor(fingerprint: str, position: int | str) -> str:
    """An opaque text from which any server can continue after `position`."""
    return base64.urlsafe_b64encode(compact([fingerprint, position]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, fingerprint: str) -> int | str:
    """The position inside a cursor.

    Raises:
        InvalidArgument: it is no cursor of ours, or it continues another question.
    """
    try:
        decoded = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        decoded = None
    match decoded:
        case [str() as found, int() | str() as position] if found == fingerprint and not isinstance(position, bool):
            return position
        case _:
            raise InvalidArgument(
                "cursor: not one that continues this call",
                hint="repeat the arguments of the call that returned it, or leave the cursor out to start again",
            )


def _masked_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked_value(item) for item in cast("list[Any]", value)]
    return masked(cast("dict[str, Any]", value)) if isinstance(value, dict) else value


def _plain_number(number: float, *, single: bool) -> float | None:
    if not math.isfinite(number):
        return None
    return _shortest_float32(number) if single else number


def _plain_vector(known: Field, value: Any) -> Any:
    if isinstance(value, dict):
        return {str(index): _shortest_float32(weight) for index, weight in cast("dict[int, float]", value).items()}
    from mcp_server_milvus.milvus.vectors import vector_numbers

    return vector_numbers(known.type, value)


def _shortest_float32(number: float) -> float:
    """0.1 for the float32 0.10000000149011612: the fewest digits that are still the same number."""
    return next(
        short for digits in range(6, 18) if _float32(short := float(f"{number:.{digits}g}")) == _float32(number)
    )


def _float32(number: float) -> float:
    return struct.unpack("f", struct.pack("f", number))[0]


def _shortened(value: Any, size: int) -> Any:
    if isinstance(value, str):
        room = max(size - 8, 0)
        kept = value[:room]
        while (used := json_size(kept) - 2) > room:  # other than ASCII, and what JSON escapes, take more than one byte
            kept = kept[: len(kept) * room // used]
        return kept + "…"
    if isinstance(value, list | dict):
        return f"<{len(cast('Sequence[Any]', value))} values left out>"
    return value
