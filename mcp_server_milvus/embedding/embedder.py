"""What embeds texts, whoever computes the vectors: prefixes, unit length, the dimension, the probe, a small cache."""

import math
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import anyio
import anyio.to_thread

from mcp_server_milvus.embedding.fingerprint import PROBE_DIMENSIONS, PROBE_TEXT, Fingerprint
from mcp_server_milvus.errors import EmbedderFailed
from mcp_server_milvus.settings import EmbedderSettings

Vector = list[float]

CACHED_QUERIES = 1_024
"""Embeddings of queries that are kept, in 32-bit floats: 6 MB with 1,536 dimensions."""

PROBE_SECONDS = 3_600.0
"""How long a probe is believed: a model may be replaced behind its name while this server runs."""


def nowhere(dim: int) -> Vector:
    """A vector of length 1 that is near to nothing that a model makes: it stands for a text that says nothing."""
    part = 1 / math.sqrt(dim)
    return [part if number.bit_count() % 2 else -part for number in range(dim)]


class Model(Protocol):
    """What computes vectors of texts as they are."""

    async def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """One vector for each text, in their order.

        Raises:
            EmbedderFailed: it refuses a text or answers with what is no vector.
            EmbedderUnavailable: it cannot be reached or has no time.
        """
        ...

    async def aclose(self) -> None:
        """Lets go of connections."""
        ...


class Embedder(Protocol):
    """What turns texts into vectors of one field."""

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text that is stored. Raises EmbedderFailed."""
        ...

    async def embed_query(self, text: str) -> Vector:
        """The vector of a text that is searched for. Raises EmbedderFailed."""
        ...

    async def fingerprint(self) -> Fingerprint:
        """What tells it from every other embedder. Raises EmbedderFailed."""
        ...


class ModelEmbedder:
    """An Embedder on a Model."""

    def __init__(self, settings: EmbedderSettings, model: Model) -> None:
        self.settings = settings
        self._model = model
        self._queries: OrderedDict[str, array[float]] = OrderedDict()
        self._asked_now: dict[str, anyio.Event] = {}
        self._probing = anyio.Lock()
        self._fingerprint: Fingerprint | None = None
        self._believed_until = -math.inf
        self._failure: tuple[float, EmbedderFailed] | None = None

    def __str__(self) -> str:
        """`openai text-embedding-3-small`: how messages name it."""
        return f"{self.settings.backend} {self.settings.model_name}"

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text that is stored, or for none.

        Raises:
            EmbedderFailed: the model refuses a text or answers with what is no vector of the dimension.
        """
        if not texts:
            return []
        return await self._embedded([self._checked(self.settings.document_prefix, text) for text in texts])

    async def embed_query(self, text: str) -> Vector:
        """The vector of a text that is searched for; of one that was lately searched for, without asking again.

        Raises:
            EmbedderFailed: as `embed_documents`.
        """
        while (known := self._queries.get(text)) is None:
            if asked := self._asked_now.get(text):
                await asked.wait()  # and ask if that one has failed
                continue
            self._asked_now[text] = anyio.Event()
            try:
                (vector,) = await self._embedded([self._checked(self.settings.query_prefix, text)])
                self._remember(text, vector)
            finally:
                self._asked_now.pop(text).set()
        self._queries.move_to_end(text)
        return known.tolist()

    async def fingerprint(self) -> Fingerprint:
        """What tells it from every other embedder, asked again after an hour. Those who wait share what is answered.

        Raises:
            EmbedderFailed: as `embed_documents`.
        """
        came = anyio.current_time()
        async with self._probing:
            if self._fingerprint and anyio.current_time() <= self._believed_until:
                return self._fingerprint
            if self._failure and self._failure[0] > came:
                raise self._failure[1]
            return await self._probe()

    async def aclose(self) -> None:
        """Lets go of connections."""
        await self._model.aclose()

    def _remember(self, text: str, vector: Vector) -> None:
        self._queries[text] = array("f", vector)
        if len(self._queries) > CACHED_QUERIES:
            self._queries.popitem(last=False)

    async def _probe(self) -> Fingerprint:
        try:
            fingerprint = await self._asked()
        except EmbedderFailed as failure:
            self._failure = (anyio.current_time(), failure)
            raise
        if self._fingerprint and fingerprint.difference(self._fingerprint):
            self._queries.clear()
        self._fingerprint = fingerprint
        self._believed_until = anyio.current_time() + PROBE_SECONDS
        return fingerprint

    async def _asked(self) -> Fingerprint:
        settings = self.settings
        (probe,) = await self._unit_vectors([settings.document_prefix + PROBE_TEXT])
        if settings.dim and len(probe) != settings.dim:
            raise EmbedderFailed(
                f"embedder {self}: it answered with {len(probe)} dimensions, and embed_dim is {settings.dim}",
                hint="the operator sets embed_dim to what the model gives, or leaves it out",
            )
        return Fingerprint(
            settings.backend,
            settings.model_name,
            len(probe),
            True,  # noqa: FBT003  # every vector is made so below
            settings.query_prefix,
            settings.document_prefix,
            tuple(probe[:PROBE_DIMENSIONS]),
        )

    async def _embedded(self, texts: Sequence[str]) -> list[Vector]:
        dim = (await self.fingerprint()).dim
        vectors = await self._unit_vectors(texts)
        if wrong := {len(vector) for vector in vectors} - {dim}:
            self._believed_until = -math.inf
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
