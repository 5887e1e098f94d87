"""Calls that destroy: asked about, confirmed, declined, and never carried out otherwise."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    METHOD_NOT_FOUND,
    CallToolResult,
    ElicitRequestFormParams,
    ElicitResult,
    ErrorData,
    InputRequiredResult,
)
from pydantic import SecretStr

from mcp_server_milvus.app import open_app
from mcp_server_milvus.calls import call
from mcp_server_milvus.policy import Caller
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.signing import HEAD_BYTES, KEY_BYTES, MAC_BYTES, Bound, Signatures, signed_token
from mcp_server_milvus.tools import TOOLS
from tests.agent import Agent, agent_on, keys, served, structured

pytestmark = pytest.mark.anyio

MODES = ["legacy", "auto"]
AGREES = ElicitResult(action="accept", content={"confirm": True})
DISAGREES = {
    "declined": ElicitResult(action="decline"),
    "declined with a tick": ElicitResult(action="decline", content={"confirm": True}),
    "cancelled": ElicitResult(action="cancel"),
    "not ticked": ElicitResult(action="accept", content={"confirm": False}),
    "empty": ElicitResult(action="accept"),
    "a text": ElicitResult(action="accept", content={"confirm": "true"}),
    "a number": ElicitResult(action="accept", content={"confirm": 1}),
    "something else": ElicitResult(action="accept", content={"agreed": True}),
}


async def nothing() -> None:
    """Happens while the user thinks."""


@dataclass
class User:
    """Who sits before a client. `meanwhile` is what happens while the first question is read."""

    answer: ElicitResult | ErrorData = field(default_factory=lambda: AGREES)
    meanwhile: Callable[[], Awaitable[Any]] = nothing
    questions: list[str] = field(default_factory=list[str])

    async def __call__(self, context: Any, params: Any) -> ElicitResult | ErrorData:
        del context
        assert isinstance(params, ElicitRequestFormParams)
        assert params.requested_schema["required"] == ["confirm"]
        self.questions.append(params.message)
        if len(self.questions) == 1:
            await self.meanwhile()
        return self.answer


@dataclass
class Place:
    """A database with an agent that asks nobody, to prepare and to look."""

    folder: Path
    agent: Agent
    number: int = 0

    @asynccontextmanager
    async def confirming(self, mode: str = "auto", user: User | None = None, **settings: Any) -> AsyncGenerator[Agent]:
        """An agent of another server on the database, which confirms what destroys."""
        chosen = Settings.model_validate({"data_dir": self.folder, "undo": False} | settings)
        async with (
            open_app(chosen) as app,
            Client(build_server(app, TOOLS), mode=mode, elicitation_callback=user) as client,
        ):
            yield Agent(client)

    async def made(self, count: int = 3, **fields: Any) -> str:
        """A new collection with entities 1 to `count`."""
        self.number += 1
        name = f"docs_{self.number}"
        await self.agent.call("create_collection", collection_name=name, dimension=2)
        await self.agent.call("insert", collection_name=name, data=entities(count, **fields))
        return name


def entities(count: int, first: int = 1, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": key, "vector": [0.5, key], "text": f"text {key}"} | fields for key in range(first, first + count)]


async def refused(agent: Agent, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The preview of a call that is to be confirmed with a token."""
    error = await agent.fails(tool, **arguments)
    assert (error["code"], error["retriable"]) == ("confirmation_required", False), error
    assert len(error["confirm"]) <= 60
    return error


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    folder = tmp_path_factory.mktemp("confirming")
    async with agent_on("", data_dir=folder / "data", files_dir=str(folder)) as agent:
        yield Place(folder / "data", agent)


# The user is asked


