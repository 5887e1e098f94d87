"""The benchmark: this server beside an empty server and beside the raw client, in one run on one machine.

handshake   from spawn to the answer of `initialize` over stdio; the other is an `MCPServer` without anything in it
quality     nDCG@10 of full-text search (BM25) on the Cranfield collection, through `insert` and `search`
speed       `search` and `insert` over stdio; the other is pymilvus's AsyncMilvusClient on the same engine

Only ratios compare across machines. With --check, a handshake or a quality beyond its bound makes the exit code 1.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean, median
from subprocess import PIPE
from typing import IO, Any, cast

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

CRANFIELD = Path(__file__).resolve().parents[2] / "shared" / "data" / "cranfield"
HIGHEST_HANDSHAKE = 1.3
LOWEST_NDCG = 0.33

SERVER = [sys.executable, "-m", "mcp_server_milvus"]
EMPTY_SERVER = [sys.executable, "-c", "from mcp.server import MCPServer; MCPServer('empty').run()"]
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
    b'"clientInfo":{"name":"bench","version":"1"}}}\n'
)
FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "body", "type": "VARCHAR", "enable_analyzer": True},
    {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
]
FUNCTIONS = [{"name": "bm25", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["sparse"]}]
ENTITIES, DIMENSION = 1_000, 128

Call = Callable[[], Awaitable[Any]]


def main() -> int:
    measures = {"handshake": handshake, "quality": quality, "speed": speed}
    parser = argparse.ArgumentParser(description="Measures this server beside an empty server and the raw client.")
    parser.add_argument("measure", nargs="?", choices=measures, help="one of them (default: all)")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound is broken")
    parser.add_argument("--runs", type=int, default=11, help="repetitions that a median is of (default: 11)")
    parser.add_argument("--cranfield", type=Path, default=CRANFIELD, help="folder of the Cranfield collection")
    options = parser.parse_args()
    passed = [measure(options) for name, measure in measures.items() if options.measure in {None, name}]
    return 1 if options.check and not all(passed) else 0


@contextmanager
def own_settings() -> Generator[tuple[str, dict[str, str]]]:
    """A folder to work in, and an environment in which our server keeps its database there and has no other setting."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        others = {name: value for name, value in os.environ.items() if not name.startswith("MILVUS_")}
        yield folder, others | {"MILVUS_MCP_DATA_DIR": str(Path(folder) / "data")}


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[Client, Path]]:
    """A client of our server over stdio, and the folder of its new database."""
    with own_settings() as (folder, environment):
        server = StdioServerParameters(command=SERVER[0], args=SERVER[1:], env=environment, cwd=folder)
        async with Client(server) as client:
            yield client, Path(environment["MILVUS_MCP_DATA_DIR"])


async def call(client: Client, tool: str, **given: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, given)
    if result.is_error or result.structured_content is None:
        raise RuntimeError(f"{tool} failed: {result.structured_content}")
    return result.structured_content


def report(title: str, *rows: Iterable[str]) -> None:
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    print(f"\n{title}")
    for row in zip(*columns, strict=True):
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def handshake(options: argparse.Namespace) -> bool:
    with own_settings() as (folder, environment):
        both = [partial(seconds_to_answer, command, folder, environment) for command in (SERVER, EMPTY_SERVER)]
        times = [[measure() for measure in both] for _ in range(1 + options.runs)]
    ours, empty = (median(column) for column in zip(*times[1:], strict=True))  # the first run compiles what it imports
    report(
        f"handshake: from spawn to the answer of initialize, medians of {options.runs}",
        ("this server", "empty server", "ratio", "at most"),
        (milliseconds(ours), milliseconds(empty), f"{ours / empty:.2f}", str(HIGHEST_HANDSHAKE)),
    )
    return ours / empty <= HIGHEST_HANDSHAKE


def seconds_to_answer(command: list[str], folder: str, environment: dict[str, str]) -> float:
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=PIPE, stdout=PIPE, bufsize=0) as server:
        cast("IO[bytes]", server.stdin).write(INITIALIZE)
        answer = cast("IO[bytes]", server.stdout).readline()
        passed = time.perf_counter() - started
        server.kill()
    if b'"serverInfo"' not in answer:
        raise SystemExit(f"{' '.join(command)} did not answer: {answer!r}")
    return passed


