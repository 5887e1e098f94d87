"""Every tool through the real server and the SDK's client over stdio, on Milvus Lite."""

import sys
from pathlib import Path

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from mcp_server_milvus.tools import TOOLS
from tests.every_tool import STEPS, outcomes, require_recorded

pytestmark = pytest.mark.anyio


def test_every_tool_has_a_step() -> None:
    assert {step.tool for step in STEPS} == {tool.name for tool in TOOLS}


async def test_every_tool_works_or_is_refused_in_words(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    settings = ["--toolsets", "all", "--data-dir", str(tmp_path / "data"), "--files-dir", str(tmp_path)]
    settings += ["--confirm", "never"]
    command = StdioServerParameters(command=sys.executable, args=["-m", "mcp_server_milvus", *settings])
    async with Client(command) as client:
        require_recorded(pytestconfig, "Milvus Lite 3.2.2", await outcomes(client))