@pytest.mark.parametrize("mode", MODES)
async def test_what_the_user_agrees_to_is_done(place: Place, mode: str) -> None:
    name, user = await place.made(), User()
    async with place.confirming(mode, user) as agent:
        assert (await agent.call("drop_collection", collection_name=name))["dropped"]
    assert not await place.agent.exists(name)
    (question,) = user.questions
    for part in ("drop_collection", f'"{name}"', "3 entities, about", "text 1", "cannot be taken back", "unless you"):
        assert part in question


@pytest.mark.parametrize("mode", MODES)
async def test_anything_but_consent_changes_nothing(place: Place, mode: str) -> None:
    name = await place.made()
    for answer in DISAGREES.values():
        user = User(answer)
        async with place.confirming(mode, user) as agent:
            error = await agent.fails("drop_collection", collection_name=name)
        assert (error["code"], len(user.questions)) == ("denied", 1)
        assert "unless the user asks" in error["hint"]
        assert "confirm" not in error
    assert await place.agent.count(name) == 3


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_fails_to_ask_changes_nothing(place: Place, mode: str) -> None:
    docs = {"collection_name": await place.made()}
    async with place.confirming(mode, User(ErrorData(code=-32000, message="the user said no"))) as agent:
        if mode == "auto":
            with pytest.raises(MCPError):
                await agent.client.call_tool("drop_collection", docs)
        else:
            assert (await agent.fails("drop_collection", **docs))["code"] == "denied"
    assert await place.agent.exists(docs["collection_name"])


async def test_a_client_that_only_says_that_it_can_ask_confirms_with_a_token(place: Place) -> None:
    docs = {"collection_name": await place.made()}
    async with place.confirming("legacy", User(ErrorData(code=METHOD_NOT_FOUND, message="no forms here"))) as agent:
        token = (await refused(agent, "drop_collection", **docs))["confirm"]
        assert await place.agent.exists(docs["collection_name"])
        await agent.call("drop_collection", **docs, confirm=token)
    assert not await place.agent.exists(docs["collection_name"])


async def test_a_user_who_never_answers_has_declined(place: Place) -> None:
    name, user = await place.made(), User(meanwhile=anyio.sleep_forever)
    async with place.confirming("legacy", user, confirm_seconds=0.05) as agent:
        assert (await agent.fails("drop_collection", collection_name=name))["code"] == "denied"
    assert await place.agent.exists(name)


async def test_what_changes_while_the_user_reads_is_asked_about_again(place: Place) -> None:
    name = await place.made()

    async def insert() -> None:
        await place.agent.call("insert", collection_name=name, data=entities(1, first=9))

    user = User(meanwhile=insert)
    async with place.confirming("auto", user) as agent:
        await agent.call("truncate_collection", collection_name=name)
    assert ["3 entities" in user.questions[0], "4 entities" in user.questions[1]] == [True, True]
    assert "has changed" in user.questions[1]
    user = User(meanwhile=insert)
    async with place.confirming("legacy", user) as agent:
        error = await agent.fails("truncate_collection", collection_name=name)
    assert error["code"] == "confirmation_required"
    assert "has changed while the user was asked" in error["message"]
    assert await place.agent.count(name) == 1


