"""Collections: listed, described, created, dropped, loaded, released."""

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import anyio
from pydantic import Field

from mcp_server_milvus import undo
from mcp_server_milvus.app import App
from mcp_server_milvus.embedding.binding import PROPERTY, Binding, as_property
from mcp_server_milvus.embedding.deadline import within
from mcp_server_milvus.embedding.embedders import HOW_TO_HAVE_ONE
from mcp_server_milvus.errors import AlreadyExists, Conflict, InvalidArgument, NotSupported
from mcp_server_milvus.losses.structures import collection_lost
from mcp_server_milvus.milvus import schema as schemas
from mcp_server_milvus.milvus.capabilities import Backend, Feature
from mcp_server_milvus.milvus.definition import completed, require_same, require_supported
from mcp_server_milvus.milvus.description import (
    described_bindings,
    described_field,
    described_function,
    described_index,
    described_properties,
    example_entity,
    example_search,
)
from mcp_server_milvus.milvus.document_store import KEY, VECTOR, can_be_null, document_store
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.results import TRIMMED_LENGTH, cursor_fingerprint, decode_cursor, encode_cursor, fitting
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.specs import (
    FieldArgument,
    FieldSpec,
    FunctionArgument,
    IndexArgument,
    Level,
    Metric,
    Scalar,
    split_properties,
)
from mcp_server_milvus.milvus.waiting import FIRST_PAUSE, load_and_wait, wait_for_index
from mcp_server_milvus.rebinding import differences, require_other_properties
from mcp_server_milvus.tool import BoundedOutput, Input, Output, tool
from mcp_server_milvus.vocabulary import DataType, Effect, FunctionType, MetricType, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

LOOK_UPS_AT_ONCE = 8
HALF_MADE_SECONDS = 2.0
"""How long another server may take from creating a collection to its last index."""

QUICK, KEYS = ("dimension", "metric_type"), ("id_type", "auto_id")
"""Arguments of the quick form of a collection, the second ones of the text form too."""

SHOWN_NAMES = 50
"""Partitions and aliases that a description names."""


class ListCollectionsInput(Input):
    """Which page of the list."""

    limit: int = Field(50, ge=1, le=1_000)
    cursor: str | None = None
    db_name: Name | None = None


class CollectionLine(Output):
    """One collection in a list."""

    name: str
    description: str | None = None
    entity_count: int | None = None
    loaded: bool | None = None


class ListCollectionsOutput(BoundedOutput):
    """Collections by name."""

    collections: list[CollectionLine]
    next_cursor: str | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def list_collections(app: App, args: ListCollectionsInput) -> ListCollectionsOutput:
    """Lists collections with description, entity count and load state."""
    db_name = app.database(args.db_name)
    fingerprint = cursor_fingerprint("list_collections", db_name)
    after = str(decode_cursor(args.cursor, fingerprint)) if args.cursor else ""
    room = app.settings.max_result_bytes
    async with app.clients.client(db_name) as client:
        following = sorted(name for name in await client.list_collections() if name > after)
        shortest = [{"name": name, "loaded": True} for name in following[: args.limit]]
        shown = following[: fitting(shortest, room)]
        lines = await _looked_up(client, shown)
    kept = lines[: fitting([line.model_dump(exclude_none=True) for line in lines], room)]
    last = kept[-1].name if len(kept) < len(lines) else (shown or [""])[-1]
    full = len(kept) < len(lines) or len(shown) < len(shortest)
    return ListCollectionsOutput(
        collections=kept,
        next_cursor=encode_cursor(fingerprint, last) if last != (following or [""])[-1] else None,
        applied_limits=[f"{room} bytes reached after {len(kept)}: follow next_cursor"] if full else None,
    )


class CollectionInput(Input):
    """Which collection."""

    collection_name: Name
    db_name: Name | None = None


