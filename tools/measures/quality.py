"""How well text is found: Cranfield, and questions whose answers are in other words."""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio
from mcp.client import Client

from tools.measures.bounds import report
from tools.measures.common import call, connected

MINILM = Path(__file__).parents[1] / "minilm.py"
EMBED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MODES = ("bm25", "dense", "auto")
LOWEST_NDCG = {"bm25": 0.33, "dense": 0.37, "auto": 0.395}
LOWEST_RECALL = 0.95


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
