"""The main job, shown: a real server in a process of its own, a real client, and the standard library's docstrings.

Needs no network and leaves nothing behind. `--transport sse|http` shows it over HTTP, `--legacy` as an older client.
"""

import ast
import json
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

from mcp_server_milvus.errors import Error, Unavailable
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.vocabulary import Transport

DOCUMENTS = 2_000
PER_MODULE = 11
PER_CALL = 500
WIDTH = 110
START_SECONDS = 30

METADATA = [
    {"name": "module", "type": "VARCHAR", "max_length": 100},
    {"name": "signature", "type": "VARCHAR", "max_length": 1_000},
]


class DemoFailed(Exception):
    """A step did not return what it should."""


async def run_demo(settings: Settings, *, legacy: bool) -> int:
    """Prints each call, its result and its time. Returns 0 when every step returned what it should, else 1."""
    exit_code = 0
    try:
        with tempfile.TemporaryDirectory(prefix="mcp-server-milvus-demo-", ignore_cleanup_errors=True) as folder:
            async with (
                _served(settings.transport, Path(folder) / "data") as transport,
                Client(transport, mode="legacy" if legacy else "auto", elicitation_callback=_agreeing) as client,
            ):
                await _show(_Shown(client), list(_documents()))
        print("\nEvery step returned what it should.")
    except* (DemoFailed, Error) as failures:
        print(f"\nfailed: {failures.exceptions[0]}", file=sys.stderr)
        exit_code = 1
    return exit_code


async def _agreeing(context: Any, params: ElicitRequestParams) -> ElicitResult:
    """What a user answers who is asked whether to go on, and agrees."""
    del context
    if not isinstance(params, ElicitRequestFormParams):
        return ElicitResult(action="decline")
    for line in params.message.splitlines():
        print(f"  ? {_short_text(line)}")
    return ElicitResult(action="accept", content={"confirm": True})


async def _show(agent: "_Shown", documents: list[dict[str, Any]]) -> None:
    """What an agent would do, step by step."""
    docs = {"collection_name": "docs"}
    listed = await agent.call("list_collections", {})
    agent.require(listed["collections"] == [])
    form = {"text_field": "text", "metadata": METADATA, "id_type": "string", "enable_dynamic_field": False}
    made = await agent.call("create_collection", docs | form)
    agent.require(made["created"] and made["loaded"])
    for start in range(0, len(documents), PER_CALL):
        some = documents[start : start + PER_CALL]
        inserted = await agent.call("insert", docs | {"data": some})
        agent.require(inserted["insert_count"] == len(some))
    index = await agent.call("build_index", docs | {"field_name": "module"})
    agent.require(index["created"])
    counted = await agent.call("count", docs)
    agent.require(counted["count"] == len(documents))
    await _show_reading(agent, docs)
    await _show_changing(agent, docs, documents)
    described = await agent.call("describe_collection", docs)
    agent.require({"module", "signature", "text"} <= {field["name"] for field in described["fields"]})
    dropped = await agent.call("drop_collection", docs)
    agent.require(dropped["dropped"])
    listed = await agent.call("list_collections", {})
    agent.require(listed["collections"] == [])


async def _show_reading(agent: "_Shown", docs: dict[str, Any]) -> None:
    shown = docs | {"output_fields": ["module", "signature"]}
    for text, wanted in (("parse a date from a string", "date"), ("compress a file", "compress")):
        found = await agent.call("search", shown | {"text": text, "limit": 5})
        agent.require(any(wanted in json.dumps(hit).lower() for hit in found["hits"]))
    modules = ["gzip", "bz2", "lzma"]
    chosen = {"filter": "module in {modules}", "filter_params": {"modules": modules}}
    found = await agent.call("search", shown | chosen | {"text": "open a compressed file", "limit": 3})
    agent.require(found["hits"] and all(hit["fields"]["module"] in modules for hit in found["hits"]))
    matching = docs | {"filter": 'module like "http%"', "output_fields": ["module"], "limit": 4}
    first = await agent.call("query", matching)
    agent.require(len(first["entities"]) == matching["limit"])
    second = await agent.call("query", matching | {"cursor": first["next_cursor"]})
    agent.require(second["entities"][0]["id"] > first["entities"][-1]["id"])


