"""Entities read from JSON Lines, JSON and CSV."""

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO, cast

from pydantic_core import from_json

from mcp_server_milvus.milvus.entities import BATCH_BYTES, BATCH_ENTITIES, Entity
from mcp_server_milvus.milvus.formats import LONGEST_ENTITY, Batch, Source, Unreadable

TEXT_BYTES = 2 * BATCH_BYTES
CHUNK = 64 * 1024
BOM = b"\xef\xbb\xbf"
SEPARATORS = ",;\t"


def json_lines(file: BinaryIO, resume_from: int, _: str) -> Source:
    """One object in each line."""
    return Source(_batches(_lines(file), resume_from, _object))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Each line that is not blank, with its number; None for one that is too long."""
    number = 0
    while line := file.readline(LONGEST_ENTITY):
        number += 1
        if len(line) == LONGEST_ENTITY and not line.endswith(b"\n"):
            while (rest := file.readline(CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        if not line.isspace():
            yield number, line


def _object(raw: bytes | None) -> Entity | Unreadable:
    if raw is None:
        return Unreadable(f"longer than {LONGEST_ENTITY} bytes")
    try:
        return _entity(_decoded(raw))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON: {error}")


def _decoded(raw: bytes) -> Any:
    """What `json` makes of the text, five times as fast; what only `json` reads, it gets."""
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError:
        return json.loads(raw)


def _entity(value: Any) -> Entity | Unreadable:
    if isinstance(value, dict):
        return cast("Entity", value)
    return Unreadable(f"{type(value).__name__} where an object should be")


def json_array(file: BinaryIO, resume_from: int, _: str) -> Source:
    """An array of objects."""
    return Source(_batches(_elements(file), resume_from, _entity))


def _elements(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Each element of a JSON array, decoded from a window of the file that grows only while it holds no whole one."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    window = decoder.decode(file.read(CHUNK)).lstrip()
    if not window.startswith("["):
        raise ValueError("it is no array of objects; one object per line is jsonl")
    decode = json.JSONDecoder().raw_decode
    position, number, ended = 1, 0, False
    while True:
        try:
            position = _after_space(window, position)
            if window[position : position + 1] == "]":
                return
            value, end = decode(window, position)
            end = _after_space(window, end)
            if window[end] not in ",]":
                raise ValueError(f"after element {number} there is no comma")
        except (json.JSONDecodeError, IndexError) as error:
            if ended or len(window) - position > LONGEST_ENTITY:
                raise ValueError(f"element {number} is broken or longer than {LONGEST_ENTITY} bytes: {error}") from None
            more = file.read(max(CHUNK, len(window) - position))
            ended = not more
            window, position = window[position:] + decoder.decode(more, final=ended), 0
            continue
        yield 0, value
        number += 1
        position = end + (window[end] == ",")


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def csv_table(file: BinaryIO, resume_from: int, _: str) -> Source:
    """Columns with their names in the first line, separated by what occurs most often in it."""
    csv.field_size_limit(LONGEST_ENTITY)  # of the process; nothing else in it reads CSV
    used = [0]
    lines = _csv_lines(file, used)
    first = next(lines, "")
    rows = csv.reader(_again(first, lines), delimiter=max(SEPARATORS, key=first.count))
    names = next(rows, list[str]())
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")

    def entity(row: list[str]) -> Entity | Unreadable:
        if len(row) != len(names):
            return Unreadable(f"{len(row)} values for {len(names)} columns")
        return dict(zip(names, row, strict=True))

    return Source(_batches(_rows(rows, used), resume_from, entity))


def _rows(rows: Any, used: list[int]) -> Iterator[tuple[int, list[str]]]:
    for row in rows:
        used[0] = 0
        if row:
            yield rows.line_num, row


def _csv_lines(file: BinaryIO, used: list[int]) -> Iterator[str]:
    """The lines of a text whose values may have several. `used` is how many bytes the current entity has so far."""
    start = BOM
    while line := file.readline(LONGEST_ENTITY):
        used[0] += len(line)
        if used[0] >= LONGEST_ENTITY:
            raise ValueError(f"an entity is longer than {LONGEST_ENTITY} bytes: is a quote not closed?")
        yield line.removeprefix(start).decode(errors="surrogateescape")
        start = b""


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _batches(
    parts: Iterable[tuple[int, Any]], resume_from: int, parse: Callable[[Any], Entity | Unreadable]
) -> Iterator[Batch]:
    """The parts of a text, parsed, in batches that are small in bytes too."""
    lines: list[int] = []
    entities: list[Entity | Unreadable] = []
    first, size = resume_from, 0
    for line, part in islice(parts, resume_from, None):
        entities.append(parse(part))
        lines.append(line)
        size += len(part) if isinstance(part, bytes) else _text_size(part)
        if len(entities) == BATCH_ENTITIES or size > TEXT_BYTES:
            yield Batch(first, entities, lines)
            first += len(entities)
            lines, entities, size = [], [], 0
    if entities:
        yield Batch(first, entities, lines)


def _text_size(part: Any) -> int:
    """Roughly the characters that were decoded into this."""
    match part:
        case str():
            return len(part)
        case list() | dict():
            inner = cast("Any", part)
            values: list[Any] = list(inner.values()) if isinstance(part, dict) else inner
            return 20 * len(values) if values and isinstance(values[0], float) else sum(map(_text_size, values)) + 8
        case _:
            return 8
