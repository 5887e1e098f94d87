"""A mixed load of many clients at once, which keeps account of what each of them was told."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from tests.milvus.conftest import Agent, eventually

CLIENTS = 32
OWN_KEYS, MADE_KEYS = "load_own_keys", "load_made_keys"
KEYS_OF_ONE = 100_000
"""Clients never write the same key."""

NOT_SENT = "could not reach"
KNOWN = frozenset({"milvus_unavailable", "deadline_exceeded", "partial_write", "limit_exceeded"})
"""What a call may be told by a Milvus that goes away."""

BROKEN_OFF = "look before repeating"

PATIENCE = 60
"""Seconds in which every condition comes true, on a machine that does other things too."""


@dataclass
class Load:
    """Clients that insert, upsert, get, search and delete, each its own entities, one call after the other.

    `may_be` has the versions that each key may have (None: no entity), one where all is known; `made` how many entities
    each mark may have, in a collection whose keys Milvus makes. What is uncertain is written no more: it may still
    happen.
    """

    agent: Agent
    may_be: dict[int, set[int | None]] = field(default_factory=dict[int, set[int | None]])
    made: dict[int, set[int]] = field(default_factory=dict[int, set[int]])
    codes: Counter[str] = field(default_factory=Counter[str])
    known: frozenset[str] = KNOWN
    slowest: float = 0
    answered: int = 0
    ending: bool = False

    async def prepare(self) -> None:
        key = {"name": "id", "type": "INT64", "is_primary": True}
        others = [{"name": "version", "type": "INT64"}, {"name": "vector", "type": "FLOAT_VECTOR", "dim": 4}]
        await self.agent.call("create_collection", collection_name=OWN_KEYS, fields=[key, *others])
        await self.agent.call("create_collection", collection_name=MADE_KEYS, fields=[key | {"auto_id": True}, *others])

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """The clients call while the block runs. Afterwards every call has ended."""
        async with anyio.create_task_group() as clients:
            for number in range(CLIENTS):
                clients.start_soon(self._client, number * KEYS_OF_ONE)
            yield
            self.ending = True

    async def more(self, answers: int = 1) -> float:
        """Seconds until so many more calls were answered."""
        began, wanted = anyio.current_time(), self.answered + answers
        await eventually(lambda: self.answered >= wanted, within=PATIENCE)
        return anyio.current_time() - began

    async def verify(self) -> None:
        """What is there is what was acknowledged, and perhaps what is uncertain, and nothing of it twice."""
        found = await self.agent.found(OWN_KEYS, output_fields=["id", "version"])
        there = {entity["id"]: entity["version"] for entity in found}
        assert len(there) == len(found)
        wrong = {key: (there.get(key), told) for key, told in self.may_be.items() if there.get(key) not in told}
        assert not wrong, list(wrong.items())[:20]
        assert there.keys() <= self.may_be.keys()
        marks = Counter(entity["version"] for entity in await self.agent.found(MADE_KEYS, output_fields=["version"]))
        assert not {mark: (marks[mark], told) for mark, told in self.made.items() if marks[mark] not in told}
        assert marks.keys() <= self.made.keys()

    async def _client(self, key: int) -> None:
        vector = [1.0, 2.0, 3.0, float(key % 7)]
        while not self.ending:
            key += 1
            await self._insert_made(key, vector)
            self.may_be[key] = {None}
            await self._write("insert", key, 1, data=[{"id": key, "version": 1, "vector": vector}])
            await self._write("upsert", key, 2, data=[{"id": key, "version": 2, "vector": vector}])
            await self._call("search", collection_name=OWN_KEYS, vector=vector, limit=3)
            if key % 3 == 0:
                await self._write("delete", key, None, ids=[key])

    async def _insert_made(self, mark: int, vector: list[float]) -> None:
        result = await self._call("insert", collection_name=MADE_KEYS, data=[{"version": mark, "vector": vector}])
        self.made[mark] = {0, 1} if is_uncertain(result) else {int("code" not in result)}

    async def _get(self, key: int) -> None:
        result = await self._call("get", collection_name=OWN_KEYS, ids=[key], output_fields=["version"])
        if "code" not in result:
            version = result["entities"][0]["version"] if result["entities"] else None
            assert version in self.may_be[key], (key, version, self.may_be[key])

    async def _write(self, tool: str, key: int, version: int | None, **arguments: Any) -> None:
        if len(self.may_be[key]) > 1:
            return
        result = await self._call(tool, collection_name=OWN_KEYS, **arguments)
        if is_uncertain(result):
            self.may_be[key] |= {version}
        elif "code" not in result:
            self.may_be[key] = {version}
        await self._get(key)

    async def _call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        began = anyio.current_time()
        result = await self.agent.client.call_tool(tool, arguments)
        self.slowest = max(self.slowest, anyio.current_time() - began)
        assert result.structured_content is not None
        told = result.structured_content
        if result.is_error:
            self.codes[told["code"]] += 1
            assert told["code"] in self.known, (tool, told)
            assert told["hint"]
            assert "127.0.0.1" not in str(told)
        else:
            self.answered += 1
        return told


def is_uncertain(told: dict[str, Any]) -> bool:
    """Whether a write may have happened, or may still happen, by what its caller was told."""
    match told.get("code"):
        case "deadline_exceeded":
            return True
        case "milvus_unavailable":
            return NOT_SENT not in told["message"]
        case "milvus_error":
            return BROKEN_OFF in told["hint"]
        case "partial_write":
            return bool(told["outcome_unknown"])
        case _:
            return False
