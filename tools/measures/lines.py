"""A client that does no more than it must, so that what is timed is the server: lines out, lines in, matched by id."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST_LINE = 2**26
INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


class Lines:
    """One stdio server and the requests that it has not answered."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin  # noqa: S101  # both are pipes
        self.pid = process.pid
        self._stdin = process.stdin
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured result of a tool.

        Raises:
            RuntimeError: the call failed.
        """
        return await self.sent(json.dumps({"name": tool, "arguments": arguments}, separators=(",", ":")))

    async def sent(self, params: str) -> dict[str, Any]:
        """The structured result of a `tools/call` with these params, which are JSON already."""
        result = await self.request("tools/call", params)
        if result.get("isError"):
            raise RuntimeError(f"{params[:80]} failed: {result['structuredContent']}")
        return result["structuredContent"]

    async def request(self, method: str, params: str = "{}") -> dict[str, Any]:
        """The result of a request."""
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._stdin.write(f'{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}\n'.encode())
        await self._stdin.drain()
        return (await answer)["result"]

    async def read(self, stdout: asyncio.StreamReader) -> None:
        """Gives every answer to who waits for it, until there are no more."""
        while line := await stdout.readline():
            answer = json.loads(line)
            if answer.get("id") in self._waiting:
                self._waiting.pop(answer["id"]).set_result(answer)


@contextlib.asynccontextmanager
async def serving(command: Sequence[str], environment: Mapping[str, str], folder: Path | str) -> AsyncGenerator[Lines]:
    """A server over stdio, after its handshake, until the block ends; it ends by itself when its input does."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=dict(environment),
        cwd=folder,
        limit=LONGEST_LINE,
    )
    assert process.stdin  # noqa: S101
    assert process.stdout  # noqa: S101
    lines = Lines(process)
    reading = asyncio.create_task(lines.read(process.stdout))
    await lines.request("initialize", json.dumps(INITIALIZE))
    process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    try:
        yield lines
    finally:
        process.stdin.close()
        await process.wait()
        await reading