async def _show_changing(agent: "_Shown", docs: dict[str, Any], documents: list[dict[str, Any]]) -> None:
    key = documents[0]["id"]
    changed = documents[0] | {"text": "A text about zeppelins."}
    upserted = await agent.call("upsert", docs | {"data": [changed]})
    agent.require(upserted["upsert_count"] == 1)
    found = await agent.call("search", docs | {"text": "zeppelins", "limit": 1})
    agent.require(found["hits"][0]["id"] == key)
    got = await agent.call("get", docs | {"ids": [key]})
    agent.require(got["entities"] == [changed])
    deleted = await agent.call("delete", docs | {"ids": [key]})
    agent.require(deleted["delete_count"] == 1)
    got = await agent.call("get", docs | {"ids": [key]})
    agent.require(got["missing_ids"] == [key])
    counted = await agent.call("count", docs)
    agent.require(counted["count"] == len(documents) - 1)


class _Shown:
    """A client whose calls are printed."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._last = ""

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The structured result.

        Raises:
            DemoFailed: it is an error.
        """
        print(f"\n→ {tool} {_short(arguments)}")
        started = time.perf_counter()
        result = await self._client.call_tool(tool, arguments)
        milliseconds = 1000 * (time.perf_counter() - started)
        structured: dict[str, Any] = result.structured_content or {}
        for line in _lines(structured):
            print(f"  {line}")
        print(f"  {milliseconds:.0f} ms")
        self._last = f"{tool} returned {_short(structured)}"
        self.require(not result.is_error)
        return structured

    def require(self, right: object) -> None:
        """Nothing, if the last call returned what it should.

        Raises:
            DemoFailed: it did not.
        """
        if not right:
            raise DemoFailed(self._last)


@asynccontextmanager
async def _served(transport: Transport, data_dir: Path) -> AsyncGenerator[Any]:
    """The address or transport of a real server on a database of its own."""
    command = [sys.executable, "-m", "mcp_server_milvus", "--data-dir", str(data_dir)]
    if transport is Transport.STDIO:
        yield stdio_client(StdioServerParameters(command=command[0], args=command[1:]))
        return
    port = _free_port()
    async with await anyio.open_process(
        [*command, "--transport", transport, "--port", str(port)], stdin=DEVNULL, stdout=DEVNULL, stderr=None
    ) as server:
        await _listening(port)
        url = f"http://127.0.0.1:{port}"
        yield sse_client(f"{url}/sse") if transport is Transport.SSE else f"{url}/mcp"
        server.terminate()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def _listening(port: int) -> None:
    with anyio.move_on_after(START_SECONDS):
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.sleep(0.05)
            else:
                await stream.aclose()
                return
    raise Unavailable(f"the server did not listen within {START_SECONDS} s")


def _documents() -> Iterator[dict[str, Any]]:
    """The public docstrings of this Python's standard library, read from its sources without importing them."""
    root = Path(sysconfig.get_path("stdlib"))
    count = 0
    for path in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if module.startswith(("_", "test", "idlelib", "lib2to3", "site-packages")) or "._" in module:
            continue
        for document in list(_docstrings(module, path))[:PER_MODULE]:
            if count == DOCUMENTS:
                return
            count += 1
            yield document


def _docstrings(module: str, path: Path) -> Iterator[dict[str, Any]]:
    tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        text = ast.get_docstring(node)
        if text:
            signature = (
                f"{node.name}({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef) else f"class {node.name}"
            )
            yield {
                "id": f"{module}.{node.name}:{node.lineno}",
                "module": module,
                "signature": signature[:500],
                "text": text[:5_000],
            }


def _lines(structured: dict[str, Any]) -> list[str]:
    """The result for a person: a line for each hit or entity, else one line."""
    rows = structured.get("hits") or structured.get("entities")
    return [_short(row) for row in rows] if rows else [_short(structured)]


def _short(value: Any) -> str:
    return _short_text(json.dumps(value, ensure_ascii=False))


def _short_text(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"
