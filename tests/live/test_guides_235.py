"""The guide of filters on the real Milvus 2.3.5."""

import pytest

from tests.agent import agent_on
from tests.guided import FIELDS, filters_that_fail

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]


async def test_every_filter_of_the_guide_is_one_on_milvus_235(milvus_235: str) -> None:
    async with agent_on(milvus_235) as agent:
        assert await filters_that_fail(agent, "guided_235", FIELDS) == {}
