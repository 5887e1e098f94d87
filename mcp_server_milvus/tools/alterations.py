"""Changes of a collection that is there: its name, properties, fields, functions, contents and load."""

from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, WithJsonSchema

from mcp_server_milvus import undo
from mcp_server_milvus.app import App
from mcp_server_milvus.embedding.binding import PROPERTY, as_property, bindings_in
from mcp_server_milvus.errors import AlreadyExists, Error, InvalidArgument, NotFound, NotLoaded, NotSupported
from mcp_server_milvus.losses.structures import contents_lost, lost_by_alteration
from mcp_server_milvus.milvus import schema as schemas
from mcp_server_milvus.milvus.capabilities import Backend, Feature
from mcp_server_milvus.milvus.definition import completed_field
from mcp_server_milvus.milvus.description import described_bindings, described_properties
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.schema import DESCRIPTION_PROPERTY, CollectionSchema
from mcp_server_milvus.milvus.specs import FieldArgument, FunctionArgument, Properties, property_text, split_properties
from mcp_server_milvus.milvus.waiting import load_and_wait, refresh_and_wait
from mcp_server_milvus.rebinding import Rebinding, rebinding, require_other_properties
from mcp_server_milvus.settings import nearest
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import DataType, Effect, FunctionType, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

TTL = "collection.ttl.seconds"
PROPERTIES = (
    *(TTL, "mmap.enabled", "lazyload.enabled", "partitionkey.isolation", "dynamicfield.enabled", "timezone"),
    *("allow_insert_auto_id", "allow_update_auto_id"),
)
"""Those that Milvus acts on. Source: Milvus's documentation of collection properties."""

SERVER_DESCRIPTION = "collection.description"
"""The property by which a Milvus server changes a description."""

FIELD_PARAMS = {"max_length": "max_length", "max_capacity": "max_capacity", "mmap_enabled": "mmap.enabled"}
"""What of a field can be changed, and what a Milvus server calls it."""

FUNCTION_OUTPUTS = {
    FunctionType.BM25: (DataType.SPARSE_FLOAT_VECTOR, "SPARSE_INVERTED_INDEX", "BM25"),
    FunctionType.MINHASH: (DataType.BINARY_VECTOR, "MINHASH_LSH", "MHJACCARD"),
}
"""Type, index type and metric of the field that a function brings with it."""

EmbedFields = Annotated[dict[Name, Name | None], WithJsonSchema({"type": "object"})]
FieldParams = Annotated[dict[str, int | bool], WithJsonSchema({"type": "object"})]


class AlterCollectionInput(Input):
    """What is to be otherwise."""

    collection_name: Name
    description: str | None = None
    properties: Properties = Field(
        default_factory=dict, description='{"collection.ttl.seconds": 3600, "mmap.enabled": true}; null drops one'
    )
    add_field: FieldArgument | None = Field(None, description="As in create_collection")
    field_name: Name | None = None
    field_params: FieldParams = Field(default_factory=dict, description="max_length, max_capacity, mmap_enabled")
    add_function: FunctionArgument | None = None
    drop_function: Name | None = None
    drop_field: Name | None = None
    embed_fields: EmbedFields = Field(default_factory=dict, description="{vector_field: text_field}; null unbinds")
    embedder: str | None = None
    new_name: Name | None = None
    db_name: Name | None = None


class AlterCollectionOutput(Output):
    """What was done, and what the collection is now."""

    done: list[str]
    collection_name: str
    fields: list[str]
    embedding: dict[str, str] | None = None
    properties: dict[str, Any] | None = None
    description: str | None = None
    loaded: bool
    notes: list[str] | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.DELETE, loses=lost_by_alteration)
