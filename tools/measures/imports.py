"""Imports from files against a loop of inserts as a person writes it, and an import whose server is killed half-way."""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import anyio
from mcp.client import Client

from tools.measures.bounds import report
from tools.measures.common import DIMENSION, ENTITIES, FLAT, SERVER, VECTOR_FIELDS, call, connected

LOWEST_IMPORT_SPEED = 0.8
REQUESTS_AT_ONCE = 4
"""What a person lets a Milvus server work on at one time; Milvus Lite does one thing after the other."""


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
