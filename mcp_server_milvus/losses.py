"""What a call would destroy, for whoever confirms it: each function here tells it of one tool (`Tool.loses`).

A call that the tool would refuse is refused here by the same words: nobody is asked about what cannot be.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import NotFound
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.entities import as_entities
from mcp_server_milvus.milvus.filters import any_key, rendered
from mcp_server_milvus.milvus.folders import Folders
from mcp_server_milvus.milvus.results import Page, json_size, plain_value
from mcp_server_milvus.milvus.schema import DEFAULT_PARTITION, CollectionSchema, Field
from mcp_server_milvus.text.visible import visible
from mcp_server_milvus.tool import Loss
from mcp_server_milvus.undo import how_to_undo, how_to_undo_deletion
from mcp_server_milvus.vocabulary import DataType

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

SAMPLED = 3
SAMPLE_BYTES = 1_536
"""Entities that a preview shows, and bytes of it."""

SHOWN_TEXT = 100
"""Characters of a text in it."""

QUOTED = 200
"""Characters of a name or a filter that a sentence repeats."""

BITS = {
    DataType.FLOAT_VECTOR: 32,
    DataType.FLOAT16_VECTOR: 16,
    DataType.BFLOAT16_VECTOR: 16,
    DataType.INT8_VECTOR: 8,
    DataType.BINARY_VECTOR: 1,
}
"""Bits of one dimension."""

TYPICAL_BYTES = 64
TYPICAL_SPARSE_BYTES = 512
"""Of a value whose size nothing tells: a text or an object, and a sparse vector."""

TTL = "collection.ttl.seconds"


class OfCollection(Protocol):
    """Arguments that name a collection."""

    @property
    def collection_name(self) -> str: ...

    @property
    def db_name(self) -> str | None: ...


class OfPartition(OfCollection, Protocol):
    """Arguments that name a partition."""

    @property
    def partition_name(self) -> str: ...


class OfIndex(OfCollection, Protocol):
    """Arguments that name an index."""

    @property
    def index_name(self) -> str: ...


class OfMatching(OfCollection, Protocol):
    """Arguments of a delete."""

    @property
    def ids(self) -> Sequence[int | str] | None: ...

    @property
    def filter(self) -> str | None: ...

    @property
    def filter_params(self) -> dict[str, Any] | None: ...

    @property
    def partition_name(self) -> str | None: ...


class OfEntities(OfCollection, Protocol):
    """Arguments of an upsert."""

    @property
    def data(self) -> list[dict[str, Any]] | dict[str, Any]: ...


class OfImport(OfCollection, Protocol):
    """Arguments of an import."""

    @property
    def path(self) -> str: ...

    @property
    def mode(self) -> str: ...

    @property
    def model_fields_set(self) -> set[str]: ...


class OfExport(Protocol):
    """Arguments of an export."""

    @property
    def path(self) -> str: ...

    @property
    def overwrite(self) -> bool: ...


class OfAlteration(OfCollection, Protocol):
    """Arguments that change a collection."""

    @property
    def drop_field(self) -> str | None: ...

    @property
    def drop_function(self) -> str | None: ...

    @property
    def properties(self) -> dict[str, Any]: ...


class OfAlias(Protocol):
    """Arguments that name an alias."""

    @property
    def alias(self) -> str: ...

    @property
    def db_name(self) -> str | None: ...


class OfDatabase(Protocol):
    """Arguments that name a database."""

    @property
    def db_name(self) -> str: ...


@dataclass(frozen=True)
class Entities:
    """Entities of one collection. `count` is None where the account may not read them, `some` are the first few.

    Of a collection that is not loaded, a server counts only what it has written out.
    """

    schema: CollectionSchema
    count: int | None
    some: tuple[dict[str, Any], ...] = ()
    is_exact: bool = True

    @property
    def bytes(self) -> int | None:
        """Roughly their size."""
        return None if self.count is None else self.count * _mean_size(self.schema, self.some)

    def told(self) -> str:
        """`2,000 entities, about 1.5 MB`: how sentences end."""
        if self.count is None or self.bytes is None:
            return "all its entities, which cannot be counted now"
        plural = "entity" if self.count == 1 else "entities"
        told = f"{self.count:,} {plural}, about {_readable(self.bytes)}"
        return told if self.is_exact else f"at least {told}; it is not loaded, and what was written last is not counted"

    def state(self) -> tuple[str | int, ...]:
        """What makes them others: another collection, another number, other first keys."""
        keys = [str(entity[self.schema.primary_key.name]) for entity in self.some]
        return (self.schema.name, self.schema.identity, -1 if self.count is None else self.count, *keys)

    def preview(self, app: App) -> dict[str, Any]:
        """What a reader should see of them."""
        page = Page(self.schema, min(SAMPLE_BYTES, app.settings.max_result_bytes))
        masks = app.policy.reach.masks
        for entity in self.some:
            shown = {name: _short(value) for name, value in entity.items() if not masks(self.schema.name, name)}
            if not page.admit(shown):
                break
        counted = {"entity_count": self.count, "bytes": self.bytes, "sample": page.entities or None}
        return {name: value for name, value in counted.items() if value is not None}


async def collection_lost(app: App, args: OfCollection) -> Loss:
    """What drop_collection would destroy."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    entities = await _all(app, db_name, schema)
    what = f"Drops the collection {quoted(schema.name)} of database {quoted(db_name)}: {entities.told()}."
    return Loss(what, entities.state(), entities.preview(app), how_to_undo(app))


