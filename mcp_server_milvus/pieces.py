"""Entities as a call gives them: as they are, or their long texts split into pieces that are entities of their own."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.entities import Entity
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.vocabulary import FunctionType

if TYPE_CHECKING:
    from mcp_server_milvus.text.chunks import Chunk

NEW_ID_BYTES = 9
SOURCE_ID, PLACE = "source_id", ("chunk", "start", "end")
"""The fields that say which text a piece is of, and where in it: its number from 0, and characters."""


@dataclass
class Given:
    """The entities of a call as they were given."""

    entities: Sequence[Entity]

    @property
    def mend(self) -> str:
        """What helps if a text is too long."""
        return "chunk_size splits long texts"

    def for_schema(
        self, _schema: CollectionSchema, _bindings: Mapping[str, Binding], /
    ) -> tuple[Sequence[Entity], Sequence[int]]:
        """The entities to write, and the number of the one given that each belongs to."""
        return self.entities, range(len(self.entities))


@dataclass
class GivenInPieces(Given):
    """Those whose long texts are split into pieces of at most `size` characters that share up to `overlap`.

    Each piece is an entity with all values of the whole. `source_ids` is the one of each entity that was given.

    Raises:
        InvalidArgument: the overlap is too large.
    """

    size: int
    overlap: int
    source_ids: list[int | str] = field(init=False)

    def __post_init__(self) -> None:
        if 2 * self.overlap >= self.size:
            raise InvalidArgument(f"chunk_overlap: must be less than half of chunk_size, {self.size}")
        self.source_ids = [secrets.token_urlsafe(NEW_ID_BYTES) for _ in self.entities]

    @property
    def mend(self) -> str:
        """What helps if a piece is too long."""
        return "give a smaller chunk_size"

    def for_schema(
        self, schema: CollectionSchema, bindings: Mapping[str, Binding], /
    ) -> tuple[Sequence[Entity], Sequence[int]]:
        """The pieces, and of which entity each is.

        Raises:
            InvalidArgument: the collection cannot hold pieces, or an entity has a value that is theirs.
        """
        text_field = _text_field(schema, bindings)
        _require_room(schema)
        pieces: list[Entity] = []
        numbers: list[int] = []
        for number, entity in enumerate(self.entities):
            self.source_ids[number] = source_id = self._source_id(schema, number)
            found = self._split(entity.get(text_field))
            pieces += [_piece(schema, entity, source_id, place, text_field, part) for place, part in enumerate(found)]
            numbers += [number] * len(found)
        return pieces, numbers

    def named_sources(self, schema: CollectionSchema) -> list[str]:
        """The texts among the source ids that the caller gave, where a collection can be asked for them."""
        own_key = "" if schema.primary_key.auto_id else schema.primary_key.name
        given = (entity.get(own_key, entity.get(SOURCE_ID)) for entity in self.entities)
        askable = SOURCE_ID in schema.by_name or schema.enable_dynamic_field
        return list(dict.fromkeys(each for each in given if isinstance(each, str))) if askable else []

    def _source_id(self, schema: CollectionSchema, number: int) -> int | str:
        entity, key = self.entities[number], schema.primary_key
        own_key = None if key.auto_id else entity.get(key.name)
        set_here = [name for name in PLACE if name in entity]
        if isinstance(own_key, str) and entity.get(SOURCE_ID, own_key) != own_key:
            set_here.append(SOURCE_ID)
        if set_here:
            raise InvalidArgument(f"entity {number}: {', '.join(set_here)} is set by chunk_size; leave it out")
        given = own_key if isinstance(own_key, str) else entity.get(SOURCE_ID)
        if given is None:
            return self.source_ids[number]
        if isinstance(given, bool) or not isinstance(given, int | str):
            raise InvalidArgument(f"entity {number}: {SOURCE_ID} must be a text or a whole number")
        return given

    def _split(self, text: Any) -> list["Chunk"]:
        from mcp_server_milvus.text.chunks import Chunk, chunks  # its patterns take a while to compile

        if not isinstance(text, str):
            return [Chunk(text, 0, 0)]
        found = chunks(text, size=self.size, overlap=self.overlap) if len(text) > self.size else []
        return found or [Chunk(text, 0, len(text))]


def text_fields(schema: CollectionSchema, bindings: Mapping[str, Binding]) -> list[str]:
    """The fields whose texts are embedded here; if there are none, those that functions inside Milvus search."""
    searched = {FunctionType.BM25, FunctionType.TEXTEMBEDDING}
    bound = (each.text_field for each in bindings.values())
    inside = (name for function in schema.functions if function.type in searched for name in function.inputs)
    return list(dict.fromkeys(bound)) or list(dict.fromkeys(inside))


def _text_field(schema: CollectionSchema, bindings: Mapping[str, Binding]) -> str:
    found = text_fields(schema, bindings)
    if len(found) == 1:
        return found[0]
    raise InvalidArgument(
        f"chunk_size: {schema.name} searches the texts of {' and '.join(found)}, and one of them cannot be named here"
        if found
        else f"chunk_size: no field of {schema.name} is searched as text, so it is unknown which one to split",
        hint="split the texts before, and insert the pieces as entities",
    )


def _require_room(schema: CollectionSchema) -> None:
    """Raises InvalidArgument if pieces cannot have keys of their own, or cannot say where they are from."""
    key = schema.primary_key
    if not key.auto_id and not key.type.is_string:
        raise InvalidArgument(
            f"chunk_size: each piece needs a key of its own, which cannot be made from {key}",
            hint="a VARCHAR key becomes key#0, key#1, …; with auto_id Milvus generates them",
        )
    missing = [name for name in (SOURCE_ID, *PLACE) if name not in schema.by_name]
    if missing and not schema.enable_dynamic_field:
        raise InvalidArgument(
            f"chunk_size: {schema.name} has no fields {', '.join(missing)} and no dynamic field, "
            "so that a piece could not say where it is from",
            hint=f"add the fields ({SOURCE_ID} VARCHAR, the others INT64), or create the collection with text_field",
        )


def _piece(
    schema: CollectionSchema, whole: Entity, source_id: int | str, place: int, text_field: str, part: "Chunk"
) -> Entity:
    key = schema.primary_key
    own = {SOURCE_ID: source_id, **dict(zip(PLACE, (place, part.start, part.end), strict=True))}
    if text_field in whole:
        own[text_field] = part.text
    if not key.auto_id and isinstance(whole.get(key.name), str):
        own[key.name] = f"{source_id}#{place}"
    return whole | own
