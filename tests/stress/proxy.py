"""A way to Milvus that is slow, breaks, or garbles what it carries."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream

from tests.milvus.conftest import agent, eventually
from tests.stress.load import CLIENTS, KNOWN, PATIENCE, Load

CHUNK = 64 * 1024
TIMEOUT = 3.0
SLACK = 10.0
"""Seconds above the deadline in which a call ends on a machine that does other things too."""


@dataclass
class Proxy:
    """Relays to a port of this machine. What it does to what it carries may be changed at any time.

    `delay` is in seconds, for each chunk; `cut_after` in bytes of answers, counted down, of all connections together.
    While it refuses, it ends every connection.
    """

    target: int
    uri: str = ""
    delay: float = 0
    cut_after: int | None = None
    garbles: bool = False
    swallows: bool = False
    refuses: bool = False

    def heal(self) -> None:
        """Carries everything again."""
        self.delay, self.cut_after, self.garbles, self.swallows, self.refuses = 0, None, False, False, False

    async def relay(self, client: SocketStream) -> None:
        async with client:
            if self.refuses:
                return
            async with (
                await anyio.connect_tcp("127.0.0.1", self.target) as milvus,
                anyio.create_task_group() as both,
            ):
                both.start_soon(self._carry, client, milvus, both.cancel_scope)
                both.start_soon(self._carry, milvus, client, both.cancel_scope)

    async def _carry(self, source: SocketStream, sink: SocketStream, connection: anyio.CancelScope) -> None:
        is_answer = source.extra(SocketAttribute.remote_port) == self.target  # noqa: S610  # anyio's
        try:
            while chunk := await source.receive(CHUNK):
                await anyio.sleep(self.delay)
                if self.swallows:
                    continue
                if is_answer and self._cuts(chunk):
                    await sink.send(chunk[: len(chunk) // 2])
                    break
                await sink.send(os.urandom(len(chunk)) if self.garbles else chunk)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        connection.cancel()

    def _cuts(self, chunk: bytes) -> bool:
        """Whether the connection breaks in this chunk."""
        if self.refuses:
            return True
        if self.cut_after is None:
            return False
        self.cut_after -= len(chunk)
        return self.cut_after < 0


@asynccontextmanager
async def proxied(uri: str) -> AsyncGenerator[Proxy]:
    """A proxy of the Milvus at a uri, until the block ends."""
    proxy = Proxy(int(uri.rpartition(":")[2]))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # anyio's
        proxy.uri = f"http://127.0.0.1:{port}"
        tasks.start_soon(listener.serve, proxy.relay)
        yield proxy
        tasks.cancel_scope.cancel()


async def load_over_bad_ways(uri: str, **settings: Any) -> None:
    """Clients of the Milvus at a uri, over ways that go bad one after the other: nothing is lost, and nothing twice."""
    settings |= {"max_result_bytes": 10_000_000}
    async with proxied(uri) as proxy, agent(uri=uri, **settings, timeout=60) as patient:
        await Load(patient).prepare()
        async with agent(uri=proxy.uri, **settings, timeout=TIMEOUT) as each:
            load = Load(each, known=KNOWN | {"milvus_error"})
            async with load.running():
                await load.more(100)
                proxy.delay = 0.2
                await load.more(50)
                assert not load.codes
                for fault, value in (("cut_after", 10_000), ("garbles", True), ("swallows", True), ("refuses", True)):
                    refused = load.codes.total()
                    setattr(proxy, fault, value)
                    await eventually(lambda refused=refused: load.codes.total() >= refused + CLIENTS, within=PATIENCE)
                    proxy.heal()
                    print(f"{fault}: an answer {await load.more():.2f} s after it; refused: {dict(load.codes)}")
                    load.codes.clear()
                    await load.more(100)
        load.agent = patient
        await load.verify()
    assert load.slowest < TIMEOUT + SLACK
