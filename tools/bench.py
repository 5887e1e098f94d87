"""The benchmark: this server beside an empty server and beside the raw client, in one run on one machine.

handshake   from spawn to the answer of `initialize` over stdio; the other is an `MCPServer` without anything in it
quality     text in, through `create_collection` with text_field, `insert` and `search` with text, on Milvus Lite with
            all-MiniLM-L6-v2 in 8 bits: nDCG@10 on the Cranfield collection; recall@1 on questions whose answers are in
            other words
speed       `search` and `insert` over stdio; the other is pymilvus's AsyncMilvusClient on the same engine
aggregate   `aggregate` and `query` with order_by over stdio, against NumPy, with the server's peak memory (Linux);
            on Milvus Lite, or on the Milvus of --milvus
import      `import_file` over stdio, from Parquet and from JSON Lines; the other is a loop of pymilvus's inserts, as a
            person writes it; and an import whose server is killed half-way; on Milvus Lite, or on that of --milvus

Only ratios compare across machines. With --check, what is beyond its bound or not exact makes the exit code 1.
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
from contextlib import asynccontextmanager, contextmanager, suppress
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from statistics import fmean, median
from subprocess import PIPE
from typing import IO, Any, cast

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MINILM = Path(__file__).with_name("minilm.py")
EMBED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
HIGHEST_HANDSHAKE = 1.3
MODES = ("bm25", "dense", "auto")
LOWEST_NDCG = {"bm25": 0.33, "dense": 0.37, "auto": 0.395}
LOWEST_RECALL = 0.95
HIGHEST_MEMORY = 300
"""MB of the server's process while it aggregates."""

SERVER = [sys.executable, "-m", "mcp_server_milvus"]
EMPTY_SERVER = [sys.executable, "-c", "from mcp.server import MCPServer; MCPServer('empty').run()"]
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
    b'"clientInfo":{"name":"bench","version":"1"}}}\n'
)
BOOK_FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "year", "type": "INT32"},
    {"name": "views", "type": "INT64"},
    {"name": "price", "type": "FLOAT"},
    {"name": "rating", "type": "DOUBLE"},
    {"name": "author", "type": "VARCHAR", "max_length": 64},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 8},
]
VECTOR_FIELDS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 128},
]
FLAT = [{"field_name": "vector", "index_type": "FLAT"}]
"""An index that is ready at once, so that nothing in the background disturbs the next measurement."""

ENTITIES, DIMENSION = 1_000, 128
LOWEST_IMPORT_SPEED = 0.8
REQUESTS_AT_ONCE = 4
"""What a person lets a Milvus server work on at one time; Milvus Lite does one thing after the other."""

Call = Callable[[], Awaitable[Any]]


def main() -> int:
    measures = {"handshake": handshake, "quality": quality, "speed": speed, "aggregate": aggregate, "import": imports}
    parser = argparse.ArgumentParser(description="Measures this server beside an empty server and the raw client.")
    parser.add_argument("measure", nargs="?", choices=measures, help="one of them (default: all)")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound is broken")
    parser.add_argument("--runs", type=int, default=11, help="repetitions that a median is of (default: 11)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of cranfield/ and paraphrases.json")
    parser.add_argument(
        "--entities", type=int, default=100_000, help="entities to aggregate or import (default: 100000)"
    )
    parser.add_argument("--milvus", default="", help="uri of a Milvus for aggregate and import (default: Lite)")
    options = parser.parse_args()
    passed = [measure(options) for name, measure in measures.items() if options.measure in {None, name}]
    return 1 if options.check and not all(passed) else 0


