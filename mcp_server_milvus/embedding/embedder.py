"""What embeds texts, whoever computes the vectors: prefixes, unit length, the dimension, the probe, a small cache."""

import heapq
import math
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import anyio
import anyio.to_thread

from mcp_server_milvus.embedding.fingerprint import PROBE_DIMENSIONS, PROBE_TEXT, Fingerprint, cosine
from mcp_server_milvus.embedding.together import Together
from mcp_server_milvus.errors import EmbedderFailed
from mcp_server_milvus.settings import EmbedderSettings

Vector = list[float]

CACHED_QUERIES = 1_024
"""Embeddings of queries that are kept, in 32-bit floats: 6 MB with 1,536 dimensions."""

CACHED_CHARACTERS = 4_000
"""Of a query that is kept: a longer one is seldom asked for again, and it is kept whole."""

PROBE_SECONDS = 3_600.0
"""How long a probe is believed: a model may be replaced behind its name while this server runs."""


def nowhere(dim: int) -> Vector:
    """A vector of length 1 that is near to nothing that a model makes: it stands for a text that says nothing."""
    part = 1 / math.sqrt(dim)
    return [part if number.bit_count() % 2 else -part for number in range(dim)]


SAME_TEXT = 0.95
"""Cosine of two vectors of one text below which they are not of the same embedder. Another precision of the same model
stays above 0.97, another model near 0, and a text that was only a part of what was embedded in between."""


COMPARED = 8
"""Vectors that are compared to learn whether an embedder made them all."""


def shortest(texts: Iterable[str]) -> list[str]:
    """The texts whose vectors are compared: no model cuts them off."""
    return heapq.nsmallest(COMPARED, texts, key=len)


class Model(Protocol):
    """What computes vectors of texts as they are. `may_change`: another one may come behind its name meanwhile."""

    @property
    def may_change(self) -> bool: ...

    async def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """One vector for each text, in their order.

        Raises:
            EmbedderFailed: it refuses a text or answers with what is no vector.
            EmbedderUnavailable: it cannot be reached or has no time.
        """
        ...

    async def cut(self, texts: Sequence[str]) -> int:
        """How many of these texts are longer than what it reads, as far as that can be told."""
        ...

    async def aclose(self) -> None:
        """Lets go of connections."""
        ...


class Embedder(Protocol):
    """What turns texts into vectors of one field."""

    async def embed_documents(self, texts: Sequence[str], *, made_by: Fingerprint | None = None) -> list[Vector]:
        """A vector for each text that is stored. Raises EmbedderFailed."""
        ...

    async def embed_query(self, text: str) -> Vector:
        """The vector of a text that is searched for. Raises EmbedderFailed."""
        ...

    async def fingerprint(self) -> Fingerprint:
        """What tells it from every other embedder. Raises EmbedderFailed."""
        ...


class Queries:
    """The vectors of the texts that one model was lately asked to search for, in 32-bit floats."""

    def __init__(self) -> None:
        self.asked: Together[array[float]] = Together()
        self._known: OrderedDict[str, array[float]] = OrderedDict()

    def known(self, text: str) -> "array[float] | None":
        """The vector of a text that is remembered."""
        if text in self._known:
            self._known.move_to_end(text)
        return self._known.get(text)

    def remember(self, text: str, vector: "array[float]") -> None:
        """Keeps the vector of a text that is not too long, and lets go of the one that was asked for longest ago."""
        if len(text) <= CACHED_CHARACTERS:
            self._known[text] = vector
        if len(self._known) > CACHED_QUERIES:
            self._known.popitem(last=False)


