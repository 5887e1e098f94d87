"""Analyzers: how a text becomes the words that full-text search compares."""

from typing import TYPE_CHECKING, Any

from mcp_server_milvus.app import App
from mcp_server_milvus.compact import json_size
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.analysis import words, words_of_field
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import ENVELOPE_BYTES
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.tool import BoundedOutput, Input, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client


class RunAnalyzerInput(Input):
    """Which texts, and by which analyzer."""

    texts: list[str]
    analyzer_params: dict[str, Any] | None = None
    collection_name: Name | None = None
    field_name: Name | None = None
    db_name: Name | None = None


class RunAnalyzerOutput(BoundedOutput):
    """The words of each text."""

    tokens: list[list[str]]


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def run_analyzer(app: App, args: RunAnalyzerInput) -> RunAnalyzerOutput:
    """Shows the words that an analyzer makes of texts."""
    db_name = app.database(args.db_name)
    if (args.collection_name is None) != (args.field_name is None):
        raise InvalidArgument("run_analyzer: collection_name and field_name go together")
    if args.collection_name is None or args.field_name is None:
        async with app.clients.client(db_name) as client:
            return _output(app, await words(client, args.texts, args.analyzer_params))
    if args.analyzer_params is not None:
        raise InvalidArgument("run_analyzer: give analyzer_params, or a collection's field, not both")
    collection_name, field_name = args.collection_name, args.field_name

    async def run(client: "Client", schema: CollectionSchema) -> list[list[str]]:
        return await words_of_field(client, args.texts, collection_name, schema.require(field_name))

    return _output(app, await app.with_schema(db_name, collection_name, run))


def _output(app: App, tokens: list[list[str]]) -> RunAnalyzerOutput:
    room = app.settings.max_result_bytes - ENVELOPE_BYTES
    shown: list[list[str]] = []
    for each in tokens:
        room -= json_size(each) + 1
        if room < 0:
            return RunAnalyzerOutput(tokens=shown, applied_limits=[f"the first {len(shown)} of {len(tokens)} texts"])
        shown.append(each)
    return RunAnalyzerOutput(tokens=shown)


TOOLS = (run_analyzer,)