class DescribeCollectionOutput(BoundedOutput):
    """All that is needed to use a collection, with a worked example of an entity and of a search."""

    collection_name: str
    description: str | None = None
    fields: list[dict[str, Any]]
    enable_dynamic_field: bool
    functions: list[dict[str, Any]] | None = None
    indexes: list[dict[str, Any]]
    loaded: bool | None = Field(default=None, description="False too when some partitions are not")
    entity_count: int | None = None
    partitions: list[str] | None = None
    aliases: list[str] | None = None
    consistency_level: str | None = None
    num_shards: int | None = None
    embedding: dict[str, str] | None = Field(default=None, description="Vector fields made from text")
    properties: dict[str, Any] | None = None
    example_entity: dict[str, Any]
    example_search: dict[str, Any] | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.READ)
async def describe_collection(app: App, args: CollectionInput) -> DescribeCollectionOutput:
    """Describes a collection, with an example entity and search."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.refresh(db_name, args.collection_name)
    bound = app.bindings(db_name, schema)
    async with app.clients.client(db_name) as client:
        # An account that may search need not be allowed to ask for all of this.
        loaded = await client.if_allowed(client.is_loaded(args.collection_name))
        if schema.unloaded_partitions:
            loaded = False
        partitions = list(schema.partition_names)
        aliases = await client.if_allowed(client.aliases(schema.name)) or []
        return DescribeCollectionOutput(
            collection_name=schema.name,
            description=schema.description or None,
            fields=[described_field(field) for field in schema.fields],
            enable_dynamic_field=schema.enable_dynamic_field,
            functions=[described_function(function) for function in schema.functions] or None,
            indexes=[described_index(index) for index in schema.indexes],
            loaded=loaded,
            entity_count=await client.if_allowed(client.entity_count(args.collection_name, loaded=loaded is not False)),
            partitions=partitions[:SHOWN_NAMES] if len(partitions) > 1 else None,
            aliases=aliases[:SHOWN_NAMES] or None,
            applied_limits=[
                f"{kind}: the first {SHOWN_NAMES} of {len(names)}; list_{kind} shows all"
                for kind, names in (("partitions", partitions), ("aliases", aliases))
                if len(names) > SHOWN_NAMES
            ]
            or None,
            consistency_level=schema.consistency_level or None,
            num_shards=schema.num_shards if schema.num_shards > 1 else None,
            embedding=described_bindings(bound),
            properties=described_properties(schema, PROPERTY),
            example_entity=example_entity(schema, bound),
            example_search=example_search(schema, bound),
        )


class CreateCollectionInput(Input):
    """Text: text_field. Quick: dimension. Full: fields."""

    collection_name: Name
    text_field: Name | None = Field(None, description="Text form: texts to find by meaning and words")
    metadata: list[FieldArgument] = Field(default_factory=list[FieldArgument], description="Text form: more fields")
    embedder: str | None = None
    dimension: int | None = Field(None, ge=1, le=32_768, description="Quick form: fields id and vector")
    metric_type: Metric | None = Field(None, description="Quick form; default COSINE")
    id_type: Literal["int", "string"] | None = Field(None, description="Quick and text form")
    auto_id: bool | None = Field(None, description="In text form true unless id_type is given")
    fields: list[FieldSpec] | None = None
    functions: list[FunctionArgument] = Field(
        default_factory=list[FunctionArgument],
        description="{name, type: BM25, TEXTEMBEDDING or MINHASH, input_field_names, output_field_names, params}",
    )
    indexes: list[IndexArgument] = Field(
        default_factory=list[IndexArgument],
        description="{field_name, index_type, metric_type, params}; other vector fields get AUTOINDEX",
    )
    enable_dynamic_field: bool | None = None
    num_shards: int = Field(1, ge=1, le=16)
    num_partitions: int | None = Field(None, ge=1, le=1_024)
    consistency_level: Level | None = None
    properties: dict[str, Scalar] = Field(default_factory=dict[str, Scalar])
    description: str = ""
    db_name: Name | None = None


class CreateCollectionOutput(Output):
    """What there is now."""

    created: bool = Field(description="False: it was there already, the same")
    collection_name: str
    fields: list[str]
    indexes: list[dict[str, Any]]
    embedding: dict[str, str] | None = None
    loaded: bool


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def create_collection(app: App, args: CreateCollectionInput) -> CreateCollectionOutput:
    """Creates a collection with its indexes and loads it. The same again is no error."""
    db_name = app.database(args.db_name)
    backend = await app.clients.backend(db_name)
    wanted = completed(await _wanted(app, args, backend), backend)
    require_supported(wanted, backend)
    if args.num_partitions and not any(field.is_partition_key for field in wanted.fields):
        raise InvalidArgument("num_partitions needs a field with is_partition_key: true")
    async with app.schemas.creating(db_name, args.collection_name):
        created = await _create_unless_there(app, db_name, wanted, args.num_partitions)
    schema = await app.schemas.refresh(db_name, args.collection_name)
    async with app.clients.client(db_name) as client:
        loaded = await client.is_loaded(args.collection_name)
    return CreateCollectionOutput(
        created=created,
        collection_name=schema.name,
        fields=[str(field) for field in schema.fields],
        indexes=[described_index(index) for index in schema.indexes],
        embedding=described_bindings(app.bindings(db_name, schema)),
        loaded=loaded,
    )


class DropCollectionOutput(Output):
    """That it is gone, and how it can be restored."""

    dropped: bool
    kept_as: str | None = Field(default=None, description="The id for restore_collection")
    kept_until: str | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.DELETE, loses=collection_lost)
async def drop_collection(app: App, args: CollectionInput) -> DropCollectionOutput:
    """Drops a collection with everything in it."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    if undo.is_on(app):
        dropped = await undo.drop(app, db_name, schema)
        return DropCollectionOutput(dropped=True, kept_as=dropped.name, kept_until=undo.as_time(dropped.until))
    async with app.clients.client(db_name) as client:
        if aliases := await client.if_allowed(client.aliases(schema.name)):
            raise Conflict(f"{schema.name} has aliases: {', '.join(aliases)}", hint="drop_alias them first")
        await client.confirm(args.collection_name, schema)
        await client.drop_collection(args.collection_name)
    app.schemas.forget(db_name, args.collection_name)
    return DropCollectionOutput(dropped=True)


