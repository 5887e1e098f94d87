"""What the server adds to Milvus: one call at a time, and 32; the others are the raw client and a stock server.

An empty tool is one that returns its argument. The stock server is the SDK's, over its own stdio transport.
"""

import argparse
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from tools.measures.bounds import Bound, judged, milliseconds
from tools.measures.common import DIMENSION, SERVER, call, own_settings, raw_client, seconds_of, vector
from tools.measures.lines import Lines, serving

STOCK_SERVER = [sys.executable, "-m", "tools.measures.stock_server"]
NATIVE_SERVER = [sys.executable, "-m", "tools.measures.native_server"]
FEW = 200
"""Entities of the collection: few, so that what is timed is not Milvus."""

AT_ONCE, CALLS = 32, 640
TURNS = 100
"""Calls of each kind, one at a time, for each run: so many, for a median that the next run repeats."""

HIGHEST_ADDED = 1.0
LOWEST_SEARCHES, LOWEST_QUERIES, LOWEST_EMPTY = 0.9, 0.6, 1.8

Numbered = Callable[[int], Awaitable[Any]]


def speed(options: argparse.Namespace) -> bool:
    """Latency, and calls in a second at 32 at once."""
    runs = [anyio.run(one_at_a_time, TURNS, options.milvus) for _ in range(options.runs)]
    empty = median(run.empty for run in runs)
    bounds = [
        added("search", [(*run.search, run.empty) for run in runs]),
        added("query by key", [(*run.query, run.empty) for run in runs]),
    ]
    ratios = anyio.run(many_at_once, options.runs, options.milvus)
    bounds += [
        Bound(f"search, {AT_ONCE} at once, of raw", ratios["search"], least=LOWEST_SEARCHES),
        Bound(f"query by key, {AT_ONCE} at once, of raw", ratios["query"], least=LOWEST_QUERIES),
        Bound(f"empty tool, {AT_ONCE} at once, of stock", ratios["empty"], least=LOWEST_EMPTY),
    ]
    where = f"{DIMENSION} dimensions, {options.milvus or 'Lite'}"
    return judged(f"speed: {where}; an empty call of stock takes {milliseconds(empty)}", bounds)


def added(name: str, runs: list[tuple[float, float, float]]) -> Bound:
    """What a call adds to raw in empty calls, of runs with the seconds of ours, raw and empty: their median.

    Each run starts its servers anew: where a process happens to lie in memory makes a difference of a twentieth.
    """
    ratios = [(ours - raw) / empty for ours, raw, empty in runs]
    ours, raw, _ = map(median, zip(*runs, strict=True))
    how = f"{milliseconds(ours)}, raw {milliseconds(raw)}; {min(ratios):.2f} to {max(ratios):.2f}"
    return Bound(f"{name}: added to raw, in empty calls", median(ratios), most=HIGHEST_ADDED, how=how)


@dataclass(frozen=True)
class Latency:
    """Median seconds: of ours and raw, and of an empty tool of the stock server."""

    search: tuple[float, float]
    query: tuple[float, float]
    empty: float


async def one_at_a_time(turns: int, uri: str) -> Latency:
    """Each in turn, by the SDK's own client."""
    async with AsyncExitStack() as stack:
        folder, environment = stack.enter_context(own_settings(uri=uri))
        ours = await stack.enter_async_context(_client(SERVER, environment, folder))
        stock = await stack.enter_async_context(_client(STOCK_SERVER, environment, folder))
        await call(ours, "create_collection", collection_name="few", dimension=DIMENSION)
        await call(ours, "insert", collection_name="few", data=entities())
        raw = await stack.enter_async_context(raw_client(environment))
        asked = vector()
        timed: list[Numbered] = [
            lambda _: call(ours, "search", collection_name="few", vector=asked, limit=10),
            lambda _: raw.search("few", [asked], limit=10, output_fields=["id"]),
            lambda number: call(ours, "get", collection_name="few", ids=[number % FEW]),
            lambda number: raw.query("few", f"id in [{number % FEW}]", output_fields=["id"]),
            lambda number: stock.call_tool("nothing", {"number": number}),
        ]
        times = [[await seconds_of(each, number) for each in timed] for number in range(turns)]
        await call(ours, "drop_collection", collection_name="few")
    search, raw_search, query, raw_query, empty = map(median, zip(*times[turns // 10 :], strict=True))
    return Latency((search, raw_search), (query, raw_query), empty)


@asynccontextmanager
async def _client(command: list[str], environment: dict[str, str], folder: str) -> AsyncGenerator[Client]:
    server = StdioServerParameters(command=command[0], args=command[1:], env=environment, cwd=folder)
    async with Client(server) as client:
        yield client


def entities() -> list[dict[str, Any]]:
    return [{"id": number, "vector": vector()} for number in range(FEW)]


async def many_at_once(runs: int, uri: str) -> dict[str, float]:
    """Calls in a second, ours by the other's: medians of several runs, taken in turns."""
    async with AsyncExitStack() as stack:
        folder, environment = stack.enter_context(own_settings(uri=uri))
        root = Path(__file__).parents[2]
        ours = await stack.enter_async_context(serving(SERVER, environment, folder))
        stock = await stack.enter_async_context(serving(STOCK_SERVER, environment, root))
        native = await stack.enter_async_context(serving(NATIVE_SERVER, environment, root))
        await ours.call("create_collection", collection_name="few", dimension=DIMENSION)
        await ours.call("insert", collection_name="few", data=entities())
        raw = await stack.enter_async_context(raw_client(environment))
        asked = vector()
        pairs: dict[str, tuple[Numbered, Numbered]] = {
            "search": (
                lambda _: ours.call("search", collection_name="few", vector=asked, limit=10),
                lambda _: raw.search("few", [asked], limit=10, output_fields=["id"]),
            ),
            "query": (
                lambda number: ours.call("get", collection_name="few", ids=[number % FEW]),
                lambda number: raw.query("few", f"id in [{number % FEW}]", output_fields=["id"]),
            ),
            "empty": (_empty(native), _empty(stock)),
        }
        ratios = {name: await ratio(pair, runs) for name, pair in pairs.items()}
        await ours.call("drop_collection", collection_name="few")
        return ratios


def _empty(server: Lines) -> Numbered:
    return lambda number: server.call("nothing", number=number)


async def ratio(pair: tuple[Numbered, Numbered], runs: int) -> float:
    """How many times as many calls in a second the first makes as the second."""
    for each in pair:
        await calls_per_second(each)  # which connects
    found = [[await calls_per_second(each) for each in pair] for _ in range(runs)]
    return median(first / second for first, second in found)


async def calls_per_second(each: Numbered) -> float:
    """`AT_ONCE` callers share the calls."""
    numbers = iter(count())

    async def caller() -> None:
        while (number := next(numbers)) < CALLS:
            await each(number)

    begun = time.perf_counter()
    async with anyio.create_task_group() as callers:
        for _ in range(AT_ONCE):
            callers.start_soon(caller)
    return CALLS / (time.perf_counter() - begun)
