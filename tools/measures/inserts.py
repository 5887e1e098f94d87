"""100,000 entities inserted over stdio, a thousand in a call, eight calls at once; the other is the raw client."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from tools.measures.bounds import Bound, judged
from tools.measures.common import DIMENSION, ENTITIES, FLAT, VECTOR_FIELDS, own_settings, raw_client, vector
from tools.measures.lines import serving
from tools.measures.processes import peak_memory

AT_ONCE = 8
LOWEST_SPEED = 0.7
HIGHEST_MEMORY, LONGEST_BLOCK = 300, 50
"""MB and milliseconds."""

WATCHED_SERVER = [sys.executable, "-m", "tools.measures.watched_server"]


def inserts(options: argparse.Namespace) -> bool:
    """Speed, memory, and for how long the event loop was blocked."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        report = Path(folder) / "blocked"
        pairs, megabytes = anyio.run(inserted, options.entities // ENTITIES, options.runs, report)
        blocked = 1000 * float(report.read_text())
    return judged(
        f"inserts: {options.entities} entities of {DIMENSION} dimensions, {AT_ONCE} calls of {ENTITIES} at once, Lite",
        [
            Bound("speed, of raw", median(raw / ours for ours, raw in pairs), least=LOWEST_SPEED, how=shown(pairs)),
            Bound("memory of the server at its peak, MB", megabytes, most=HIGHEST_MEMORY),
            Bound("event loop blocked at most, ms", blocked, most=LONGEST_BLOCK),
        ],
    )


def shown(pairs: list[tuple[float, float]]) -> str:
    ours, raw = map(median, zip(*pairs, strict=True))
    return f"{ours:.1f} s, raw {raw:.1f} s"


async def inserted(batches: int, turns: int, report: Path) -> tuple[list[tuple[float, float]], float]:
    """Seconds of ours and of raw in each turn, and MB. Each turn has collections of its own.

    What is inserted is made before: a host has it as JSON.
    """
    vectors = [vector() for _ in range(ENTITIES)]
    as_json = [json.dumps(each) for each in vectors]
    async with AsyncExitStack() as stack:
        _, environment = stack.enter_context(own_settings())
        root = Path(__file__).parents[2]
        server = await stack.enter_async_context(serving([*WATCHED_SERVER, str(report)], environment, root))
        raw = await stack.enter_async_context(raw_client(environment))

        async def by_us(number: int) -> Any:
            return await server.sent(_params(number, as_json))

        async def by_raw(number: int) -> Any:
            first = number * ENTITIES
            return await raw.insert("raw", [{"id": first + n, "vector": each} for n, each in enumerate(vectors)])

        pairs: list[tuple[float, float]] = []
        for _ in range(turns):
            for name in ("ours", "raw"):
                await server.call("create_collection", collection_name=name, fields=VECTOR_FIELDS, indexes=FLAT)
            pairs.append((await seconds_of_all(by_us, batches), await seconds_of_all(by_raw, batches)))
            for name in ("ours", "raw"):
                await server.call("drop_collection", collection_name=name)
        return pairs, peak_memory(server.pid)


def _params(batch: int, vectors: list[str]) -> str:
    first = batch * ENTITIES
    data = ",".join(f'{{"id":{first + number},"vector":{each}}}' for number, each in enumerate(vectors))
    return f'{{"name":"insert","arguments":{{"collection_name":"ours","data":[{data}]}}}}'


async def seconds_of_all(insert: Callable[[int], Awaitable[Any]], batches: int) -> float:
    numbers = iter(range(batches))

    async def inserter() -> None:
        for number in numbers:
            await insert(number)

    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(inserter)
    return time.perf_counter() - begun