async def alter_collection(app: App, args: AlterCollectionInput) -> AlterCollectionOutput:
    """Changes a collection in place, in the order of these arguments."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    backend = await app.clients.backend(db_name)
    rebound = await _rebinding(app, db_name, args, schema)
    steps = (*_steps(args, schema, backend), *_binding_steps(app, db_name, schema, rebound))
    if args.new_name:
        steps += await _rename_steps(app, db_name, schema.name, args.new_name)
    if not steps:
        raise InvalidArgument("alter_collection: give at least one change")
    done: list[str] = []
    with _telling_what_was_done(steps, done):
        await _carry_out(app, db_name, schema, steps, done)
        changed = await app.schemas.refresh(db_name, args.new_name or schema.name)
        async with app.clients.client(db_name) as client:
            loaded = await client.is_loaded(changed.name)
    return AlterCollectionOutput(
        done=done,
        collection_name=changed.name,
        fields=[str(field) for field in changed.fields],
        embedding=described_bindings(app.bindings(db_name, changed)),
        properties=described_properties(changed, PROPERTY),
        description=changed.description or None,
        loaded=loaded,
        notes=[*_notes(args, backend), *rebound.notes] or None,
    )


class CollectionInput(Input):
    """Which collection."""

    collection_name: Name
    db_name: Name | None = None


class TruncateCollectionOutput(Output):
    """The collection as it is now."""

    truncated: bool
    loaded: bool
    kept_as: str | None = Field(default=None, description="The id for restore_collection")
    kept_until: str | None = None
    undo: str | None = None


@tool(toolset=Toolset.SCHEMA, effect=Effect.DELETE, loses=contents_lost)
async def truncate_collection(app: App, args: CollectionInput) -> TruncateCollectionOutput:
    """Removes all entities of a collection."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    (await app.clients.backend(db_name)).require(Feature.TRUNCATE, where="truncate_collection")
    kept = await undo.keep_all(app, db_name, schema, "truncate_collection")
    async with app.clients.client(db_name, seconds=app.settings.build_timeout) as client:
        await client.confirm(schema.name, schema)
        await client.truncate(schema)
        loaded = await client.is_loaded(schema.name)
    app.schemas.forget(db_name, schema.name)
    return TruncateCollectionOutput(truncated=True, loaded=loaded, **kept.told)


class RefreshLoadOutput(Output):
    """That all of the collection is in memory now."""

    loaded: bool


@tool(toolset=Toolset.SCHEMA, effect=Effect.CREATE)
async def refresh_load(app: App, args: CollectionInput) -> RefreshLoadOutput:
    """Loads what was bulk-imported since the collection was loaded."""

    async def refresh(client: "Client", _: CollectionSchema) -> None:
        if not await client.is_loaded(args.collection_name):
            raise NotLoaded(f"{args.collection_name} is not loaded", hint="call load_collection")
        if not client.backend.is_lite:  # which reads what is there, whoever wrote it
            await refresh_and_wait(client, args.collection_name, app.report_progress)

    await app.with_schema(app.database(args.db_name), args.collection_name, refresh, seconds=app.settings.build_timeout)
    return RefreshLoadOutput(loaded=True)


@dataclass(frozen=True)
class _Step:
    """One change: what it does, and how it is told afterwards."""

    told: str
    carry_out: Callable[["Client"], Awaitable[None]]


@contextmanager
def _telling_what_was_done(steps: tuple[_Step, ...], done: list[str]) -> Generator[None]:
    """An error inside the block has the details `done` and `failed`, once anything is done."""
    try:
        yield
    except Error as error:
        if done:
            failed = {"failed": steps[len(done)].told} if len(done) < len(steps) else {}
            error.details |= {"done": done} | failed
        raise


async def _carry_out(
    app: App, db_name: str, schema: CollectionSchema, steps: tuple[_Step, ...], done: list[str]
) -> None:
    """Each step in its turn; `done` gets what is told of it."""
    try:
        for step in steps:
            async with app.clients.client(db_name, seconds=app.settings.build_timeout) as client:
                if not done:
                    await client.confirm(schema.name, schema)
                await step.carry_out(client)
            done.append(step.told)
    finally:
        app.schemas.forget(db_name, schema.name)


def _steps(args: AlterCollectionInput, schema: CollectionSchema, backend: Backend) -> Iterator[_Step]:
    """The changes that were asked for but the name, every one of them checked before the first is made."""
    yield from _property_steps(args, schema, backend)
    added = _added_field(args, schema, backend)
    if added:
        yield _add_field(schema, added)
    if args.field_name or args.field_params:
        yield _alter_field(args, schema, backend)
    if args.add_function:
        known = replace(schema, fields=(*schema.fields, added)) if added else schema
        yield _add_function(args, args.add_function.as_function(), known, backend)
    if args.drop_function:
        yield _drop_function(args.drop_function, schema, backend)
    if args.drop_field:
        yield _drop_field(args.drop_field, schema, backend)


