"""What would be lost of structures: databases, collections, partitions, indexes, aliases and fields."""

from typing import Any, Protocol

from mcp_server_milvus.app import App
from mcp_server_milvus.dropped import listed
from mcp_server_milvus.errors import NotFound
from mcp_server_milvus.losses.entities import InDatabase, OfCollection, all_entities, quoted
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.schema import DEFAULT_PARTITION
from mcp_server_milvus.tool import Loss
from mcp_server_milvus.undo import how_to_undo

SHOWN_KEPT = 5
"""Dropped things that a preview names."""

TTL = "collection.ttl.seconds"


class OfKept(InDatabase, Protocol):
    """Arguments that name what was dropped, or `all`."""

    @property
    def id(self) -> str: ...


class OfPartition(OfCollection, Protocol):
    """Arguments that name a partition."""

    @property
    def partition_name(self) -> str: ...


class OfIndex(OfCollection, Protocol):
    """Arguments that name an index."""

    @property
    def index_name(self) -> str: ...


class OfAlteration(OfCollection, Protocol):
    """Arguments that change a collection."""

    @property
    def drop_field(self) -> str | None: ...

    @property
    def drop_function(self) -> str | None: ...

    @property
    def properties(self) -> dict[str, Any]: ...


class OfAlias(InDatabase, Protocol):
    """Arguments that name an alias."""

    @property
    def alias(self) -> str: ...


class OfDatabase(Protocol):
    """Arguments that name a database."""

    @property
    def db_name(self) -> str: ...


async def collection_lost(app: App, args: OfCollection) -> Loss:
    """What drop_collection would destroy."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    entities = await all_entities(app, db_name, schema)
    what = f"Drops the collection {quoted(schema.name)} of database {quoted(db_name)}: {entities.told()}."
    return Loss(what, entities.state(), entities.preview(app), how_to_undo(app))


async def contents_lost(app: App, args: OfCollection) -> Loss:
    """What truncate_collection would destroy."""
    db_name = app.database(args.db_name)
    schema = await app.schemas.confirmed_itself(db_name, args.collection_name)
    (await app.clients.backend(db_name)).require(Feature.TRUNCATE, where="truncate_collection")
    entities = await all_entities(app, db_name, schema)
    what = f"Empties the collection {quoted(schema.name)} of database {quoted(db_name)}: {entities.told()}."
    return Loss(what, entities.state(), entities.preview(app), await entities.undo(app))


async def kept_lost(app: App, args: OfKept) -> Loss | None:
    """What purge_dropped would destroy, for good."""
    found = await listed(app, app.database(args.db_name))
    chosen = [each for each in found if args.id in {each.name, "all"}]
    if not chosen:
        return None  # there is nothing, or it is refused
    shown = [f"{quoted(each.collection_name or '')} by {each.tool}" for each in chosen[:SHOWN_KEPT]]
    more = f" and {len(chosen) - SHOWN_KEPT} more" if len(chosen) > SHOWN_KEPT else ""
    what = f"Removes for good {len(chosen)} of what was dropped: {', '.join(shown)}{more}."
    count = sum(each.entity_count or 0 for each in chosen)
    return Loss(what, tuple(sorted(each.name for each in chosen)), {"entity_count": count})


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
    entities = await all_entities(app, db_name, schema, name)
    what = f"Drops the partition {quoted(name)} of collection {quoted(schema.name)}: {entities.told()}."
    undo = await entities.undo(app)
    return Loss(what, (name, *entities.state()), entities.preview(app), undo)


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
    entities = await all_entities(app, db_name, schema)
    what = f"In the collection {quoted(schema.name)}, {' and '.join(done)}: it has {entities.told()}."
    return Loss(what, (*entities.state(), *map(str, schema.fields)), entities.preview(app))
