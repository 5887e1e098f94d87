"""No call of one tenant returns, counts, changes or deletes an entity of another, or tells whether there is one."""

from collections.abc import AsyncGenerator

import pytest
from hypothesis import given, settings

from mcp_server_milvus.policy import Policy
from mcp_server_milvus.settings import load_settings
from mcp_server_milvus.tools import TOOLS
from tests.tenants import (
    ATOMS,
    BROKEN,
    DRAWN,
    MANY,
    SHAPES,
    A,
    Pair,
    Result,
    calls_of,
    keeps_apart,
    makes_no_difference,
    pair,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def pairs(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[list[Pair]]:
    async with pair({"data_dir": str(tmp_path_factory.mktemp("tenants"))}, SHAPES, "lite") as pairs:
        yield pairs


def test_every_tool_of_a_tenant_is_called() -> None:
    policy = Policy(load_settings({"toolsets": "all"}), A)
    assert {tool.name for tool in TOOLS if policy.permits(tool)} == calls_of(SHAPES[0]).keys()


@pytest.mark.parametrize("matching", [*ATOMS, *BROKEN])
async def test_no_filter_reaches_another_tenant(pairs: list[Pair], matching: str) -> None:
    await makes_no_difference(pairs[0], matching)
    await keeps_apart(pairs[0], [("delete", {"filter": matching})])


@given(drawn=DRAWN)
@settings(MANY, max_examples=100)
async def test_tenants_are_kept_apart(pairs: list[Pair], drawn: tuple[int, list[tuple[str, Result]]]) -> None:
    number, steps = drawn
    await keeps_apart(pairs[number], steps)
