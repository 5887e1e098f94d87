"""Ten thousand collections: what a server does grows with what it shows, not with what there is."""

import json
from typing import Any

import pytest
from pymilvus.grpc_gen import milvus_pb2

from mcp_server_milvus.milvus.results import cursor_fingerprint, encode_cursor
from tests.agent import Agent, agent_on, names
from tests.fake_milvus import FakeMilvus, fake_milvus

pytestmark = pytest.mark.anyio

ALL = [f"collection_{number:05}" for number in range(10_000)]
LOOK_UPS = ("DescribeCollection", "GetLoadState", "Query")


def with_all(fake: FakeMilvus, description: str = "") -> None:
    """Ten thousand collections, listed in disorder, each with this description."""
    describe: Any = getattr(fake, "_DescribeCollection")  # noqa: B009  # the RPC's name, which begins like a private one

    def described(request: Any) -> Any:
        response = describe(request)
        response.schema.description = description
        return response

    fake.answers["ShowCollections"] = milvus_pb2.ShowCollectionsResponse(collection_names=ALL[::-1])
    fake.answers["DescribeCollection"] = described


def size(result: dict[str, Any]) -> int:
    return len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode())


async def test_only_the_shown_collections_are_looked_at_and_only_names_are_listed() -> None:
    async with fake_milvus("2.6.4") as fake:
        with_all(fake)
        async with agent_on(fake.uri) as agent:
            await agent.call("describe_collection", collection_name=ALL[5])
            assert not fake.requests("ShowCollections")
            fake.received.clear()
            page = await agent.call("list_collections", limit=20)
            assert names(page["collections"]) == ALL[:20]
            assert "applied_limits" not in page
            assert [len(fake.requests(name)) for name in ("ShowCollections", *LOOK_UPS)] == [1, 20, 20, 20]
            second = await agent.call("list_collections", limit=20, cursor=page["next_cursor"])
            assert names(second["collections"]) == ALL[20:40]
            assert [len(fake.requests(name)) for name in ("ShowCollections", *LOOK_UPS)] == [2, 40, 40, 40]


@pytest.mark.parametrize(
    "description", ["", "what is in it, in words " * 5, "x" * 50_000], ids=["none", "short", "endless"]
)
async def test_pages_keep_to_their_bytes_and_lead_on_to_the_last(description: str) -> None:
    async with fake_milvus("2.6.4") as fake:
        with_all(fake, description)
        async with agent_on(fake.uri, max_result_bytes=8_192) as agent:
            shown = await followed(agent, pages=2)
            assert shown == ALL[: len(shown)]
            assert len(fake.requests("DescribeCollection")) < 2 * 8_192 / len(
                '{"name":"collection_00000","loaded":true}'
            )
            near_the_end = encode_cursor(cursor_fingerprint("list_collections", "default"), ALL[-11])
            assert await followed(agent, pages=5, cursor=near_the_end) == ALL[-10:]


async def followed(agent: Agent, *, pages: int, **arguments: Any) -> list[str]:
    """The collections of so many pages, or of fewer if there are no more."""
    shown: list[str] = []
    for _ in range(pages):
        page = await agent.call("list_collections", limit=1_000, **arguments)
        shown += names(page["collections"])
        assert size(page) <= 8_192
        if "next_cursor" not in page:
            break
        assert f"8192 bytes reached after {len(page['collections'])}" in page["applied_limits"][0]
        arguments = {"cursor": page["next_cursor"]}
    return shown
