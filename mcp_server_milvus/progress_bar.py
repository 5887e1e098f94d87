"""A line at a terminal that shows how far a call is, and is gone when the call has ended."""

import os
import unicodedata
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TextIO

import anyio

from mcp_server_milvus.milvus.waiting import ReportProgress
from mcp_server_milvus.text.visible import visible

PATIENCE = 0.5
"""Seconds that a call may take before anything is shown."""

EVERY = 0.1
"""Seconds between two looks at how far it is."""

WIDTH = 80
"""Columns of a terminal that does not tell how many it has."""

BAR = 24
FULL, EMPTY = "#", "-"
NARROWEST = 10


@asynccontextmanager
async def shown_progress(terminal: TextIO) -> AsyncGenerator[ReportProgress | None]:
    """Something to report progress to while the block runs; None where nobody looks: in a pipe, or a file."""
    if not terminal.isatty():
        yield None
        return
    bar = _Bar(terminal)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bar.draw)
        try:
            yield bar.report
        finally:
            tasks.cancel_scope.cancel()
            bar.erase()


def drawn(columns: int, progress: float, total: float | None, message: str, seconds: float) -> str:
    """The line, in fewer columns than there are: the last one would make a new line. In ASCII but for the message.

    Without a total a mark runs to and fro, to show that the call does.
    """
    if total and total > 0:
        part = min(max(progress / total, 0.0), 1.0)
        done = round(BAR * part)
        shown = f"[{FULL * done}{EMPTY * (BAR - done)}] {part:4.0%}"
    else:
        at = BAR - 1 - abs(int(seconds / EVERY) % (2 * BAR - 2) - (BAR - 1))
        shown = f"[{EMPTY * at}{FULL}{EMPTY * (BAR - 1 - at)}]"
    return _cut(f"{shown} {seconds:3.0f} s  {' '.join(visible(message).split())}", max(columns - 1, NARROWEST))


def _cut(text: str, columns: int) -> str:
    """As much of the text as there is room for; some characters take two columns, and some none."""
    used = 0
    for number, character in enumerate(text):
        used += _columns(character)
        if used > columns:
            return text[:number]
    return text


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class _Bar:
    """What was reported last. Each line ends with a return to its beginning: what is logged meanwhile overwrites it."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._progress = 0.0
        self._total: float | None = None
        self._message = ""
        self._began = anyio.current_time()
        self._used = 0

    async def report(self, progress: float, total: float | None, message: str | None) -> None:
        self._progress, self._total, self._message = progress, total, message or ""

    async def draw(self) -> None:
        """Until it is cancelled."""
        await anyio.sleep(PATIENCE)
        while True:
            seconds = anyio.current_time() - self._began
            self._write(drawn(self._columns(), self._progress, self._total, self._message, seconds))
            await anyio.sleep(EVERY)

    def erase(self) -> None:
        """Leaves the terminal as it was."""
        if self._used:
            self._write("")

    def _write(self, line: str) -> None:
        used = sum(map(_columns, line))
        self._terminal.write(f"\r{line}{' ' * (self._used - used)}\r")
        self._terminal.flush()
        self._used = used

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._terminal.fileno()).columns or WIDTH
        except OSError:
            return WIDTH
