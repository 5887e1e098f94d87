"""What was read from a file made to fit a collection: renamed, converted, checked as `entities` checks, and packed.

Vectors of a whole batch are looked at as one array. Only what that proves to be right is taken so; everything else goes
through the checks of single entities, which also find the words for what is wrong.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain
from typing import Any, cast

import numpy as np

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.entities import (
    MAX_FLOAT32,
    NOT_FROM_TEXT,
    Entity,
    FromText,
    checked_entities,
    entity_problems,
)
from mcp_server_milvus.milvus.formats import Batch, Format, Unreadable
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.vocabulary import DataType

DYNAMIC = "$meta"
"""The column that holds the dynamic field of each entity as one JSON object, where columns cannot come and go."""

KEPT: dict[str, tuple[type, ...]] = {"{": (dict,), "{[": (dict, list)}
"""What a JSON value is in Python where it must begin so."""

WHOLE_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,19}\s*")
TRUTHS = {"true": True, "false": False, "1": True, "0": False, 1: True, 0: False}
LONGEST_PROBLEM = 300
"""Characters of what is said about one entity: names and values of a file may be megabytes."""

PLURALS = {"str": "strings", "dict": "objects", "list": "lists", "float": "floats", "int": "whole numbers"}


@dataclass(frozen=True)
class Fitted:
    """The entities of a batch that fit, packed, their numbers in the file, and what is wrong with the others."""

    first: int
    end: int
    numbers: list[int]
    entities: list[Entity]
    matrices: dict[str, Any]
    wrong: dict[int, str]

    def split(self, count: int) -> "tuple[Fitted, Fitted]":
        """The first `count` entities, some but not all of them, and the others. What is wrong is in neither."""
        number = self.numbers[count]
        first, rest = (
            {name: matrix[part] for name, matrix in self.matrices.items()}
            for part in (slice(count), slice(count, None))
        )
        return (
            Fitted(self.first, number, self.numbers[:count], self.entities[:count], first, {}),
            Fitted(number, self.end, self.numbers[count:], self.entities[count:], rest, {}),
        )


@dataclass
class Fitting:
    """How the entities of one file become those of one collection. Counts what it converts.

    `columns` maps the file's columns to fields, and to "" those to leave out. The empty text of a CSV is no value.
    `json_values` are those of the backend. Vectors that are made from texts are left out where the file has none.

    Raises:
        InvalidArgument: two columns are mapped to the same field.
    """

    schema: CollectionSchema
    columns: Mapping[str, str]
    keys_required: bool
    kind: Format
    json_values: str = ""
    from_text: FromText = NOT_FROM_TEXT
    _converted: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    _missing: set[str] = field(init=False)

    def __post_init__(self) -> None:
        names = Counter(name for name in self.columns.values() if name)
        if twice := [name for name, count in names.items() if count > 1]:
            raise InvalidArgument(f"columns: several columns are mapped to {twice[0]!r}", hint="leave one of them")
        self._missing = set(self.columns)

    @property
    def unused(self) -> list[str]:
        """The columns that are mapped and were in no entity, each in a sentence."""
        return [f"columns: {_shortened(name)!r} is in no entity of the file" for name in sorted(self._missing)]

    @property
    def coerced(self) -> list[str]:
        """What was converted, as `year: 3,000 strings became INT64`."""
        return [
            f"{name}: {count:,} {PLURALS.get(kind, kind)} became {self.schema.by_name[name].type}"
            for (name, kind), count in self._converted.items()
        ]

    def fit(self, batch: Batch) -> Fitted:
        """The batch, checked as insert and upsert check.

        Raises:
            InvalidArgument: the file's columns are not those that are mapped.
        """
        self._look_at_columns(batch)
        matrices = self._renamed(batch.matrices)
        entities = [self._entity(each) if isinstance(each, dict) else each for each in batch.entities]
        readable = {index: each for index, each in enumerate(entities) if isinstance(each, dict)}
        wrong = {index: each.problem for index, each in enumerate(entities) if isinstance(each, Unreadable)}
        unreadable = len(wrong)
        for known in self.schema.fields:
            wrong |= self._convert(known, readable)
        packed = self._packed_at_once(list(readable.values()), matrices) if len(wrong) == unreadable else None
        if packed is None:
            _with_lists(list(readable.values()), matrices)
            wrong |= self._found_wrong(batch, {index: each for index, each in readable.items() if index not in wrong})
            readable = {index: entity for index, entity in readable.items() if index not in wrong}
            packed = self._packed(list(readable.values()), {})
        return Fitted(
            batch.first,
            batch.first + len(batch.entities),
            [batch.first + index for index in readable],
            *packed,
            {batch.first + index: _shortened(f"{batch.place(index)}: {wrong[index]}") for index in sorted(wrong)},
        )

    def _look_at_columns(self, batch: Batch) -> None:
        """Notes which columns there are. In a table, unlike in JSON, each entity has the same.

        Raises:
            InvalidArgument: a table has not the columns that are mapped, or two for one field.
        """
        if not self.columns:
            return
        entities = [entity for entity in batch.entities if isinstance(entity, dict)]
        self._missing.difference_update(batch.matrices, *entities)
        if self.kind in {Format.JSON, Format.JSONL} or not entities:
            return
        if self._missing:
            raise InvalidArgument(f"columns: the file has no column {_shortened(min(self._missing))!r}")
        if twice := self._given_twice(entities[0].keys() | batch.matrices.keys()):
            raise InvalidArgument(f"columns: {twice}", hint='map the other one to ""')

    def _given_twice(self, names: AbstractSet[str]) -> str:
        """What is wrong if a column is mapped to a field that another column has the name of."""
        for column, name in self.columns.items():
            if name and {column, name} <= names and self.columns.get(name, name) == name != column:
                return f"column {column!r} is mapped to {name!r}, and there is a column {name!r} too"
        return ""

    def _renamed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by field."""
        named = ((self.columns.get(column, column), value) for column, value in values.items())
        return {name: value for name, value in named if name}

    def _entity(self, entity: Entity) -> Entity | Unreadable:
        if self.columns:
            if twice := self._given_twice(entity.keys()):
                return Unreadable(twice)
            entity = self._renamed(entity)
        if DYNAMIC not in entity or not self.schema.enable_dynamic_field:
            return entity
        dynamic = entity.pop(DYNAMIC)
        values = _from_json(dynamic) if isinstance(dynamic, str) else dynamic
        if isinstance(values, dict):
            return cast("Entity", values) | entity
        return entity if not values else entity | {DYNAMIC: dynamic}

    def _convert(self, known: Field, entities: Mapping[int, Entity]) -> dict[int, str]:
        """Converts the values of one field in place, where they are not of its own kind and mean such a value.

        Returns what is wrong with those of which no check after this one could tell.
        """
        name, natural = known.name, _natural(known, self.kind)
        empty_is_none = self.kind is Format.CSV and (known.nullable or not known.type.is_string)
        if not empty_is_none and {type(entity.get(name)) for entity in entities.values()} <= natural:
            return {}
        convert = _conversion(known)
        wrong: dict[int, str] = {}
        for index, entity in entities.items():
            value = entity.get(name)
            if empty_is_none and value == "":
                entity[name] = None
            elif type(value) not in natural:
                converted = convert(value)
                if converted is not value:
                    entity[name] = converted
                    self._converted[name, type(value).__name__] += 1
                elif known.type is DataType.JSON and isinstance(value, str):
                    wrong[index] = f"field {name!r}: the text is not JSON; expected {known}"
        return wrong

    def _packed_at_once(
        self, entities: list[Entity], matrices: Mapping[str, Any]
    ) -> tuple[list[Entity], dict[str, Any]] | None:
        """As `_packed`; None if one is wrong."""
        try:
            return self._packed(entities, matrices)
        except InvalidArgument:
            return None

    def _packed(self, entities: list[Entity], matrices: Mapping[str, Any]) -> tuple[list[Entity], dict[str, Any]]:
        """The entities as they are sent, without the columns that are arrays, and those.

        Raises:
            InvalidArgument: one is wrong.
        """
        arrays: dict[str, Any] = {}
        for known in self.schema.fields if entities else ():
            if known.type is DataType.FLOAT_VECTOR and not known.is_function_output:
                proven = (
                    _proven(known, matrices[known.name])
                    if known.name in matrices
                    else _from_lists(known, [entity.get(known.name) for entity in entities])
                )
                if proven is not None:
                    arrays[known.name] = proven
        rest = {name: matrix for name, matrix in matrices.items() if name not in arrays}
        schema = replace(self.schema, fields=tuple(each for each in self.schema.fields if each.name not in arrays))
        partial = [{name: entity[name] for name in entity if name not in arrays} for entity in entities]
        if unkept := [problem for entity in entities if (problem := self._unkept(entity))]:
            raise InvalidArgument(unkept[0])
        checked = checked_entities(
            schema,
            _with_lists(partial, rest),
            keys_required=self.keys_required,
            from_text=self.from_text.without(arrays.keys()),
        )
        return checked, arrays

    def _unkept(self, entity: Entity) -> str:
        """What the backend cannot keep of an entity that fits the schema, or nothing."""
        kinds = KEPT.get(self.json_values)
        for each in self.schema.fields if kinds else ():
            value = entity.get(each.name)
            if each.type is DataType.JSON and value is not None and not isinstance(value, kinds or ()):
                return f"field {each.name!r}: this Milvus keeps no {type(value).__name__} as a whole JSON value"
        return ""

    def _found_wrong(self, batch: Batch, readable: Mapping[int, Entity]) -> dict[int, str]:
        """What is wrong with which entity; of those with the same key, with all but the first."""
        key = self.schema.primary_key.name
        first: dict[str, int] = {}
        wrong: dict[int, str] = {}
        for index, entity in readable.items():
            problems = entity_problems(self.schema, entity, keys_required=self.keys_required, from_text=self.from_text)
            if unkept := self._unkept(entity):
                problems.append(unkept)
            if not problems and key in entity and (same := first.setdefault(str(entity[key]), index)) != index:
                problems = [f"field {key!r} is the same as that of {batch.place(same)}"]
            if problems:
                wrong[index] = problems[0]
        return wrong


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_PROBLEM else text[:LONGEST_PROBLEM] + "…"


