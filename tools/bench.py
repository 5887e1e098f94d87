"""The benchmark: this server beside an empty server and beside the raw client, in one run on one machine.

handshake   from spawn to the answer of `initialize` over stdio, and to the first `search` on an existing collection of
            the embedded engine; idle memory; the other is an `MCPServer` without anything in it
speed       `search` and `get` over stdio, one at a time and 32 at once; the others are pymilvus's AsyncMilvusClient on
            the same engine or on the Milvus of --milvus, and an empty tool on the SDK's own stdio transport
inserts     `insert` over stdio, a thousand entities in a call, eight calls at once; the other is the raw client
http        `search` over Streamable HTTP; the other is an empty tool of the SDK's
sizes       bytes of results, beside those of zilliztech/mcp-server-milvus
steady      memory after --calls calls
quality     text in, through `create_collection` with text_field, `insert` and `search` with text, on Milvus Lite with
            all-MiniLM-L6-v2 in 8 bits: nDCG@10 on the Cranfield collection; recall@1 on questions whose answers are in
            other words
aggregate   `aggregate` and `query` with order_by over stdio, against NumPy, with the server's peak memory (Linux);
            on Milvus Lite, or on the Milvus of --milvus
import      `import_file` over stdio, from Parquet and from JSON Lines; the other is a loop of pymilvus's inserts, as a
            person writes it; and an import whose server is killed half-way; on Milvus Lite, or on that of --milvus

Only ratios compare across machines. With --check, what is beyond its bound or not exact makes the exit code 1.
"""

import argparse
import sys
from pathlib import Path

from tools.measures.aggregate import aggregate
from tools.measures.handshake import handshake
from tools.measures.http import http
from tools.measures.imports import imports
from tools.measures.inserts import inserts
from tools.measures.quality import quality
from tools.measures.sizes import sizes
from tools.measures.speed import speed
from tools.measures.steady import steady

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MEASURES = {
    "handshake": handshake,
    "speed": speed,
    "inserts": inserts,
    "http": http,
    "sizes": sizes,
    "steady": steady,
    "quality": quality,
    "aggregate": aggregate,
    "import": imports,
}


def main() -> int:
    """The exit code: 1 where a bound is broken and --check was given."""
    parser = argparse.ArgumentParser(description="Measures this server beside an empty server and the raw client.")
    parser.add_argument("measure", nargs="*", help=f"{', '.join(MEASURES)} (default: all)")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound is broken")
    parser.add_argument("--runs", type=int, default=5, help="repetitions that a median is of (default: 5)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of cranfield/ and paraphrases.json")
    parser.add_argument(
        "--entities", type=int, default=100_000, help="entities to insert, aggregate or import (default: 100000)"
    )
    parser.add_argument("--calls", type=int, default=100_000, help="calls of steady (default: 100000)")
    parser.add_argument("--milvus", default="", help="uri of a Milvus for speed, aggregate and import (default: Lite)")
    options = parser.parse_args()
    if unknown := set(options.measure) - MEASURES.keys():
        parser.error(f"there is no measure {min(unknown)}")
    passed = [measure(options) for name, measure in MEASURES.items() if name in (options.measure or MEASURES)]
    return 1 if options.check and not all(passed) else 0


if __name__ == "__main__":
    sys.exit(main())