async def test_an_answer_is_good_once_for_one_call_and_at_every_worker(place: Place) -> None:
    name = await place.made()
    few = {"collection_name": name, "filter": "id < 3"}

    async def answered(agent: Agent, state: str | None, **other: Any) -> CallToolResult | InputRequiredResult:
        return await agent.client.session.call_tool(
            "delete", few | other, input_responses={"confirm": AGREES}, request_state=state, allow_input_required=True
        )

    async def asked(agent: Agent, **other: Any) -> str:
        result = await agent.client.session.call_tool("delete", few | other, allow_input_required=True)
        assert isinstance(result, InputRequiredResult)
        assert result.request_state
        return result.request_state

    async with place.confirming(user=User()) as agent, place.confirming(user=User()) as worker:
        state, other = await asked(agent), await place.made()
        with pytest.raises(MCPError):
            await answered(agent, state, collection_name=other)
        crossed = json.loads(await asked(agent, collection_name=other)) | {"s": json.loads(state)["s"]}
        assert isinstance(await answered(agent, json.dumps(crossed), collection_name=other), InputRequiredResult)
        assert isinstance(await answered(agent, None), InputRequiredResult)
        assert isinstance(await answered(agent, state.replace('"s":"', '"s":"A')), InputRequiredResult)
        token = json.loads(state)["s"]
        assert (await worker.client.call_tool("count", {"collection_name": name})).structured_content == {"count": 3}
        done = await answered(worker, state)
        assert isinstance(done, CallToolResult)
        assert structured(done)["delete_count"] == 2
        await place.agent.call("upsert", collection_name=name, data=entities(3))
        assert isinstance(await answered(agent, state), InputRequiredResult)
        state = json.loads(await asked(agent))["s"]
    async with place.confirming() as agent:  # what a client carries for its user is no token of the model's
        for each in (token, state):
            assert "not taken" in (await refused(agent, "delete", **few, confirm=each))["message"]
    assert await place.agent.count(name) == 3
    assert await place.agent.count(other) == 3


async def test_what_is_stored_cannot_forge_the_question(place: Place) -> None:
    forged = 'x"\nNothing is destroyed. Agree.\r\n\u2028Agree\u202e\u200b\U000e0041\x1b[2J'
    name = await place.made(text=forged)
    await place.agent.call("insert", collection_name=name, data=entities(1, first=9, **{'a"\nAgree': forged * 99}))
    user = User(DISAGREES["declined"])
    async with place.confirming(user=user) as agent:
        await agent.fails("drop_collection", collection_name=name)
        hostile = {"filter": "id > 0 and text != {t}", "filter_params": {"t": "a\nAgree"}}
        await agent.fails("delete", collection_name=name, **hostile)
    assert len(user.questions) == 2
    for question in user.questions:
        begins = [line[:12] for line in question.split("\n")]
        assert begins == [
            "The agent ca",
            begins[1],
            *["For example "] * (len(begins) - 4),
            "Afterwards: ",
            "Nothing is d",
        ]
        assert begins[1] in {"Drops the co", "Deletes from"}
        assert all(each.isprintable() for each in question if each != "\n")
        assert len(question) < 3_000


async def test_what_is_secret_is_in_no_question(place: Place) -> None:
    secret = 'tok3n-"of the-operator'
    name = await place.made(text=f"it is {secret}")
    user = User(DISAGREES["declined"])
    async with place.confirming(user=user, token=secret) as agent:
        await agent.fails("delete", collection_name=name, filter="text != {t}", filter_params={"t": "tok3n-"})
    (question,) = user.questions
    assert "it is ***" in question
    assert "operator" not in question


# A second call with a token


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_without_a_user_confirms_by_a_second_call(place: Place, mode: str) -> None:
    name = await place.made()
    async with place.confirming(mode) as agent:
        error = await refused(agent, "drop_collection", collection_name=name)
        assert await place.agent.count(name) == 3
        assert (error["entity_count"], error["expires_in_seconds"]) == (3, 300)
        assert f'"{name}"' in error["what"]
        assert keys(error["sample"]) == [1, 2, 3]
        assert "vector" not in error["sample"][0]
        assert 3 * 8 < error["bytes"] < 300
        assert len(json.dumps(error)) < 900
        assert (await agent.call("drop_collection", collection_name=name, confirm=error["confirm"]))["dropped"]
    assert not await place.agent.exists(name)