class LoadStateOutput(Output):
    """Whether the collection is in memory now."""

    loaded: bool


class LoadCollectionInput(CollectionInput):
    """Which collection, and how much of it."""

    replica_number: int | None = Field(None, ge=1)
    load_fields: list[Name] | None = None
    skip_load_dynamic_field: bool = False
    resource_groups: list[str] | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def load_collection(app: App, args: LoadCollectionInput) -> LoadStateOutput:
    """Loads a collection into memory."""

    async def load(client: "Client", schema: CollectionSchema) -> None:
        options = _load_options(client, schema, args)
        await load_and_wait(client, args.collection_name, app.report_progress, **options)

    db_name = app.database(args.db_name)
    await app.with_schema(db_name, args.collection_name, load, seconds=app.settings.build_timeout)
    app.schemas.forget(db_name, args.collection_name)
    return LoadStateOutput(loaded=True)


@tool(toolset=Toolset.SCHEMA, effect=Effect.MODIFY)
async def release_collection(app: App, args: CollectionInput) -> LoadStateOutput:
    """Takes a collection out of memory; nothing is lost."""

    async def release(client: "Client", _: CollectionSchema) -> None:
        await client.release_collection(args.collection_name)

    db_name = app.database(args.db_name)
    await app.with_schema(db_name, args.collection_name, release)
    app.schemas.forget(db_name, args.collection_name)
    return LoadStateOutput(loaded=False)


def _load_options(client: "Client", schema: CollectionSchema, args: LoadCollectionInput) -> dict[str, Any]:
    """What was asked for, once the backend has it: one that has not would load everything and say nothing."""
    for name in args.load_fields or ():
        schema.require(name)
    if (args.replica_number or 1) > 1:
        client.backend.require(Feature.REPLICAS, where="replica_number")
    if args.resource_groups:
        client.backend.require(Feature.LOAD_RESOURCE_GROUPS, where="resource_groups")
    for name in ("load_fields", "skip_load_dynamic_field"):
        if getattr(args, name):
            client.backend.require(Feature.LOAD_FIELDS, where=name)
    return args.model_dump(exclude={"collection_name", "db_name"}, exclude_defaults=True)