def _with_lists(entities: list[Entity], matrices: Mapping[str, Any]) -> list[Entity]:
    """The entities with their lines of the arrays as lists."""
    for name, matrix in matrices.items():
        for entity, line in zip(entities, matrix.tolist(), strict=True):
            entity[name] = line
    return entities


def _from_lists(known: Field, vectors: list[Any]) -> Any:
    """The vectors as one array, or None if they are not all right."""
    if any(type(vector) is not list or len(vector) != known.dim for vector in vectors):
        return None
    numbers = list(chain.from_iterable(vectors))
    if not set(map(type, numbers)) <= {int, float}:
        return None
    try:
        flat = np.fromiter(numbers, np.float64, len(numbers))
    except OverflowError:
        return None
    return _proven(known, flat.reshape(len(vectors), -1))


def _proven(known: Field, matrix: Any) -> Any:
    """The array in 32-bit floats if each of its numbers is one, and None if not."""
    if matrix.ndim != 2 or matrix.shape[1] != known.dim:  # noqa: PLR2004  # lines and columns
        return None
    largest = np.abs(matrix.astype(np.float64) if matrix.dtype != np.float32 else matrix).max(initial=0)
    if not largest <= MAX_FLOAT32:  # so that NaN is none either
        return None
    return np.ascontiguousarray(matrix, dtype="<f4")


