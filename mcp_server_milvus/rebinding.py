"""Vector fields that get another binding: compared with the one that was asked for, bound where made elsewhere."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_server_milvus.app import App
from mcp_server_milvus.embedding.binding import PROPERTY, Binding, bindings_in
from mcp_server_milvus.embedding.deadline import within
from mcp_server_milvus.embedding.embedder import SAME_TEXT, Vector, shortest
from mcp_server_milvus.errors import Conflict, InvalidArgument, NotFound
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.trash import NOTE
from mcp_server_milvus.vocabulary import MetricType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

READ = 64
"""Entities of which a binding compares some."""

UNIT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Rebinding:
    """What becomes of some vector fields: the binding of each, or None for none. `unchecked` had nothing to compare."""

    changes: dict[str, Binding | None]
    unchecked: tuple[str, ...] = ()

    def applied(self, kept: Mapping[str, Binding]) -> dict[str, Binding]:
        """All bindings of the collection, once it has kept these."""
        return {name: each for name, each in {**kept, **self.changes}.items() if each}

    def told(self) -> Iterator[str]:
        """`bound vector to body by openai text-embedding-3-small (dim 1536)`, `unbound vector`."""
        for name, each in self.changes.items():
            yield f"bound {name} to {each}" if each else f"unbound {name}"

    @property
    def notes(self) -> list[str]:
        """What is to be said of it."""
        return [f"{name}: no text was found to compare its vectors with the embedder's" for name in self.unchecked]


def require_other_properties(named: Iterable[str]) -> None:
    """Nothing, if the properties that a caller sets or drops are not what this server keeps there itself.

    Raises:
        InvalidArgument: they are.
    """
    names = set(named)
    if NOTE in names:
        raise InvalidArgument(
            f"properties: {NOTE} is kept by this server", hint="drop_collection sets it, nothing else"
        )
    if PROPERTY in names:
        raise InvalidArgument(
            f"properties: {PROPERTY} is kept by this server",
            hint="create_collection with text_field binds a vector field to a text; alter_collection with embed_fields"
            " binds, and with null unbinds, those of an existing collection",
        )


def differences(wanted: CollectionSchema, existing: CollectionSchema) -> Iterator[str]:
    """In what the existing bindings are not the wanted ones."""
    there = bindings_in(existing.properties)
    for name, asked in bindings_in(wanted.properties).items():
        if (bound := there.get(name)) is None:
            yield f"{name} is made by no embedder, from {asked} was asked for (alter_collection: embed_fields binds)"
        elif difference := _difference(bound, asked):
            yield f"{name} is made from {bound}, from {asked} was asked for ({difference})"


def _difference(bound: Binding, asked: Binding) -> str:
    if bound.text_field != asked.text_field:
        return f"text_field: {asked.text_field!r}, not {bound.text_field!r}"
    return bound.fingerprint.difference(asked.fingerprint) if bound.fingerprint and asked.fingerprint else ""


async def rebinding(
    app: App,
    db_name: str,
    schema: CollectionSchema,
    bound: Collection[str],
    embed_fields: Mapping[str, str | None],
    embedder_name: str,
) -> Rebinding:
    """What `embed_fields` makes of vector fields, some of which are `bound` now.

    Raises:
        InvalidArgument: the fields cannot be bound.
        NotFound: there is no such field, or nothing to unbind.
        Conflict: the vectors that are stored are not those of the embedder.
        EmbedderFailed: it refuses, cannot be reached or takes too long.
    """
    changes: dict[str, Binding | None] = {}
    unchecked: list[str] = []
    for vector_field, text_field in embed_fields.items():
        if text_field:
            binding = Binding(vector_field, text_field, None, embedder_name)
            changes[vector_field], was_compared = await _confirmed(app, db_name, schema, binding)
            unchecked += [] if was_compared else [vector_field]
        elif vector_field in bound:
            changes[vector_field] = None
        else:
            raise NotFound(
                f"embed_fields: {schema.name} keeps no binding of {vector_field!r}",
                hint="describe_collection shows what is bound; what embed_map binds, only the operator can unbind",
            )
    return Rebinding(changes, tuple(unchecked))


async def _confirmed(app: App, db_name: str, schema: CollectionSchema, binding: Binding) -> tuple[Binding, bool]:
    """The binding with the fingerprint of its embedder, and whether any stored vectors told that it made them."""
    _require_bindable(schema, binding)
    embedder = app.embedders.named(binding.embedder)
    async with within(app.settings.timeout):
        fingerprint = await embedder.fingerprint()
    field = schema.by_name[binding.vector_field]
    if field.dim != fingerprint.dim:
        raise Conflict(f"embed_fields: {field} is not of embedder {embedder}, whose vectors have dim {fingerprint.dim}")
    stored = await _stored(app, db_name, schema, binding)
    if stored:
        async with within(app.settings.timeout):
            likeness = await embedder.likeness(stored)
        if likeness < SAME_TEXT:
            raise Conflict(
                f"the stored vectors of {binding.vector_field} are not what embedder {embedder} makes from"
                f" {binding.text_field} (cosine {likeness:.2f})",
                hint="bind it to the text that it was made from, by the embedder that made it, with its prefixes",
            )
        _require_unit_length(schema, binding, next(iter(stored.values())))
    return Binding(binding.vector_field, binding.text_field, fingerprint), bool(stored)


def _require_bindable(schema: CollectionSchema, binding: Binding) -> None:
    field, text = schema.require(binding.vector_field), schema.require(binding.text_field)
    if not field.holds_embeddings:
        made = "that a function computes" if field.is_function_output else "that is no vector of floats"
        raise InvalidArgument(f"embed_fields: {field} is a field {made}; it takes {{vector_field: text_field}}")
    if not text.holds_text:
        raise InvalidArgument(f"embed_fields: {text} holds no text; it takes {{vector_field: text_field}}")


async def _stored(app: App, db_name: str, schema: CollectionSchema, binding: Binding) -> dict[str, Vector]:
    """The vectors of a few texts; of blank ones, no model makes any."""
    from mcp_server_milvus.milvus.vectors import vector_numbers

    async def read(client: "Client", schema: CollectionSchema) -> list[dict[str, Any]]:
        names = [binding.text_field, binding.vector_field]
        with_text = f'{binding.text_field} != ""'
        return await client.read_matching(schema.name, with_text, schema, output_fields=names, limit=READ)

    entities, _ = await app.read(db_name, schema.name, read)
    kind = schema.by_name[binding.vector_field].type
    stored = {
        each[binding.text_field]: vector_numbers(kind, vector)
        for each in entities
        if (each[binding.text_field] or "").strip() and (vector := each[binding.vector_field]) is not None
    }
    return {text: stored[text] for text in shortest(text for text, vector in stored.items() if any(vector))}


def _require_unit_length(schema: CollectionSchema, binding: Binding, stored: Vector) -> None:
    index = schema.index_of(binding.vector_field)
    length = math.hypot(*stored)
    if index and index.metric_type != MetricType.COSINE and abs(length - 1) > UNIT_TOLERANCE:
        raise Conflict(
            f"the stored vectors of {binding.vector_field} have a length of {length:.2f}, the embedder's of 1:"
            f" {index.metric_type} would rank them otherwise",
            hint="build_index with metric_type COSINE and replace: true, then bind it",
        )
