"""Servers in memory on real backends, and what their clients send on the wire."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
import grpc
import pytest
from mcp.client import Client
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.milvus import client as milvus_client
from mcp_server_milvus.milvus.embedded import EmbeddedEngine
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import load_settings
from mcp_server_milvus.tools import TOOLS
from tests.agent import UNATTENDED, without_note

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# Milvus Lite behind a port, to be killed and started again: cheaper than a Milvus server.
LITE_ON_TCP = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from mcp_server_milvus.milvus.engine import build_server, open_database

server = build_server(open_database(Path(sys.argv[1])), ThreadPoolExecutor(max_workers=1))
port = server.add_insecure_port(f"127.0.0.1:{sys.argv[2]}")
server.start()
print(port, flush=True)
sys.stdin.read()
"""


class Agent:
    """A client of one server, as an agent is: it names a tool, its arguments, and whether it expects a refusal."""

    def __init__(self, app: App, client: Client) -> None:
        self.app = app
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.structured_content
        assert result.structured_content is not None
        return without_note(result.structured_content)

    async def refused(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        assert result.structured_content is not None
        assert result.structured_content["code"] != "internal", result.structured_content
        return result.structured_content

    async def found(self, collection_name: str, **arguments: Any) -> list[dict[str, Any]]:
        """The entities of one query."""
        return (await self.call("query", collection_name=collection_name, limit=16_000, **arguments))["entities"]


@asynccontextmanager
async def agent(**settings: Any) -> AsyncGenerator[Agent]:
    async with open_app(load_settings(UNATTENDED | settings)) as app, Client(build_server(app, TOOLS)) as client:
        yield Agent(app, client)


class Wire(grpc.aio.UnaryUnaryClientInterceptor):
    """What the clients of this process send, by the name of the RPC.

    `before` and `after` run when a request is about to be sent and when Milvus has carried it out. What they raise
    takes the place of the answer.
    """

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.last: dict[str, Any] = {}
        self.before: OnTheWire = pass_on
        self.after: OnTheWire = pass_on

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        method = client_call_details.method
        name = (method.decode() if isinstance(method, bytes) else method).rpartition("/")[2]
        self.sent[name] += 1
        self.last[name] = request
        await self.before(name, request)
        call = await continuation(client_call_details, request)
        if self.after is not pass_on:
            await call
            await self.after(name, request)
        return call

    def answers(self, code: grpc.StatusCode, *names: str) -> None:
        """Milvus carries these RPCs out, and what comes back is this status."""

        async def broken(name: str, _request: Any) -> None:
            if name in names:
                raise rpc_error(code, "broken at 10.1.2.3:19530")

        self.after = broken


OnTheWire = Callable[[str, Any], Awaitable[None]]


async def pass_on(_name: str, _request: Any) -> None:
    """Nothing in between."""


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, details, details)


@contextmanager
def watching() -> Generator[Wire]:
    """Every channel that is opened inside the block is watched."""
    with pytest.MonkeyPatch.context() as patch:
        wire, plain = Wire(), grpc.aio.insecure_channel

        def watched(address: str, options: Any = None) -> Any:
            return plain(address, options=options, interceptors=[wire])

        patch.setattr(grpc.aio, "insecure_channel", watched)
        yield wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    with watching() as wire:
        yield wire


@pytest.fixture(scope="session")
def lite_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of an engine that outlives each test. Tests give their collections names of their own."""
    data = tmp_path_factory.mktemp("lite") / "data"
    engine = EmbeddedEngine(data)
    anyio.run(engine.address)
    yield data
    anyio.run(engine.aclose)


@pytest.fixture(scope="session")
def lite_uri(lite_dir: Path) -> str:
    """What pymilvus itself connects to."""
    return (lite_dir / ".engine" / "address").read_text().partition("\n")[0]


@pytest.fixture(scope="module")
async def lite(lite_dir: Path) -> AsyncGenerator[Agent]:
    """A server that is connected already: a wire that is watched later does not show it."""
    async with agent(data_dir=lite_dir) as each:
        await each.call("list_databases")
        yield each


class LiteServer:
    """Milvus Lite on one port of the loopback interface."""

    def __init__(self, data: Path, *, port: int = 0) -> None:
        self._data = data
        self._port = port
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self, *, before: str = "") -> None:
        """Returns once it answers, at the address that it had. `before` is Python that runs in it first."""
        command = [sys.executable, "-c", before + LITE_ON_TCP, str(self._data), str(self._port)]
        self.process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE)
        assert self.process.stdout
        self._port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def freeze(self) -> None:
        """Returns once it stands still: a signal is on its way for a while."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def lite_server(tmp_path: Path) -> Iterator[LiteServer]:
    server = LiteServer(tmp_path / "served")
    yield server
    server.kill()


async def eventually(condition: Callable[[], bool], *, within: float = 10) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.01)


async def connected(uri: str, credentials: str = "") -> milvus_client.Client:
    return await milvus_client.connect(
        uri, credentials=credentials, db_name="default", last_writes={}, computing=anyio.CapacityLimiter(1), seconds=5
    )


class Received(Counter[str]):
    """How often each RPC came, and with which headers last."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: dict[str, dict[str, str | bytes]] = {}


@asynccontextmanager
async def failing_milvus(
    *broken: str, code: grpc.StatusCode = grpc.StatusCode.INTERNAL
) -> AsyncGenerator[tuple[str, Received]]:
    """A server that says hello and answers the named RPCs with a failure, which no real one does on demand."""
    received = Received()

    def answering(handler_call_details: Any) -> Any:
        name = handler_call_details.method.rpartition("/")[2]
        received.headers[name] = dict(handler_call_details.invocation_metadata)

        async def answer(_request: bytes, context: Any) -> bytes:
            received[name] += 1
            if name in broken:
                await context.abort(code, "broken at 10.1.2.3:19530")
            if name == "GetVersion":
                return milvus_pb2.GetVersionResponse(version="v2.3.5").SerializeToString()
            return milvus_pb2.ConnectResponse(status=common_pb2.Status()).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)

    handlers: Any = type("Handlers", (grpc.GenericRpcHandler,), {"service": lambda _, call: answering(call)})()
    server = grpc.aio.server(handlers=[handlers])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"http://127.0.0.1:{port}", received
    await server.stop(None)
