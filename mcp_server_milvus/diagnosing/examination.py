"""Looks into a search, from what is cheap to know to what only the entities tell."""

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from mcp_server_milvus.app import App
from mcp_server_milvus.diagnosing.collections import (
    check_consistency,
    check_entities,
    check_indexes,
    check_partitions,
    check_whereabouts,
)
from mcp_server_milvus.diagnosing.expected import Expected, check_expected
from mcp_server_milvus.diagnosing.filters import Filter, check_filter, taken_apart
from mcp_server_milvus.diagnosing.findings import Findings, State
from mcp_server_milvus.diagnosing.hits import check_bounds, check_hits
from mcp_server_milvus.diagnosing.reading import Reading
from mcp_server_milvus.diagnosing.sought import Leg, Wanted, legs_sought, with_own_value
from mcp_server_milvus.diagnosing.vectors import check_vectors
from mcp_server_milvus.diagnosing.words import check_words
from mcp_server_milvus.errors import InvalidArgument, NotLoaded
from mcp_server_milvus.milvus.filters import both, checked_key, literal, rendered
from mcp_server_milvus.milvus.scanning import Source
from mcp_server_milvus.milvus.searching import Search
from mcp_server_milvus.milvus.targets import target_of

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client
    from mcp_server_milvus.milvus.schema import CollectionSchema

DEFAULT_LIMIT = 10
"""That of `search`."""


class Asked(Protocol):
    """The search, by the arguments of the tool."""

    collection_name: str
    text: str | None
    vector: list[float] | dict[str, float] | None
    id: int | str | None
    anns_field: str | None
    limit: int | None
    filter: str
    filter_params: dict[str, Any] | None
    partition_names: list[str] | None
    radius: float | None
    range_filter: float | None
    expected_id: int | str | None
    db_name: str | None


async def examine(app: App, args: Asked, findings: Findings) -> None:
    """Notes what is found.

    Raises:
        InvalidArgument: the arguments contradict each other.
    """
    _require_consistent(args)
    db_name = app.database(args.db_name)
    before = await app.schemas.refresh(db_name, args.collection_name)

    async def attempt(schema: "CollectionSchema") -> None:
        findings.restart()
        legs = await _legs(app, db_name, args, schema, findings)
        if check_indexes(findings, schema, [leg.field.name for leg in legs]) and check_partitions(
            findings, schema, args.partition_names
        ):
            read = partial(_read, app, args, legs, findings)
            await app.with_client(db_name, schema, read, seconds=app.settings.build_timeout)

    try:
        with findings.refused("search"):
            _, loaded = await app.loaded_if_needed(
                db_name, args.collection_name, lambda: app.schemas.used_by(db_name, args.collection_name, attempt)
            )
            _tell_load(findings, before, loaded=loaded)
    except NotLoaded as refusal:
        findings.first("load", State.PROBLEM, refusal.message)
        findings.advise(State.PROBLEM, "load it", "load_collection")


def _require_consistent(args: Asked) -> None:
    if sum(given is not None for given in (args.text, args.vector, args.id)) > 1:
        raise InvalidArgument("diagnose_search: give one of text, vector, id; or none, to look into the filter alone")
    if args.range_filter is not None and args.radius is None:
        raise InvalidArgument("range_filter needs radius")


def _tell_load(findings: Findings, before: "CollectionSchema", *, loaded: bool) -> None:
    if not loaded:
        findings.first("load")
        return
    missing = ", ".join(before.unloaded_partitions)
    findings.first("load", State.WARNING, f"{missing or before.name} was not loaded; this call has loaded it")


async def _legs(app: App, db_name: str, args: Asked, schema: "CollectionSchema", findings: Findings) -> list[Leg]:
    one_leg = "radius bounds one kind of score" if args.radius is not None else ""
    wanted = Wanted(args.text, args.vector, args.id, args.anns_field, one_leg)
    return await legs_sought(app, db_name, schema, wanted, findings)


async def _read(
    app: App,
    args: Asked,
    legs: list[Leg],
    findings: Findings,
    client: "Client",
    schema: "CollectionSchema",
) -> None:
    """Looks into what only the entities tell."""
    reading = Reading(client, schema, args.collection_name, args.partition_names or None, app.settings.max_scan)
    seen = await reading.count("")
    unseen = await check_consistency(findings, reading, seen)
    await check_entities(findings, reading, seen, unseen)
    total = seen + unseen  # by now a read sees the others too
    await app.report_progress(1, 3, "looking into the filter")
    filter_ = matched = None
    with findings.refused("filter"):
        filter_ = taken_apart(rendered(args.filter, args.filter_params))
        matched = await check_filter(findings, reading, filter_, total)
    if filter_ is None or matched is None:
        return
    if total:
        await check_whereabouts(findings, reading, filter_.text, matched)
    if args.id is not None:
        legs = [leg for each in legs if (leg := await with_own_value(reading, each, args.id, findings))]
    await app.report_progress(2, 3, "searching")
    searches = [_search(reading, args, filter_, leg) for leg in legs]
    await _check_searches(findings, reading, legs, searches, args.limit or DEFAULT_LIMIT, matched)
    if args.expected_id is not None:
        with findings.refused("expected_id"):
            key = checked_key(schema.primary_key, args.expected_id)
            own_key = None if args.id is None else checked_key(schema.primary_key, args.id)
            limit = args.limit or DEFAULT_LIMIT
            await check_expected(Expected(reading, findings, key, filter_, legs, searches, limit, matched, own_key))


async def _check_searches(
    findings: Findings, reading: Reading, legs: list[Leg], searches: list[Search], limit: int, matched: int
) -> None:
    for leg, search in zip(legs, searches, strict=True):
        await (
            check_words(findings, reading, search, leg) if leg.by_words else check_vectors(findings, reading, search)
        )
    if searches and matched:
        await check_bounds(findings, searches[0])
        await check_hits(findings, searches, limit, matched)


def _search(reading: Reading, args: Asked, filter_: Filter, leg: Leg) -> Search:
    """The search in one field, as the tool `search` runs it."""
    schema, matching = reading.schema, filter_.text
    if args.id is not None:
        matching = both(matching, f"{schema.primary_key.name} != {literal(checked_key(schema.primary_key, args.id))}")
    source = Source(args.collection_name, matching, [schema.primary_key.name], reading.partition_names)
    target = target_of(schema, leg.field, leg.data, {}, reading.client.backend)
    return Search(reading.client, schema, source, target.within(args.radius, args.range_filter))
