"""JSON without a byte too many."""

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

PYTHONS_OWN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def compact(value: Any) -> str:
    """The value as JSON. Half a surrogate pair, which UTF-8 does not have, stays in it."""
    try:
        return to_json(value).decode()
    except PydanticSerializationError:
        return PYTHONS_OWN.encode(value)


def json_size(value: Any) -> int:
    """Bytes of the value as compact JSON."""
    try:
        return len(to_json(value))
    except PydanticSerializationError:
        return len(PYTHONS_OWN.encode(value).encode(errors="replace"))
