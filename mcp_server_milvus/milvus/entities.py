"""Entities checked against the schema before any request, and turned into what pymilvus packs."""

import json
import math
import re
import struct
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pydantic_core import SchemaValidator, ValidationError
from pydantic_core.core_schema import float_schema, list_schema

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.filters import KEY_RANGE
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.settings import nearest
from mcp_server_milvus.vocabulary import DataType, FunctionType

INTEGER_BITS = {DataType.INT8: 8, DataType.INT16: 16, DataType.INT32: 32, DataType.INT64: 64}
INT64_DIGITS = re.compile(r"-?[0-9]{1,19}")
SPARSE_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
MAX_FLOAT32 = 3.4028234663852886e38
FLOATS32 = SchemaValidator(list_schema(float_schema(strict=True, ge=-MAX_FLOAT32, le=MAX_FLOAT32)))
MAX_FLOAT16 = 65504.0
MAX_JSON_BYTES = 65_536
"""Bytes of one JSON value and of one entity's dynamic field. Source: Milvus `common.JSON max length`."""

MANY_DIGITS = re.compile(rb"\d{19}")
"""What a whole number beyond 64 bits looks like in JSON, and little else does."""

MAX_PROBLEMS = 5
SHOWN_LENGTH = 40
"""Characters of a wrong value that a message repeats."""

BATCH_BYTES = 4 * 1024 * 1024
BATCH_ENTITIES = 1_000
"""A request stays far below the server's 64 MiB, and packing it takes milliseconds."""

Entity = dict[str, Any]


@dataclass(frozen=True)
class FromText:
    """The vector fields that are made from texts on this side of Milvus, each with its text field.

    `or_given` says that an entity may also bring the vector, and then keeps it; `or_blank`, that it may have no text.
    """

    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    or_given: bool = False
    or_blank: bool = False

    def without(self, vector_fields: Collection[str]) -> "FromText":
        """The same but for these fields."""
        return replace(self, sources={name: text for name, text in self.sources.items() if name not in vector_fields})


NOT_FROM_TEXT = FromText()


