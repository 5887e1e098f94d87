"""What scalar of an entity is meant: a field, or a value inside a JSON field or the dynamic field."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mcp_server_milvus.errors import InvalidArgument, NotFound
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.vocabulary import DataType

STEP = r"""\[\s*(?:"(?:[^"\\]|\\.)*"|'[^'\\]*'|[0-9]{1,9})\s*\]"""
PATH = re.compile(rf"([A-Za-z_$][\w$]*)((?:{STEP})*)")
STEPS = re.compile(STEP)

DYNAMIC = "$meta"
"""The dynamic field's name in Milvus."""

SCALARS = frozenset(kind for kind in DataType if not kind.is_vector) - {
    DataType.ARRAY,
    DataType.STRUCT,
    DataType.GEOMETRY,
    DataType.TIMESTAMPTZ,
}
"""Types whose values can be compared and grouped here."""

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Path:
    """A scalar of an entity. `field` is None in the dynamic field, `steps` lead into JSON, `name` is what is read."""

    text: str
    name: str
    field: Field | None
    steps: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return str(self.field) if self.field else self.text

    @property
    def is_json(self) -> bool:
        """Whether each entity may have a value of another type here."""
        return self.field is None or self.field.type is DataType.JSON

    def value_in(self, entity: Mapping[str, Any]) -> Scalar | None:
        """The entity's value; None for what is null, absent, or no number though it should be one, like NaN.

        Raises:
            InvalidArgument: it is an array or an object.
        """
        value = entity.get(self.name)
        for step in self.steps:
            value = _inside(value, step)
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, list | dict):
            raise InvalidArgument(
                f"{self.text} is {'an object' if isinstance(value, dict) else 'an array'} in some entities",
                hint='name a value inside it, as in field["key"], or filter those entities out',
            )
        return value


def parsed_path(schema: CollectionSchema, text: str, *, argument: str) -> Path:
    """The path that a caller wrote as in a filter: `year`, `meta["price"]`, or a name in the dynamic field.

    Raises:
        NotFound: there is no such field.
        InvalidArgument: it is no path, or values there cannot be compared.
    """
    found = PATH.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument(
            f"{argument}: {text[:80]!r} names no field", hint='as in a filter: year, or meta["price"]'
        )
    name, steps = found[1], tuple(map(_step, STEPS.findall(found[2])))
    field = schema.by_name.get(name)
    if field is None and schema.enable_dynamic_field and not (name == DYNAMIC and not steps):
        if name == DYNAMIC:
            return Path(text, str(steps[0]), None, steps[1:])
        return Path(text, name, None, steps)
    if field is None:
        raise NotFound(
            f"{argument}: {schema.name} has no field {name[:80]!r}; fields: {', '.join(map(str, schema.fields))}"
        )
    if field.type not in SCALARS or (steps and field.type is not DataType.JSON) or field.is_function_output:
        raise InvalidArgument(f"{argument}: {text[:80]} has no values that can be compared here; {field}")
    return Path(text, name, field, steps)


def _step(text: str) -> str | int:
    inner = text[1:-1].strip()
    if inner[0] == "'":
        return inner[1:-1]
    try:
        return cast("str | int", json.loads(inner))
    except ValueError:
        raise InvalidArgument(f"{text[:80]} is no key of JSON", hint='as in field["key"]') from None


def _inside(value: Any, step: str | int) -> Any:
    if isinstance(step, str):
        return cast("dict[str, Any]", value).get(step) if isinstance(value, dict) else None
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return items[step] if step < len(items) else None
