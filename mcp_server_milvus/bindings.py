"""Vector fields that are bound to a text field: told to an agent, compared, bound where they were made elsewhere."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mcp_server_milvus.app import App
from mcp_server_milvus.embedding.binding import PROPERTY, Binding, bindings_in
from mcp_server_milvus.embedding.embedder import Embedder, Vector
from mcp_server_milvus.embedding.fingerprint import cosine
from mcp_server_milvus.errors import Conflict, InvalidArgument, NotFound
from mcp_server_milvus.milvus.results import masked
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.vocabulary import MetricType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

READ, COMPARED = 32, 3
"""Entities that a binding looks at, and how many it embeds: the shortest texts, which no model cuts off."""

SAME_TEXT = 0.95
"""Cosine of two vectors of one text below which they are not of the same embedder. Another precision of the same model
stays above 0.97, another model near 0, and a text that was only a part of what was embedded in between."""

UNIT_TOLERANCE = 0.01


def told(bindings: Mapping[str, Binding]) -> dict[str, str] | None:
    """`{"vector": "body by openai text-embedding-3-small (dim 1536)"}`, or None where nothing is bound."""
    return {name: str(each) for name, each in bindings.items()} or None


def other_properties(schema: CollectionSchema) -> dict[str, Any] | None:
    """The properties of a collection but for its bindings, secrets hidden; None where there are no others."""
    return masked({name: value for name, value in schema.properties.items() if name != PROPERTY}) or None


def require_other_properties(named: Iterable[str]) -> None:
    """Nothing, if the properties that a caller sets or drops are not the bindings.

    Raises:
        InvalidArgument: they are.
    """
    if PROPERTY in named:
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


async def rebound(
    app: App,
    db_name: str,
    schema: CollectionSchema,
    kept: Mapping[str, Binding],
    embed_fields: Mapping[str, str | None],
    embedder_name: str,
) -> dict[str, Binding]:
    """The bindings `kept`, with those that `embed_fields` binds and without those that it unbinds.

    Raises:
        InvalidArgument: the fields cannot be bound.
        NotFound: there is no such field, or nothing to unbind.
        Conflict: the vectors that are stored are not those of the embedder.
        EmbedderFailed: it refuses or cannot be reached.
    """
    bound = dict(kept)
    for vector_field, text_field in embed_fields.items():
        if text_field:
            binding = Binding(vector_field, text_field, None, embedder_name)
            bound[vector_field] = await _confirmed(app, db_name, schema, binding)
        elif bound.pop(vector_field, None) is None:
            raise NotFound(
                f"embed_fields: {schema.name} keeps no binding of {vector_field!r}",
                hint="describe_collection shows what is bound; what embed_map binds, only the operator can unbind",
            )
    return bound


async def _confirmed(app: App, db_name: str, schema: CollectionSchema, binding: Binding) -> Binding:
    """The binding with the fingerprint of its embedder, which made the vectors that are stored, if any are."""
    _require_bindable(schema, binding)
    embedder = app.embedders.named(binding.embedder)
    fingerprint = await embedder.fingerprint()
    field = schema.by_name[binding.vector_field]
    if field.dim != fingerprint.dim:
        raise Conflict(f"embed_fields: {field} is not of embedder {embedder}, whose vectors have dim {fingerprint.dim}")
    stored = await _stored(app, db_name, schema, binding)
    await _require_made_by(embedder, schema, binding, stored)
    return Binding(binding.vector_field, binding.text_field, fingerprint)


def _require_bindable(schema: CollectionSchema, binding: Binding) -> None:
    field, text = schema.require(binding.vector_field), schema.require(binding.text_field)
    if not field.holds_embeddings:
        made = "that a function computes" if field.is_function_output else "that is no vector of floats"
        raise InvalidArgument(f"embed_fields: {field} is a field {made}; it takes {{vector_field: text_field}}")
    if not text.holds_text:
        raise InvalidArgument(f"embed_fields: {text} holds no text; it takes {{vector_field: text_field}}")


async def _stored(app: App, db_name: str, schema: CollectionSchema, binding: Binding) -> dict[str, Vector]:
    """The vectors of a few texts, the shortest of those that were looked at."""
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
        if each[binding.text_field] and (vector := each[binding.vector_field]) is not None
    }
    shortest = sorted((text for text, vector in stored.items() if any(vector)), key=len)
    return {text: stored[text] for text in shortest[:COMPARED]}


async def _require_made_by(
    embedder: Embedder, schema: CollectionSchema, binding: Binding, stored: Mapping[str, Vector]
) -> None:
    if not stored:
        return
    made = await embedder.embed_documents(list(stored))
    least = min(cosine(vector, again) for vector, again in zip(stored.values(), made, strict=True))
    if least < SAME_TEXT:
        raise Conflict(
            f"the stored vectors of {binding.vector_field} are not what embedder {embedder} makes from"
            f" {binding.text_field} (cosine {least:.2f})",
            hint="bind it to the text that it was made from, by the embedder that made it, with its prefixes",
        )
    index = schema.index_of(binding.vector_field)
    length = math.hypot(*next(iter(stored.values())))
    if index and index.metric_type != MetricType.COSINE and abs(length - 1) > UNIT_TOLERANCE:
        raise Conflict(
            f"the stored vectors of {binding.vector_field} have a length of {length:.2f}, the embedder's of 1:"
            f" {index.metric_type} would rank them otherwise",
            hint="build_index with metric_type COSINE and replace: true, then bind it",
        )
