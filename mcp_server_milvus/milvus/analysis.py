"""How a text becomes words. Milvus Lite has no RPC for that: its own analyzer is run here, where it is the same."""

import json
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.capabilities import Backend, Feature, shown
from mcp_server_milvus.milvus.schema import Field

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client


async def words(client: "Client", texts: list[str], params: dict[str, Any] | None) -> list[list[str]]:
    """The words of each text by an analyzer with these parameters; None is the standard one.

    Raises:
        InvalidArgument: there is no such analyzer.
        NotSupported: the backend cannot tell.
    """
    if _is_installed_here(client.backend):
        return await anyio.to_thread.run_sync(_lite_words, texts, params)
    client.backend.require(Feature.RUN_ANALYZER, where="run_analyzer")
    return await client.tokens(texts, analyzer_params=params or {"type": "standard"})


async def words_of_field(client: "Client", texts: list[str], collection_name: str, field: Field) -> list[list[str]]:
    """The words of each text as the field's own analyzer makes them. Raises as `words` does."""
    if not field.enable_analyzer:
        raise InvalidArgument(f"field_name: {field} has no analyzer", hint="name a VARCHAR field with enable_analyzer")
    if client.backend.is_lite:
        return await words(client, texts, json.loads(field.analyzer_params) if field.analyzer_params else None)
    client.backend.require(Feature.RUN_ANALYZER, where="run_analyzer")
    return await client.tokens(texts, collection_name=collection_name, field_name=field.name)


def _is_installed_here(backend: Backend) -> bool:
    """Whether the backend is the very Milvus Lite that this process can import."""
    try:
        return backend.is_lite and version("milvus-lite") == shown(backend.version)
    except PackageNotFoundError:
        return False


def _lite_words(texts: list[str], params: dict[str, Any] | None) -> list[list[str]]:
    from milvus_lite.analyzer.factory import create_analyzer
    from milvus_lite.exceptions import MilvusLiteError

    try:
        analyzer = create_analyzer(params)
    except (MilvusLiteError, ImportError) as error:
        raise InvalidArgument(f"analyzer_params: {error}") from error
    return [list(analyzer.tokenize(text)) for text in texts]
