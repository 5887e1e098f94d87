"""Entities before they are written: their texts become vectors here, and long texts become pieces."""

import shlex
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread

from mcp_server_milvus.app import App, report_nothing
from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.embedding.deadline import within
from mcp_server_milvus.embedding.embedder import SAME_TEXT, ModelEmbedder, Vector, nowhere, shortest
from mcp_server_milvus.embedding.embedders import HOW_TO_HAVE_ONE
from mcp_server_milvus.errors import Conflict, EmbedderFailed, InvalidArgument, LimitExceeded, NotSupported, StaleSchema
from mcp_server_milvus.milvus.entities import Entity, FromText, checked_entities, packed_vector, text_to_embed
from mcp_server_milvus.milvus.filters import equalities
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.waiting import ReportProgress
from mcp_server_milvus.pieces import Given, text_fields
from mcp_server_milvus.vocabulary import DataType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.fitting import Fitted

FIRST_TEXTS = 8
QUICK, SLOW = 0.5, 2.0
"""Seconds for the texts that are embedded at once. Less, and twice as many follow; more, and half as many.

So progress is seen and a failed import has lost little, with a model that takes a second a text as with a fast one.
"""

MOST_NUMBERS = 50_000_000
"""In the vectors that one call makes, which are all held until the first is written: 200 MB, of 32,000 texts with 1,536
dimensions."""