@contextmanager
def own_settings() -> Generator[tuple[str, dict[str, str]]]:
    """A folder to work in, and an environment in which our server keeps its database there and has no other setting."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        others = {name: value for name, value in os.environ.items() if not name.startswith("MILVUS_")}
        yield folder, others | {"MILVUS_MCP_DATA_DIR": str(Path(folder) / "data"), "MILVUS_MCP_CONFIRM": "never"}


@asynccontextmanager
async def connected(**settings: str) -> AsyncGenerator[tuple[Client, Path]]:
    """A client of our server over stdio, and the folder of its new database."""
    with own_settings() as (folder, environment):
        environment |= {f"MILVUS_MCP_{name.upper()}": value for name, value in settings.items()}
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
        embedding = environment | {"MILVUS_MCP_EMBEDDER": "fastembed"}
        starts = ((SERVER, environment), (SERVER, embedding), (EMPTY_SERVER, environment))
        times = [
            [seconds_to_answer(start, folder, settings) for start, settings in starts] for _ in range(1 + options.runs)
        ]
    ours, embedder, empty = map(median, zip(*times[1:], strict=True))  # the first run compiles what it imports
    report(
        f"handshake: from spawn to the answer of initialize, medians of {options.runs}",
        ("", "time", "ratio", "at most"),
        ("empty server", milliseconds(empty), "", ""),
        ("this server", milliseconds(ours), f"{ours / empty:.2f}", str(HIGHEST_HANDSHAKE)),
        ("with an embedder", milliseconds(embedder), f"{embedder / empty:.2f}", str(HIGHEST_HANDSHAKE)),
    )
    return max(ours, embedder) / empty <= HIGHEST_HANDSHAKE


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
    if not options.data.is_dir():
        print(f"\nquality: not measured, there is no folder {options.data}")
        return True
    with tempfile.TemporaryDirectory(prefix="minilm-") as folder:
        subprocess.run([sys.executable, str(MINILM), folder], check=True)
        cranfield, paraphrases = anyio.run(measured, options.data, folder)
    report(
        f"quality: search with text on Milvus Lite, {EMBED_MODEL} in 8 bits",
        ("", "measure", *MODES, "auto at least"),
        ("Cranfield", "nDCG@10", *(f"{cranfield[mode]:.3f}" for mode in MODES), f"{LOWEST_NDCG['auto']}"),
        ("paraphrases", "recall@1", *(f"{paraphrases[mode]:.2f}" for mode in MODES), f"{LOWEST_RECALL}"),
    )
    return all(cranfield[mode] >= least for mode, least in LOWEST_NDCG.items()) and paraphrases["auto"] >= LOWEST_RECALL


async def measured(data: Path, model_folder: str) -> tuple[dict[str, float], dict[str, float]]:
    """By mode, the mean nDCG@10 of the Cranfield queries and the share of paraphrases that are found first."""
    model = {"embedder": "fastembed", "embed_model": EMBED_MODEL, "embed_model_dir": model_folder}
    async with connected(**model, toolsets="all") as (client, _):
        return await cranfield_ndcg(client, data / "cranfield"), await paraphrase_recall(client, data)


async def cranfield_ndcg(client: Client, folder: Path) -> dict[str, float]:
    documents, queries = json_lines(folder / "documents.jsonl"), json_lines(folder / "queries.jsonl")
    grades = judgements(folder / "qrels.tsv")
    await stored(client, "cranfield", {document["id"]: document["text"] for document in documents})
    found = {mode: [await ranked(client, "cranfield", query["text"], mode) for query in queries] for mode in MODES}
    return {
        mode: fmean(ndcg(ranking, grades[query["id"]]) for query, ranking in zip(queries, rankings, strict=True))
        for mode, rankings in found.items()
    }


async def paraphrase_recall(client: Client, data: Path) -> dict[str, float]:
    pairs = json.loads((data / "paraphrases.json").read_text("utf-8"))
    await stored(client, "paraphrases", {number: pair["relevant"] for number, pair in enumerate(pairs)})
    firsts = {mode: [(await ranked(client, "paraphrases", pair["query"], mode))[0] for pair in pairs] for mode in MODES}
    return {mode: fmean(first == number for number, first in enumerate(found)) for mode, found in firsts.items()}


async def stored(client: Client, collection_name: str, texts: dict[int, str]) -> None:
    await call(client, "create_collection", collection_name=collection_name, text_field="body", id_type="int")
    entities = [{"id": key, "body": text} for key, text in texts.items()]
    for start in range(0, len(entities), 200):
        await call(client, "insert", collection_name=collection_name, data=entities[start : start + 200])
    await call(client, "flush", collection_name=collection_name)  # which makes each search ten times as fast


async def ranked(client: Client, collection_name: str, text: str, mode: str) -> list[int]:
    """The keys of the ten best entities, best first; `auto` is what an agent gets that names no mode."""
    asked = {} if mode == "auto" else {"mode": mode}
    found = await call(client, "search", collection_name=collection_name, text=text, output_fields=["id"], **asked)
    return [hit["id"] for hit in found["hits"]] or [-1]


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
        outcome["memory"] = peak_memory()
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


def peak_memory() -> float:
    """MB that the server which this process has started had at most; 0 where nothing tells."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            facts = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            command = (status.parent / "cmdline").read_text().split("\0")[:-1]
            if facts["PPid"] == str(os.getpid()) and command == SERVER:
                return int(facts["VmHWM"].split()[0]) / 1_024
    return 0.0


