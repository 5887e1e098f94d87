"""Files: entities from and to the folders that the operator allows."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import anyio
import anyio.to_thread
from pydantic import Field, WithJsonSchema

from mcp_server_milvus.app import App
from mcp_server_milvus.compact import json_size
from mcp_server_milvus.errors import Error, NotLoaded
from mcp_server_milvus.filling import FileFilling
from mcp_server_milvus.losses.writes import replaced_by_export, replaced_by_import
from mcp_server_milvus.milvus.filters import rendered
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.scanning import Source, mean_size, pages_in_key_order
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.waiting import load_and_wait
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.importing import Import

FIRST_PAGE, LARGEST_PAGE = 512, 16_384
PAGE_BYTES = 2 * 1024 * 1024
"""Bytes of a page of entities as they travel; in memory they are some eight times that."""


FileFormat = Literal["jsonl", "json", "csv", "parquet", "npy", "npz"]


class ImportFileInput(Input):
    """Which file, and what becomes of it."""

    collection_name: Name
    path: str
    format: Annotated[FileFormat, WithJsonSchema({"type": "string"})] | None = None
    columns: Annotated[dict[str, str], WithJsonSchema({"type": "object"})] = Field(
        default_factory=dict, description='File column to field; "" leaves it out'
    )
    mode: Literal["upsert", "insert"] = "upsert"
    on_error: Literal["stop", "skip"] = "stop"
    resume_from: int = Field(0, ge=0)
    partition_name: Name | None = None
    db_name: Name | None = None


class ImportFileOutput(Output):
    """What is in now, and what was left out. All of the file was read."""

    import_count: int
    already_there: int | None = Field(None, description="Entities left as they were, by insert")
    wrong_count: int | None = None
    wrong: list[str] | None = Field(None, description="The first 20")
    coerced: list[str] | None = None
    notes: list[str] | None = None
    pending: str | None = Field(None, description="What Milvus has still to do with the entities")


@tool(toolset=Toolset.DATA, effect=Effect.MODIFY, uses_files=True, loses=replaced_by_import)
async def import_file(app: App, args: ImportFileInput) -> ImportFileOutput:
    """Imports entities from a file in the server's files folder."""
    from mcp_server_milvus.milvus.folders import Folders  # for which, as for all that files need, no handshake waits

    db_name = app.database(args.db_name)
    async with _files() as files:
        file = await anyio.to_thread.run_sync(Folders(app.settings.file_folders).open, args.path)
        files.callback(file.close)
        schema = await app.schemas.refresh(db_name, args.collection_name)
        filling = FileFilling(app, db_name, schema)
        job = await _import(app, args, schema, file, filling)
        if job.reads(await app.clients.backend(db_name)):
            await _require_loaded(app, db_name, args.collection_name)
        tally = await job.run()
    return ImportFileOutput(
        import_count=tally.written,
        already_there=tally.already_there or None,
        wrong_count=tally.wrong_count or None,
        wrong=_within(app.settings.max_result_bytes // 2, job.fitting.unused, tally.wrong) or None,
        coerced=_within(app.settings.max_result_bytes // 4, job.fitting.coerced) or None,
        notes=filling.notes or None,
        pending=await _pending(app, job) if tally.written else None,
    )


class ExportFileInput(Input):
    """Which entities, and where to."""

    collection_name: Name
    path: str
    filter: str = ""
    filter_params: dict[str, Any] | None = None
    output_fields: list[str] = Field(default_factory=list[str])
    limit: int | None = Field(None, ge=1)
    overwrite: bool = False
    db_name: Name | None = None


class ExportFileOutput(Output):
    """How many entities are in the file, and its size."""

    export_count: int
    bytes: int


@tool(toolset=Toolset.DATA, effect=Effect.MODIFY, uses_files=True, loses=replaced_by_export)
async def export_file(app: App, args: ExportFileInput) -> ExportFileOutput:
    """Exports entities to a new .parquet, .jsonl or .csv."""
    from mcp_server_milvus.milvus.exporting import writer
    from mcp_server_milvus.milvus.folders import Folders
    from mcp_server_milvus.milvus.formats import format_of

    async with _files() as files:
        created = Folders(app.settings.file_folders).created(args.path, overwrite=args.overwrite)
        new = await anyio.to_thread.run_sync(files.enter_context, created)
        schema = await app.schemas.refresh(app.database(args.db_name), args.collection_name)
        names = schema.output_fields(args.output_fields or ["*"])
        out = await anyio.to_thread.run_sync(writer, new.file, format_of(args.path), schema, names)
        files.callback(out.abandon)
        count = 0
        async with aclosing(_pages(app, args, schema, names)) as pages:
            async for entities in pages:
                await anyio.to_thread.run_sync(out.write, entities)
                count += len(entities)
                await app.report_progress(count, args.limit, f"{count} entities of {args.collection_name} exported")
        await anyio.to_thread.run_sync(out.close)
        size = await anyio.to_thread.run_sync(new.finish)
    return ExportFileOutput(export_count=count, bytes=size)


@asynccontextmanager
async def _files() -> AsyncGenerator[ExitStack]:
    """Files to be closed in a thread when the block ends, if by cancellation too."""
    files = ExitStack()

    async def closed(*raised: Any) -> bool | None:
        with anyio.CancelScope(shield=True):
            return await anyio.to_thread.run_sync(files.__exit__, *raised)

    async with AsyncExitStack() as closing:
        closing.push_async_exit(closed)
        yield files


def _within(most_bytes: int, *lists: list[str]) -> list[str]:
    """The first of the lines, as many as there is room for."""
    sizes = accumulate(json_size(line) + 1 for lines in lists for line in lines)
    return [line for line, size in zip(chain(*lists), sizes, strict=True) if size <= most_bytes]


async def _import(
    app: App, args: ImportFileInput, schema: CollectionSchema, file: BinaryIO, filling: FileFilling
) -> "Import":
    from mcp_server_milvus.milvus.fitting import Fitting
    from mcp_server_milvus.milvus.formats import Format, format_of
    from mcp_server_milvus.milvus.importing import Import
    from mcp_server_milvus.milvus.reading import read

    db_name = app.database(args.db_name)
    backend = await app.clients.backend(db_name)
    kind = Format(args.format) if args.format else format_of(args.path)
    by_default = "insert" if schema.primary_key.auto_id else "upsert"  # generated keys are in no file
    operation = args.mode if "mode" in args.model_fields_set else by_default
    unnamed = schema.vector_fields[0].name
    source = await anyio.to_thread.run_sync(lambda: read(file, kind, resume_from=args.resume_from, unnamed=unnamed))
    return Import(
        app.clients,
        db_name,
        args.collection_name,
        args.partition_name or "",
        schema,
        operation,
        args.on_error,
        source,
        Fitting(
            schema,
            args.columns,
            keys_required=operation == "upsert",
            kind=kind,
            json_values=backend.json_values,
            from_text=filling.from_text,
        ),
        args.resume_from,
        "resume_from" in args.model_fields_set,
        app.report_progress,
        filling.parts,
    )


async def _require_loaded(app: App, db_name: str, collection_name: str) -> None:
    """Loads the collection if it is not: keys are looked up."""
    async with app.clients.client(db_name, seconds=app.settings.build_timeout) as client:
        if await client.is_loaded(collection_name):
            return
        if not app.settings.auto_load:
            raise NotLoaded(f"{collection_name} is not loaded", hint="call load_collection, then call again")
        await load_and_wait(client, collection_name, app.report_progress)


async def _pending(app: App, job: "Import") -> str | None:
    """What is not done when the entities are in: no reason to say that the import failed."""
    try:
        await job.wait_for_indexes(app.settings.build_timeout)
    except Error as failure:
        return f"all entities are in, but flush and indexes are not complete: {failure.message}"
    return None


async def _pages(
    app: App, args: ExportFileInput, schema: CollectionSchema, names: list[str]
) -> AsyncGenerator[list[dict[str, Any]]]:
    """The entities in the order of their keys, each page within a deadline of its own.

    All of them are of the collection that the schema describes: an alias may lead to another one meanwhile.
    """
    db_name = app.database(args.db_name)
    source = Source(schema.name, rendered(args.filter, args.filter_params), names)
    at_once, left, after = FIRST_PAGE, args.limit, None
    while left is None or left > 0:
        entities = await _page(app, db_name, schema, source, at_once if left is None else min(at_once, left), after)
        if not entities:
            return
        yield entities
        left = None if left is None else left - len(entities)
        after = entities[-1][schema.primary_key.name]
        at_once = max(1, min(4 * at_once, LARGEST_PAGE, PAGE_BYTES // mean_size(entities)))


async def _page(
    app: App, db_name: str, schema: CollectionSchema, source: Source, count: int, after: int | str | None
) -> list[dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        async with (
            app.clients.client(db_name) as client,
            aclosing(pages_in_key_order(client, schema, source, first=count, most=count, after=after)) as pages,
        ):
            return await anext(pages, list[dict[str, Any]]())

    entities, _ = await app.loaded_if_needed(db_name, source.collection_name, read)
    return entities


TOOLS = (import_file, export_file)
