"""Search: the entities whose vectors are nearest."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, WithJsonSchema

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import InvalidArgument, LimitExceeded, NotFound, NotSupported
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW, Feature
from mcp_server_milvus.milvus.exact import ExactScores, require_exact
from mcp_server_milvus.milvus.filter_help import near_misses
from mcp_server_milvus.milvus.filters import after_key, both, checked_key, keys_filter, literal, rendered
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.paging import (
    FieldsByKey,
    Hit,
    Position,
    admitted,
    best_after,
    decoded_position,
    hits_after,
)
from mcp_server_milvus.milvus.ranking import Key, Scored
from mcp_server_milvus.milvus.results import Page, cursor_fingerprint, decode_cursor, encode_cursor
from mcp_server_milvus.milvus.scanning import Source
from mcp_server_milvus.milvus.targets import GROUPED_REACH, Target, packed, target_of, vector_field
from mcp_server_milvus.tool import BoundedOutput, Input, tool
from mcp_server_milvus.vocabulary import ConsistencyLevel, DataType, Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus import schema as schemas
    from mcp_server_milvus.milvus.client import Client
    from mcp_server_milvus.milvus.schema import CollectionSchema


BYTE_VECTORS = frozenset({DataType.BINARY_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR})
"""Types whose stored vectors pymilvus returns as a list of one piece of bytes."""

RANGED_REACH = 5
"""Hits that Milvus Lite ranks for each that it returns within a radius."""

SMALLEST_HIT = 24
"""Bytes that a hit takes at least, as JSON."""

APPROXIMATE = "approximate index under a filter; exact: true scores every match"
INCOMPLETE = "approximate index: the last page may come early; exact: true pages through every match"

SparseVector = Annotated[dict[str, float], WithJsonSchema({"type": "object"})]


class SearchInput(Input):
    """What is near to what."""

    collection_name: Name
    text: str | None = Field(None, description="For a field with a BM25 function")
    vector: list[float] | SparseVector | None = Field(None, description='Dense: [0.1, …]; sparse: {"index": weight}')
    id: Annotated[int | str | None, Field(description="More like this entity")] = None
    anns_field: Name | None = Field(None, description="Needed only when several fit")
    limit: int = Field(10, ge=1, le=16_384)
    offset: int = Field(0, ge=0)
    cursor: str | None = None
    filter: str = Field("", description="As in query")
    filter_params: dict[str, Any] | None = None
    output_fields: list[str] | None = Field(None, description="Default: all but vectors")
    partition_names: list[Name] | None = None
    radius: float | None = Field(None, description="Worst score that is still a hit")
    range_filter: float | None = Field(None, description="Best score, with radius")
    group_by_field: Name | None = Field(None, description="Only the best of each group")
    group_size: int | None = Field(None, ge=1, le=1_000)
    exact: bool = Field(default=False, description="Score every match: no index, slow")
    params: dict[str, Any] = Field(default_factory=dict, description='Of the index: {"ef": 100}, {"nprobe": 32}, …')
    consistency_level: ConsistencyLevel | None = Field(None, strict=False)
    db_name: Name | None = None


class SearchOutput(BoundedOutput):
    """Hits, best first."""

    hits: list[dict[str, Any]] = Field(description="{id, score, fields}")
    metric_type: str = Field(description="Of the scores: for L2, HAMMING and JACCARD smaller is better")
    anns_field: str
    next_cursor: str | None = None
    plan: str | None = Field(default=None, description="How the hits were found, if that matters")
    loaded: bool | None = Field(default=None, description="The collection was loaded for this call")


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def search(app: App, args: SearchInput) -> SearchOutput:
    """Finds the entities nearest to a text, a vector, or another entity (exactly one of text, vector, id)."""
    _require_consistent(args)
    db_name = app.database(args.db_name)
    walks = args.exact or args.cursor is not None
    seconds = app.settings.build_timeout if walks else None

    async def read(client: "Client", schema: "CollectionSchema") -> SearchOutput:
        await client.confirm_indexes(args.collection_name, schema)
        this = await _search(app, client, schema, args)
        if args.exact:
            return await _exact_page(this)
        if walks or (this.looks_for_range and args.group_by_field is None):
            return await _later_page(this)
        return await _first_page(this)

    output, loaded = await app.loaded_if_needed(
        db_name, args.collection_name, lambda: app.with_schema(db_name, args.collection_name, read, seconds=seconds)
    )
    return output.model_copy(update={"loaded": True}) if loaded else output


def _require_consistent(args: SearchInput) -> None:
    if sum(given is not None for given in (args.text, args.vector, args.id)) != 1:
        raise InvalidArgument("search: give exactly one of text, vector, id")
    if args.cursor is None and args.offset + args.limit > MAX_WINDOW:
        raise InvalidArgument(
            f"offset + limit is {args.offset + args.limit}; at most {MAX_WINDOW} are possible",
            hint="next_cursor leads beyond",
        )
    if args.group_size is not None and args.group_by_field is None:
        raise InvalidArgument("group_size needs group_by_field")
    if args.group_by_field is not None and (args.exact or args.cursor is not None):
        raise InvalidArgument("group_by_field: groups have no cursor and no exact search; use offset")
    if args.exact and args.params:
        raise InvalidArgument("params: an exact search uses no index; leave them out")
    if args.range_filter is not None and args.radius is None:
        raise InvalidArgument("range_filter needs radius")


@dataclass(frozen=True)
class _Search:
    """One search on one backend: the target, the filter, and where the caller is."""

    app: App
    client: "Client"
    schema: "CollectionSchema"
    args: SearchInput
    target: Target
    matching: str
    fingerprint: str

    @property
    def position(self) -> Position:
        """Where this page begins."""
        if self.args.cursor is None:
            return Position(0 if self.args.exact else self.first, self.args.offset)
        position = decode_cursor(self.args.cursor, self.fingerprint)
        return decoded_position(position, self.schema.primary_key, exact=self.args.exact)

    @property
    def first(self) -> int:
        """Hits that the first page asks for: one more than it shows tells whether there are more."""
        return min(self.args.offset + self.args.limit + 1, MAX_WINDOW)

    @property
    def fields(self) -> FieldsByKey:
        """What is shown of the hits."""
        args = self.args
        shown = self.schema.output_fields(args.output_fields)
        source = Source(args.collection_name, "", shown, args.partition_names, args.consistency_level)
        return FieldsByKey(self.client, self.schema, source)

    @property
    def looks_for_range(self) -> bool:
        """Whether the backend looks for a range among the best few alone, as Milvus Lite does: it is asked for many."""
        return self.client.backend.is_lite and self.args.range_filter is not None

    @property
    def walked_limit(self) -> int:
        """Hits that a page looks for: as many as can fit, and one more."""
        return min(self.args.limit, self.app.settings.max_result_bytes // SMALLEST_HIT) + 1

    async def found(self, matching: str, limit: int, output_fields: list[str], **more: Any) -> list[Any]:
        """The hits of one search in the index, which looks at more entities than it returns."""
        reach = limit + (more.get("offset") or 0)
        if self.target.is_lite:
            reach *= GROUPED_REACH * (self.args.group_size or 1) if self.args.group_by_field else 1
            reach *= RANGED_REACH if self.args.radius is not None else 1
        return await self.client.search_nearest(
            self.args.collection_name,
            self.target.data,
            self.schema,
            anns_field=self.target.field.name,
            filter=both(self.matching, matching),
            limit=limit,
            output_fields=output_fields,
            search_params=self.target.search_params(reach),
            partition_names=self.args.partition_names,
            consistency_level=self.args.consistency_level,
            **more,
        )

    async def keys_and_scores(self, matching: str, limit: int, **more: Any) -> list[Scored]:
        """As `found`, without fields."""
        asked = MAX_WINDOW if self.looks_for_range else limit
        found = await self.found(matching, asked, [self.schema.primary_key.name], **more)
        return [(hit.id, self.target.sign * hit.distance) for hit in found[:limit]]

    async def read(self, after: Key | None, limit: int, output_fields: list[str]) -> list[dict[str, Any]]:
        """Matching entities in the order of their keys."""
        key = self.schema.primary_key
        return await self.client.read_in_key_order(
            self.args.collection_name,
            self.matching if after is None else both(self.matching, after_key(key, after)),
            self.schema,
            limit=limit,
            output_fields=output_fields,
            partition_names=self.args.partition_names,
            consistency_level=self.args.consistency_level,
        )

    async def within_range(self, exact: ExactScores) -> AsyncGenerator[list[Scored]]:
        """The key and score of every match, within radius and range_filter."""
        done = 0
        async for batch in exact.batches():
            done += len(batch)
            await self.app.report_progress(done, None, f"scored {done} entities")
            yield [each for each in batch if self._is_within(each[1])]

    def _is_within(self, score: float) -> bool:
        direction, radius, best = self.target.direction, self.args.radius, self.args.range_filter
        is_near = radius is None or direction * score < direction * radius
        return is_near and (best is None or direction * score >= direction * best)


async def _search(app: App, client: "Client", schema: "CollectionSchema", args: SearchInput) -> _Search:
    matching = rendered(args.filter, args.filter_params)
    field = vector_field(schema, args.text if args.text is not None else args.vector, args.anns_field)
    target = target_of(schema, field, None, _params(args), client.backend)
    target = replace(target, params=_bounded(args, target))
    if args.id is not None:
        own_key = checked_key(schema.primary_key, args.id)
        data = await _stored(client, schema, args, field)
        matching = both(matching, f"{schema.primary_key.name} != {literal(own_key)}")
    else:
        data = packed(field, args.text if args.text is not None else cast("Any", args.vector))
    asked = args.model_dump(exclude={"cursor", "limit", "output_fields", "consistency_level"})
    return _Search(app, client, schema, args, replace(target, data=data), matching, cursor_fingerprint(asked))


def _params(args: SearchInput) -> dict[str, Any]:
    if twice := {"radius", "range_filter"} & args.params.keys():
        raise InvalidArgument(f"params: {min(twice)} is an argument of its own")
    return args.params


def _bounded(args: SearchInput, target: Target) -> dict[str, Any]:
    bounds = {"radius": args.radius, "range_filter": args.range_filter}
    return dict(target.params) | {name: target.sign * bound for name, bound in bounds.items() if bound is not None}


async def _stored(client: "Client", schema: "CollectionSchema", args: SearchInput, field: "schemas.Field") -> Any:
    """What the entity of that id has in the field, or in the text that the field is computed from."""
    source = schema.text_source_of(field.name)
    name = source.inputs[0] if source else field.name
    rows = await client.read_matching(
        args.collection_name,
        keys_filter(schema, [args.id if args.id is not None else ""]),
        schema,
        output_fields=[name],
        consistency_level=args.consistency_level,
    )
    value = rows[0].get(name) if rows else None
    if value is None:
        raise NotFound(f"id: {schema.name} has no entity {args.id!r} with a value in {name}")
    return cast("list[Any]", value)[0] if field.type in BYTE_VECTORS and isinstance(value, list) else value


async def _first_page(this: _Search) -> SearchOutput:
    """The one request that most searches are. Where hits are many, or may be large, it asks for their keys."""
    args, grouping = this.args, _grouping(this)
    is_small = args.limit * (args.group_size or 1) <= this.fields.at_once
    found = await this.found(
        "",
        args.limit if grouping else this.first - args.offset,
        list(this.fields.source.output_fields) if is_small else [this.schema.primary_key.name],
        offset=args.offset or None,
        **grouping,
    )
    more = not grouping and len(found) >= min(args.limit + 1, MAX_WINDOW - args.offset)
    shown = found if grouping else found[: args.limit]
    hits = [Hit(hit.id, this.target.sign * hit.distance, by_score=False) for hit in shown]
    page = _page(this)
    if is_small:
        given = admitted(page, hits, {hit.id: hit["entity"] for hit in shown})
    else:
        given = await this.fields.fill(page, hits)
    return _output(this, page, hits[:given], more=more or given < len(hits))


async def _later_page(this: _Search) -> SearchOutput:
    if this.target.is_ranked_whole:
        return await _page_by_offset(this, this.position.given)
    hits = await hits_after(
        this.position,
        this.walked_limit,
        nearest=this.keys_and_scores,
        read=this.read,
        primary_key=this.schema.primary_key,
        direction=this.target.direction,
    )
    return await _walked(this, hits)


async def _page_by_offset(this: _Search, offset: int) -> SearchOutput:
    if offset + this.walked_limit > this.app.settings.max_scan:
        raise LimitExceeded(
            f"cursor: {offset} hits were given; this server goes no further than {this.app.settings.max_scan}",
            hint="narrow the filter; or the operator starts the server with a larger --max-scan",
        )
    found = await this.keys_and_scores("", this.walked_limit, offset=offset or None)
    return await _walked(this, [Hit(key, score, by_score=False) for key, score in found])


async def _exact_page(this: _Search) -> SearchOutput:
    require_exact(this.target)
    await _require_scannable(this)
    position = this.position
    skipped = position.given if position.last is None else 0
    exact = ExactScores(this.target, this.schema.primary_key.name, this.read)
    scores = this.within_range(exact)
    hits = await best_after(position.last, skipped + this.walked_limit, scores, direction=this.target.direction)
    output = await _walked(this, hits[skipped:])
    but = f" but {exact.left_out}, whose vectors have no finite score" if exact.left_out else ""
    return output.model_copy(update={"plan": f"exact: every match was scored{but}"})


async def _require_scannable(this: _Search) -> None:
    rows = await this.client.read_matching(
        this.args.collection_name,
        this.matching,
        this.schema,
        output_fields=["count(*)"],
        partition_names=this.args.partition_names,
    )
    count, most = int(rows[0]["count(*)"]), this.app.settings.max_scan
    if count > most:
        raise LimitExceeded(
            f"{count} entities match; this server reads at most {most} in one call",
            hint="narrow the filter; or the operator starts the server with a larger --max-scan",
        )


async def _walked(this: _Search, hits: list[Hit]) -> SearchOutput:
    """The page of these hits, of which one may be more than it shows, with their fields read by key."""
    shown = hits[: this.args.limit]
    page = _page(this)
    given = await this.fields.fill(page, shown)
    return _output(this, page, shown[:given], more=given < len(hits))


def _page(this: _Search) -> Page:
    return Page(this.schema, this.app.settings.max_result_bytes, frozenset(this.args.output_fields or ()))


def _grouping(this: _Search) -> dict[str, Any]:
    args, schema, backend = this.args, this.schema, this.client.backend
    if args.group_by_field is None:
        return {}
    if args.group_by_field not in schema.by_name and schema.enable_dynamic_field:
        raise NotSupported(
            f"group_by_field: {args.group_by_field} is not in the schema; only its fields can group hits"
        )
    schema.require(args.group_by_field)
    backend.require(Feature.GROUP_BY, where="group_by_field")
    if args.group_size is None:
        return {"group_by_field": args.group_by_field}
    backend.require(Feature.GROUP_SIZE, where="group_size")
    return {"group_by_field": args.group_by_field, "group_size": args.group_size}


def _output(this: _Search, page: Page, given: list[Hit], *, more: bool) -> SearchOutput:
    args, grouped = this.args, this.args.group_by_field is not None
    notes = page.limits(stopped=_continuing(args, len(given)) if more and len(given) < args.limit else "") or []
    notes += near_misses(this.schema, args.filter, args.output_fields)
    cursor = encode_cursor(this.fingerprint, this.position.moved(given).encoded()) if more and not grouped else None
    return SearchOutput(
        hits=page.entities,
        metric_type=this.target.metric_type,
        anns_field=this.target.field.name,
        next_cursor=cursor,
        plan=_plan(this),
        applied_limits=notes or None,
    )


def _plan(this: _Search) -> str | None:
    if not this.target.is_approximate:
        return None
    return APPROXIMATE if this.args.filter else INCOMPLETE if this.args.cursor else None


def _continuing(args: SearchInput, given: int) -> str:
    """How to get the hits that a page had no room for."""
    offset = f"search again with offset: {args.offset + given}"
    ways = (
        [offset] if args.group_by_field else ["follow next_cursor"] if args.cursor else ["follow next_cursor", offset]
    )
    return ", or ".join([*ways, "name fewer output_fields"])


TOOLS = (search,)
