"""A small server that speaks OpenAI's `POST /v1/embeddings` over real HTTP, and fails on demand.

async with openai_server() as endpoint:
    settings = {"embedder": "openai", "embed_model": "bag-of-words", "embed_base_url": endpoint.base_url}
    endpoint.next(refusal(429, headers={"Retry-After": "1"}))  # the next request is refused, the one after it is not
    endpoint.model = "another"  # from now on, behind the same name
"""

import asyncio
import hashlib
import json
import math
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import anyio


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        return self.body["input"]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. It comes when `until` is set; `broken`: the connection ends in the middle of it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    until: anyio.Event | None = None
    broken: bool = False

    def encoded(self) -> bytes:
        length = len(self.body) + (10 if self.broken else 0)
        headers = {"Content-Type": "application/json", "Content-Length": str(length)} | self.headers
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *(f"{n}: {v}" for n, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def refusal(status: int, message: str = "no", *, headers: dict[str, str] | None = None) -> Answer:
    """An error as OpenAI words it."""
    return Answer(status, json.dumps({"error": {"message": message, "type": "test"}}).encode(), headers or {})


def said(document: Any) -> Answer:
    """A success with this JSON, or these bytes."""
    return Answer(body=document if isinstance(document, bytes) else json.dumps(document).encode())


def silence() -> Answer:
    """No answer, ever."""
    return Answer(until=anyio.Event())


@dataclass
class Endpoint:
    """The server. What tests change: `model` and `dim` (what is behind every name), `key` (wanted; "" for none)."""

    base_url: str = ""
    model: str = "one"
    dim: int = 16
    key: str = ""
    requests: list[Request] = field(default_factory=list[Request])
    most_at_once: int = 0
    always: Answer | Callable[[Request], Answer] | None = None
    _more: anyio.Event = field(default_factory=anyio.Event)
    _next: deque[Answer | Callable[[Request], Answer]] = field(
        default_factory=deque[Answer | Callable[[Request], Answer]]
    )
    _at_once: int = 0

    @property
    def texts(self) -> list[str]:
        """Every text of every request."""
        return [text for request in self.requests for text in request.texts]

    async def asked(self, count: int) -> None:
        """Returns when that many requests have come; fails when they do not."""
        with anyio.fail_after(20):
            while len(self.requests) < count:
                await self._more.wait()

    def next(self, *answers: Answer | Callable[[Request], Answer]) -> None:
        """The answers to the next requests, one after the other, in place of embeddings."""
        self._next.extend(answers)

    def vector(self, text: str, dim: int = 0) -> list[float]:
        """A bag of words, hashed: texts that share words are near."""
        numbers = [0.0] * (dim or self.dim)
        for word in re.findall(r"[a-z0-9]+|[^\x00-\x7f]", text.lower()) or [text]:
            digest = hashlib.sha256(f"{self.model} {word}".encode("utf-8", "replace")).digest()
            numbers[int.from_bytes(digest[:4]) % len(numbers)] += 1 if digest[4] % 4 else -1
        return numbers if any(numbers) else [1.0, *numbers[1:]]

    def embeddings(self, request: Request) -> Answer:
        """What a good endpoint answers, the last text first: only `index` tells."""
        dim = request.body.get("dimensions", 0)
        vectors = [self.vector(text, dim) for text in request.texts]
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        return said({"object": "list", "data": data[::-1], "model": request.body["model"]})

    def answer(self, request: Request) -> Answer:
        if self._next:
            found = self._next.popleft()
        elif self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            found = refusal(401, "wrong key")
        elif request.path != "/v1/embeddings":
            found = refusal(404, "no such path")
        else:
            found = self.always or self.embeddings
        return found if isinstance(found, Answer) else found(request)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while request := await _request(reader):
                self.requests.append(request)
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                self._more.set()
                self._more = anyio.Event()
                try:
                    answer = self.answer(request)
                    if answer.until:
                        await answer.until.wait()
                finally:
                    self._at_once -= 1
                writer.write(answer.encoded())
                await writer.drain()
                if answer.broken:
                    break
        except OSError:
            pass  # the client has gone
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> Request | None:
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    return Request(first.split()[1], headers, json.loads(body))


@asynccontextmanager
async def openai_server(**endpoint: Any) -> AsyncGenerator[Endpoint]:
    """The endpoint on a free port, until the block ends."""
    served = Endpoint(**endpoint)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(served.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
    served.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield served
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
