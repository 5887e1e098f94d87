"""What a client reads by address, in both eras of the protocol, and what it is told of changes."""

# pyright: reportDeprecated=false
# Clients of the older protocol subscribe in the older way.

import json
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.subscriptions import InMemorySubscriptionBus, ServerEvent
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import TextResourceContents

from mcp_server_milvus.app import open_app
from mcp_server_milvus.callers import CallerToken
from mcp_server_milvus.guides import GUIDES
from mcp_server_milvus.policy import Caller
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Scope
from tests.agent import UNATTENDED, agent_on
from tests.guided import FIELDS, NOTE, filters_that_fail

pytestmark = pytest.mark.anyio

BAD_ADDRESSES = [
    *("milvus://", "milvus://default", "milvus://default/", "milvus:///books", "milvus://default/books/1/2"),
    *("milvus://guide/none", "file:///etc/passwd", "milvus://default/..%2f..%2fetc", "milvus://default/a%00b"),
    *("milvus://default/%ff", "milvus://default/" + "x" * 10_000, "milvus://no_such_db/books", "nonsense"),
]


async def text_of(client: Client, uri: str) -> str:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.uri == uri
    return content.text


@asynccontextmanager
async def client_of(folder: Path, mode: Any = "auto", **settings: Any) -> AsyncGenerator[Client]:
    chosen = Settings.model_validate(UNATTENDED | {"data_dir": folder} | settings)
    async with open_app(chosen) as app, Client(build_server(app, TOOLS), mode=mode) as client:
        yield client


async def made(client: Client, name: str) -> None:
    """A collection with two entities."""
    data = [{"id": 1, "vector": [1, 0], "title": "Dune"}, {"id": 2, "vector": [0, 1], "title": "Emma"}]
    for tool, more in (("create_collection", {"dimension": 2}), ("insert", {"data": data})):
        result = await client.call_tool(tool, {"collection_name": name, **more})
        assert not result.is_error, result.structured_content


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_collection_and_an_entity_are_read_by_their_addresses(tmp_path: Path, mode: str) -> None:
    async with client_of(tmp_path, mode) as client:
        templates = (await client.list_resource_templates()).resource_templates
        assert [each.uri_template for each in templates] == [
            "milvus://{db}/{collection}",
            "milvus://{db}/{collection}/{id}",
        ]
        await made(client, "res_books")
        described = json.loads(await text_of(client, "milvus://default/res_books"))
        assert (described["collection_name"], described["entity_count"]) == ("res_books", 2)
        read = json.loads(await text_of(client, "milvus://default/res_books/2"))
        assert read["entities"] == [{"id": 2, "title": "Emma"}]
        found = await client.call_tool("search", {"collection_name": "res_books", "vector": [1, 0], "limit": 1})
        assert found.structured_content is not None
        cited = found.structured_content["entity_uri"].replace("{id}", str(found.structured_content["hits"][0]["id"]))
        assert json.loads(await text_of(client, cited))["entities"] == [{"id": 1, "title": "Dune"}]