async def _looked_up(client: "Client", names: Sequence[str]) -> list[CollectionLine]:
    """The collections of these names that are still there."""
    lines: dict[str, CollectionLine] = {}
    at_once = anyio.CapacityLimiter(LOOK_UPS_AT_ONCE)
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(_look_up, client, name, at_once, lines)
    return [lines[name] for name in names if name in lines]


async def _look_up(
    client: "Client", name: str, at_once: anyio.CapacityLimiter, lines: dict[str, CollectionLine]
) -> None:
    async with at_once:
        found = await client.summary(name)
    if found:
        text, loaded, entities = found
        short = text if len(text) <= TRIMMED_LENGTH else f"{text[:TRIMMED_LENGTH]}…"
        lines[name] = CollectionLine(name=name, description=short or None, entity_count=entities, loaded=loaded)


async def _create_unless_there(app: App, db_name: str, wanted: CollectionSchema, num_partitions: int | None) -> bool:
    """Whether it was created. If not, it is there already, and the same."""
    existing = await app.schemas.find(db_name, wanted.name)
    if existing is None:
        try:
            async with app.clients.client(db_name, seconds=app.settings.build_timeout) as client:
                await _create(app, client, db_name, wanted, num_partitions)
        except AlreadyExists:
            existing = await app.schemas.find(db_name, wanted.name)
            if existing is None:
                raise
        else:
            return True
    existing = await _once_indexed(app, db_name, wanted, existing)
    require_same(wanted, existing, also=differences(wanted, existing))
    return False


async def _once_indexed(
    app: App, db_name: str, wanted: CollectionSchema, existing: CollectionSchema
) -> CollectionSchema:
    """The existing collection, after a while if it lacks an index: another server may be creating it at this moment."""
    deadline = anyio.current_time() + HALF_MADE_SECONDS
    while anyio.current_time() < deadline and not all(existing.index_of(each.field_name) for each in wanted.indexes):
        await anyio.sleep(FIRST_PAUSE)
        existing = await app.schemas.find(db_name, wanted.name) or existing
    return existing


async def _create(
    app: App, client: "Client", db_name: str, wanted: CollectionSchema, num_partitions: int | None
) -> None:
    """Whatever fails after the creation, cancellation too, takes the collection away again."""
    async with AsyncExitStack() as failing:
        with anyio.fail_after(app.settings.timeout, shield=True):  # cancelled halfway, it would stay unknown to us
            await client.create_with_or_without(wanted, PROPERTY, num_partitions=num_partitions)
            made = await client.describe(wanted.name)
        failing.push_async_callback(_shielded_drop, client, made, app.settings.timeout)
        if (binding := wanted.properties.get(PROPERTY)) and PROPERTY not in made.properties:
            await app.properties.keep(db_name, made, {PROPERTY: binding})
        for index in wanted.indexes:
            await client.start_index(wanted.name, index)
        for index in wanted.indexes:
            await wait_for_index(client, wanted.name, index.field_name, app.report_progress)
        await load_and_wait(client, wanted.name, app.report_progress)
        failing.pop_all()


async def _shielded_drop(client: "Client", made: CollectionSchema, seconds: float) -> None:
    with anyio.move_on_after(seconds, shield=True):
        await client.confirm(made.name, made)
        await client.drop_collection(made.name)


async def _wanted(app: App, args: CreateCollectionInput, backend: Backend) -> CollectionSchema:
    require_other_properties(args.properties)
    form = await _form(app, args, backend)
    dynamic = form.enable_dynamic_field if args.enable_dynamic_field is None else args.enable_dynamic_field
    return replace(
        form,
        indexes=form.indexes or tuple(spec.as_index() for spec in args.indexes),
        enable_dynamic_field=dynamic,
        consistency_level=args.consistency_level or "",
        num_shards=args.num_shards,
        description=args.description,
        properties={**split_properties(args.properties)[0], **form.properties},
    )


