"""What every framework is asked to do with our server: list the tools, keep three entities, and find the nearest.

Each `*_client.py` runs in the framework's own environment, as `python X_client.py URL` or `python X_client.py COMMAND
[ARGUMENT ...]`, and so can import nothing of ours but this.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any

Call = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Calls a tool of the server as the framework does, and returns what its model is told, as text or as an object."""

Session = AbstractAsyncContextManager[tuple[Collection[str], Call]]
"""A connection: the names of the tools that the framework lists, and how it calls one."""

NOTES = {"collection_name": "notes"}
DATA = [{"id": number, "vector": [float(number == place) for place in range(4)]} for number in range(3)]


def main(connected: Callable[[list[str]], Session]) -> None:
    """Tell the story over the connection to the server that the command line names: one URL, or a command."""
    asyncio.run(_tell(connected(sys.argv[1:])))


def is_url(server: list[str]) -> bool:
    return server[0].startswith("http")


async def _tell(session: Session) -> None:
    async with session as (names, call):
        assert {"create_collection", "insert", "search", "query"} <= {*names}, names
        await call("create_collection", {**NOTES, "dimension": 4})
        inserted = _told(await call("insert", {**NOTES, "data": DATA}))
        assert inserted["insert_count"] == len(DATA), inserted
        found = _told(await call("search", {**NOTES, "vector": [0.0, 0.9, 0.1, 0.0], "limit": 2}))
        assert [hit["id"] for hit in found["hits"]] == [1, 2], found
    print(f"{len(names)} tools")


def _told(result: Any) -> dict[str, Any]:
    return json.loads(result) if isinstance(result, str) else result