class ModelEmbedder:
    """An Embedder on a Model."""

    def __init__(self, settings: EmbedderSettings, model: Model) -> None:
        self.settings = settings
        self._model = model
        self._queries = Queries()
        self._probing = Together[Fingerprint]()
        self._fingerprint: Fingerprint | None = None
        self._believed_until = -math.inf

    def __str__(self) -> str:
        """`openai text-embedding-3-small`: how messages name it."""
        return f"{self.settings.backend} {self.settings.model_name}"

    async def embed_documents(self, texts: Sequence[str], *, made_by: Fingerprint | None = None) -> list[Vector]:
        """A vector for each text that is stored, or for none.

        With them goes the probe, so that a model that has just changed is noticed before anything of it is kept.
        `made_by` is what made the other vectors of the field; None stands for what this embedder was until now.

        Raises:
            EmbedderFailed: the model refuses a text, answers with what is no vector of the dimension, or has changed.
        """
        if not texts:
            return []
        checked = [self._checked(self.settings.document_prefix, text) for text in texts]
        if not self._model.may_change:
            return await self._embedded(checked)
        made_by = made_by or await self.fingerprint()
        probe, *vectors = await self._embedded([self._probe_text, *checked])
        if difference := made_by.difference(self._fingerprint_of(probe)):
            self.doubt()
            raise EmbedderFailed(
                f"embedder {self}: {difference}; its vectors were not taken",
                hint="the operator configures the embedder that made the others; or make another collection",
            )
        return vectors

    async def likeness(self, vectors: Mapping[str, Sequence[float]]) -> float:
        """The least cosine of vectors that texts have and those that it makes of these texts.

        Raises:
            EmbedderFailed: as `embed_documents`.
        """
        made = await self.embed_documents(list(vectors))
        return min(cosine(vector, again) for vector, again in zip(vectors.values(), made, strict=True))

    async def cut(self, texts: Sequence[str]) -> int:
        """Of how many stored texts the model reads only the beginning, as far as that can be told."""
        return await self._model.cut([self.settings.document_prefix + text for text in texts])

    async def embed_query(self, text: str) -> Vector:
        """The vector of a text that is searched for; of one that was lately searched for, without asking again.

        Raises:
            EmbedderFailed: as `embed_documents`.
        """
        queries = self._queries
        vector = queries.known(text) or await queries.asked.ask(text, partial(self._query, queries, text))
        return vector.tolist()

    async def fingerprint(self) -> Fingerprint:
        """What tells it from every other embedder, asked again after an hour. Those who wait share what is answered.

        Raises:
            EmbedderFailed: as `embed_documents`.
        """
        if self._fingerprint and anyio.current_time() <= self._believed_until:
            return self._fingerprint
        return await self._probing.ask(PROBE_TEXT, self._probe)

    def doubt(self) -> None:
        """The next who wants the fingerprint asks the model anew."""
        self._believed_until = -math.inf

    async def aclose(self) -> None:
        """Lets go of connections."""
        await self._model.aclose()

    async def _query(self, queries: Queries, text: str) -> "array[float]":
        """The vector, remembered with those of the model that was asked, not of one that came meanwhile."""
        (vector,) = await self._embedded([self._checked(self.settings.query_prefix, text)])
        kept = array("f", vector)
        queries.remember(text, kept)
        return kept

    async def _probe(self) -> Fingerprint:
        (probe,) = await self._unit_vectors([self._probe_text])
        found = self._fingerprint_of(probe)
        self._require_fit(found)
        if self._fingerprint and self._fingerprint.difference(found):
            self._queries = Queries()
        self._fingerprint = found
        self._believed_until = anyio.current_time() + PROBE_SECONDS
        return found

    @property
    def _probe_text(self) -> str:
        return self.settings.document_prefix + PROBE_TEXT

    def _fingerprint_of(self, probe: Vector) -> Fingerprint:
        settings = self.settings
        return Fingerprint(
            settings.backend,
            settings.model_name,
            len(probe),
            True,  # noqa: FBT003  # every vector is made so below
            settings.query_prefix,
            settings.document_prefix,
            tuple(probe[:PROBE_DIMENSIONS]),
        )

    def _require_fit(self, found: Fingerprint) -> None:
        if self.settings.dim and found.dim != self.settings.dim:
            raise EmbedderFailed(
                f"embedder {self}: it answered with {found.dim} dimensions, and embed_dim is {self.settings.dim}",
                hint="the operator sets embed_dim to what the model gives, or leaves it out",
            )

    async def _embedded(self, texts: Sequence[str]) -> list[Vector]:
        dim = (await self.fingerprint()).dim
        vectors = await self._unit_vectors(texts)
        if wrong := {len(vector) for vector in vectors} - {dim}:
            self.doubt()
            raise EmbedderFailed(f"embedder {self}: it answered with {min(wrong)} dimensions, and with {dim} before")
        return vectors

    async def _unit_vectors(self, texts: Sequence[str]) -> list[Vector]:
        vectors = await self._model.vectors(texts)
        if len(vectors) != len(texts):
            raise EmbedderFailed(f"embedder {self}: it answered {len(texts)} texts with {len(vectors)} vectors")
        return await anyio.to_thread.run_sync(self._units, vectors, abandon_on_cancel=True)

    def _checked(self, prefix: str, text: str) -> str:
        """The text behind its prefix."""
        if not text or text.isspace():
            raise EmbedderFailed(f"embedder {self}: a text is empty, and there is nothing to embed")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            around = text[max(0, error.start - 20) : error.start]
            raise EmbedderFailed(
                f"embedder {self}: a text has half of a surrogate pair, which is no character, after {around!r}"
            ) from None
        return prefix + text

    def _units(self, vectors: list[Vector]) -> list[Vector]:
        """The vectors with length 1. Blocks: a millisecond for 20 of 1,536 dimensions."""
        return [self._unit(vector) for vector in vectors]

    def _unit(self, vector: Vector) -> Vector:
        length = math.hypot(*vector)
        if not (math.isfinite(length) and length > 0):
            raise EmbedderFailed(f"embedder {self}: it answered with a vector that has no direction")
        return [number / length for number in vector]