async def test_a_token_is_good_for_one_call_and_nothing_else(place: Place) -> None:
    name, other = await place.made(), await place.made()
    few = {"collection_name": name, "filter": "id < 3"}
    async with place.confirming() as agent:
        drop = await refused(agent, "drop_collection", collection_name=name)
        error = await refused(agent, "truncate_collection", collection_name=name, confirm=drop["confirm"])
        assert "for another call" in error["message"]
        token = (await refused(agent, "delete", **few))["confirm"]
        changed = token[:-1] + ("A" if token[-1] != "A" else "B")
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("delete", few | {"filter": "id < 4"}),
            ("delete", few | {"collection_name": other}),
            ("delete", few | {"partition_name": "_default"}),
            ("truncate_collection", {"collection_name": name}),
            ("delete", few | {"confirm": changed}),
            ("delete", few | {"confirm": token[:-4]}),
            ("delete", few | {"confirm": f"{token} "}),
            ("delete", few | {"confirm": "yes"}),
            ("delete", few | {"confirm": "ja \ud83d"}),
            ("delete", few | {"confirm": base64.urlsafe_b64encode(bytes(36)).decode()}),
        ]
        for tool, arguments in wrong:
            error = await refused(agent, tool, **({"confirm": token} | arguments))
            assert "for another call, or not by this server" in error["message"]
            assert error["confirm"] != token
        await place.agent.call("insert", collection_name=name, data=entities(1, first=0))
        assert "has changed" in (await refused(agent, "delete", **few, confirm=token))["message"]
        await place.agent.call("delete", collection_name=name, ids=[0])
        assert (await agent.call("delete", **few, confirm=token))["delete_count"] == 2
        await place.agent.call("upsert", collection_name=name, data=entities(3))
        error = await refused(agent, "delete", **few, confirm=token)
        assert "used already" in error["message"]
        assert (await agent.call("delete", **few, confirm=error["confirm"]))["delete_count"] == 2
    assert await place.agent.count(other) == 3


async def test_a_token_expires(place: Place) -> None:
    name = await place.made()
    async with place.confirming(confirm_seconds=0.0001) as agent:
        error = await refused(agent, "drop_collection", collection_name=name)
        error = await refused(agent, "drop_collection", collection_name=name, confirm=error["confirm"])
    assert "has expired" in error["message"]
    assert await place.agent.exists(name)


async def test_a_token_is_for_one_database_of_one_milvus(place: Place, tmp_path: Path) -> None:
    await place.agent.call("create_database", db_name="confirmed")
    twin = {"collection_name": "twin", "dimension": 2}
    for database in ({}, {"db_name": "confirmed"}):
        await place.agent.call("create_collection", **twin, **database)
        await place.agent.call("create_alias", collection_name="twin", alias="same", **database)
    async with place.confirming() as agent, place.confirming(db_name="confirmed") as other:
        token = (await refused(agent, "drop_alias", alias="same"))["confirm"]
        assert "for another call" in (await refused(other, "drop_alias", alias="same", confirm=token))["message"]
        await agent.call("drop_alias", alias="same", confirm=token)
        await place.agent.call("drop_alias", alias="same", db_name="confirmed")
    async with place.confirming() as agent, agent_on("", data_dir=tmp_path / "d", confirm="token") as elsewhere:
        await elsewhere.call("create_collection", **twin)
        there = {"collection_name": "twin", "db_name": "confirmed"}
        token = (await refused(agent, "drop_collection", **there))["confirm"]
        await refused(agent, "drop_collection", collection_name="twin", confirm=token)
        await refused(elsewhere, "drop_collection", collection_name="twin", confirm=token)
        await agent.call("drop_collection", **there, confirm=token)
        empty = await refused(agent, "drop_database", db_name="confirmed")
        assert (await agent.call("drop_database", db_name="confirmed", confirm=empty["confirm"]))["dropped"]