async def test_an_address_that_leads_nowhere_is_said_to_and_the_session_goes_on(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        await made(client, "res_there")
        for uri in [*BAD_ADDRESSES, "milvus://default/res_there/3", "milvus://default/res_there/abc"]:
            with pytest.raises(MCPError) as refused:
                await client.read_resource(uri)
            assert refused.value.code == -32602, uri
            assert "fault of this server" not in str(refused.value)
        assert await text_of(client, "milvus://guide/filters")


async def test_listing_starts_nothing_and_shows_collections_once_the_database_is_used(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        guides = [f"milvus://guide/{name}" for name in GUIDES]
        assert [each.uri for each in (await client.list_resources()).resources] == guides
        for uri in guides:
            assert 200 < len(await text_of(client, uri)) < 3_072
        assert not list(tmp_path.iterdir())
        await made(client, "res_listed")
        listed = [each.uri for each in (await client.list_resources()).resources]
        assert listed == [*guides, "milvus://default/res_listed"]


async def test_guides_are_true_for_the_backend(tmp_path: Path) -> None:
    async with client_of(tmp_path) as lite, client_of(tmp_path, uri="http://127.0.0.1:9") as server:
        assert "DISKANN" not in await text_of(lite, "milvus://guide/index-types")
        assert "DISKANN" in await text_of(server, "milvus://guide/index-types")
        assert "INT8_VECTOR" not in await text_of(lite, "milvus://guide/schema-design")
        told = await text_of(lite, "milvus://guide/errors")
        assert all(f"- {code}" in told for code in ("not_found", "confirmation_required", "limit_exceeded"))


async def test_who_may_not_call_the_tools_has_no_such_resources(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        await made(client, "res_hidden")
    chosen = Settings.model_validate(UNATTENDED | {"data_dir": tmp_path})
    others = [tool for tool in TOOLS if tool.name not in {"describe_collection", "get"}]
    async with open_app(chosen) as app, Client(build_server(app, others)) as client:
        assert (await client.list_resource_templates()).resource_templates == []
        for uri in ("milvus://default/res_hidden", "milvus://default/res_hidden/1"):
            with pytest.raises(MCPError):
                await client.read_resource(uri)
    async with client_of(tmp_path, collections="other*") as client:
        await client.call_tool("list_collections", {})
        assert all("res_hidden" not in each.uri for each in (await client.list_resources()).resources)
        with pytest.raises(MCPError):
            await client.read_resource("milvus://default/res_hidden/1")


async def test_clients_are_told_when_there_are_other_collections(tmp_path: Path) -> None:
    told: list[str] = []

    async def note(message: Any) -> None:
        told.append(getattr(message, "method", ""))

    chosen = Settings.model_validate(UNATTENDED | {"data_dir": tmp_path})
    async with open_app(chosen) as app, Client(build_server(app, TOOLS), mode="legacy", message_handler=note) as client:
        await made(client, "res_told")
        with anyio.fail_after(10):
            while "notifications/resources/list_changed" not in told:
                await anyio.sleep(0.01)


async def test_who_listens_is_told_of_a_collection_that_changes(tmp_path: Path) -> None:
    uri = "milvus://default/res_heard"
    async with client_of(tmp_path) as client:
        await made(client, "res_heard")
        with anyio.fail_after(20):
            async with client.listen(resource_subscriptions=[uri]) as heard:
                entity = {"id": 3, "vector": [1, 1]}
                await client.call_tool("insert", {"collection_name": "res_heard", "data": [entity]})
                assert await anext(aiter(heard)) == ResourceUpdated(uri=uri)


async def test_over_stdio_a_client_of_the_older_protocol_is_told_of_what_it_has_subscribed_to(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    async def note(message: Any) -> None:
        told.append((getattr(message, "method", ""), getattr(getattr(message, "params", None), "uri", "")))

    uri = "milvus://default/res_subscribed"
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_server_milvus", "--confirm", "never"],
        env={**os.environ, "MILVUS_MCP_DATA_DIR": str(tmp_path / "data")},
        cwd=str(tmp_path),
    )
    async with Client(server, mode="legacy", message_handler=note) as client:
        assert client.server_capabilities.resources is not None
        assert (client.server_capabilities.resources.subscribe, client.server_capabilities.resources.list_changed) == (
            True,
            True,
        )
        await made(client, "res_subscribed")
        for wrong in ("nonsense", "milvus://"):
            with pytest.warns(MCPDeprecationWarning), pytest.raises(MCPError):
                await client.subscribe_resource(wrong)
        with pytest.warns(MCPDeprecationWarning):
            await client.subscribe_resource(uri)
        await client.call_tool("insert", {"collection_name": "res_subscribed", "data": [{"id": 3, "vector": [1, 1]}]})
        with anyio.fail_after(20):
            while ("notifications/resources/updated", uri) not in told:
                await anyio.sleep(0.01)
        assert ("notifications/resources/list_changed", "") in told
        with pytest.warns(MCPDeprecationWarning):
            await client.unsubscribe_resource(uri)
        told.clear()
        await client.call_tool("delete", {"collection_name": "res_subscribed", "ids": [3]})
        await client.call_tool("count", {"collection_name": "res_subscribed"})
        assert ("notifications/resources/updated", uri) not in told


async def test_of_several_callers_none_is_told_what_another_does(tmp_path: Path) -> None:
    bus, told = InMemorySubscriptionBus(), list[ServerEvent]()
    bus.subscribe(told.append)
    chosen = Settings.model_validate(UNATTENDED | {"data_dir": tmp_path})
    async with open_app(chosen) as app:
        async with Client(build_server(app, TOOLS, subscriptions=bus)) as client:
            await made(client, "res_alone")
        assert ResourceUpdated(uri="milvus://default/res_alone") in told
        told.clear()
        ann = CallerToken(token="ann", client_id="ann", scopes=[], caller=Caller("ann", scopes=frozenset(Scope)))
        with somebody(ann):
            async with Client(build_server(app, TOOLS, subscriptions=bus)) as client:
                await made(client, "res_of_ann")
    assert told == []


@contextmanager
def somebody(token: CallerToken) -> Generator[None]:
    """While the block runs, requests are those of this token's caller."""
    before = auth_context_var.set(AuthenticatedUser(token))
    try:
        yield
    finally:
        auth_context_var.reset(before)


async def test_a_guide_is_read_though_the_engine_has_ended(tmp_path: Path) -> None:
    chosen = Settings.model_validate(UNATTENDED | {"data_dir": tmp_path})
    async with open_app(chosen) as app, Client(build_server(app, TOOLS)) as client:
        await made(client, "res_ended")
        assert app.clients.engine is not None
        app.clients.engine.doubt()
        await app.clients.engine.aclose()
        assert "DISKANN" not in await text_of(client, "milvus://guide/index-types")


async def test_every_filter_of_the_guide_is_one_on_milvus_lite(tmp_path: Path) -> None:
    async with agent_on("", data_dir=tmp_path) as each:
        assert await filters_that_fail(each, "guided", [*FIELDS, NOTE]) == {"note is not null": 0}