async def contents_lost(app: App, args: OfCollection) -> Loss:
    """What truncate_collection would destroy."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    (await app.clients.backend(db_name)).require(Feature.TRUNCATE, where="truncate_collection")
    entities = await _all(app, db_name, schema)
    what = f"Empties the collection {quoted(schema.name)} of database {quoted(db_name)}: {entities.told()}."
    return Loss(what, entities.state(), entities.preview(app), await how_to_undo_deletion(app, schema, entities.count))


async def partition_lost(app: App, args: OfPartition) -> Loss | None:
    """What drop_partition would destroy."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    name = args.partition_name
    if name == DEFAULT_PARTITION or schema.has_partition_key:
        return None  # it is refused, now and later
    async with app.clients.client(db_name) as client:
        if name not in await client.list_partitions(schema.name):
            raise NotFound(f"{schema.name} has no partition {name!r}", hint="list_partitions shows what there is")
    entities = await _all(app, db_name, schema, name)
    what = f"Drops the partition {quoted(name)} of collection {quoted(schema.name)}: {entities.told()}."
    undo = await how_to_undo_deletion(app, schema, entities.count)
    return Loss(what, (name, *entities.state()), entities.preview(app), undo)


async def matching_lost(app: App, args: OfMatching) -> Loss | None:
    """What a delete by filter would destroy. Who names the keys knows it."""
    if args.ids is not None or not args.filter or not args.filter.strip():
        return None
    db_name = app.database(args.db_name)
    await app.schemas.confirmed(db_name, args.collection_name)
    matching = rendered(args.filter, args.filter_params)
    partition_names = [args.partition_name] if args.partition_name else None

    async def read(client: "Client", schema: CollectionSchema) -> Entities:
        return await _read(client, schema, matching, partition_names)

    entities, _ = await app.read(db_name, args.collection_name, read)
    if not entities.count:
        return None
    what = f"Deletes from the collection {quoted(entities.schema.name)} what matches {quoted(matching)}"
    undo = await how_to_undo_deletion(app, entities.schema, entities.count)
    return Loss(f"{what}: {entities.told()}.", entities.state(), entities.preview(app), undo)


async def replaced_by_upsert(app: App, args: OfEntities) -> Loss | None:
    """What an upsert of many entities may replace."""
    count = len(args.data) if isinstance(args.data, list) else len(as_entities(args.data))
    if not 0 < app.settings.confirm_upserts < count:
        return None
    db_name = app.database(args.db_name)
    entities = await _all(app, db_name, await app.schemas.refresh(db_name, args.collection_name))
    name = quoted(entities.schema.name)
    what = f"Upserts {count:,} entities into the collection {name}, and replaces those there that have their keys:"
    return _replaced(app, entities, f"{what} it has {entities.told()}.")


