"""Aggregates and orders over many entities, against NumPy, with the memory that they take."""

import argparse
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client

from tools.measures.bounds import report
from tools.measures.common import ENTITIES, SERVER, call, connected, seconds_of
from tools.measures.processes import child, peak_memory

HIGHEST_MEMORY = 300
"""MB of the server's process while it aggregates."""

BOOK_FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "year", "type": "INT32"},
    {"name": "views", "type": "INT64"},
    {"name": "price", "type": "FLOAT"},
    {"name": "rating", "type": "DOUBLE"},
    {"name": "author", "type": "VARCHAR", "max_length": 64},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 8},
]


def aggregate(options: argparse.Namespace) -> bool:
    outcome = anyio.run(aggregated, options.entities, options.milvus)
    memory = outcome.pop("memory")
    report(
        f"aggregate: {options.entities} entities, {options.milvus or 'Lite'}, over stdio",
        ("", "seconds", "exact"),
        *((name, f"{seconds:.2f}", str(exact)) for name, (seconds, exact) in outcome.items()),
    )
    shown = f"{memory:.0f} MB" if memory else "unknown"
    report("aggregate: the server's memory", ("peak", "at most"), (shown, f"{HIGHEST_MEMORY} MB"))
    return memory <= HIGHEST_MEMORY and all(exact for _, exact in outcome.values())


async def aggregated(entities: int, uri: str) -> dict[str, Any]:
    """For each call its seconds and whether it was right; under `memory` the server's peak in MB, 0 if unknown."""
    books = Books(entities)
    async with connected(uri=uri, max_scan=str(10 * entities), build_timeout="3600") as (client, data_dir):
        await call(client, "create_collection", collection_name="books", fields=BOOK_FIELDS)
        await fill(uri, data_dir, books)
        outcome: dict[str, Any] = {}
        longest = Longest()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(longest.wait_of_another_call, client)
            for name, (tool, arguments, expected) in books.questions().items():
                started = time.perf_counter()
                found = await call(client, tool, collection_name="books", **arguments)
                outcome[name] = time.perf_counter() - started, expected(found)
            tasks.cancel_scope.cancel()
        outcome["longest wait of another call"] = longest.seconds, True
        outcome["first answer after a cancelled call"] = await seconds_after_cancelling(client), True
        outcome["memory"] = peak_memory(child(SERVER))
        await call(client, "drop_collection", collection_name="books")
    return outcome


async def fill(uri: str, data_dir: Path, books: "Books") -> None:
    """Puts the books in, a thousand at a time and past our server, whose memory is to be measured."""
    from pymilvus import AsyncMilvusClient  # pyright: ignore[reportMissingTypeStubs]

    from mcp_server_milvus.milvus.embedded import EmbeddedEngine

    engine = EmbeddedEngine(data_dir)
    raw: Any = AsyncMilvusClient(uri or await engine.address())
    for start in range(0, len(books.ids), ENTITIES):
        await raw.insert("books", books.entities(start, start + ENTITIES))
    await raw.flush("books")
    await raw.close()
    await engine.aclose()


class Books:
    """Entities as columns, and what is to be known of them, which NumPy and fractions say too."""

    def __init__(self, entities: int) -> None:
        import numpy as np

        random = np.random.default_rng(1)
        self.ids = random.permutation(entities)
        self.years = random.integers(1950, 2025, entities)
        self.views = random.integers(0, 2**60, entities)
        self.prices = (random.random(entities) * 100).astype(np.float32)
        self.ratings = random.normal(size=entities)
        self.authors = np.array([f"author {number}" for number in random.integers(0, 5_000, entities)])

    def entities(self, start: int, end: int) -> list[dict[str, Any]]:
        names = ("id", "year", "views", "price", "rating", "author")
        columns = (self.ids, self.years, self.views, self.prices, self.ratings, self.authors)
        parts = [column[start:end].tolist() for column in columns]
        return [dict(zip(names, values, strict=True)) | {"vector": [0.5] * 8} for values in zip(*parts, strict=True)]

    def questions(self) -> dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], bool]]]:
        """A tool, its arguments, and whether a result is right."""
        aggregates = ["count", "sum(views)", "avg(price)", "min(rating)", "max(rating)", "distinct(author)"]
        per_year = {"aggregates": ["count", "avg(price)"], "group_by": ["year"]}
        ordered = {"order_by": ["price desc", "author"], "limit": 1_000, "output_fields": ["id"]}
        return {
            "aggregates of all": ("aggregate", {"aggregates": aggregates}, self._are_all),
            "aggregates by year": ("aggregate", per_year, self._are_per_year),
            "the first 1000 in order": ("query", ordered, self._are_first),
        }

    def _are_all(self, found: dict[str, Any]) -> bool:
        import numpy as np

        exact = sum(map(Fraction, self.prices.tolist())) / len(self.ids)
        return found["groups"] == [
            {
                "count": len(self.ids),
                "sum(views)": str(sum(self.views.tolist())),
                "avg(price)": float(exact),
                "min(rating)": self.ratings.min(),
                "max(rating)": self.ratings.max(),
                "distinct(author)": len(np.unique(self.authors)),
            }
        ]

    def _are_per_year(self, found: dict[str, Any]) -> bool:
        import numpy as np

        years, counts = np.unique(self.years, return_counts=True)
        expected = [
            {
                "year": int(year),
                "count": int(count),
                "avg(price)": float(sum(map(Fraction, self.prices[self.years == year].tolist())) / int(count)),
            }
            for year, count in zip(years, counts, strict=True)
        ]
        return found["groups"] == sorted(expected, key=lambda group: (-group["count"], group["year"]))

    def _are_first(self, found: dict[str, Any]) -> bool:
        import numpy as np

        first = np.lexsort((self.ids, self.authors, -self.prices))[:1_000]
        return [entity["id"] for entity in found["entities"]] == self.ids[first].tolist()


class Longest:
    """The longest of many waits."""

    seconds = 0.0

    async def wait_of_another_call(self, client: Client) -> None:
        while True:
            self.seconds = max(self.seconds, await seconds_of(client.list_tools))
            await anyio.sleep(0.01)


async def seconds_after_cancelling(client: Client) -> float:
    """From the end of a call that is cancelled in the middle to the answer of one that asks Milvus."""
    with anyio.move_on_after(0.3):
        await call(client, "aggregate", collection_name="books", group_by=["author"])
    return await seconds_of(lambda: call(client, "list_databases"))
