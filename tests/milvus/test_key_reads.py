"""Reads by key that come at one time go out together, and no caller notices anything of the others."""

import math
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.errors import Unavailable
from mcp_server_milvus.milvus.key_reads import FEW, MOST_CHARACTERS, Entities, Key, KeyReads
from mcp_server_milvus.settings import load_settings
from tests.agent import UNATTENDED
from tests.milvus.conftest import Agent, Wire
from tests.tenants import A, B, done, told

pytestmark = pytest.mark.anyio


class Asked:
    """What stands for Milvus: it notes the keys of each request, and answers when it is let go."""

    def __init__(self) -> None:
        self.requests: list[list[Key]] = []
        self.failures: list[Exception] = []
        self.let_go = anyio.Event()
        self.state = "old"

    async def send(self, keys: Sequence[Key]) -> Entities:
        self.requests.append(list(keys))
        state = self.state
        await self.let_go.wait()
        if self.failures:
            raise self.failures.pop(0)
        return {key: {"key": key, "state": state} for key in keys}


@pytest.fixture
def asked() -> Asked:
    return Asked()


async def waiting(reads: KeyReads, callers: int) -> None:
    """Waits until so many callers wait for the next request."""
    with anyio.fail_after(5):
        while sum(batch.callers for batch in reads._waiting.values()) < callers:
            await anyio.lowlevel.checkpoint()


async def test_what_comes_while_a_request_is_under_way_is_asked_for_together(asked: Asked) -> None:
    reads, told = KeyReads(), dict[int, Entities]()

    async def one(key: int) -> None:
        told[key] = await reads.read("kind", [key], asked.send, most=lambda: 256)

    async with anyio.create_task_group() as tasks:
        for key in range(5):
            tasks.start_soon(one, key)
        await waiting(reads, 4)
        assert asked.requests == [[0]]
        asked.let_go.set()
    assert asked.requests == [[0], [1, 2, 3, 4]]
    assert {key: entities[key]["key"] for key, entities in told.items()} == {key: key for key in range(5)}
    assert not reads._waiting
    assert not reads._turns


async def test_a_large_read_neither_waits_nor_makes_others_wait(asked: Asked) -> None:
    reads, many = KeyReads(), [*range(100, 101 + FEW)]
    async with anyio.create_task_group() as tasks:
        for keys in ([1], many, [2]):
            tasks.start_soon(lambda keys=keys: reads.read("kind", keys, asked.send, most=lambda: 256))
        await waiting(reads, 1)
        assert asked.requests == [[1], many]
        asked.let_go.set()
    assert asked.requests == [[1], many, [2]]


async def test_other_kinds_do_not_wait_and_are_not_mixed(asked: Asked) -> None:
    reads = KeyReads()
    async with anyio.create_task_group() as tasks:
        for kind in ("a", "b"):
            tasks.start_soon(lambda kind=kind: reads.read(kind, [kind], asked.send, most=lambda: 256))
        with anyio.fail_after(5):
            while len(asked.requests) < 2:
                await anyio.lowlevel.checkpoint()
        asked.let_go.set()
    assert asked.requests == [["a"], ["b"]]