def quality(options: argparse.Namespace) -> bool:
    folder = options.cranfield
    if not folder.is_dir():
        print(f"\nquality: not measured, there is no folder {folder}")
        return True
    documents, queries = json_lines(folder / "documents.jsonl"), json_lines(folder / "queries.jsonl")
    grades = judgements(folder / "qrels.tsv")
    rankings = anyio.run(ranked, documents, [query["text"] for query in queries])
    mean = fmean(ndcg(ranking, grades[query["id"]]) for query, ranking in zip(queries, rankings, strict=True))
    report(
        "quality: full-text search of the Cranfield collection, BM25",
        ("documents", "queries", "nDCG@10", "at least"),
        (f"{len(documents)}", f"{len(queries)}", f"{mean:.3f}", f"{LOWEST_NDCG}"),
    )
    return mean >= LOWEST_NDCG


async def ranked(documents: list[dict[str, Any]], texts: list[str]) -> list[list[int]]:
    """The ten best documents of each text."""
    async with connected() as (client, _):
        await call(client, "create_collection", collection_name="cranfield", fields=FIELDS, functions=FUNCTIONS)
        entities = [{"id": document["id"], "body": document["text"]} for document in documents]
        for start in range(0, len(entities), 200):
            await call(client, "insert", collection_name="cranfield", data=entities[start : start + 200])
        results = [
            await call(client, "search", collection_name="cranfield", text=text, limit=10, output_fields=["id"])
            for text in texts
        ]
    return [[hit["id"] for hit in result["hits"]] for result in results]


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def judgements(path: Path) -> dict[int, dict[int, int]]:
    """By query, how relevant each document is: 4 a complete answer, 1 of minimal interest. Lines of three columns."""
    grades = defaultdict[int, dict[int, int]](dict)
    for line in path.read_text("utf-8").splitlines():
        query, document, grade = map(int, line.split("\t"))
        grades[query][document] = grade
    return grades


def ndcg(ranked: list[int], grades: dict[int, int]) -> float:
    """The discounted gain of the ten documents found, as a share of the best possible one."""
    best = gain(sorted(grades.values(), reverse=True)[:10])
    return gain([grades.get(document, 0) for document in ranked[:10]]) / best if best else 0.0


def gain(grades: list[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


def speed(options: argparse.Namespace) -> bool:
    """True: it has no bound."""
    inserts, searches = anyio.run(compared, options.runs)
    report(
        f"speed: medians of {options.runs} inserts and {10 * options.runs} searches with {DIMENSION} dimensions, Lite",
        ("", "this server, stdio", "raw client", "ratio"),
        (f"insert {ENTITIES}", *map(milliseconds, inserts), f"{inserts[0] / inserts[1]:.2f}"),
        ("search", *map(milliseconds, searches), f"{searches[0] / searches[1]:.2f}"),
    )
    return True


async def compared(runs: int) -> tuple[list[float], list[float]]:
    """Median seconds of `insert` and of `search`, each through our server and by the raw client."""
    from pymilvus import AsyncMilvusClient  # pyright: ignore[reportMissingTypeStubs]

    from mcp_server_milvus.milvus.embedded import EmbeddedEngine

    async with connected() as (client, data_dir):
        for name in ("ours", "raw"):
            await call(client, "create_collection", collection_name=name, dimension=DIMENSION)
        engine = EmbeddedEngine(data_dir)
        raw: Any = AsyncMilvusClient(await engine.address())
        ours, theirs = new_entities(), new_entities()
        inserts = await paired(
            runs,
            lambda: call(client, "insert", collection_name="ours", data=next(ours)),
            lambda: raw.insert("raw", next(theirs)),
        )
        searches = await paired(
            10 * runs,
            lambda: call(client, "search", collection_name="ours", vector=vector(), limit=10),
            lambda: raw.search("raw", [vector()], limit=10, output_fields=["id"]),
        )
        await raw.close()
        await engine.aclose()
    return inserts, searches


async def paired(runs: int, ours: Call, raw: Call) -> list[float]:
    """Median seconds of both, taken in turns; the first turn, which connects, is not counted."""
    times = [[await seconds_of(ours), await seconds_of(raw)] for _ in range(1 + runs)]
    return [median(column) for column in zip(*times[1:], strict=True)]


async def seconds_of(timed: Call) -> float:
    started = time.perf_counter()
    await timed()
    return time.perf_counter() - started


def new_entities() -> Iterator[list[dict[str, Any]]]:
    """A thousand at a time, without end."""
    for start in count(0, ENTITIES):
        yield [{"id": start + number, "vector": vector()} for number in range(ENTITIES)]


def vector() -> list[float]:
    return [random.random() for _ in range(DIMENSION)]  # noqa: S311  # numbers to measure with


if __name__ == "__main__":
    sys.exit(main())