async def replaced_by_import(app: App, args: OfImport) -> Loss | None:
    """What an import of a file may replace: never more than there is."""
    if not app.settings.confirm_upserts or (args.mode == "insert" and "mode" in args.model_fields_set):
        return None
    db_name = app.database(args.db_name)
    schema = await app.schemas.refresh(db_name, args.collection_name)
    if schema.primary_key.auto_id and "mode" not in args.model_fields_set:
        return None
    entities = await _all(app, db_name, schema)
    if entities.is_exact and entities.count is not None and entities.count <= app.settings.confirm_upserts:
        return None
    name = quoted(schema.name)
    what = f"Imports {quoted(args.path)} into the collection {name}, and replaces entities there that have its keys:"
    undo = "it cannot be taken back; with mode insert nothing would be replaced"
    return _replaced(app, entities, f"{what} it has {entities.told()}.", undo)


async def replaced_by_export(app: App, args: OfExport) -> Loss | None:
    """Which file an export would replace."""
    if not args.overwrite:
        return None
    size = await anyio.to_thread.run_sync(_file_size, Folders(app.settings.file_folders), args.path)
    if size is None:
        return None
    return Loss(f"Replaces the file {quoted(args.path)}, {_readable(size)}.", (size,), {"bytes": size})


async def index_lost(app: App, args: OfIndex) -> Loss:
    """What drop_index would destroy."""
    schema = await app.schemas.confirmed_itself(app.database(args.db_name), args.collection_name)
    by_name = {each.field_name: each for each in schema.indexes} | {each.index_name: each for each in schema.indexes}
    found = by_name.get(args.index_name)
    if found is None:
        names = ", ".join(each.index_name for each in schema.indexes) or "none"
        raise NotFound(f"there is no index {args.index_name!r}; indexes: {names}")
    kind = " ".join(filter(None, (found.index_type, found.metric_type)))
    what = f"Drops the index {quoted(found.index_name)} ({quoted(kind)}) of collection {quoted(schema.name)}"
    told = f"{what}: its field {quoted(found.field_name)} cannot be searched without."
    return Loss(told, (schema.identity, schema.index_digest, str(found)), undo="build_index builds it again")


async def alias_lost(app: App, args: OfAlias) -> Loss:
    """What drop_alias would destroy."""
    async with app.clients.client(app.database(args.db_name)) as client:
        target = await client.alias_target(args.alias)
    if target is None:
        raise NotFound(f"there is no alias {args.alias!r}", hint="list_aliases shows what there is")
    what = f"Drops the alias {quoted(args.alias)} of collection {quoted(target)}, which stays."
    return Loss(what, (args.alias, target), undo="create_alias makes it again")


async def database_lost(app: App, args: OfDatabase) -> Loss | None:
    """What drop_database would destroy: a database without collections."""
    if args.db_name in {"default", app.settings.db_name}:
        return None  # it is refused, now and later
    async with app.clients.client(app.settings.db_name) as client:
        if args.db_name not in await client.list_databases():
            raise NotFound(f"there is no database {args.db_name!r}", hint="list_databases shows what there is")
    what = f"Drops the database {quoted(args.db_name)}, if it has no collections."
    return Loss(what, (args.db_name,), undo="create_database makes it again, without its properties")


async def lost_by_alteration(app: App, args: OfAlteration) -> Loss | None:
    """What alter_collection would destroy: values of a field, a function, or entities that then expire."""
    seconds = str(args.properties.get(TTL) or 0)
    if not (args.drop_field or args.drop_function or seconds != "0"):
        return None
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    backend = await app.clients.backend(db_name)
    done: list[str] = []
    if args.drop_field:
        field = schema.require(args.drop_field)
        backend.require(Feature.DROP_FIELD, where="drop_field")
        done.append(f"drops the field {quoted(str(field))} with its values")
    if args.drop_function:
        backend.require(Feature.ALTER_FUNCTIONS, where="drop_function")
        names = [function.name for function in schema.functions]
        if args.drop_function not in names:
            told = ", ".join(names) or "none"
            raise NotFound(f"{schema.name} has no function {args.drop_function!r}; functions: {told}")
        done.append(f"drops the function {quoted(args.drop_function)}, maybe with the field that it fills")
    if seconds != "0" and not backend.is_lite:  # which keeps the property and deletes nothing
        done.append(f"lets every entity expire {quoted(seconds)} seconds after it was written")
    if not done:
        return None
    entities = await _all(app, db_name, schema)
    what = f"In the collection {quoted(schema.name)}, {' and '.join(done)}: it has {entities.told()}."
    return Loss(what, (*entities.state(), *map(str, schema.fields)), entities.preview(app))


