"""mcp-server-milvus: a Model Context Protocol server through which AI agents run a Milvus vector database."""

__all__ = ["__version__"]

__version__ = "0.1.0"