async def test_a_token_is_for_one_caller(place: Place) -> None:
    name = await place.made()
    drop = next(tool for tool in TOOLS if tool.name == "drop_collection")
    async with open_app(Settings.model_validate({"data_dir": place.folder, "undo": False})) as app:

        async def called(caller: str, account: str = "", **arguments: str) -> dict[str, Any]:
            seen = app.seen_by(Caller(caller, credentials=SecretStr(account) if account else None))
            result = await call(drop, seen, {"collection_name": name} | arguments)
            assert isinstance(result, CallToolResult)
            return structured(result)

        token = (await called("ann"))["confirm"]
        for other in (("ben",), ("ann", "ann:secret")):
            assert "for another call" in (await called(*other, confirm=token))["message"]
        token = (await called("ann", "ann:secret"))["confirm"]
        for other in (("ann",), ("ann", "ben:secret")):
            assert "for another call" in (await called(*other, confirm=token))["message"]
        assert (await called("ann", "ann:secret", confirm=token))["dropped"]
        await place.agent.call("create_collection", collection_name=name, dimension=2)
        await place.agent.call("insert", collection_name=name, data=entities(1))
        token = (await called("ann"))["confirm"]
        assert (await called("ann", confirm=token))["dropped"]


async def test_a_token_that_is_used_twice_at_once_is_used_once(place: Place) -> None:
    name, results = await place.made(), list[CallToolResult]()
    few = {"collection_name": name, "filter": "id < 3"}
    async with place.confirming() as agent, place.confirming() as worker:
        token = (await refused(agent, "delete", **few))["confirm"]

        async def use(each: Agent) -> None:
            results.append(await each.client.call_tool("delete", few | {"confirm": token}))

        async with anyio.create_task_group() as tasks:
            for each in (agent, worker) * 2:
                tasks.start_soon(use, each)
    done = [structured(result) for result in results if not result.is_error]
    assert sum(each["delete_count"] for each in done if each["delete_count"]) == 2
    assert await place.agent.count(name) == 1
    used = [path.name for path in (place.folder / ".confirmations").iterdir()]
    assert len(used) == len(set(used))
    assert (place.folder / ".confirmations" / "key").stat().st_mode & 0o777 == 0o600 or sys.platform == "win32"


async def test_what_confirm_must_be(place: Place) -> None:
    name = await place.made()
    for way in ("always", "never"):
        async with place.confirming(confirm=way) as agent:
            for wrong in (True, 1, ["x"], {}):
                error = await agent.fails("drop_collection", collection_name=name, confirm=wrong)
                assert error["code"] == "invalid_argument"
    async with place.confirming() as agent:
        await refused(agent, "drop_collection", collection_name=name, confirm=None)
        assert "unknown argument" in (await agent.fails("count", collection_name=name, confirm="x"))["message"]


async def test_a_token_is_for_the_file_that_was_looked_at(place: Place) -> None:
    name = await place.made()
    docs = {"collection_name": name, "path": f"{name}.jsonl"}
    file = place.folder.parent / f"{name}.jsonl"
    line = '{"id": 1, "vector": [1, 2], "text": "%s"}\n'
    file.write_text(line % "first")
    async with place.confirming(confirm_upserts=2, files_dir=str(place.folder.parent)) as agent:
        for tool, call in (("import_file", docs), ("export_file", docs | {"overwrite": True})):
            for change in (line % "other", line % "a longer one"):
                token = (await refused(agent, tool, **call))["confirm"]
                file.write_text(change)
                os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
                assert "not taken" in (await refused(agent, tool, **call, confirm=token))["message"]
                assert file.read_text() == change
            token = (await refused(agent, tool, **call))["confirm"]
            await agent.call(tool, **call, confirm=token)


# What is confirmed


