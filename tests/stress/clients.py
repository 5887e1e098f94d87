"""Servers in processes of their own, what they hold, and clients that cost next to nothing beside them."""

import asyncio
import itertools
import json
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
import httpx2
from anyio.abc import Process

from tests.agent import answers
from tests.stress.frames import ENVELOPE

PATIENCE = 60
"""Seconds in which every call is answered, and every condition comes true, on a machine that does other things too."""

LARGEST_LINE = 2**26
MODERN = "2026-07-28"
JSON_HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
HELLO: dict[str, Any] = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "flood", "version": "0"},
}


@dataclass(frozen=True)
class Held:
    """What a process holds: memory in MB, which is not compared, and things that are counted."""

    descriptors: int
    threads: int
    megabytes: float

    @classmethod
    def by(cls, pid: int) -> "Held":
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(re.findall(r"^(\w+):\s*(\d+)", status, re.MULTILINE))
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # names are all that is wanted
        return cls(descriptors, int(fields["Threads"]), int(fields["VmRSS"]) / 1024)


def result_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The structured content of a call that succeeded."""
    assert not answer["result"].get("isError"), answer
    return answer["result"]["structuredContent"]


class StdioServer:
    """A server over stdio, which several tasks may call at once."""

    def __init__(self, process: Process, reader: asyncio.StreamReader) -> None:
        self.process = process
        self._reader = reader
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        while line := await self._reader.readline():
            answer = json.loads(line)
            if "method" not in answer:
                self._waiting.pop(answer["id"]).set_result(answer)

    async def say(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin
        await self.process.stdin.send(
            json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"
        )
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        return result_of(await self.say("tools/call", {"name": tool, "arguments": arguments}))


@asynccontextmanager
async def stdio_server(*arguments: str, log: Path) -> AsyncGenerator[StdioServer]:
    """A server that had its handshake, and exits 0 at the end of its input."""
    ours, theirs = os.pipe()
    with log.open("ab") as stderr:
        process = await anyio.open_process(arguments, stdout=theirs, stderr=stderr)
    os.close(theirs)
    reader = asyncio.StreamReader(limit=LARGEST_LINE)
    pipe = os.fdopen(ours, "rb", buffering=0)
    reading, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        async with process, anyio.create_task_group() as tasks:
            server = StdioServer(process, reader)
            tasks.start_soon(server.listen)
            await server.say("initialize", HELLO)
            yield server
            assert process.stdin
            await process.stdin.aclose()
            with anyio.fail_after(PATIENCE):
                assert await process.wait() == 0, log.read_text()
    finally:
        reading.close()


def our_server(*settings: str) -> list[str]:
    return [sys.executable, "-m", "mcp_server_milvus", "--confirm", "never", *settings]


@asynccontextmanager
async def http_server(*settings: str, port: int, log: Path) -> AsyncGenerator[Process]:
    """A server over HTTP that listens, and that exits 0 when it is told to end."""
    command = our_server("--transport", "http", "--port", str(port), *settings)
    with log.open("wb") as stderr:
        process = await anyio.open_process(command, stdout=stderr, stderr=stderr)
    async with process:
        try:
            with anyio.fail_after(PATIENCE):
                while not await answers(port):
                    await anyio.sleep(0.05)
            yield process
            process.terminate()
            with anyio.fail_after(PATIENCE):
                assert await process.wait() == 0, log.read_text()
        finally:
            if process.returncode is None:
                process.kill()


class HttpClient:
    """One connection that is kept, and as much of HTTP as our server speaks. Made with a session, or modern."""

    def __init__(self, port: int, *, modern: bool) -> None:
        self._port = port
        self._modern = modern
        self._session = ""
        self._numbers = itertools.count()

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LARGEST_LINE)
        if not self._modern:
            await self._say("initialize", HELLO)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._session:
            await self._exchange("DELETE", b"", {})
        self._writer.close()
        await self._writer.wait_closed()

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        return result_of(await self._say("tools/call", {"name": tool, "arguments": arguments}))

    async def _say(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        headers: dict[str, str] = {}
        if self._modern:
            headers = {"mcp-protocol-version": MODERN, "mcp-method": method, "mcp-name": params["name"]}
            params = params | ENVELOPE
        frame = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params}
        body = await self._exchange("POST", json.dumps(frame).encode(), headers)
        answer = json.loads(body if body.startswith(b"{") else body.partition(b"data: ")[2].partition(b"\n")[0])
        assert answer["id"] == frame["id"]
        return answer

    async def _exchange(self, verb: str, body: bytes, headers: dict[str, str]) -> bytes:
        headers = JSON_HEADERS | headers | ({"mcp-session-id": self._session} if self._session else {})
        told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{verb} /mcp HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncontent-length: {len(body)}\r\n{told}\r\n"
        self._writer.write(head.encode() + body)
        async with asyncio.timeout(PATIENCE):
            return await self._answer()

    async def _answer(self) -> bytes:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200"), head
        if found := re.search(r"^mcp-session-id: (\S+)", head, re.MULTILINE):
            self._session = found[1]
        if length := re.search(r"^content-length: (\d+)", head, re.MULTILINE):
            return await self._reader.readexactly(int(length[1]))
        parts: list[bytes] = []
        while size := int(await self._reader.readline(), 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readline()
        await self._reader.readline()
        return b"".join(parts)


async def metrics_of(port: int) -> dict[str, float]:
    """What /metrics says, by the name of the gauge."""
    async with httpx2.AsyncClient(timeout=PATIENCE) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    return {name: float(value) for name, value in re.findall(r"^(milvus_mcp_\w+) (\S+)$", text, re.MULTILINE)}
