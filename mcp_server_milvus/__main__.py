"""`python -m mcp_server_milvus` is the `mcp-server-milvus` command."""

import sys

from mcp_server_milvus.cli import main

sys.exit(main())
