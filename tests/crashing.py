"""Servers that die of SIGKILL at each step of a call that changes something, and what others find afterwards."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

# One process imports everything, and forks a server for each call: it takes a tenth of the time of a new process.
# A step is an RPC that changes something, or the moment at which what is kept gets its name.
SERVERS = """
import json, os, signal, sys
from pathlib import Path

import anyio
import grpc

from mcp_server_milvus import undo
from mcp_server_milvus.app import open_app
from mcp_server_milvus.milvus import client, importing, kept, packing, translate
from mcp_server_milvus.calls import call
from mcp_server_milvus.settings import load_settings
from mcp_server_milvus.tools import TOOLS

READS = ("Get", "Show", "Describe", "List", "Has", "Query", "Connect", "Alloc", "Check")
undo.MAX_KEYS = 2
asked = json.loads(sys.stdin.readline())


def step():
    asked["steps"] -= 1
    if asked["steps"] < 0:
        os.kill(os.getpid(), signal.SIGKILL)


class Steps(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation, details, request):
        name = details.method.decode() if isinstance(details.method, bytes) else details.method
        if name.rpartition("/")[2].startswith(READS):
            return await continuation(details, request)
        step()
        answer = await continuation(details, request)
        await answer
        return answer


plain, rename = grpc.aio.insecure_channel, Path.rename
grpc.aio.insecure_channel = lambda address, options=None: plain(address, options=options, interceptors=[Steps()])


def stepping(self, target):
    step()
    return rename(self, target)


async def serve():
    async with open_app(load_settings(asked["settings"])) as app:
        tool = next(each for each in TOOLS if each.name == asked["tool"])
        result = await call(tool, app, asked["arguments"])
    print(json.dumps(result.structured_content), flush=True)


while asked:
    if not (child := os.fork()):
        Path.rename = stepping
        anyio.run(serve)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(json.dumps(os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)), flush=True)
    asked = json.loads(sys.stdin.readline() or "null")
"""

SIGKILL = 9


class Servers:
    """Servers with the same settings, each for one call."""

    def __init__(self, process: "subprocess.Popen[str]", settings: dict[str, Any]) -> None:
        self._process = process
        self._settings = settings

    def survives(self, steps: int, tool: str, **arguments: Any) -> bool:
        """Whether the call has fewer than so many steps and a next one, before which its server is killed."""
        asked = {"settings": self._settings, "steps": steps, "tool": tool, "arguments": arguments}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        result: Any = json.loads(self._process.stdout.readline())
        if isinstance(result, dict):
            assert "code" not in result, result
            assert json.loads(self._process.stdout.readline()) == 0
            return True
        assert result == SIGKILL
        return False


@contextmanager
def dying_servers(**settings: Any) -> Generator[Servers]:
    """Their settings are those of an unattended agent with undo."""
    told = {"confirm": "never", "undo": True, "log_level": "WARNING"} | settings
    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in told.items()}
    process = subprocess.Popen([sys.executable, "-c", SERVERS], stdin=PIPE, stdout=PIPE, text=True)
    try:
        yield Servers(process, chosen)
    finally:
        process.kill()
        process.communicate()
