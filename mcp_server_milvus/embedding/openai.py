"""Embeddings from an endpoint that speaks OpenAI's `POST /v1/embeddings`: OpenAI, Ollama, vLLM, TEI and many others.

The API key is in the headers of the requests and nowhere else: what an endpoint says goes out without it.
"""

import json
import logging
import math
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, cast

import anyio
import anyio.to_thread
import httpx2
from anyio import sleep

from mcp_server_milvus.embedding.embedder import Vector
from mcp_server_milvus.errors import EmbedderFailed, EmbedderUnavailable
from mcp_server_milvus.settings import EmbedderSettings

LOGGER = logging.getLogger(__name__)

CHARACTERS = 250_000
"""Of the texts of one request: OpenAI takes 300,000 tokens. A longer text goes alone."""

ANSWER_BYTES = 64 * 2**20
"""Of one answer; 64 texts with 1,536 dimensions are 2 MB."""

ERROR_BYTES = 2**16
"""Of an answer in which the endpoint's own words are looked for when it refuses."""

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each new try, more or less by half, unless the endpoint wants more with Retry-After."""

PATIENCE = 20.0
"""Seconds of Retry-After that are waited; longer ones are told to the caller."""

QUOTED = 200
"""Characters of what the endpoint says that a message repeats."""

TELLING = 8
"""Characters of the key that are hidden even when the endpoint repeats only a part of it."""

AGAIN = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
"""What may pass by itself."""

REFUSES_TEXTS = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}

OF_KEYS = "the operator sets MILVUS_MCP_EMBED_API_KEY, or api_key in [embedders.NAME]"

OF_LENGTH = ("token", "context", "length", "too long", "too large")
"""Words by which endpoints say that a text is too long."""


class _TryAgain(Exception):
    """What happened may pass. `error` is for the caller when it does not; `after` are the seconds that were named."""

    def __init__(self, error: EmbedderUnavailable, after: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after


class OpenAIModel:
    """A model behind an OpenAI-compatible endpoint. Connects at the first text."""

    may_change = True

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._key = settings.api_key.get_secret_value()
        self._client: httpx2.AsyncClient | None = None
        self._opening = anyio.Lock()
        self._at_once = anyio.CapacityLimiter(settings.concurrency)

    def __str__(self) -> str:
        """`embedder openai text-embedding-3-small`: how messages begin."""
        return f"embedder {self._settings.backend} {self._settings.model_name}"

    async def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """One vector for each text, in their order.

        Raises:
            EmbedderFailed: the endpoint refuses, or answers with what are no vectors.
            EmbedderUnavailable: it cannot be reached, has no time, or is over its limits; after the last try.
        """
        client = await self._connected()
        batches = list(enumerate(_batches(texts, self._settings.batch)))
        answers: dict[int, list[Vector]] = {}
        failures: list[EmbedderFailed] = []
        waiting = iter(batches)

        async def work() -> None:
            try:
                for number, batch in waiting:
                    answers[number] = await self._answered(client, batch)
            except EmbedderFailed as failure:
                failures.append(failure)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for _ in range(min(self._settings.concurrency, len(batches))):
                group.start_soon(work)
        if failures:
            raise failures[0]
        return [vector for number, _ in batches for vector in answers[number]]

    async def cut(self, texts: Sequence[str]) -> int:
        """0: an endpoint does not tell, and most refuse a text that is too long."""
        del texts
        return 0

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._client:
            await self._client.aclose()

    async def _connected(self) -> httpx2.AsyncClient:
        async with self._opening:
            if self._client is None:
                self._client = await anyio.to_thread.run_sync(self._opened)
            return self._client

    def _opened(self) -> httpx2.AsyncClient:
        """A client. Blocks: reading the certificates takes a tenth of a second."""
        for name in ("httpx2", "httpcore2"):
            # They log each answer's reason and headers, where an endpoint may repeat the key.
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            return httpx2.AsyncClient(
                base_url=self._settings.base_url + "/",
                headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
                timeout=None,  # `_sent` has one for all of a request
                limits=httpx2.Limits(max_keepalive_connections=self._settings.concurrency),  # `_at_once` limits all
                follow_redirects=False,
            )
        except (httpx2.InvalidURL, ImportError, OSError, ValueError) as error:
            raise EmbedderFailed(
                f"{self}: no connection can be set up ({type(error).__name__})",
                hint="the operator checks embed_base_url, HTTP(S)_PROXY, ALL_PROXY and SSL_CERT_FILE",
            ) from None  # what they say may have a proxy's password in it

    async def _answered(self, client: httpx2.AsyncClient, texts: list[str]) -> list[Vector]:
        body: dict[str, Any] = {"model": self._settings.model_name, "input": texts, "encoding_format": "float"}
        if self._settings.dim:
            body["dimensions"] = self._settings.dim
        content = await self._content(client, json.dumps(body).encode())
        return await anyio.to_thread.run_sync(self._read, content, len(texts), abandon_on_cancel=True)

    async def _content(self, client: httpx2.AsyncClient, body: bytes) -> bytes:
        for pause in PAUSES:
            try:
                return await self._sent(client, body)
            except _TryAgain as again:
                await sleep(max(pause * random.uniform(0.5, 1.5), again.after))  # noqa: S311  # no secret
        try:
            return await self._sent(client, body)
        except _TryAgain as again:
            raise again.error from None

    async def _sent(self, client: httpx2.AsyncClient, body: bytes) -> bytes:
        """What the endpoint answers to one request. Raises EmbedderFailed, and _TryAgain for what may pass."""
        timeout = self._settings.timeout
        headers = {"Content-Type": "application/json"}
        try:
            async with self._at_once:
                with anyio.fail_after(timeout):
                    async with client.stream("POST", "embeddings", content=body, headers=headers) as response:
                        content = await self._received(response)
        except TimeoutError:
            raise _TryAgain(EmbedderUnavailable(f"{self}: no answer in {timeout:g} s (embed_timeout)")) from None
        except httpx2.TransportError as error:
            LOGGER.warning("%s: %s", self, self._quoted(str(error)))  # for the operator: it may name the host
            raise _TryAgain(
                EmbedderUnavailable(
                    f"{self}: its endpoint cannot be reached ({type(error).__name__})",
                    hint="the operator checks embed_base_url and that the endpoint runs",
                )
            ) from None
        except httpx2.DecodingError:
            raise EmbedderFailed(f"{self}: the endpoint's answer is compressed and broken") from None
        if not response.is_success:
            raise self._failure(response, content)
        return content

    async def _received(self, response: httpx2.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > ANSWER_BYTES:
                raise EmbedderFailed(
                    f"{self}: the endpoint's answer is longer than {ANSWER_BYTES >> 20} MiB",
                    hint="the operator lowers embed_batch",
                )
        return bytes(content)

    def _failure(self, response: httpx2.Response, content: bytes) -> EmbedderFailed | _TryAgain:
        status = response.status_code
        answer = f"{status}{self._said(content)}"
        if status in AGAIN:
            return self._passing(answer, _seconds(response.headers.get("Retry-After", "")))
        if response.has_redirect_location:
            return EmbedderFailed(
                f"{self}: the endpoint answered {answer}, a redirect, which is not followed",
                hint="the operator sets embed_base_url to where it leads",
            )
        match status:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                refused = "refused the key" if self._key else "wants a key, and none is set"
                return EmbedderFailed(f"{self}: the endpoint {refused}: {answer}", hint=OF_KEYS)
            case HTTPStatus.NOT_FOUND:
                return EmbedderFailed(f"{self}: no such model, or no /embeddings at embed_base_url: {answer}")
            case _:
                too_long = status in REFUSES_TEXTS and any(word in answer.lower() for word in OF_LENGTH)
                hint = "if a text is too long for the model: insert with chunk_size splits it" if too_long else ""
                return EmbedderFailed(f"{self}: the endpoint answered {answer}", hint=hint)

    def _passing(self, answer: str, after: float) -> EmbedderUnavailable | _TryAgain:
        said = f"{self}: the endpoint answered {answer}"
        if after <= PATIENCE:
            return _TryAgain(EmbedderUnavailable(said, hint="call again later"), after)
        return EmbedderUnavailable(f"{said}; it wants to be asked again in {after:.0f} s")

    def _said(self, content: bytes) -> str:
        """`: …`, the endpoint's own words, or nothing."""
        try:
            answer: Any = json.loads(content) if len(content) <= ERROR_BYTES else None
        except (ValueError, RecursionError):
            return ""
        match answer:
            case (
                {"error": {"message": str() as words}}
                | {"error": str() as words}
                | {"message": str() as words}
                | {"detail": str() as words}
            ):
                return f": {quoted}" if (quoted := self._quoted(words)) else ""
            case _:
                return ""

    def _quoted(self, words: str) -> str:
        """The beginning of the words on one line, without the key."""
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in words[:10_000]).split())
        shown = _without(self._key, line)
        return shown if len(shown) <= QUOTED else shown[:QUOTED] + "…"

    def _read(self, content: bytes, count: int) -> list[Vector]:
        """The vectors of an answer. Blocks, for 20 ms per MB."""
        try:
            answer: Any = json.loads(content, parse_constant=_refused_number)
        except (ValueError, RecursionError):
            raise self._no_vectors("is no JSON with finite numbers") from None
        match answer:
            case {"data": [*entries]} if len(entries) == count:
                vectors = [self._vector(entry) for entry in self._ordered(entries)]
            case {"data": [*entries]}:
                raise self._no_vectors(f"has {len(entries)} embeddings for {count} texts")
            case {"error": _}:  # with status 200
                raise EmbedderFailed(f"{self}: the endpoint answered with an error{self._said(content)}")
            case _:
                raise self._no_vectors("has no list `data`")
        return vectors

    def _ordered(self, entries: list[Any]) -> list[Any]:
        """The entries by their `index`; as they come where none has one."""
        indexes = [cast("dict[str, Any]", entry).get("index") if isinstance(entry, dict) else None for entry in entries]
        if all(index is None for index in indexes):
            return entries
        places = {index: entry for index, entry in zip(indexes, entries, strict=True) if type(index) is int}
        if places.keys() != set(range(len(entries))):
            raise self._no_vectors(f"does not number its {len(entries)} embeddings from 0 in `index`")
        return [places[number] for number in range(len(entries))]

    def _vector(self, entry: Any) -> Vector:
        match entry:
            case {"embedding": [_, *_] as numbers} if set(map(type, cast("list[Any]", numbers))) <= {float, int}:
                pass
            case {"embedding": str()}:
                raise self._no_vectors("has a text for an embedding: base64, though float was asked for")
            case _:
                raise self._no_vectors("has an embedding that is no list of numbers")
        try:
            vector = list(map(float, cast("list[float]", numbers)))
        except OverflowError:
            vector = [math.inf]
        if not all(map(math.isfinite, vector)):
            raise self._no_vectors("has an embedding with a number that is not finite")
        return vector

    def _no_vectors(self, fault: str) -> EmbedderFailed:
        return EmbedderFailed(
            f"{self}: the endpoint's answer {fault}", hint="embed_base_url must speak OpenAI's POST /embeddings"
        )


def _batches(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == most or characters + len(text) > CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch


def _seconds(retry_after: str) -> float:
    """The seconds of a Retry-After header, which has a number or a date; 0 for what is neither."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            when = parsedate_to_datetime(retry_after)
        except ValueError:
            return 0.0
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _without(key: str, line: str) -> str:
    """The line with *** for the key and for each longer part of it."""
    length = min(TELLING, len(key))
    if not key:
        return line
    parts = {key[start : start + length] for start in range(len(key) - length + 1)}
    hidden = {
        place
        for start in range(len(line) - length + 1)
        if line[start : start + length] in parts
        for place in range(start, start + length)
    }
    shown = [
        letter if place not in hidden else "***" if place - 1 not in hidden else "" for place, letter in enumerate(line)
    ]
    return "".join(shown)


def _refused_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