class Filling:
    """The vectors that one call makes from texts. `report_progress` is told of them, and then of what is written."""

    def __init__(self, app: App, db_name: str, report_progress: ReportProgress) -> None:
        self._app = app
        self._db_name = db_name
        self._report_progress = report_progress
        self.at_once = FIRST_TEXTS
        self._embedded = 0
        self._blank = Counter[str]()
        self._cut = Counter[str]()
        self._made: dict[ModelEmbedder, dict[str, array[float]]] = {}

    @property
    def notes(self) -> list[str]:
        """What is to be said of texts that will not be found as one might think."""
        blank = [f"{name}: {count} empty, found last, if at all" for name, count in self._blank.items()]
        cut = (
            f"{name}: {count} longer than the model reads; insert splits them by chunk_size"
            for name, count in self._cut.items()
        )
        return [*blank, *cut]

    def bindings(self, schema: CollectionSchema) -> Mapping[str, Binding]:
        """How the vector fields that are made from texts are made."""
        return self._app.bindings(self._db_name, schema)

    async def checked(self, schema: CollectionSchema, given: Given, *, keys_required: bool) -> list[Entity]:
        """The entities as pymilvus packs them. What was embedded in a first attempt is not embedded again.

        Raises:
            InvalidArgument: some do not fit the schema, or none has a text; nothing was embedded.
            LimitExceeded: their vectors would take too much memory; nothing was embedded.
            NotSupported, Conflict, EmbedderFailed: as `fill`.
        """
        bindings = self.bindings(schema)

        def check() -> list[Entity]:
            entities, numbers = given.for_schema(schema, bindings)
            entities = _owned(self._app.policy.reach.mandatory_filter, entities)
            _require_few(schema, bindings, len(entities))
            from_text = FromText(_sources(bindings), or_blank=_any_text(schema, bindings, entities))
            try:
                return checked_entities(
                    schema, entities, keys_required=keys_required, from_text=from_text, numbers=numbers
                )
            except InvalidArgument as wrong:
                if not keys_required and _has_too_long(schema, text_fields(schema, bindings), entities):
                    wrong.hint = f"{given.mend}; {wrong.hint}"
                raise

        checked = await anyio.to_thread.run_sync(check, limiter=self._app.clients.computing)
        self._blank.clear()
        await self.fill(schema, bindings.values(), checked, further=len(checked))
        return checked

    async def fill(
        self, schema: CollectionSchema, bindings: Iterable[Binding], entities: Sequence[Entity], *, further: int = 0
    ) -> None:
        """Gives the entities the vectors that they lack. `further` is what is still to be done then, for the progress.

        Raises:
            NotSupported: this server has no embedder.
            Conflict: it has another one than the collection, or has another one by now.
            EmbedderFailed: the embedder refuses a text, or cannot be reached in time.
        """
        hint = "give fewer texts at once, or start the server with a larger --build-timeout"
        async with within(self._app.settings.build_timeout, hint=hint):
            for binding in bindings:
                await self._fill(schema, binding, entities, further)

    async def require_still_bound(self, schema: CollectionSchema) -> None:
        """Nothing, if vectors made for this schema belong into the collection: wrong ones would stay there.

        Raises:
            StaleSchema: another server has bound its fields otherwise since the schema was read.
        """
        if not self.bindings(schema):
            return
        current = await self._app.schemas.refresh(self._db_name, schema.name)
        if (current.identity, self.bindings(current)) != (schema.identity, self.bindings(schema)):
            raise StaleSchema(schema.name)

    async def require_alike(self, binding: Binding, given: Mapping[str, Vector]) -> None:
        """Nothing, if vectors that came with their texts are those of the embedder, or it is not there to be asked.

        Raises:
            Conflict: they are of another one.
        """
        try:
            embedder = await self._app.embedders.bound(binding)
            async with within(self._app.settings.timeout):
                likeness = await embedder.likeness(given)
        except (NotSupported, Conflict, EmbedderFailed):
            return
        if likeness < SAME_TEXT:
            raise Conflict(
                f"the vectors of {binding.vector_field} that are given are not what embedder {embedder} makes from"
                f" {binding.text_field} (cosine {likeness:.2f})",
                hint=f'columns: {{"{binding.vector_field}": ""}} leaves them out, and they are made here',
            )

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
        await self._embed(embedder, binding, [text for text in distinct if text not in made], made, further)
        put = partial(_put, vector_field, lacking, texts, made)
        await anyio.to_thread.run_sync(put)

    async def _embedder(self, schema: CollectionSchema, binding: Binding) -> ModelEmbedder:
        if not self._app.embedders:
            made_by = binding.fingerprint
            options = f"--embedder {made_by.backend} --embed-model {shlex.quote(made_by.model)}" if made_by else ""
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
        self,
        embedder: ModelEmbedder,
        binding: Binding,
        texts: Sequence[str],
        made: dict[str, "array[float]"],
        further: int,
    ) -> None:
        """Adds the vectors of the texts to those that are made."""
        most = embedder.settings.batch * embedder.settings.concurrency - 1  # with them goes a probe
        total, start = self._embedded + len(texts) + further, 0
        while part := texts[start : start + self.at_once]:
            await self._report_progress(self._embedded, total, f"embedding with {embedder}")
            began = anyio.current_time()
            vectors = await self._vectors(embedder, binding, part)
            if cut := await embedder.cut(part):
                self._cut[binding.text_field] += cut
            made.update(zip(part, await anyio.to_thread.run_sync(_compact, vectors), strict=True))
            start += len(part)
            self._embedded += len(part)
            self.at_once = _next_number(self.at_once, anyio.current_time() - began, most)

    async def _vectors(self, embedder: ModelEmbedder, binding: Binding, texts: Sequence[str]) -> list[Vector]:
        try:
            return await embedder.embed_documents(texts, made_by=binding.fingerprint)
        except EmbedderFailed:
            await self._app.embedders.bound(binding)  # tells it better if the model behind the name has changed
            raise


class FileFilling:
    """The vectors that the entities of a file lack, made a part of a batch at a time."""

    def __init__(self, app: App, db_name: str, schema: CollectionSchema) -> None:
        self._filling = Filling(app, db_name, report_nothing)  # an import tells itself how far it is
        self._schema = schema
        self._bindings = self._filling.bindings(schema)
        self._compared = set[str]()

    @property
    def from_text(self) -> FromText:
        """What the file may leave out."""
        return FromText(_sources(self._bindings), or_given=True, or_blank=True)

    @property
    def notes(self) -> list[str]:
        """What is to be said of texts that will not be found as one might think."""
        return self._filling.notes

    def parts(self, fitted: "Fitted") -> Iterator["Fitted"]:
        """The batch in parts, each as soon as its entities are filled. Runs in a thread that anyio has started.

        Raises:
            Conflict: the file has vectors of another embedder.
            NotSupported, Conflict, EmbedderFailed: as `Filling.fill`.
        """
        self._compare(fitted)
        while (count := self._next_part(fitted)) < len(fitted.entities):
            part, fitted = fitted.split(count)
            yield self._filled(part)
        yield self._filled(fitted)

    def _compare(self, fitted: "Fitted") -> None:
        """Looks at the first vectors of the file that come with their texts."""
        for name, binding in self._bindings.items():
            if name not in self._compared and (given := _given(fitted, self._schema, binding)):
                self._compared.add(name)
                anyio.from_thread.run(self._filling.require_alike, binding, given)

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