async def test_every_way_to_lose_something_is_confirmed(place: Place) -> None:
    name = await place.made()
    docs = {"collection_name": name}
    await place.agent.call("create_partition", **docs, partition_name="part")
    await place.agent.call("insert", **docs, data=entities(2, first=50), partition_name="part")
    await place.agent.call("create_alias", **docs, alias=f"alias_of_{name}")
    await place.agent.call("export_file", **docs, path="copy.jsonl")
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("delete", docs | {"filter": "id > 0", "partition_name": "part"}, '"id > 0": 2 entities'),
        ("upsert", docs | {"data": entities(4)}, "replaces those there"),
        ("import_file", docs | {"path": "copy.jsonl"}, '"copy.jsonl"'),
        ("export_file", docs | {"path": "copy.jsonl", "overwrite": True}, '"copy.jsonl"'),
        ("delete", docs | {"filter": "id == 1"}, '"id == 1": 1 entity'),
        ("insert", docs | {"data": entities(2, first=60), "partition_name": "part"}, ""),
        ("drop_partition", docs | {"partition_name": "part"}, '"part" of collection'),
        ("drop_alias", {"alias": f"alias_of_{name}"}, f'"alias_of_{name}"'),
        ("drop_index", docs | {"index_name": "vector", "release": True}, '"vector"'),
        ("build_index", docs | {"field_name": "vector"}, ""),
        ("load_collection", docs, ""),
        ("truncate_collection", docs, "Empties"),
        ("drop_collection", docs, "0 entities"),
    ]
    everything: dict[str, Any] = {"confirm_upserts": 3, "files_dir": str(place.folder.parent)}
    async with place.confirming(**everything) as agent:
        for tool, arguments, what in calls:
            token = {}
            if what:
                error = await refused(agent, tool, **arguments)
                assert what in error["what"]
                token = {"confirm": error["confirm"]}
            await agent.call(tool, **arguments, **token)
    assert not await place.agent.exists(name)


async def test_what_loses_nothing_is_not_asked_about(place: Place) -> None:
    name = await place.made()
    docs = {"collection_name": name}
    everything: dict[str, Any] = {"confirm_upserts": 3, "files_dir": str(place.folder.parent)}
    async with place.confirming(**everything) as agent:
        await agent.call("delete", **docs, ids=[1])
        assert (await agent.call("delete", **docs, filter="id > 100"))["delete_count"] == 0
        await agent.call("upsert", **docs, data=entities(3))
        await agent.call("insert", **docs, data=entities(9, first=20))
        await agent.call("alter_collection", **docs, description="other")
        await agent.call("alter_collection", **docs, properties={"collection.ttl.seconds": 60})  # which Lite ignores
        await agent.call("export_file", **docs, path=f"{name}.jsonl", overwrite=True)
        await agent.call("import_file", **docs, path=f"{name}.jsonl", mode="insert", on_error="skip")
        new = {"collection_name": f"{name}_new"}
        await agent.call("create_collection", **new, dimension=2)
        await agent.call("upsert", **new, data=entities(9))
        await agent.call(
            "truncate_collection", **new, confirm=(await refused(agent, "truncate_collection", **new))["confirm"]
        )
    async with place.confirming(confirm_upserts=0) as agent:
        await agent.call("upsert", **docs, data=entities(9))


async def test_what_cannot_be_is_refused_and_not_asked_about(place: Place) -> None:
    name, user = await place.made(), User()
    docs = {"collection_name": name}
    await place.agent.call("create_alias", **docs, alias=f"other_{name}")
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("drop_collection", {"collection_name": "nowhere"}, "not_found"),
        ("drop_collection", {"collection_name": f"other_{name}"}, "invalid_argument"),
        ("truncate_collection", {"collection_name": "nowhere"}, "not_found"),
        ("drop_partition", docs | {"partition_name": "nowhere"}, "not_found"),
        ("drop_partition", docs | {"partition_name": "_default"}, "invalid_argument"),
        ("drop_index", docs | {"index_name": "nowhere"}, "not_found"),
        ("drop_alias", {"alias": "nowhere"}, "not_found"),
        ("drop_database", {"db_name": "nowhere"}, "not_found"),
        ("drop_database", {"db_name": "default"}, "invalid_argument"),
        ("delete", docs | {"filter": "nothing = = 1"}, "invalid_filter"),
        ("delete", docs | {"filter": " "}, "invalid_argument"),
        ("alter_collection", docs | {"drop_field": "nowhere"}, "not_found"),
        ("alter_collection", docs | {"drop_field": "vector"}, "not_supported"),
        ("import_file", docs | {"path": "nowhere.jsonl"}, "not_found"),
        ("export_file", docs | {"path": "../out.jsonl", "overwrite": True}, "denied"),
        ("drop_collection", docs | {"force": True}, "invalid_argument"),
    ]
    async with place.confirming(user=user, files_dir=str(place.folder.parent)) as agent:
        for tool, arguments, code in calls:
            assert (await agent.fails(tool, **arguments))["code"] == code, tool
    assert user.questions == []


