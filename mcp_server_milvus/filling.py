"""Entities before they are written: their texts become vectors here, and long texts become pieces."""

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread

from mcp_server_milvus.app import App, report_nothing
from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.embedding.embedder import ModelEmbedder, Vector, nowhere
from mcp_server_milvus.embedding.embedders import HOW_TO_HAVE_ONE
from mcp_server_milvus.errors import Conflict, EmbedderUnavailable, InvalidArgument, NotSupported
from mcp_server_milvus.milvus.entities import Entity, FromText, checked_entities, checked_vector, text_to_embed
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.waiting import ReportProgress
from mcp_server_milvus.text.chunks import Chunk, chunks
from mcp_server_milvus.vocabulary import FunctionType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.fitting import Fitted

FIRST_TEXTS = 8
QUICK, SLOW = 0.5, 2.0
"""Seconds for the texts that are embedded at once. Less, and twice as many follow; more, and half as many.

So progress is seen and a failed import has lost little, with a model that takes a second a text as with a fast one.
"""

NEW_ID_BYTES = 9
SOURCE_ID, PLACE = "source_id", ("chunk", "start", "end")
"""The fields that say which text a piece is of, and where in it: its number from 0, and characters."""


class Filling:
    """The vectors that one call makes from texts. `report_progress` is told of them, and then of what is written."""

    def __init__(self, app: App, db_name: str, report_progress: ReportProgress) -> None:
        self._app = app
        self._db_name = db_name
        self._report_progress = report_progress
        self.at_once = FIRST_TEXTS
        self._embedded = 0
        self._blank = Counter[str]()
        self._made: dict[ModelEmbedder, dict[str, Vector]] = {}

    @property
    def blank(self) -> list[str]:
        """What is to be said of texts that say nothing."""
        return [f"{name}: {count} empty, which no search for a text finds" for name, count in self._blank.items()]

    def bindings(self, schema: CollectionSchema) -> Mapping[str, Binding]:
        """How the vector fields that are made from texts are made."""
        return self._app.bindings(self._db_name, schema)

    async def checked(self, schema: CollectionSchema, given: "Given", *, keys_required: bool) -> list[Entity]:
        """The entities as pymilvus packs them. What was embedded in a first attempt is not embedded again.

        Raises:
            InvalidArgument: some do not fit the schema, or none has a text; nothing was embedded.
            NotSupported, Conflict, EmbedderFailed: as `fill`.
        """
        bindings = self.bindings(schema)

        def check() -> list[Entity]:
            entities, numbers = given.for_schema(schema, bindings)
            from_text = FromText(_sources(bindings), or_blank=_any_text(schema, bindings, entities))
            try:
                return checked_entities(
                    schema, entities, keys_required=keys_required, from_text=from_text, numbers=numbers
                )
            except InvalidArgument as wrong:
                if not keys_required and _has_too_long(schema, text_fields(schema, bindings), entities):
                    wrong.hint = f"{given.mend}; {wrong.hint}"
                raise

        checked = await anyio.to_thread.run_sync(check)
        self._blank.clear()
        await self.fill(schema, bindings.values(), checked, further=len(checked))
        return checked

    async def fill(
        self, schema: CollectionSchema, bindings: Iterable[Binding], entities: Sequence[Entity], *, further: int = 0
    ) -> None:
        """Gives the entities the vectors that they lack. `further` is what is still to be done then, for the progress.

        Raises:
            NotSupported: this server has no embedder.
            Conflict: it has another one than the collection.
            EmbedderFailed: the embedder refuses a text, or cannot be reached in time.
        """
        seconds = self._app.settings.build_timeout
        try:
            with anyio.fail_after(seconds):
                for binding in bindings:
                    await self._fill(schema, binding, entities, further)
        except TimeoutError:
            raise EmbedderUnavailable(
                f"the texts were not embedded within {seconds:g} s",
                hint="give fewer at once, or start the server with a larger --build-timeout",
            ) from None

    def forget(self) -> None:
        """Lets go of the vectors: no other attempt will need them."""
        self._made.clear()

    async def report_progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Tells how far the writing is, which follows the embedding."""
        await self._report_progress(
            self._embedded + progress, None if total is None else self._embedded + total, message
        )

    async def _fill(self, schema: CollectionSchema, binding: Binding, entities: Sequence[Entity], further: int) -> None:
        vector_field, source = schema.by_name[binding.vector_field], schema.by_name[binding.text_field]
        lacking = [entity for entity in entities if entity.get(vector_field.name) is None]
        texts = [text_to_embed(source, entity) for entity in lacking]
        _put_nowhere(vector_field, [entity for entity, text in zip(lacking, texts, strict=True) if text is None])
        if blank := texts.count(None):
            self._blank[source.name] += blank
        distinct = list(dict.fromkeys(text for text in texts if text is not None))
        if not distinct:
            return
        embedder = await self._embedder(schema, binding)
        made = self._made.setdefault(embedder, {})
        await self._embed(embedder, [text for text in distinct if text not in made], made, further)
        put = partial(_put, vector_field, lacking, texts, made)
        await anyio.to_thread.run_sync(put)

    async def _embedder(self, schema: CollectionSchema, binding: Binding) -> ModelEmbedder:
        if not self._app.embedders:
            made_by = binding.fingerprint
            options = f"--embedder {made_by.backend} --embed-model {made_by.model}" if made_by else ""
            how = f"the operator starts it with {options}" if options else HOW_TO_HAVE_ONE
            raise NotSupported(
                f"{binding.vector_field} of {schema.name} is made from {binding}, and this server has no embedder",
                hint=f"{how}; import_file takes vectors made before",
            )
        embedder = await self._app.embedders.bound(binding)
        dim, vector_field = (await embedder.fingerprint()).dim, schema.by_name[binding.vector_field]
        if dim != vector_field.dim:
            raise Conflict(
                f"embedder {embedder} makes vectors of {dim} dimensions, which do not fit {vector_field}",
                hint="the operator binds the field to the embedder that made its vectors",
            )
        return embedder

    async def _embed(
        self, embedder: ModelEmbedder, texts: Sequence[str], made: dict[str, Vector], further: int
    ) -> None:
        """Adds the vectors of the texts to those that are made."""
        most = embedder.settings.batch * embedder.settings.concurrency
        total, start = self._embedded + len(texts) + further, 0
        while part := texts[start : start + self.at_once]:
            await self._report_progress(self._embedded, total, f"embedding with {embedder}")
            began = anyio.current_time()
            made.update(zip(part, await embedder.embed_documents(part), strict=True))
            start += len(part)
            self._embedded += len(part)
            self.at_once = _next_number(self.at_once, anyio.current_time() - began, most)


class FileFilling:
    """The vectors that the entities of a file lack, made a part of a batch at a time."""

    def __init__(self, app: App, db_name: str, schema: CollectionSchema) -> None:
        self._filling = Filling(app, db_name, report_nothing)  # an import tells itself how far it is
        self._schema = schema
        self._bindings = self._filling.bindings(schema)

    @property
    def from_text(self) -> FromText:
        """What the file may leave out."""
        return FromText(_sources(self._bindings), or_given=True, or_blank=True)

    @property
    def blank(self) -> list[str]:
        """What is to be said of texts that say nothing."""
        return self._filling.blank

    def parts(self, fitted: "Fitted") -> Iterator["Fitted"]:
        """The batch in parts, each as soon as its entities are filled. Runs in a thread that anyio has started.

        Raises:
            NotSupported, Conflict, EmbedderFailed: as `Filling.fill`.
        """
        while (count := self._next_part(fitted)) < len(fitted.entities):
            part, fitted = fitted.split(count)
            yield self._filled(part)
        yield self._filled(fitted)

    def _next_part(self, fitted: "Fitted") -> int:
        names = self._bindings.keys() - fitted.matrices.keys()
        if not names:
            return len(fitted.entities)
        lacking = [
            number for number, entity in enumerate(fitted.entities) if any(entity.get(name) is None for name in names)
        ]
        at_once = self._filling.at_once
        return lacking[at_once] if len(lacking) > at_once else len(fitted.entities)

    def _filled(self, fitted: "Fitted") -> "Fitted":
        bindings = [each for name, each in self._bindings.items() if name not in fitted.matrices]
        if bindings:
            anyio.from_thread.run(self._filling.fill, self._schema, bindings, fitted.entities)
            self._filling.forget()
        return fitted


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

    def _split(self, text: Any) -> list[Chunk]:
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
    schema: CollectionSchema, whole: Entity, source_id: int | str, place: int, text_field: str, part: Chunk
) -> Entity:
    key = schema.primary_key
    own = {SOURCE_ID: source_id, **dict(zip(PLACE, (place, part.start, part.end), strict=True))}
    if text_field in whole:
        own[text_field] = part.text
    if not key.auto_id and isinstance(whole.get(key.name), str):
        own[key.name] = f"{source_id}#{place}"
    return whole | own


def _put(vector_field: Field, entities: list[Entity], texts: list[str | None], made: Mapping[str, Vector]) -> None:
    packed = {
        text: checked_vector(vector_field, made[text], argument="the embedder")
        for text in dict.fromkeys(texts)
        if text is not None
    }
    for entity, text in zip(entities, texts, strict=True):
        if text is not None:
            entity[vector_field.name] = packed[text]


def _put_nowhere(vector_field: Field, entities: list[Entity]) -> None:
    """Gives entities without a text the vector that a field needs which cannot be null."""
    if entities and not vector_field.nullable:
        packed = checked_vector(vector_field, nowhere(vector_field.dim or 1), argument="the embedder")
        for entity in entities:
            entity[vector_field.name] = packed


def _any_text(schema: CollectionSchema, bindings: Mapping[str, Binding], entities: Iterable[Entity]) -> bool:
    """Whether there is a text at all: where there is none, it was probably forgotten."""
    sources = {schema.by_name[each.text_field] for each in bindings.values()}
    return any(text_to_embed(source, entity) is not None for entity in entities for source in sources)


def _sources(bindings: Mapping[str, Binding]) -> dict[str, str]:
    return {name: each.text_field for name, each in bindings.items()}


def _has_too_long(schema: CollectionSchema, names: Iterable[str], entities: Iterable[Entity]) -> bool:
    sizes = [(name, schema.by_name[name].max_length) for name in names]
    return any(
        most and isinstance(text := entity.get(name), str) and len(text.encode(errors="replace")) > most
        for entity in entities
        for name, most in sizes
    )


def _next_number(number: int, seconds: float, most: int) -> int:
    if seconds < QUICK:
        return max(1, min(2 * number, most))
    return max(1, number // 2) if seconds > SLOW else number
