"""Aggregates: what an agent would otherwise compute by reading thousands of entities into its context."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from pydantic import Field

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import InvalidArgument
from mcp_server_milvus.milvus.aggregating import COUNT, Aggregate, Aggregation, Group, in_order
from mcp_server_milvus.milvus.filter_help import near_misses
from mcp_server_milvus.milvus.filters import rendered
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.paths import Path, parsed_path
from mcp_server_milvus.milvus.pushdown import aggregated_by_milvus
from mcp_server_milvus.milvus.results import Page, plain_value
from mcp_server_milvus.milvus.scanning import Scan, Source
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.tool import BoundedOutput, Input, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client


MOST_AGGREGATES, MOST_FIELDS = 32, 8


class AggregateInput(Input):
    """What to compute, of which entities, in which groups."""

    collection_name: Name
    aggregates: list[str] = Field(
        default_factory=lambda: [COUNT], description='"count", "avg(price)"; also sum, min, max, distinct (how many)'
    )
    group_by: list[str] = Field(default_factory=list[str])
    filter: str = ""
    filter_params: dict[str, Any] | None = None
    partition_names: list[Name] | None = None
    order_by: list[str] = Field(default_factory=list[str], description='Default ["count desc"]')
    limit: int = Field(100, ge=1)
    db_name: Name | None = None


class AggregateOutput(BoundedOutput):
    """One object per group, or a single one."""

    groups: list[dict[str, Any]]
    loaded: bool | None = Field(default=None, description="The collection was loaded for this call")


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def aggregate(app: App, args: AggregateInput) -> AggregateOutput:
    """Computes exact aggregates of all matching entities, by group."""
    db_name = app.database(args.db_name)

    async def read(client: "Client", schema: CollectionSchema) -> AggregateOutput:
        source = Source(args.collection_name, rendered(args.filter, args.filter_params), (), args.partition_names)
        computed = aggregates, group_by = _parsed(schema, args)
        in_order([], _columns(group_by, aggregates), args.order_by)  # refuses what it does not know before the work
        groups = await aggregated_by_milvus(client, schema, source, aggregates, group_by)
        limits: list[str] = []
        if groups is None:
            groups, limits = await _aggregated_here(app, client, schema, source, Aggregation(aggregates, group_by))
        return await anyio.to_thread.run_sync(_output, app, schema, args, computed, groups, limits)

    output, loaded = await app.loaded_if_needed(
        db_name,
        args.collection_name,
        lambda: app.with_schema(db_name, args.collection_name, read, seconds=app.settings.build_timeout),
    )
    return output.model_copy(update={"loaded": True}) if loaded else output


def _parsed(schema: CollectionSchema, args: AggregateInput) -> tuple[list[Aggregate], list[Path]]:
    if len(args.aggregates) > MOST_AGGREGATES or max(len(args.group_by), len(args.order_by)) > MOST_FIELDS:
        raise InvalidArgument(
            f"aggregate: at most {MOST_AGGREGATES} aggregates, and {MOST_FIELDS} fields in group_by and order_by"
        )
    aggregates = [Aggregate.parsed(schema, text) for text in dict.fromkeys(args.aggregates or [COUNT])]
    group_by = [parsed_path(schema, text, argument="group_by") for text in dict.fromkeys(args.group_by)]
    columns = _columns(group_by, aggregates)
    if twice := next((name for name in columns if columns.count(name) > 1), None):
        raise InvalidArgument(f"{twice!r} is a field and an aggregate", hint='call the aggregate "count(*)"')
    return aggregates, group_by


def _columns(group_by: Sequence[Path], aggregates: Sequence[Aggregate]) -> list[str]:
    return [each.text for each in (*group_by, *aggregates)]


async def _aggregated_here(
    app: App, client: "Client", schema: CollectionSchema, source: Source, aggregation: Aggregation
) -> tuple[list[Group], list[str]]:
    """The groups of all entities that can be scanned, and what bounds have cut."""
    fields = dict.fromkeys([schema.primary_key.name, *aggregation.fields])
    scan = Scan(client, schema, replace(source, output_fields=[*fields]), app.settings.max_scan, app.report_progress)
    async with aclosing(scan.pages()) as pages:
        async for entities in pages:
            await anyio.to_thread.run_sync(aggregation.add, entities)
    groups = await anyio.to_thread.run_sync(lambda: aggregation.groups)
    return groups, [*scan.limits("aggregated"), *aggregation.limits]


def _output(
    app: App,
    schema: CollectionSchema,
    args: AggregateInput,
    computed: tuple[list[Aggregate], list[Path]],
    groups: Sequence[Group],
    limits: Sequence[str],
) -> AggregateOutput:
    aggregates, group_by = computed
    columns = _columns(group_by, aggregates)
    page = Page(schema, app.settings.max_result_bytes, frozenset(columns))
    ordered = in_order(groups, columns, args.order_by)
    fits = all(page.admit(_plain(group, group_by, aggregates)) for group in ordered[: args.limit])
    cut = [*limits, *(page.limits() or [])]
    if len(page.entities) < len(groups):
        reason = "limit" if fits else f"{app.settings.max_result_bytes} bytes"
        cut.append(
            f"groups: the first {len(page.entities)} of {len(groups)} ({reason}); order_by, filter or limit show others"
        )
    asked = [path.name for path in (*group_by, *(each.path for each in aggregates if each.path))]
    cut += near_misses(schema, args.filter, asked)
    return AggregateOutput(groups=page.entities, applied_limits=cut or None)


def _plain(group: Group, group_by: Sequence[Path], aggregates: Sequence[Aggregate]) -> dict[str, Any]:
    values = {path.text: plain_value(path.field, value) for path, value in zip(group_by, group.values, strict=True)}
    return values | {each.text: each.plain(value) for each, value in zip(aggregates, group.results, strict=True)}


TOOLS = (aggregate,)