def quoted(text: str, most: int = QUOTED) -> str:
    """The text in quotes that it cannot end, on one line, without what a reader cannot see, and not too long."""
    shown = text if len(text) <= most else f"{text[:most]}…"
    return visible(json.dumps(shown, ensure_ascii=False))


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= SHOWN_TEXT else f"{value[:SHOWN_TEXT]}…"


def _replaced(app: App, entities: Entities, what: str, undo: str = "it cannot be taken back") -> Loss | None:
    """The loss of a write that goes on being right while others write too: only another collection voids it."""
    if entities.count == 0 and entities.is_exact:
        return None
    return Loss(what, (entities.schema.name, entities.schema.identity), entities.preview(app), undo)


async def _all(app: App, db_name: str, schema: CollectionSchema, partition_name: str = "") -> Entities:
    """All entities of a collection, or of a partition: those in memory exactly, others as Milvus has last counted."""
    names = [partition_name] if partition_name else None
    async with app.clients.client(db_name) as client:
        named = names if client.backend.has(Feature.LOAD_PARTITIONS) else None
        loaded = await client.if_allowed(client.is_loaded(schema.name, named))
        if loaded and not (set(names or schema.unloaded_partitions) & set(schema.unloaded_partitions)):
            found = await client.if_allowed(_read(client, schema, "", names))
            return found or Entities(schema, None)
        count = await client.if_allowed(_last_count(client, schema, partition_name))
        return Entities(schema, count, is_exact=client.backend.is_lite)


async def _read(
    client: "Client", schema: CollectionSchema, matching: str, partition_names: list[str] | None
) -> Entities:
    await client.catch_up(schema)
    # Without a filter, Milvus Lite counts all partitions.
    whole = client.backend.is_lite and partition_names and not matching
    counted = await client.read_matching(
        schema.name,
        any_key(schema.primary_key) if whole else matching,
        schema,
        output_fields=["count(*)"],
        partition_names=partition_names,
    )
    first = await client.read_in_key_order(
        schema.name,
        matching,
        schema,
        limit=SAMPLED,
        output_fields=schema.output_fields(None),
        partition_names=partition_names,
        consistency_level=None,
    )
    return Entities(schema, int(counted[0]["count(*)"]), tuple(dict(entity) for entity in first))


async def _last_count(client: "Client", schema: CollectionSchema, partition_name: str) -> int | None:
    if not partition_name:
        return await client.entity_count(schema.name, loaded=False)
    found = await client.partition_summary(schema, partition_name)
    return found[1] if found else 0


def _mean_size(schema: CollectionSchema, some: Sequence[dict[str, Any]]) -> int:
    """Bytes of an entity: its vectors by the schema, the rest as in those that were read."""
    vectors = sum(_vector_bytes(field) for field in schema.vector_fields)
    if not some:
        return vectors + sum(_typical_bytes(schema.by_name[name]) for name in schema.scalar_names)
    sizes = [json_size({name: plain_value(None, value) for name, value in entity.items()}) for entity in some]
    return vectors + sum(sizes) // len(sizes)


def _vector_bytes(field: Field) -> int:
    return TYPICAL_SPARSE_BYTES if field.dim is None else BITS.get(field.type, 32) * field.dim // 8


def _typical_bytes(field: Field) -> int:
    return TYPICAL_BYTES if field.type.is_string or field.type in {DataType.JSON, DataType.ARRAY} else 8


def _readable(size: int) -> str:
    for unit, bytes_of_it in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_of_it:
            return f"{size / bytes_of_it:.1f} {unit}"
    return f"{size} bytes"


def _file_size(folders: Folders, path: str) -> int | None:
    """The size of a file that is there."""
    try:
        with folders.open(path) as file:
            return file.seek(0, 2)
    except NotFound:
        return None