def _given(fitted: "Fitted", schema: CollectionSchema, binding: Binding) -> dict[str, Vector]:
    """Some vectors of a batch, by the texts that they should be of."""
    field, source = schema.by_name[binding.vector_field], schema.by_name[binding.text_field]
    if field.type is not DataType.FLOAT_VECTOR:  # the others are bytes by now
        return {}
    matrix = fitted.matrices.get(field.name)
    given: dict[str, Any] = {}
    for place, entity in enumerate(fitted.entities):
        text, vector = text_to_embed(source, entity), entity.get(field.name) if matrix is None else matrix[place]
        if text is not None and vector is not None:
            given[text] = vector
    return {text: list(given[text]) for text in shortest(given)}


def _owned(mandatory_filter: str, entities: Sequence[Entity]) -> Sequence[Entity]:
    """The entities with what their writer's filter asks of each, where they leave it out. What they say they keep."""
    asked = equalities(mandatory_filter) if mandatory_filter else None
    return [asked | entity for entity in entities] if asked else entities


def _require_few(schema: CollectionSchema, bindings: Iterable[str], count: int) -> None:
    """Raises LimitExceeded if the vectors of so many entities would take too much memory."""
    most = MOST_NUMBERS // max(1, sum(schema.by_name[name].dim or 0 for name in bindings))
    if count > most:
        raise LimitExceeded(
            f"{count:,} texts to embed, of which one call takes {most:,} in {schema.name}",
            hint="give fewer at once, or a larger chunk_size; import_file takes any number",
        )


def _compact(vectors: Iterable[Vector]) -> "list[array[float]]":
    """The vectors in 32-bit floats: an eighth of the memory. Blocks: 10 ms for 256 of 1,536 dimensions."""
    return [array("f", vector) for vector in vectors]


def _put(
    vector_field: Field, entities: list[Entity], texts: list[str | None], made: Mapping[str, "array[float]"]
) -> None:
    packed = {text: packed_vector(vector_field, made[text]) for text in dict.fromkeys(texts) if text is not None}
    for entity, text in zip(entities, texts, strict=True):
        if text is not None:
            entity[vector_field.name] = packed[text]


def _put_nowhere(vector_field: Field, entities: list[Entity]) -> None:
    """Gives entities without a text the vector that a field needs which cannot be null."""
    if entities and not vector_field.nullable:
        packed = packed_vector(vector_field, array("f", nowhere(vector_field.dim or 1)))
        for entity in entities:
            entity[vector_field.name] = packed


def _any_text(schema: CollectionSchema, bindings: Mapping[str, Binding], entities: Iterable[Entity]) -> bool:
    """Whether there is a text at all: where there is none, it was probably forgotten."""
    sources = {schema.by_name[each.text_field] for each in bindings.values()}
    return any(text_to_embed(source, entity) is not None for entity in entities for source in sources)


def _sources(bindings: Mapping[str, Binding]) -> dict[str, str]:
    return {name: each.text_field for name, each in bindings.items()}


def _has_too_long(schema: CollectionSchema, names: Iterable[str], entities: Iterable[Entity]) -> bool:
    sizes = [(name, schema.by_name[name].max_length) for name in names if name in schema.by_name]
    return any(
        most and isinstance(text := entity.get(name), str) and len(text.encode(errors="replace")) > most
        for entity in entities
        for name, most in sizes
    )


def _next_number(number: int, seconds: float, most: int) -> int:
    if seconds < QUICK:
        return max(1, min(2 * number, most))
    return max(1, number // 2) if seconds > SLOW else number
