"""Whether the server lives, and whether it can do its work: `/health/live`, `/health/ready`, and both in `/health`."""

import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import DeadlineExceeded, Error, Unavailable
from mcp_server_milvus.vocabulary import MilvusIdentity

FRESH_SECONDS = 1.0
"""For which an answer of Milvus's is good, however many ask."""

ANSWER_SECONDS = 2.0


async def assumed() -> bool:
    """Ready, as far as anybody knows."""
    return True


class Health:
    """Ready means that Milvus answers and that the server does not end. No name of a host is told."""

    def __init__(self, milvus_answers: Callable[[], Awaitable[bool]] = assumed) -> None:
        self._milvus_answers = milvus_answers
        self._answered = False
        self._asked = -FRESH_SECONDS
        self._asking = anyio.Lock()
        self.ending = False

    async def is_ready(self) -> bool:
        async with self._asking:
            if not self.ending and time.monotonic() - self._asked >= FRESH_SECONDS:
                self._answered = await self._milvus_answers()
                self._asked = time.monotonic()
        return self._answered and not self.ending

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/health", self._both),
            Route("/health/live", self._live),
            Route("/health/ready", self._ready),
        ]

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        if await self.is_ready():
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "ending" if self.ending else "Milvus does not answer"}, 503)

    async def _both(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "ready": await self.is_ready()})


async def milvus_answers(app: App) -> bool:
    """Whether Milvus says anything at all within two seconds, be it that the account may do nothing."""
    if app.settings.milvus_identity is MilvusIdentity.CALLER:
        return await _is_listened_on(app.settings.uri)
    try:
        async with app.clients.client("", seconds=ANSWER_SECONDS) as client:
            await client.get_server_version()
    except (Unavailable, DeadlineExceeded):
        return False
    except Error:
        return True
    return True


async def _is_listened_on(uri: str) -> bool:
    """All that can be known without an account."""
    parts = urlsplit(uri)
    try:
        with anyio.fail_after(ANSWER_SECONDS):
            await (await anyio.connect_tcp(parts.hostname or "", parts.port or 19530)).aclose()
    except (OSError, TimeoutError):
        return False
    return True
