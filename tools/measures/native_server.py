"""The server of `stock_server` on our stdio transport."""

import anyio

from mcp_server_milvus.transports.stdio import serve_stdio
from tools.measures.stock_server import server

if __name__ == "__main__":
    anyio.run(serve_stdio, server)