def new_entities() -> Iterator[list[dict[str, Any]]]:
    """A thousand at a time, without end."""
    for start in count(0, ENTITIES):
        yield [{"id": start + number, "vector": vector()} for number in range(ENTITIES)]


def vector() -> list[float]:
    return [random.random() for _ in range(DIMENSION)]  # noqa: S311  # numbers to measure with


def imports(options: argparse.Namespace) -> bool:
    """Times until all entities are in, and until they are flushed and indexed too."""
    with tempfile.TemporaryDirectory(prefix="bench-files-") as files:
        outcome, killed_at, duplicates_or_losses = anyio.run(imported, options, Path(files))
    ratios = {name: loop[0] / ours[0] for name, (ours, loop) in outcome.items()}
    report(
        f"import: {options.entities} entities of {DIMENSION} dimensions, {options.milvus or 'Lite'}",
        ("", "import_file", "loop", "speed", "at least", "with flush", "loop", "speed"),
        *(
            (
                name,
                *(f"{seconds:.2f} s" for seconds in (ours[0], loop[0])),
                f"{ratios[name]:.2f}",
                str(LOWEST_IMPORT_SPEED),
                *(f"{seconds:.2f} s" for seconds in (ours[1], loop[1])),
                f"{loop[1] / ours[1]:.2f}",
            )
            for name, (ours, loop) in outcome.items()
        ),
    )
    report(
        "import: the server killed -9, the import done again",
        ("entities in when it was killed", "lost or twice there afterwards"),
        (str(killed_at), str(duplicates_or_losses)),
    )
    return min(ratios.values()) >= LOWEST_IMPORT_SPEED and not duplicates_or_losses


async def imported(options: argparse.Namespace, files: Path) -> tuple[dict[str, Any], int, int]:
    """By format the seconds of our import and of the loop; and what became of an import that was killed."""
    from pymilvus import AsyncMilvusClient  # pyright: ignore[reportMissingTypeStubs]

    from mcp_server_milvus.milvus.embedded import EmbeddedEngine

    write_files(files, options.entities)
    settings = {"uri": options.milvus, "files_dir": str(files)}
    outcome: dict[str, Any] = {}
    async with connected(**settings) as (client, data_dir):
        await call(client, "list_databases")
        engine = EmbeddedEngine(data_dir)
        raw: Any = AsyncMilvusClient(options.milvus or await engine.address())
        at_once = REQUESTS_AT_ONCE if options.milvus else 1
        for name, batches in (("all.parquet", parquet_batches), ("all.jsonl", json_batches)):
            loop = await seconds_of_loop(client, raw, batches(files / name), at_once)
            outcome[name] = await seconds_of_import(client, name, options.entities), loop
        killed_at, keys = await killed_import(client, raw, {**settings, "data_dir": str(data_dir)})
        await call(client, "drop_collection", collection_name="killed")
        await raw.close()
        await engine.aclose()
    return outcome, killed_at, abs(len(keys) - options.entities) + len(keys) - len(set(keys))