async def _form(app: App, args: CreateCollectionInput, backend: Backend) -> CollectionSchema:
    """The collection in the form that the arguments have: text, full or quick."""
    if args.text_field is not None:
        _require_none_of(args, ("fields", "functions", *QUICK), "do not go with text_field, which makes the fields")
        return await _text_form(app, args, args.text_field, backend)
    _require_none_of(args, ("metadata", "embedder"), "belong to the text form: give text_field")
    if args.fields is not None:
        _require_none_of(args, (*QUICK, *KEYS), "belong to the quick form; with fields, set them there")
        return _full_form(args, args.fields)
    if args.dimension is None:
        raise InvalidArgument(
            "create_collection: give text_field (text form), dimension (quick form) or fields (full form)"
        )
    return _quick_form(args, args.dimension)


def _require_none_of(args: CreateCollectionInput, names: Sequence[str], otherwise: str) -> None:
    if given := sorted(name for name in names if getattr(args, name) not in (None, [])):
        raise InvalidArgument(f"create_collection: {', '.join(given)} {otherwise}")


async def _text_form(app: App, args: CreateCollectionInput, text_field: str, backend: Backend) -> CollectionSchema:
    """The embedder is asked for its fingerprint, so that one that does not answer leaves no collection behind."""
    fingerprint = None
    if app.embedders or args.embedder:
        async with within(app.settings.timeout):
            fingerprint = await app.embedders.named(args.embedder or "").fingerprint()
    elif FunctionType.BM25 not in backend.functions:
        raise NotSupported(
            f"text_field: {backend} has no BM25 and this server no embedder, so nothing would find the text",
            hint=f"{HOW_TO_HAVE_ONE}; or create it with dimension or fields, and insert vectors of your own",
        )
    dim = fingerprint.dim if fingerprint else None
    key = _key(args, auto_id=args.id_type is None)
    store = document_store(args.collection_name, key, text_field, _metadata(args, backend), dim, backend)
    binding = [Binding(VECTOR, text_field, fingerprint)] if fingerprint else []
    return replace(store, properties={PROPERTY: as_property(binding)} if binding else {})


def _full_form(args: CreateCollectionInput, fields: Sequence[FieldSpec]) -> CollectionSchema:
    return CollectionSchema(
        args.collection_name,
        tuple(spec.as_field() for spec in fields),
        tuple(spec.as_function() for spec in args.functions),
        (),
        enable_dynamic_field=False,
    )


def _quick_form(args: CreateCollectionInput, dimension: int) -> CollectionSchema:
    vector = schemas.Field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
    index = schemas.Index(VECTOR, "", "AUTOINDEX", args.metric_type or MetricType.COSINE)
    return CollectionSchema(
        args.collection_name,
        (_key(args, auto_id=False), vector),
        tuple(spec.as_function() for spec in args.functions),
        () if args.indexes else (index,),
        enable_dynamic_field=True,
    )


def _key(args: CreateCollectionInput, *, auto_id: bool) -> schemas.Field:
    """The primary key of the quick and the text form. `auto_id` is what holds where the caller does not say."""
    kind = DataType.VARCHAR if args.id_type == "string" else DataType.INT64
    return schemas.Field(KEY, kind, is_primary=True, auto_id=auto_id if args.auto_id is None else args.auto_id)


def _metadata(args: CreateCollectionInput, backend: Backend) -> Iterator[schemas.Field]:
    """Entities may leave metadata out unless the caller says otherwise."""
    for spec in args.metadata:
        field = spec.as_field()
        unsaid = "nullable" not in spec.model_fields_set
        yield replace(field, nullable=can_be_null(field, backend)) if unsaid else field


TOOLS = (list_collections, describe_collection, create_collection, drop_collection, load_collection, release_collection)
