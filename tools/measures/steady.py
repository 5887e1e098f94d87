"""The server's memory after many calls beside that after some: what it keeps for each call would show."""

import argparse
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import islice

import anyio

from tools.measures.bounds import Bound, judged
from tools.measures.common import DIMENSION, SERVER, own_settings, vector
from tools.measures.lines import Lines, serving
from tools.measures.processes import memory
from tools.measures.speed import FEW, entities

AT_ONCE = 16
HIGHEST_GROWTH = 1.05
"""Allocators do not give back every page."""


def steady(options: argparse.Namespace) -> bool:
    """Growth from a tenth of the calls to all."""
    before, after = anyio.run(measured, options.calls)
    how = f"{before:.0f} MB, {after:.0f} MB"
    return judged(
        f"steady: {options.calls} calls, half of them get, the others list_collections and search",
        [Bound("memory, of that after a tenth", after / before, most=HIGHEST_GROWTH, how=how)],
    )


async def measured(calls: int) -> tuple[float, float]:
    """MB after a tenth of the calls, and after all."""
    async with AsyncExitStack() as stack:
        folder, environment = stack.enter_context(own_settings())
        server = await stack.enter_async_context(serving(SERVER, environment, folder))
        await server.call("create_collection", collection_name="few", dimension=DIMENSION)
        await server.call("insert", collection_name="few", data=entities())
        numbers = iter(range(calls))
        await called(server, islice(numbers, calls // 10))
        before = memory(server.pid)
        await called(server, numbers)
        return before, memory(server.pid)


async def called(server: Lines, numbers: Iterator[int]) -> None:
    asked = vector()

    async def caller() -> None:
        for number in numbers:
            if number % 2:
                await server.call("get", collection_name="few", ids=[number % FEW])
            elif number % 10:
                await server.call("list_collections")
            else:
                await server.call("search", collection_name="few", vector=asked)

    async with anyio.create_task_group() as callers:
        for _ in range(AT_ONCE):
            callers.start_soon(caller)