def _natural(known: Field, kind: Format) -> frozenset[type]:
    """The types of values that are taken as they are. Text for a JSON field is JSON, but in a file that is JSON."""
    kinds: set[type[Any]]
    match known.type:
        case DataType.BOOL:
            kinds = {bool}
        case DataType.INT8 | DataType.INT16 | DataType.INT32 | DataType.INT64:
            kinds = {int}
        case DataType.FLOAT | DataType.DOUBLE:
            kinds = {int, float}
        case DataType.JSON:
            kinds = {dict, list, bool, int, float} | ({str} if kind in {Format.JSON, Format.JSONL} else set())
        case DataType.SPARSE_FLOAT_VECTOR:
            kinds = set()
        case other if other.is_vector or other is DataType.ARRAY:
            kinds = {list}
        case _:
            kinds = {str}
    return frozenset({type(None), *kinds})


def _conversion(known: Field) -> Callable[[Any], Any]:
    """What gives the value that another one means, and the same one when it means none."""
    match known.type:
        case DataType.BOOL:
            return _to_truth
        case DataType.INT8 | DataType.INT16 | DataType.INT32 | DataType.INT64:
            return _to_integer
        case DataType.FLOAT | DataType.DOUBLE:
            return _to_number
        case DataType.SPARSE_FLOAT_VECTOR:
            return _to_sparse
        case other if other.is_vector or other in {DataType.ARRAY, DataType.JSON}:
            return _from_json
        case _:
            return _to_text


def _to_truth(value: Any) -> Any:
    match value:
        case str():
            return TRUTHS.get(value.strip().lower(), value)
        case int():
            return TRUTHS.get(value, value)
        case _:
            return value


def _to_integer(value: Any) -> Any:
    match value:
        case str() if WHOLE_NUMBER.fullmatch(value):
            return int(value)
        case float() if math.isfinite(value) and value.is_integer() and abs(value) <= 2**53:
            return int(value)
        case Decimal() if value == value.to_integral_value():
            return int(value)
        case _:
            return value


def _to_number(value: Any) -> Any:
    if not isinstance(value, str | Decimal):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _to_text(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int() | Decimal():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return value


def _to_sparse(value: Any) -> Any:
    """A sparse vector may be `{"indices": [...], "values": [...]}` with nothing else in it."""
    read = _from_json(value)
    match read:
        case {"indices": list(), "values": list(), **others} if not others:
            lists = cast("dict[str, list[Any]]", read)
            indices, weights = lists["indices"], lists["values"]
            whole = all(type(index) is int for index in indices)
            right = whole and len(indices) == len(weights) == len(set(indices))
            return dict(zip(indices, weights, strict=True)) if right else read
        case _:
            return read


def _from_json(value: Any) -> Any:
    """The value of a JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