def as_entities(data: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> list[Entity]:
    """The entities of a list of objects, or of an object of equally long columns.

    Raises:
        InvalidArgument: the columns differ in length or are no lists.
    """
    if not isinstance(data, Mapping):
        return [dict(entity) for entity in data]
    columns = {name: cast("list[Any]", column) for name, column in data.items() if isinstance(column, list)}
    if not columns or len(columns) < len(data):
        return [dict(data)]
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidArgument(
            f"data: the columns have different lengths: {lengths}", hint="give one value per entity in each column"
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def checked_entities(
    schema: CollectionSchema,
    entities: Sequence[Entity],
    *,
    keys_required: bool,
    from_text: FromText = NOT_FROM_TEXT,
    numbers: Sequence[int] | None = None,
) -> list[Entity]:
    """The entities as pymilvus packs them, but for the vectors that are still to be made from texts.

    `keys_required` is for upsert, which finds an entity by its key. `numbers` are what the entities are called.

    Raises:
        InvalidArgument: says for the first few problems which entity and field, what was expected and what came.
    """
    numbers = numbers or range(len(entities))
    problems = dict.fromkeys(_repeated_keys(schema, entities, numbers))
    packed: list[Entity] = []
    of_floats = [field.name for field in schema.fields if field.type is DataType.FLOAT_VECTOR]
    for number, given in zip(numbers, entities, strict=True):
        entity = _with_arrays(given, of_floats)
        for problem in _problems(schema, entity, keys_required=keys_required, from_text=from_text):
            problems[f"entity {number}: {problem}"] = None
        if len(problems) >= MAX_PROBLEMS:
            break
        if not problems:
            whole = _absent_values(schema) | entity if keys_required else entity
            packed.append({name: _packed(schema.by_name.get(name), value) for name, value in whole.items()})
    if problems:
        elsewhere = "; import_file takes vectors made before" if _brings_vectors(entities, from_text) else ""
        raise InvalidArgument(
            "; ".join(list(problems)[:MAX_PROBLEMS]),
            hint=f"nothing was written; an entity needs: {needed_fields(schema, from_text)}{elsewhere}",
        )
    return packed


def needed_fields(schema: CollectionSchema, from_text: FromText = NOT_FROM_TEXT) -> str:
    """The fields that every entity must have, as messages name them."""
    return ", ".join(str(each) for each in schema.fields if not (each.may_be_absent or each.name in from_text.sources))


def text_to_embed(source: Field, entity: Entity) -> str | None:
    """The text of an entity, as Milvus will keep it; None if it has none, or only white space."""
    text = entity.get(source.name)
    if text is None:
        text = source.default_value
    return text if isinstance(text, str) and text.strip() else None


def batches(entities: Sequence[Entity]) -> list[list[Entity]]:
    """The entities in order, in lists that fit one request each."""
    result: list[list[Entity]] = []
    size = 0
    for entity in entities:
        weight = entity_bytes(entity)
        if not result or size + weight > BATCH_BYTES or len(result[-1]) >= BATCH_ENTITIES:
            result.append([])
            size = 0
        result[-1].append(entity)
        size += weight
    return result


def checked_vector(field: Field, vector: Any, *, argument: str) -> Any:
    """The vector as pymilvus packs it; 32-bit floats as an array.

    Raises:
        InvalidArgument: it does not fit the field.
    """
    is_floats = field.type is DataType.FLOAT_VECTOR and isinstance(vector, list)
    numbers = _float_array(cast("list[Any]", vector)) if is_floats else None
    problem = _vector_problem(field, numbers or vector)
    if problem:
        hint = f"give what {field} takes, from the model that made the vectors in it"
        raise InvalidArgument(f"{argument}: {problem}; {field}", hint=hint)
    return numbers or _packed(field, vector)


def packed_vector(field: Field, vector: "array[float]") -> Any:
    """A vector that fits the field, as pymilvus packs it; no list, which is eight times as large, where it can."""
    return vector if field.type is DataType.FLOAT_VECTOR else _packed(field, vector)


def entity_problems(
    schema: CollectionSchema, entity: Entity, *, keys_required: bool, from_text: FromText = NOT_FROM_TEXT
) -> list[str]:
    """Why an entity does not fit the schema; empty when it does."""
    return list(_problems(schema, entity, keys_required=keys_required, from_text=from_text))


def _repeated_keys(schema: CollectionSchema, entities: Sequence[Entity], numbers: Sequence[int]) -> Iterator[str]:
    name = schema.primary_key.name
    first: dict[str, int] = {}
    for place, entity in enumerate(entities):
        if name in entity and (same := first.setdefault(str(entity[name]), place)) != place:
            yield f"entity {numbers[place]}: field {name!r} is the same as that of entity {numbers[same]}"


def _brings_vectors(entities: Sequence[Entity], from_text: FromText) -> bool:
    """Whether an entity has a vector that it may not have."""
    made = () if from_text.or_given else from_text.sources
    return any(entity.get(name) is not None for name in made for entity in entities)


def _absent_values(schema: CollectionSchema) -> Entity:
    """What a whole entity has where nothing was given: said outright, since Milvus Lite would keep the old values."""
    optional = (field for field in schema.fields if field.nullable or field.default_value is not None)
    return {field.name: field.default_value for field in optional if not field.is_function_output}


def _problems(schema: CollectionSchema, entity: Entity, *, keys_required: bool, from_text: FromText) -> Iterator[str]:
    if not entity.keys() <= schema.by_name.keys():
        yield from _dynamic_problems(schema, {name: entity[name] for name in entity if name not in schema.by_name})
    for name, value in entity.items():
        field = schema.by_name.get(name)
        if field and (
            problem := _field_problem(schema, field, value, keys_required=keys_required, from_text=from_text)
        ):
            yield f"field {name!r}{problem}"
    for field in schema.fields:
        missing = field.name not in entity and field.name not in from_text.sources
        if missing and (not field.may_be_absent or (keys_required and field.is_primary)):
            yield f"field {field.name!r} is missing; expected {field}"
    if from_text.sources and not from_text.or_blank:
        yield from dict.fromkeys(_nothing_to_embed(schema, entity, from_text))


def _field_problem(
    schema: CollectionSchema, field: Field, value: Any, *, keys_required: bool, from_text: FromText
) -> str:
    """What is wrong with the value that is given for the field, in words that follow its name; or nothing."""
    text_field = from_text.sources.get(field.name)
    if field.is_function_output:
        return f" is computed by {schema.name} itself; leave it out"
    if field.is_primary and field.auto_id and not keys_required:
        return " is generated (auto_id); leave it out"
    if value is None:
        may_be_null = field.nullable or text_field or field.default_value is not None
        return "" if may_be_null else f" is null; expected {field}, which is not nullable"
    if text_field and not from_text.or_given:
        return f" is computed from {text_field!r} here; leave it out"
    problem = value_problem(field, value) or _key_problem(field, value)
    return f": {problem}; expected {field}" if problem else ""


def _nothing_to_embed(schema: CollectionSchema, entity: Entity, from_text: FromText) -> Iterator[str]:
    for vector_field, text_field in from_text.sources.items():
        source = schema.by_name[text_field]
        text = entity.get(text_field)
        told_otherwise = not isinstance(text, str) and (text is not None or not source.may_be_absent)
        needed = entity.get(vector_field) is None and not schema.by_name[vector_field].nullable
        if needed and not told_otherwise and text_to_embed(source, entity) is None:
            yield f"field {text_field!r} is empty: there is nothing to embed"


def _key_problem(field: Field, value: Any) -> str:
    if not (field.is_primary and field.type.is_integer) or KEY_RANGE[0] <= int(value) <= KEY_RANGE[1]:
        return ""
    return f"{value} is outside the range of keys"


def _dynamic_problems(schema: CollectionSchema, dynamic: Entity) -> Iterator[str]:
    for name in dynamic:
        if not schema.enable_dynamic_field:
            yield f"{schema.name} has no field {name!r}{nearest(name, schema.by_name)} and no dynamic field"
        elif name.startswith("$") or not name or not _is_text(name):
            yield f"{name!r} cannot be the name of a value in the dynamic field"
    if problem := _json_problem(dynamic):
        found = ((name, _json_problem(value)) for name, value in dynamic.items())
        named = (f"{name!r} in the dynamic field: {each}" for name, each in found if each)
        yield next(named, f"the dynamic field as a whole: {problem}")


def value_problem(field: Field, value: Any) -> str:
    """Why the value does not fit the field, or nothing when it does."""
    if field.type.is_vector:
        return _vector_problem(field, value)
    if field.type is DataType.JSON:
        return _json_problem(value)
    if field.type is DataType.ARRAY:
        return _array_problem(field, value)
    return _scalar_problem(field.type, field.max_length, value)


def _scalar_problem(kind: DataType, max_length: int | None, value: Any) -> str:
    if kind is DataType.BOOL:
        return "" if isinstance(value, bool) else f"got {_shown(value)}"
    if kind.is_integer:
        return _integer_problem(kind, value)
    if kind in {DataType.FLOAT, DataType.DOUBLE}:
        return _number_problem(value, MAX_FLOAT32 if kind is DataType.FLOAT else math.inf)
    if not isinstance(value, str) or not _is_text(value):
        return f"got {_shown(value)}"
    length = len(value.encode())
    return f"{length} bytes of UTF-8 do not fit" if max_length and length > max_length else ""


def _integer_problem(kind: DataType, value: Any) -> str:
    whole = int(value) if isinstance(value, str) and INT64_DIGITS.fullmatch(value) else value
    if isinstance(whole, bool) or not isinstance(whole, int) or (isinstance(value, str) and kind is not DataType.INT64):
        return f"got {_shown(value)}"
    half = 2 ** (INTEGER_BITS[kind] - 1)
    return "" if -half <= whole < half else f"{_shown(value)} is out of range"


def _number_problem(value: Any, largest: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"got {_shown(value)}"
    try:
        number = float(value)
    except OverflowError:
        return "the number is out of range"
    if not math.isfinite(number):
        return f"got {number}, which is not a finite number"
    return "" if abs(number) <= largest else f"{number} is out of range"


def _array_problem(field: Field, value: Any) -> str:
    if not isinstance(value, list):
        return f"got {_shown(value)}"
    elements = cast("list[Any]", value)
    if field.max_capacity and len(elements) > field.max_capacity:
        return f"{len(elements)} elements, of which {field.max_capacity} fit"
    if field.element_type is None or field.element_type is DataType.STRUCT:
        return _struct_problem(field, elements)
    found = (
        (place, _scalar_problem(field.element_type, field.max_length, element))
        for place, element in enumerate(elements)
    )
    return next((f"element {place}: {problem}" for place, problem in found if problem), "")


def _struct_problem(field: Field, elements: list[Any]) -> str:
    members = {member.name: member for member in field.struct_fields}
    for place, element in enumerate(elements):
        if not isinstance(element, dict) or cast("dict[str, Any]", element).keys() != members.keys():
            return f"element {place} is no object with exactly {', '.join(members)}"
        for name, value in cast("dict[str, Any]", element).items():
            if problem := value_problem(members[name], value):
                return f"element {place}, {name!r}: {problem}"
    return ""


def _json_problem(value: Any) -> str:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        return f"not JSON: {error}"
    if len(text) > MAX_JSON_BYTES:
        return f"{len(text)} bytes of JSON, of which {MAX_JSON_BYTES} fit"
    # A string of many digits is looked at too; that costs time and harms nothing.
    return "a whole number needs more than 64 bits" if MANY_DIGITS.search(text) and _exceeds_64_bits(value) else ""


def _exceeds_64_bits(value: Any) -> bool:
    match value:
        case int():
            return not -(2**63) <= value < 2**63
        case list() | dict():
            inner = cast("Any", value)
            return any(map(_exceeds_64_bits, inner.values() if isinstance(value, dict) else inner))
        case _:
            return False


def _vector_problem(field: Field, value: Any) -> str:
    if field.type is DataType.SPARSE_FLOAT_VECTOR:
        return _sparse_problem(value)
    if not isinstance(value, list | array):
        return f"got {_shown(value)}, not a list of numbers"
    numbers = cast("Sequence[Any]", value)
    if field.dim and len(numbers) != field.dim:
        return f"{len(numbers)} dimensions"
    if isinstance(value, array):
        return ""
    problems = ((place, _dimension_problem(field.type, number)) for place, number in enumerate(numbers))
    return next((f"dimension {place}: {problem}" for place, problem in problems if problem), "")


def _with_arrays(entity: Entity, names: Sequence[str]) -> Entity:
    """The entity with those of these vectors as arrays that are numbers throughout."""
    arrays = {name: _float_array(cast("list[Any]", entity[name])) for name in names if type(entity.get(name)) is list}
    return {**entity, **{name: numbers for name, numbers in arrays.items() if numbers is not None}}


def _float_array(numbers: list[Any]) -> "array[float] | None":
    """The numbers as 32-bit floats, or None if one is none or does not fit; ten times as fast as to look at each."""
    try:
        return array("f", struct.pack(f"{len(numbers)}f", *FLOATS32.validate_python(numbers)))
    except ValidationError:
        return None


def _dimension_problem(kind: DataType, number: Any) -> str:
    match kind:
        case DataType.BINARY_VECTOR:
            return "" if number in (0, 1) else f"got {_shown(number)}, not 0 or 1"
        case DataType.INT8_VECTOR:
            return _integer_problem(DataType.INT8, number)
        case DataType.FLOAT16_VECTOR:
            return _number_problem(number, MAX_FLOAT16)
        case _:
            return _number_problem(number, MAX_FLOAT32)


def _sparse_problem(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return f'got {_shown(value)}, not an object {{"index": weight}} with at least one weight'
    for index, weight in cast("dict[Any, Any]", value).items():
        if not SPARSE_INDEX.fullmatch(str(index)) or int(index) >= 2**32 - 1:
            return f"index {_shown(index)} is no whole number from 0 to 2^32-2"
        if problem := _number_problem(weight, MAX_FLOAT32):
            return f"weight of index {index}: {problem}"
        if weight < 0:
            return f"weight of index {index} is negative"
    return ""


def _packed(field: Field | None, value: Any) -> Any:
    """A checked value in the form that pymilvus sends."""
    if field is None or value is None:
        return value
    match field.type:
        case DataType.INT64:
            packed = int(value)
        case DataType.SPARSE_FLOAT_VECTOR:
            packed = {int(index): float(weight) for index, weight in value.items()}
        case DataType.FLOAT_VECTOR:
            packed = value  # an array: see _with_arrays
        case DataType.JSON:  # pymilvus takes any text for JSON, so a value cannot be a text
            packed = json.dumps(value, ensure_ascii=False)
        case kind if kind.is_vector:
            from mcp_server_milvus.milvus.vectors import vector_bytes

            packed = vector_bytes(kind, value)
        case _:
            packed = value
    return packed


def entity_bytes(entity: Entity) -> int:
    """Roughly the bytes of an entity in a request."""
    return sum(_value_weight(value) for value in entity.values())


def _value_weight(value: Any) -> int:
    match value:
        case str() | bytes():
            return len(value) * (3 if isinstance(value, str) else 1)
        case list():
            items = cast("list[Any]", value)
            return 4 * len(items) if items and isinstance(items[0], float) else sum(map(_value_weight, items))
        case array():
            return 4 * len(cast("array[float]", value))
        case dict():
            return sum(8 + _value_weight(item) for item in cast("dict[Any, Any]", value).values())
        case _:
            return 8


def _is_text(value: str) -> bool:
    """Whether it can be encoded: a lone half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= SHOWN_LENGTH else text[:SHOWN_LENGTH] + '...'}"


def reads_text(schema: CollectionSchema, field: Field) -> bool:
    """Whether the vector field is searched with text: it is the output of a BM25 or embedding function."""
    source = schema.text_source_of(field.name)
    return source is not None and source.type in {FunctionType.BM25, FunctionType.TEXTEMBEDDING}