def write_files(folder: Path, entities: int) -> None:
    import numpy as np
    import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    arrow = cast("Any", pa)
    vectors = np.random.default_rng(1).random((entities, DIMENSION), dtype=np.float32)
    columns = {"id": range(entities), "vector": arrow.FixedSizeListArray.from_arrays(vectors.ravel(), DIMENSION)}
    parquet.write_table(arrow.table(columns), folder / "all.parquet")
    with (folder / "all.jsonl").open("w") as lines:
        for number, numbers in enumerate(vectors):
            lines.write(json.dumps({"id": number, "vector": numbers.tolist()}) + "\n")


def parquet_batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    opened: Any = parquet.ParquetFile(path)
    yield from (batch.to_pylist() for batch in opened.iter_batches(ENTITIES))


def json_batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    with path.open() as lines:
        while batch := [json.loads(line) for line in islice(lines, ENTITIES)]:
            yield batch


async def seconds_of_loop(
    client: Client, raw: Any, batches: Iterator[list[dict[str, Any]]], at_once: int
) -> tuple[float, float]:
    await call(client, "create_collection", collection_name="loop", fields=VECTOR_FIELDS, indexes=FLAT)
    limit = anyio.Semaphore(at_once)

    async def insert(batch: list[dict[str, Any]]) -> None:
        await raw.insert("loop", batch)
        limit.release()

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for batch in batches:
            await limit.acquire()
            tasks.start_soon(insert, batch)
    inserted = time.perf_counter() - started
    await raw.flush("loop")
    flushed = time.perf_counter() - started
    await call(client, "drop_collection", collection_name="loop")
    return inserted, flushed


async def seconds_of_import(client: Client, name: str, entities: int) -> tuple[float, float]:
    await call(client, "create_collection", collection_name="ours", fields=VECTOR_FIELDS, indexes=FLAT)
    all_in = 0.0

    async def note(progress: float, total: float | None, message: str | None) -> None:
        nonlocal all_in
        del total  # JSON Lines do not tell it beforehand
        if progress == entities and "resume_from" in (message or ""):
            all_in = time.perf_counter() - started

    started = time.perf_counter()
    result = await client.call_tool("import_file", {"collection_name": "ours", "path": name}, progress_callback=note)
    indexed = time.perf_counter() - started
    if result.structured_content != {"import_count": entities}:
        raise RuntimeError(f"import_file: {result.structured_content}")
    await call(client, "drop_collection", collection_name="ours")
    return all_in, indexed


async def killed_import(client: Client, raw: Any, settings: dict[str, str]) -> tuple[int, list[int]]:
    """How many entities were in when a server was killed half-way, and the keys that are there after another import."""
    half = sum(1 for _ in (Path(settings["files_dir"]) / "all.jsonl").open("rb")) // 2
    await call(client, "create_collection", collection_name="killed", fields=VECTOR_FIELDS, indexes=FLAT)
    arguments = {"collection_name": "killed", "path": "all.jsonl"}
    environment = os.environ | {f"MILVUS_MCP_{name.upper()}": value for name, value in settings.items()}
    command = [*SERVER, "call", "import_file", json.dumps(arguments)]
    async with await anyio.open_process(command, env=environment) as server:
        there = 0
        while there < half and server.returncode is None:
            there = (await call(client, "count", collection_name="killed", filter="id >= 0"))["count"]
        server.kill()
    await call(client, "import_file", **arguments)
    keys: list[int] = []
    while page := await raw.query(
        "killed", f"id > {keys[-1] if keys else -1}", ["id"], limit=10_000, consistency_level="Strong"
    ):
        keys += sorted(entity["id"] for entity in page)
    return there, keys


if __name__ == "__main__":
    sys.exit(main())
