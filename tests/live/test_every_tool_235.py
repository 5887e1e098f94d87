"""Every tool through the real server and the SDK's client over HTTP, on the real Milvus."""

from pathlib import Path

import pytest
from mcp.client import Client

from tests.agent import served
from tests.every_tool import outcomes, require_recorded

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live with servers of their own")]


async def test_every_tool_works_or_is_refused_in_words(
    milvus_235_with_accounts: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    settings = ["--uri", milvus_235_with_accounts, "--token", "root:Milvus", "--files-dir", str(tmp_path)]
    settings += ["--undo", "--data-dir", str(tmp_path / "data")]
    async with (
        served("http", "--toolsets", "all", "--confirm", "never", *settings) as url,
        Client(f"{url}/mcp") as client,
    ):
        require_recorded(pytestconfig, "Milvus 2.3.5", await outcomes(client))