def _property_steps(args: AlterCollectionInput, schema: CollectionSchema, backend: Backend) -> Iterator[_Step]:
    require_other_properties(args.properties)
    wanted, dropped = split_properties(args.properties)
    if not wanted.get(TTL, "0").isdecimal():
        raise InvalidArgument(f"properties: {TTL} is a whole number of seconds; 0 keeps entities for ever")
    if dropped:
        backend.require(Feature.DROP_PROPERTY, where=f"properties: {dropped[0]}")
    if args.description is not None:
        backend.require(Feature.ALTER_DESCRIPTION, where="description")
        kept_in = DESCRIPTION_PROPERTY if backend.is_lite else SERVER_DESCRIPTION
        yield _set_properties("description", schema.name, {kept_in: args.description})
    if wanted:
        yield _set_properties(f"set {', '.join(wanted)}", schema.name, wanted)
    if dropped:

        async def drop(client: "Client") -> None:
            await client.drop_collection_properties(schema.name, dropped)

        yield _Step(f"dropped {', '.join(dropped)}", drop)


def _set_properties(told: str, collection_name: str, properties: dict[str, str]) -> _Step:
    async def alter(client: "Client") -> None:
        await client.alter_collection_properties(collection_name, properties)

    return _Step(told, alter)


def _added_field(args: AlterCollectionInput, schema: CollectionSchema, backend: Backend) -> schemas.Field | None:
    """What add_field describes, unless it is the output that comes with add_function."""
    outputs = args.add_function.output_field_names if args.add_function else []
    if args.add_field is None or args.add_field.name in outputs:
        return None
    backend.require(Feature.ADD_FIELD, where="add_field")
    added = completed_field(args.add_field.as_field(), backend)
    if added.name in schema.by_name:
        raise AlreadyExists(f"add_field: {schema.name} has the field {schema.by_name[added.name]}")
    if added.struct_fields:
        raise NotSupported("add_field: an array of structs cannot be added", hint="add a JSON field")
    return added


def _add_field(schema: CollectionSchema, added: schemas.Field) -> _Step:
    async def add(client: "Client") -> None:
        await client.add_field(schema.name, added)

    return _Step(f"added {added}", add)


def _alter_field(args: AlterCollectionInput, schema: CollectionSchema, backend: Backend) -> _Step:
    if not args.field_name or not args.field_params:
        raise InvalidArgument("alter_collection: field_name and field_params go together")
    if unknown := args.field_params.keys() - FIELD_PARAMS:
        raise InvalidArgument(
            f"field_params: unknown {min(unknown)!r}; of a field, {', '.join(FIELD_PARAMS)} can change"
        )
    field = schema.require(args.field_name)
    backend.require(Feature.ALTER_FIELD, where="field_params")
    params = {FIELD_PARAMS[name]: property_text(value) for name, value in args.field_params.items()}

    async def alter(client: "Client") -> None:
        await client.alter_collection_field(schema.name, field.name, params)

    return _Step(f"changed {', '.join(args.field_params)} of {field.name}", alter)


def _add_function(
    args: AlterCollectionInput, added: schemas.Function, schema: CollectionSchema, backend: Backend
) -> _Step:
    backend.require(Feature.ALTER_FUNCTIONS, where="add_function")
    for name in added.inputs:
        schema.require(name)
    if any(function.name == added.name for function in schema.functions):
        raise AlreadyExists(f"add_function: {schema.name} has a function {added.name!r}")
    if not backend.has(Feature.FUNCTION_FIELDS):
        return _add_function_to_field(added, schema, backend)
    output, index = _brought_field(args, added, schema)

    async def add(client: "Client") -> None:
        await client.add_function_and_field(schema.name, added, output, index)

    return _Step(f"added function {added.name} with {output}", add)


def _add_function_to_field(added: schemas.Function, schema: CollectionSchema, backend: Backend) -> _Step:
    if missing := [name for name in added.outputs if name not in schema.by_name]:
        backend.require(Feature.FUNCTION_FIELDS, where=f"add_function: the new field {missing[0]}")

    async def add(client: "Client") -> None:
        await client.add_function(schema.name, added)

    return _Step(f"added function {added.name}", add)


