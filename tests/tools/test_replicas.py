"""Resource groups: Milvus Lite has none, and says so before it is asked for any."""

from typing import Any

import pytest

from tests.agent import Agent

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("list_resource_groups", {}),
        ("create_resource_group", {"name": "g"}),
        ("create_resource_group", {"name": "g", "config": {"limits": {"node_num": 2}, "transfer_from": ["other"]}}),
        ("update_resource_groups", {"configs": {"g": {"requests": {"node_num": 1}}}}),
        ("drop_resource_group", {"name": "g"}),
    ],
)
async def test_milvus_lite_has_no_resource_groups(agent: Agent, tool: str, arguments: dict[str, Any]) -> None:
    error = await agent.fails(tool, **arguments)
    assert error["code"] == "not_supported"
    assert "resource groups" in error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"request": {"node_num": 1}}, "config.request"),
        ({"requests": 1}, "config.requests"),
        ({"limits": {"node_num": "2"}}, "config.limits.node_num"),
        ({"transfer_from": ["../x"]}, "is not a name"),
    ],
)
async def test_a_configuration_that_milvus_has_not_is_refused(agent: Agent, config: dict[str, Any], said: str) -> None:
    error = await agent.fails("create_resource_group", name="g", config=config)
    assert (error["code"], said in error["message"]) == ("invalid_argument", True)
