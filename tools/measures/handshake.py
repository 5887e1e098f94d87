"""From spawn to the answer of `initialize`, and to the first search; the other is an `MCPServer` with nothing in it."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median
from subprocess import PIPE
from typing import IO, cast

from tools.measures.bounds import Bound, judged, milliseconds
from tools.measures.common import DIMENSION, SERVER, own_settings
from tools.measures.lines import INITIALIZE
from tools.measures.processes import memory

HIGHEST_HANDSHAKE, HIGHEST_FIRST_SEARCH, HIGHEST_IDLE = 1.15, 2.5, 1.3
EMPTY_SERVER = [sys.executable, "-c", "from mcp.server import MCPServer; MCPServer('empty').run()"]
HELLO = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}).encode() + b"\n"
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
ENTITIES = 20


def handshake(options: argparse.Namespace) -> bool:
    """Ratios to the empty server. The first search starts an engine, too."""
    with own_settings() as (folder, environment):
        embedding = environment | {"MILVUS_MCP_EMBEDDER": "fastembed"}
        fill(folder, environment)
        times = [
            (
                started(SERVER, folder, environment),
                started(SERVER, folder, embedding),
                started(EMPTY_SERVER, folder, environment),
                started(SERVER, folder, environment, search=True),
            )
            for _ in range(1 + options.runs)
        ]
    columns = list(zip(*times[1:], strict=True))  # the first run compiles what it imports
    ours, embedder, empty, searched = (median(seconds for seconds, _ in column) for column in columns)
    idle, idle_empty = (median(size for _, size in column) for column in (columns[0], columns[2]))
    return judged(
        f"handshake: medians of {options.runs}, an empty server's is {milliseconds(empty)}",
        [
            Bound("start to initialize", ours / empty, most=HIGHEST_HANDSHAKE, how=milliseconds(ours)),
            Bound("with an embedder", embedder / empty, most=HIGHEST_HANDSHAKE, how=milliseconds(embedder)),
            Bound("start to the first search", searched / empty, most=HIGHEST_FIRST_SEARCH, how=milliseconds(searched)),
            Bound("idle memory", idle / idle_empty, most=HIGHEST_IDLE, how=f"{idle:.0f} MB"),
        ],
    )


def fill(folder: str, environment: Mapping[str, str]) -> None:
    """Makes the collection that is searched, with the command line, whose engine ends with it."""
    entities = [{"id": number, "vector": [number / ENTITIES] * DIMENSION} for number in range(ENTITIES)]
    for tool, arguments in (("create_collection", {"dimension": DIMENSION}), ("insert", {"data": entities})):
        given = json.dumps({"collection_name": "there", **arguments}).encode()
        subprocess.run(
            [*SERVER, "call", tool, "-"], check=True, input=given, cwd=folder, env=dict(environment), stdout=PIPE
        )


def started(
    command: list[str], folder: str, environment: Mapping[str, str], *, search: bool = False
) -> tuple[float, float]:
    """Seconds to the answer, and MB afterwards."""
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=dict(environment), stdin=PIPE, stdout=PIPE, bufsize=0) as server:
        stdin, stdout = cast("IO[bytes]", server.stdin), cast("IO[bytes]", server.stdout)
        stdin.write(HELLO)
        answer, expected = stdout.readline(), b'"serverInfo"'
        if search:
            arguments = {"collection_name": "there", "vector": [0.5] * DIMENSION}
            params = {"name": "search", "arguments": arguments}
            asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
            stdin.write(INITIALIZED + json.dumps(asked).encode() + b"\n")
            answer, expected = stdout.readline(), b'"hits"'
        passed = time.perf_counter() - begun
        size = memory(server.pid)
        stdin.close()
        server.wait()
    if expected not in answer:
        raise SystemExit(f"{' '.join(command)} did not answer: {answer!r}")
    return passed, size