def _brought_field(
    args: AlterCollectionInput, added: schemas.Function, schema: CollectionSchema
) -> tuple[schemas.Field, schemas.Index]:
    """The field that comes with the function, as add_field says or as the function needs it, and its index."""
    if added.type not in FUNCTION_OUTPUTS or len(added.outputs) != 1:
        can = " or ".join(FUNCTION_OUTPUTS)
        raise NotSupported(f"add_function: only {can}, with one output field, can be added to a collection")
    kind, index_type, metric = FUNCTION_OUTPUTS[added.type]
    name = added.outputs[0]
    if name in schema.by_name:
        raise AlreadyExists(f"add_function: {name} is there already; the function brings its output field with it")
    output = args.add_field.as_field() if args.add_field and args.add_field.name == name else schemas.Field(name, kind)
    if output.type is not kind or (kind is DataType.BINARY_VECTOR and not output.dim):
        raise InvalidArgument(f"add_field: the output of {added.type} is a {kind}{'' if output.dim else ' with dim'}")
    return replace(output, is_function_output=True), schemas.Index(name, name, index_type, metric)


def _drop_function(name: str, schema: CollectionSchema, backend: Backend) -> _Step:
    backend.require(Feature.ALTER_FUNCTIONS, where="drop_function")
    known = next((function for function in schema.functions if function.name == name), None)
    if known is None:
        names = ", ".join(function.name for function in schema.functions) or "none"
        raise NotFound(f"{schema.name} has no function {name!r}; functions: {names}")
    with_field = backend.has(Feature.FUNCTION_FIELDS)

    async def drop(client: "Client") -> None:
        await (client.drop_function_field if with_field else client.drop_function)(schema.name, name)

    return _Step(f"dropped function {name}{' with ' + ', '.join(known.outputs) if with_field else ''}", drop)


def _drop_field(name: str, schema: CollectionSchema, backend: Backend) -> _Step:
    field = schema.require(name)
    backend.require(Feature.DROP_FIELD, where="drop_field")
    if field.is_primary:
        raise InvalidArgument(f"drop_field: {name} is the primary key")

    async def drop(client: "Client") -> None:
        await client.drop_collection_field(schema.name, name)

    return _Step(f"dropped {field}", drop)


async def _rebinding(app: App, db_name: str, args: AlterCollectionInput, schema: CollectionSchema) -> Rebinding:
    """What embed_fields binds and unbinds; a field that is dropped takes its binding with it."""
    if args.embedder is not None and not any(args.embed_fields.values()):
        raise InvalidArgument("alter_collection: embedder goes with embed_fields, which names the fields to bind")
    kept = bindings_in(schema.properties)
    dropped = {name: None for name, each in kept.items() if args.drop_field in {name, each.text_field}}
    asked = await rebinding(app, db_name, schema, kept.keys() - dropped, args.embed_fields, args.embedder or "")
    return replace(asked, changes=dropped | asked.changes)


def _binding_steps(app: App, db_name: str, schema: CollectionSchema, rebound: Rebinding) -> Iterator[_Step]:
    async def bind(client: "Client") -> None:
        async with app.properties.changing:  # another call may have bound another field meanwhile
            now = await app.properties.completed(db_name, await client.describe(schema.name))
            value = as_property(rebound.applied(bindings_in(now.properties)).values())
            if not await client.keeps_property(schema.name, PROPERTY, value):
                await app.properties.keep(db_name, now, {PROPERTY: value})

    if rebound.changes:
        yield _Step(", ".join(rebound.told()), bind)


async def _rename_steps(app: App, db_name: str, name: str, new_name: str) -> tuple[_Step, ...]:
    """The renaming, and loading again where renaming releases."""
    if await app.schemas.find(db_name, new_name):
        raise AlreadyExists(f"new_name: there is a collection or an alias {new_name!r}")
    async with app.clients.client(db_name) as client:
        released = client.backend.is_lite and await client.is_loaded(name)

    async def rename(client: "Client") -> None:
        await client.rename(name, new_name)

    async def load(client: "Client") -> None:
        await load_and_wait(client, new_name, app.report_progress)

    renaming = _Step(f"renamed to {new_name}", rename)
    return (renaming, _Step("loaded again", load)) if released else (renaming,)


def _notes(args: AlterCollectionInput, backend: Backend) -> list[str]:
    """What was done and will do nothing."""
    given = [name for name, value in args.properties.items() if value is not None]
    idle = [name for name in given if backend.is_lite and name in {TTL, "mmap.enabled"}]
    unknown = [(name, nearest(name, PROPERTIES)) for name in given if name not in PROPERTIES]
    notes = [f"{backend} keeps {name} and does not act on it" for name in idle]
    return notes + [f"{name}: Milvus keeps properties that it does not know{meant}" for name, meant in unknown if meant]


TOOLS = (alter_collection, truncate_collection, refresh_load)
