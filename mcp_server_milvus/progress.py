"""Progress of a call: what its tool tells of it and, where that is silent for a while, that it is still under way.

Much of what takes long is one request to Milvus or to an embedder, of which nobody can tell how far it is. Hosts give
up on calls that say nothing, and people do.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from mcp_server_milvus.milvus.waiting import ReportProgress

SILENCE = 1.5
"""Seconds without a word after which one is said: none waits for longer than 2 s."""

STEP = 0.001
"""By how much progress that stands still is told to go on: the protocol wants every number to be above the last."""

TOKEN = "progress_token"  # noqa: S105
SPELLED_AS_SENT = "progressToken"


def is_wanted(meta: Mapping[str, Any] | None) -> bool:
    """Whether the request with this `_meta` has asked for progress."""
    return bool(meta) and (TOKEN in meta or SPELLED_AS_SENT in meta)


@asynccontextmanager
async def kept_up(report_progress: ReportProgress, name: str) -> AsyncGenerator[ReportProgress]:
    """While the block runs, what is reported goes on to `report_progress`, and something does every 2 s.

    `name` is said before the first report.
    """
    telling = _Telling(report_progress, name)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(telling.keep_up)
        yield telling.report
        tasks.cancel_scope.cancel()


class _Telling:
    """What was told last, and when."""

    def __init__(self, report_progress: ReportProgress, name: str) -> None:
        self._report_progress = report_progress
        self._said = name
        self._done = -STEP
        self._total: float | None = None
        self._began = self._at = anyio.current_time()

    async def report(self, progress: float, total: float | None, message: str | None) -> None:
        self._total = total
        self._said = message or self._said
        await self._tell(progress, self._said)

    async def keep_up(self) -> None:
        """Until it is cancelled."""
        while True:
            silent = anyio.current_time() - self._at
            if silent < SILENCE:
                await anyio.sleep(SILENCE - silent)
            else:
                seconds = round(anyio.current_time() - self._began)
                await self._tell(self._done, f"{self._said} ({seconds} s so far)")

    async def _tell(self, progress: float, message: str) -> None:
        self._at = anyio.current_time()
        self._done = progress if progress > self._done else round(self._done + STEP, 3)
        await self._report_progress(self._done, self._total, message)
