"""`python -m mcp_server_milvus` is the `mcp-server-milvus` command."""

import sys

from mcp_server_milvus.garbage import kept_imports
from mcp_server_milvus.titles import without_secrets_in_title


def main() -> int:
    """Runs the command line, which is imported once no secret is in the title of this process."""
    arguments = without_secrets_in_title()
    with kept_imports():
        from mcp_server_milvus.cli import main

    return main(arguments)


if __name__ == "__main__":
    sys.exit(main())
