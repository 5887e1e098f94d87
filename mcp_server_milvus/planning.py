"""How a text is searched for: by its words, by its meaning, or by both; decided from the schema, never guessed."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import anyio.to_thread

from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.embedding.deadline import within
from mcp_server_milvus.embedding.embedder import Vector
from mcp_server_milvus.embedding.embedders import HOW_TO_HAVE_ONE, Embedders
from mcp_server_milvus.errors import Conflict, EmbedderFailed, Error, InvalidArgument, NotSupported
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.targets import choices, vector_field
from mcp_server_milvus.vocabulary import FunctionType, SearchMode

MODE_OF = {FunctionType.BM25: SearchMode.BM25, FunctionType.TEXTEMBEDDING: SearchMode.FUNCTION}
NO_WAY = "create_collection with text_field makes one; alter_collection embed_fields binds a vector field to its text"


@dataclass(frozen=True)
class Way:
    """One way to find a text: a vector field, and the text field that it is made from."""

    field: Field
    text_field: str
    mode: SearchMode
    binding: Binding | None = None

    def __str__(self) -> str:
        """`sparse (bm25)`: how messages name it."""
        return f"{self.field.name} ({self.mode})"


@dataclass(frozen=True)
class Asked:
    """What a caller said about it. `one_leg` is why it can be one search only, if so."""

    text: str
    mode: SearchMode = SearchMode.AUTO
    anns_field: str | None = None
    one_leg: str = ""


@dataclass(frozen=True)
class Plan:
    """How a text is searched for. Of two ways, the first is that of the meaning.

    `why` is what does not go without saying. `sought` is what each way searches for, once it is `embedded`, and
    `embedder` who made the vector among them.
    """

    asked: Asked
    mode: SearchMode
    ways: tuple[Way, ...]
    why: str = ""
    lacks_words: bool = False
    instead: str = ""
    sought: tuple[str | Vector, ...] = ()
    embedder: str | None = None

    async def embedded(self, embedders: Embedders, seconds: float) -> "Plan":
        """The plan with what each way searches for. An embedder has so many seconds.

        Raises:
            NotSupported: no embedder is configured.
            Conflict: those that are configured make other vectors.
            EmbedderFailed: it refuses, cannot be reached or takes too long.
        """
        texts = [await self._words(way) for way in self.ways]
        binding = next((way.binding for way in self.ways if way.binding), None)
        if binding is None:
            return replace(self, sought=tuple(texts))
        try:
            ((vector, embedder),) = await query_vectors(embedders, [(binding, self.asked.text)], seconds)
        except (EmbedderFailed, Conflict, NotSupported) as error:
            raise _with_hint(error, self.instead) from error
        sought = (vector if way.binding else text for way, text in zip(self.ways, texts, strict=True))
        return replace(self, sought=tuple(sought), embedder=embedder)

    async def _words(self, way: Way) -> str:
        """The text. Beside the meaning, words that say nothing would only add noise."""
        from mcp_server_milvus.text.words import content_words  # its patterns take a while to compile

        by_both = self.mode is SearchMode.HYBRID and way.mode is SearchMode.BM25
        return await anyio.to_thread.run_sync(content_words, self.asked.text) if by_both else self.asked.text


def planned(schema: CollectionSchema, bindings: Mapping[str, Binding], asked: Asked, *, can_embed: bool) -> Plan:
    """How to search a collection for a text. `can_embed` says whether this server has any embedder.

    Raises:
        NotFound: `anns_field` is no field.
        InvalidArgument: the text is blank; nothing can be searched with it, or not so; or it is not clear with what.
    """
    if not asked.text.strip():
        raise InvalidArgument("text: it is blank", hint="say in words what to find; query reads entities by filter")
    every = _ways(schema, bindings)
    if not every:
        raise InvalidArgument(
            f"no field of {schema.name} can be searched with text; {choices(schema)}",
            hint=NO_WAY if can_embed else f"{NO_WAY}, once {HOW_TO_HAVE_ONE}",
        )
    ways = _named(schema, every, bindings, asked) or [way for way in every if schema.index_of(way.field.name)] or every
    plan = _plan(schema, ways, asked, can_embed=can_embed)
    by_words = any(way.mode is SearchMode.BM25 for way in every)
    if not by_words or plan.mode is SearchMode.BM25:
        return plan
    without = " without anns_field" if asked.anns_field else ""
    return replace(plan, lacks_words=False, instead=f"mode: bm25{without} finds it by its words")


async def query_vectors(
    embedders: Embedders, texts: Sequence[tuple[Binding, str]], seconds: float
) -> list[tuple[Vector, str]]:
    """The vector of each text that a bound field is searched for, and who made it; all within so many seconds.

    Raises:
        NotSupported: no embedder is configured.
        Conflict: those that are configured make other vectors.
        EmbedderFailed: one refuses, cannot be reached or takes too long.
    """
    made: list[tuple[Vector, str]] = []
    async with within(seconds):
        for binding, text in texts:
            if not embedders:
                made_from = f"{binding.vector_field} is made from {binding}"
                raise NotSupported(f"{made_from}; this server has no embedder", hint=HOW_TO_HAVE_ONE)
            embedder = await embedders.bound(binding)
            made.append((await embedder.embed_query(text), str(embedder)))
    return made


def _ways(schema: CollectionSchema, bindings: Mapping[str, Binding]) -> list[Way]:
    """Every way there is, in the order of the schema."""
    ways: list[Way] = []
    for field in schema.vector_fields:
        function, binding = schema.text_source_of(field.name), bindings.get(field.name)
        if function and function.type in MODE_OF:
            ways.append(Way(field, function.inputs[0], MODE_OF[function.type]))
        elif binding:
            ways.append(Way(field, binding.text_field, SearchMode.DENSE, binding))
    return ways


def _named(schema: CollectionSchema, every: list[Way], bindings: Mapping[str, Binding], asked: Asked) -> list[Way]:
    """The way of the field that was named; for two legs, with those of the other kind."""
    if not asked.anns_field:
        return []
    field = vector_field(schema, asked.text, asked.anns_field, bindings.keys())
    by_words = next(way.mode is SearchMode.BM25 for way in every if way.field is field)
    others = [way for way in every if asked.mode is SearchMode.HYBRID and (way.mode is SearchMode.BM25) != by_words]
    return [way for way in every if way.field is field] + others


def _plan(schema: CollectionSchema, ways: list[Way], asked: Asked, *, can_embed: bool) -> Plan:
    words = [way for way in ways if way.mode is SearchMode.BM25]
    meaning = [way for way in ways if way.mode is not SearchMode.BM25]
    match asked.mode:
        case SearchMode.AUTO:
            return _decided(schema, words, meaning, asked, can_embed=can_embed)
        case SearchMode.HYBRID:
            if asked.one_leg:
                raise InvalidArgument(
                    f"mode: hybrid has two legs, and here there is {asked.one_leg}", hint="mode: dense or bm25"
                )
            both = (_only(schema, meaning, ways, asked), _only(schema, words, ways, asked))
            return Plan(asked, asked.mode, both)
        case mode:
            return Plan(asked, mode, (_only(schema, [way for way in ways if way.mode is mode], ways, asked),))


def _decided(schema: CollectionSchema, words: list[Way], meaning: list[Way], asked: Asked, *, can_embed: bool) -> Plan:
    by_words = _only(schema, words, words, asked) if words else None
    by_meaning = _only(schema, meaning, meaning, asked) if meaning else None
    if not (by_words and by_meaning):
        (way,) = filter(None, (by_meaning, by_words))
        return Plan(asked, way.mode, (way,), lacks_words=by_words is None)
    if by_meaning.binding and not can_embed:
        needed = by_meaning.binding.fingerprint or by_meaning.binding.embedder
        why = f"{by_meaning.field.name} needs embedder {needed}, which this server does not have"
        return Plan(asked, SearchMode.BM25, (by_words,), why)
    if asked.one_leg:
        return Plan(asked, by_meaning.mode, (by_meaning,), asked.one_leg)
    return Plan(asked, SearchMode.HYBRID, (by_meaning, by_words), "both legs: words and meaning")


def _only(schema: CollectionSchema, fitting: list[Way], ways: list[Way], asked: Asked) -> Way:
    told = ", ".join(map(str, ways))
    if not fitting:
        where = f"{asked.anns_field} of {schema.name}" if asked.anns_field else schema.name
        raise InvalidArgument(
            f"mode: {asked.mode} is not possible in {where}; a text is searched for in {told}",
            hint="leave mode out, or name one of these",
        )
    if len(fitting) > 1:
        raise InvalidArgument(
            f"more than one field of {schema.name} can be searched with text in the same way: {told}",
            hint="name one in anns_field",
        )
    return fitting[0]


def _with_hint(error: Error, hint: str) -> Error:
    """The error with one more hint: a copy, for others may be told the same error."""
    told = copy(error)
    told.hint = "; or ".join(filter(None, [error.hint, hint]))
    return told
