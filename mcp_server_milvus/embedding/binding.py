"""Which vector field is made from which text field, by which embedder: kept in the collection's own properties."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from mcp_server_milvus.embedding.fingerprint import Fingerprint
from mcp_server_milvus.settings import MappedField

PROPERTY = "mcp_embedding"
"""The property of a collection that holds its bindings."""

LARGEST = 65_536
"""Characters of a property that is looked into: a binding takes 300."""


@dataclass(frozen=True)
class Binding:
    """A vector field that is made from a text field.

    `fingerprint` is that of the embedder; None where the operator vouches for the embedder named `embedder`.
    """

    vector_field: str
    text_field: str
    fingerprint: Fingerprint | None
    embedder: str = ""

    def __str__(self) -> str:
        """`body by openai text-embedding-3-small (dim 1536)`: how descriptions tell it."""
        made_by = self.fingerprint or f"embedder {self.embedder or 'default'}"
        return f"{self.text_field} by {made_by}"


def bindings_in(properties: Mapping[str, str]) -> dict[str, Binding]:
    """The bindings by vector field. What any client may have written there and is none of ours binds nothing."""
    text = properties.get(PROPERTY)
    if not text:
        return {}
    try:
        kept: Any = json.loads(text) if len(text) <= LARGEST else {}
        return {name: _binding(name, each) for name, each in cast("dict[str, Any]", kept).items()}
    except (ValueError, AttributeError, RecursionError):
        return {}


def as_property(bindings: Iterable[Binding]) -> str:
    """The value of PROPERTY. Bindings without a fingerprint are the operator's and not kept."""
    return json.dumps(
        {
            each.vector_field: {"text_field": each.text_field, **each.fingerprint.as_json()}
            for each in bindings
            if each.fingerprint
        }
    )


def mapped(fields: Iterable[MappedField], db_name: str, collection_name: str) -> dict[str, Binding]:
    """The bindings of a collection for which the operator vouches in the setting `embed_map`."""
    return {
        each.vector_field: Binding(each.vector_field, each.text_field, None, each.embedder)
        for each in fields
        if (each.db_name, each.collection_name) == (db_name, collection_name)
    }


def _binding(vector_field: str, kept: Any) -> Binding:
    match kept:
        case {"text_field": str() as text_field, **fingerprint}:
            return Binding(vector_field, text_field, Fingerprint.from_json(cast("dict[str, Any]", fingerprint)))
        case _:
            raise ValueError("no binding")