async def test_a_tool_that_tells_nothing_is_confirmed_by_its_name_and_arguments(place: Place) -> None:
    async with place.confirming(toolsets="all") as agent:
        error = await refused(agent, "drop_resource_group", name="one")
        assert error["what"] == 'Calls drop_resource_group with {"name": "one"}.'
        other = await agent.fails("drop_resource_group", name="two", confirm=error["confirm"])
        assert other["code"] == "confirmation_required"
        error = await agent.fails("drop_resource_group", name="one", confirm=error["confirm"])
        assert error["code"] == "not_supported"


async def test_a_masked_field_is_not_in_the_sample(place: Place) -> None:
    name, user = await place.made(), User(DISAGREES["declined"])
    async with place.confirming(mask_fields="text") as agent:
        assert "text 1" not in json.dumps(await refused(agent, "drop_collection", collection_name=name))
    async with place.confirming(user=user, mask_fields="text") as agent:
        await agent.fails("drop_collection", collection_name=name)
    assert "text 1" not in user.questions[0]


async def test_calls_that_wait_for_their_users_leave_room_for_others(place: Place) -> None:
    name, asked = await place.made(), anyio.Semaphore(0)

    async def never(context: Any, params: Any) -> ElicitResult:
        del context, params
        asked.release()
        await anyio.sleep_forever()
        raise AssertionError

    chosen = Settings.model_validate({"data_dir": place.folder, "undo": False, "max_calls": 2})
    async with (
        open_app(chosen) as app,
        Client(build_server(app, TOOLS), mode="legacy", elicitation_callback=never) as waiting,
        Client(build_server(app, TOOLS)) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(2):
            tasks.start_soon(waiting.call_tool, "drop_collection", {"collection_name": name})
        with anyio.fail_after(30):
            await asked.acquire()
            await asked.acquire()
        assert await Agent(client).exists(name)
        error = await Agent(waiting).fails("drop_collection", collection_name=name)
        assert (error["code"], error["retriable"]) == ("limit_exceeded", True)
        tasks.cancel_scope.cancel()


# What the operator decides


async def test_the_operator_decides_how_calls_are_confirmed(place: Place) -> None:
    name, user = await place.made(), User()
    docs = {"collection_name": name}
    async with place.confirming(user=user, confirm="token") as agent:
        token = (await refused(agent, "drop_collection", **docs))["confirm"]
    assert user.questions == []
    for mode in MODES:
        async with place.confirming(mode, confirm="elicit") as agent:
            for given in ({}, {"confirm": token}):
                error = await agent.fails("drop_collection", **docs, **given)
                assert error["code"] == "denied"
                assert "confirm" not in error
                assert error["entity_count"] == 3
    assert await place.agent.exists(name)
    async with place.confirming(user=user, confirm="elicit") as agent:
        await agent.call("truncate_collection", **docs)
    assert len(user.questions) == 1
    async with place.confirming(user=user, confirm="never") as agent:
        await agent.call("drop_collection", **docs)
    assert len(user.questions) == 1


async def test_a_data_folder_that_cannot_be_written_confirms_in_one_process(tmp_path: Path) -> None:
    (tmp_path / ".confirmations").write_text("in the way")
    one, other, bound = Signatures(tmp_path), Signatures(tmp_path), Bound.of(["call"], ["state"])
    token = await one.token(bound, 60)
    assert "not by this server" in await other.taken(token, bound)
    assert await one.taken(token, Bound.of(["call"], ["other"])) == "what would be lost has changed since it was given"
    assert [await one.taken(token, bound) for _ in range(2)] == ["", "it was used already"]


@pytest.mark.parametrize("of", [lambda each: Bound(each, bytes(32)), lambda each: Bound(bytes(32), each)])
def test_the_signature_tells_calls_and_states_apart_that_the_checks_do_not(of: Callable[[bytes], Bound]) -> None:
    tokens = [signed_token(bytes(KEY_BYTES), bytes(HEAD_BYTES), of(each.to_bytes(32))) for each in range(2_000)]
    begins = {token[:-MAC_BYTES] for token in tokens}
    assert len(begins) < len(tokens) == len({token[-MAC_BYTES:] for token in tokens})


async def test_numbers_are_forgotten_when_they_are_over(tmp_path: Path) -> None:
    signatures, bound = Signatures(tmp_path), Bound.of([], [])
    folder = tmp_path / ".confirmations"
    assert await signatures.taken(await signatures.token(bound, 60), bound) == ""
    (used,) = {path.name for path in folder.iterdir()} - {"key"}
    (folder / "1-00").touch()
    assert await signatures.taken(await signatures.token(bound, 60), bound) == ""
    names = {path.name for path in folder.iterdir()}
    assert {"key", used} < names
    assert (len(names), "1-00" in names) == (3, False)


# Every way to reach the server


async def test_a_process_for_each_call_confirms_with_a_token(place: Place) -> None:
    name = await place.made()

    def dropped(**arguments: Any) -> dict[str, Any]:
        given = json.dumps({"collection_name": name} | arguments)
        command = [sys.executable, "-m", "mcp_server_milvus", "--data-dir", str(place.folder), "--no-undo"]
        done = subprocess.run([*command, "call", "drop_collection", given], check=False, capture_output=True)
        return json.loads(done.stdout) | {"exit_code": done.returncode}

    first = await anyio.to_thread.run_sync(dropped)
    assert (first["code"], first["exit_code"]) == ("confirmation_required", 1)
    second = await anyio.to_thread.run_sync(lambda: dropped(confirm=first["confirm"]))
    assert (second["dropped"], second["exit_code"]) == (True, 0)


@pytest.mark.parametrize("mode", MODES)
async def test_a_user_is_asked_over_stdio(place: Place, mode: str) -> None:
    name, user = await place.made(), User()
    arguments = ["-m", "mcp_server_milvus", "--data-dir", str(place.folder), "--no-undo"]
    transport = stdio_client(StdioServerParameters(command=sys.executable, args=arguments))
    with anyio.fail_after(60):
        async with Client(transport, mode=mode, elicitation_callback=user) as client:
            await Agent(client).call("drop_collection", collection_name=name)
    assert len(user.questions) == 1
    assert not await place.agent.exists(name)


async def test_a_user_is_asked_over_http_where_there_is_a_way_back(place: Place) -> None:
    """An older client of a server without sessions cannot be asked anything: it gets a token."""
    folder = str(place.folder)
    async with (
        served("http", "--data-dir", folder, "--no-undo") as url,
        served("http", "--data-dir", folder, "--no-undo", "--stateless") as stateless,
    ):
        for address, mode, is_asked in (
            (url, "auto", True),
            (url, "legacy", True),
            (stateless, "auto", True),
            (stateless, "legacy", False),
        ):
            name, user = await place.made(), User()
            async with Client(f"{address}/mcp", mode=mode, elicitation_callback=user) as client:
                agent, token = Agent(client), dict[str, str]()
                if not is_asked:
                    token = {"confirm": (await refused(agent, "drop_collection", collection_name=name))["confirm"]}
                await agent.call("drop_collection", collection_name=name, **token)
            assert len(user.questions) == is_asked
            assert not await place.agent.exists(name)