@pytest.mark.parametrize(("keys", "most"), [(["x"], 2), (["x" * (MOST_CHARACTERS // 2)], 256)])
async def test_a_request_made_of_several_is_no_larger_than_it_may_be(asked: Asked, keys: list[Key], most: int) -> None:
    reads = KeyReads()

    async def one(number: int) -> None:
        await reads.read("kind", [f"{key}{number}" for key in keys], asked.send, most=lambda: most)

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(one, number)
        await waiting(reads, 1)
        asked.let_go.set()
    assert sum(map(len, asked.requests)) == 6
    assert max(map(len, asked.requests)) <= most
    assert all(len(repr(keys)) <= MOST_CHARACTERS for keys in asked.requests if len(keys) > 1)


async def test_a_caller_who_leaves_takes_nobody_along(asked: Asked) -> None:
    reads, told = KeyReads(), list[Entities]()

    async def one(key: int) -> None:
        told.append(await reads.read("kind", [key], asked.send, most=lambda: 256))

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as leaving:
        leaving.start_soon(one, 1)
        with anyio.fail_after(5):
            while not asked.requests:
                await anyio.lowlevel.checkpoint()
        leaving.start_soon(one, 2)
        await waiting(reads, 1)
        tasks.start_soon(one, 3)
        await waiting(reads, 2)
        leaving.cancel_scope.cancel()
        asked.let_go.set()
    assert [3 in entities for entities in told] == [True]
    assert not reads._waiting


async def test_nothing_is_kept_of_callers_who_all_leave(asked: Asked) -> None:
    reads = KeyReads()
    async with anyio.create_task_group() as leaving:
        for key in range(3):
            leaving.start_soon(lambda key=key: reads.read("kind", [key], asked.send, most=lambda: 256))
        await waiting(reads, 2)
        leaving.cancel_scope.cancel()
    assert not reads._waiting
    assert not reads._turns
    asked.let_go.set()
    assert (await reads.read("kind", [9], asked.send, most=lambda: 256)).keys() == {9}


async def test_a_failed_request_fails_nobody_but_who_sent_it(asked: Asked) -> None:
    reads, told, failed = KeyReads(), list[int](), list[int]()

    async def one(key: int) -> None:
        try:
            told.append((await reads.read("kind", [key], asked.send, most=lambda: 256))[key]["key"])
        except Unavailable:
            failed.append(key)

    async with anyio.create_task_group() as tasks:
        for key in range(4):
            tasks.start_soon(one, key)
        await waiting(reads, 3)
        asked.failures = [Unavailable("the first"), Unavailable("the second")]
        asked.let_go.set()
    assert failed == [0, 1]
    assert told == [2, 3]


async def test_a_read_that_comes_after_a_write_is_no_part_of_a_request_before_it(asked: Asked) -> None:
    reads, told = KeyReads(), list[Any]()

    async def one() -> None:
        told.append((await reads.read("kind", [1], asked.send, most=lambda: 256))[1]["state"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        with anyio.fail_after(5):
            while not asked.requests:
                await anyio.lowlevel.checkpoint()
        asked.state = "new"
        tasks.start_soon(one)
        await waiting(reads, 1)
        asked.let_go.set()
    assert told == ["old", "new"]


async def test_32_gets_at_once_are_few_queries_and_each_is_told_its_own(lite: Agent, wire: Wire) -> None:
    await lite.call("create_collection", collection_name="kr_many", dimension=2)
    await lite.call(
        "insert",
        collection_name="kr_many",
        data=[{"id": key, "vector": [key, 1], "n": key * key} for key in range(0, 64, 2)],
    )
    await lite.call("get", collection_name="kr_many", ids=[0])
    answers = dict[int, dict[str, Any]]()

    async def one(key: int) -> None:
        answers[key] = await lite.call("get", collection_name="kr_many", ids=[key, key + 1], output_fields=["id", "n"])

    wire.sent.clear()
    async with anyio.create_task_group() as tasks:
        for key in range(0, 64, 2):
            tasks.start_soon(one, key)
    assert answers == {
        key: {"entities": [{"id": key, "n": key * key}], "missing_ids": [key + 1]} for key in range(0, 64, 2)
    }
    assert wire.sent["Query"] < math.ceil(32 / 2)


@pytest.fixture
async def shared(lite_dir: Path) -> AsyncGenerator[App]:
    """A collection with an entity of each of two tenants."""
    async with open_app(load_settings(UNATTENDED | {"data_dir": lite_dir})) as app:
        await done(app, "create_collection", collection_name="kr_shared", dimension=2, id_type="string")
        data = [{"id": f"{each}-1", "vector": [1, 0], "tenant": each} for each in "ab"]
        await done(app, "insert", collection_name="kr_shared", data=data)
        yield app


async def test_callers_who_see_different_entities_never_share_a_request(shared: App) -> None:
    seen = dict[tuple[str, int], Any]()

    async def one(caller: Any, number: int) -> None:
        answer = await told(shared, caller, "get", collection_name="kr_shared", ids=["a-1", "b-1"])
        seen[caller.name, number] = [entity["id"] for entity in answer["entities"]], answer["missing_ids"]

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(one, A, number)
            tasks.start_soon(one, B, number)
    assert seen == {
        (name, number): ([f"{name}-1"], ["b-1" if name == "a" else "a-1"]) for name in "ab" for number in range(8)
    }
