"""A database that nobody may harm, what can be seen of all of it, and calls that try."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from mcp_types import TextContent
from pymilvus import MilvusClient

from tests.agent import Agent

TRASH = "_dropped_1999999999_0123456789abcdef"
"""A collection in the trash: there is none of this name for anybody."""

VAULT = "vault"
"""The other database, with a collection `precious` of its own."""

SECRETS = ("buried", "of the vault")
"""Texts that only the trash and the vault hold."""

LONGEST_MESSAGE = 10_000
"""Characters of an error as JSON, however long what was wrong."""

TEXT_KEYS = ["plain", "zz'] or pk != '' or pk in ['q", 'say "hi"', "back\\slash", "a\nb", "{name}", "%", "é😀", " "]

FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "title", "type": "VARCHAR", "max_length": 200},
    {"name": "meta", "type": "JSON"},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
]
TEXT_FIELDS: list[dict[str, Any]] = [
    {"name": "pk", "type": "VARCHAR", "is_primary": True, "max_length": 2000},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
]
P: dict[str, Any] = {"collection_name": "precious"}
K: dict[str, Any] = {"collection_name": "keyed"}


def entities(about: str, count: int = 12) -> list[dict[str, Any]]:
    return [
        {"id": n, "title": f"title {n} {about}", "meta": {"n": n, "tag": "a"}, "vector": [1, n], "extra": n % 3}
        for n in range(count)
    ]


async def fill(agent: Agent, *, by_words: bool) -> None:
    """Makes the database. `by_words`: with a collection that is searched by its words, where the backend has such."""
    dynamic = {"fields": FIELDS, "enable_dynamic_field": True}
    there = P | {"db_name": VAULT}
    await agent.call("create_database", db_name=VAULT)
    precious = P | dynamic | {"properties": {"kept": "yes"}, "description": "the precious one"}
    collections = [precious, K | {"fields": TEXT_FIELDS}, {"collection_name": "buried"} | dynamic, there | dynamic]
    async with anyio.create_task_group() as tasks:  # a server takes seconds to load each
        for each in collections:
            tasks.start_soon(partial(agent.call, "create_collection", **each))
    await agent.call("create_partition", **P, partition_name="part")
    await agent.call("insert", **P, data=entities("of all"))
    await agent.call(
        "insert", **P, data=[each | {"id": each["id"] + 100} for each in entities("apart", 3)], partition_name="part"
    )
    await agent.call("load_collection", **P)
    await agent.call("create_alias", **P, alias="prized")
    await agent.call("insert", **K, data=[{"pk": key, "vector": [1, n]} for n, key in enumerate(TEXT_KEYS)])
    await agent.call("insert", collection_name="buried", data=entities("buried"))
    await agent.call("insert", **there, data=entities("of the vault"))
    if by_words:
        await agent.call("create_collection", collection_name="stories", text_field="text")
        await agent.call(
            "insert", collection_name="stories", data=[{"text": f"the story of number {n}"} for n in range(5)]
        )


def fingerprint(clients: Mapping[str, MilvusClient], *, of: Sequence[str] = ()) -> dict[str, Any]:
    """All that another program sees of each database: names, schemas, indexes, aliases, partitions, entities.

    `of`: only these collections, on a server that others use too.
    """
    seen: dict[str, Any] = {}
    for db_name, client in clients.items():
        names = [name for name in _collections(client) if name in of or not of]
        seen[db_name] = {name: _collection(client, name) for name in names}
    databases = sorted(map(str, _listed(next(iter(clients.values())).list_databases())))
    return seen | {"databases": databases if not of else [name for name in databases if name in clients]}


def _listed(answer: Any) -> list[Any]:
    return list(answer)


def _collections(client: MilvusClient) -> list[str]:
    return sorted(_listed(client.list_collections()))


def _collection(client: MilvusClient, name: str) -> dict[str, Any]:
    described: Any = client.describe_collection(name)
    aliases: Any = client.list_aliases(name)
    key = next(each for each in described["fields"] if each.get("is_primary"))
    every = f'{key["name"]} >= ""' if key["type"].name == "VARCHAR" else f"{key['name']} >= -9223372036854775807"
    computed = {output for each in described.get("functions", ()) for output in each["output_field_names"]}
    fields = [each["name"] for each in described["fields"] if each["name"] not in computed]
    dynamic = ["$meta"] if described.get("enable_dynamic_field") else []
    rows: Any = client.query(
        name, filter=every, output_fields=fields + dynamic, consistency_level="Strong", limit=1_000
    )
    return {
        "described": {each: str(described.get(each)) for each in KEPT},
        "aliases": sorted(_listed(aliases["aliases"])),
        "indexes": sorted(str(client.describe_index(name, each)) for each in _listed(client.list_indexes(name))),
        "partitions": sorted(_listed(client.list_partitions(name))),
        "load_state": str(client.get_load_state(name)["state"]),
        "entities": sorted(str({each: str(row[each]) for each in sorted(row)}) for row in rows),
    }


KEPT = ("collection_name", "fields", "functions", "properties", "description", "num_shards", "enable_dynamic_field")


def files_below(folder: Path) -> dict[str, str]:
    """Every file, link and folder below this one, and a digest of what it holds."""
    return {str(each.relative_to(folder)): _held(each) for each in sorted(folder.rglob("*"))}


def _held(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


@dataclass
class Attacks:
    """Calls that must each fail with the right code, or give the right answer. `check` tells all that did not."""

    agent: Agent
    wrong: list[str] = field(default_factory=list[str])
    tried: int = 0

    async def fail(self, tool: str, *codes: str, calls: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Makes these calls, each of which must fail with one of the codes. Returns the errors."""
        errors: list[dict[str, Any]] = []
        for arguments in calls:
            result = await self.agent.client.call_tool(tool, arguments)
            told = result.structured_content or {}
            if not result.is_error or told["code"] not in codes:
                self.wrong.append(f"{tool} {_short(arguments)}: {_short(told)}, not {codes}")
            self._look_at(tool, arguments, result)
            errors.append(told)
        return errors

    async def give(self, tool: str, expected: dict[str, Any], calls: Iterable[dict[str, Any]]) -> None:
        """Makes these calls, each of which must succeed with these values."""
        for arguments in calls:
            result = await self.agent.client.call_tool(tool, arguments)
            told = result.structured_content or {}
            if result.is_error or not expected.items() <= told.items():
                self.wrong.append(f"{tool} {_short(arguments)}: {_short(told)}, not {_short(expected)}")
            self._look_at(tool, arguments, result)

    async def end(self, tool: str, calls: Iterable[dict[str, Any]], *codes: str) -> list[dict[str, Any]]:
        """Makes these calls, which may succeed or fail with one of the codes. Returns what they have told."""
        answers: list[dict[str, Any]] = []
        for arguments in calls:
            result = await self.agent.client.call_tool(tool, arguments)
            told = result.structured_content or {}
            if result.is_error and told["code"] not in codes:
                self.wrong.append(f"{tool} {_short(arguments)}: {_short(told)}, not {codes}")
            self._look_at(tool, arguments, result)
            answers.append(told)
        return answers

    def _look_at(self, tool: str, arguments: dict[str, Any], result: Any) -> None:
        self.tried += 1
        text = "".join(part.text for part in result.content if isinstance(part, TextContent))
        if any(secret in text for secret in SECRETS) and arguments.get("db_name") != VAULT:
            self.wrong.append(f"{tool} {_short(arguments)}: tells a secret: {_short(text)}")
        if result.is_error and len(text) > LONGEST_MESSAGE:
            self.wrong.append(f"{tool} {_short(arguments)}: an error of {len(text)} characters")
        try:
            text.encode()
        except UnicodeEncodeError:
            self.wrong.append(f"{tool} {_short(arguments)}: an answer that no client can read")

    def check(self) -> None:
        assert self.tried
        assert not self.wrong, "\n".join([f"{len(self.wrong)} of {self.tried}", *self.wrong])


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = "something very deep"
    except ValueError:
        text = "something very long"
    return text if len(text) <= 160 else f"{text[:120]}…{text[-40:]}"
