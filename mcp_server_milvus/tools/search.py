"""Search: the entities whose vectors are nearest."""

from array import array
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, WithJsonSchema

from mcp_server_milvus.addresses import entity_template
from mcp_server_milvus.app import App
from mcp_server_milvus.errors import InvalidArgument, NotSupported
from mcp_server_milvus.milvus.capabilities import MAX_WINDOW, Backend, Feature
from mcp_server_milvus.milvus.filter_help import near_misses
from mcp_server_milvus.milvus.filters import both, checked_key, literal, rendered
from mcp_server_milvus.milvus.hit_pages import Turn, Turned, exact_page, first_page, fused_page, later_page
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.milvus.paging import Position, decoded_position
from mcp_server_milvus.milvus.results import Page, Passages, cursor_fingerprint, decode_cursor, encode_cursor
from mcp_server_milvus.milvus.scanning import Source
from mcp_server_milvus.milvus.searching import CANDIDATES, Search, own_value
from mcp_server_milvus.milvus.specs import Level
from mcp_server_milvus.milvus.targets import Target, packed, target_of, vector_field
from mcp_server_milvus.planning import Asked, Plan, planned
from mcp_server_milvus.tool import BoundedOutput, Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, FunctionType, SearchMode, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus import schema as schemas
    from mcp_server_milvus.milvus.client import Client
    from mcp_server_milvus.milvus.schema import CollectionSchema


LONG_TEXT = 500
"""Characters from which a hit shows a passage instead."""

LEXICAL_PARAMS = frozenset({"drop_ratio_search"})
"""Parameters that only a sparse index has: of two legs, they go to that of the words, and all others to the other."""

NOT_ASKED = {"cursor", "limit", "output_fields", "snippet", "consistency_level"}
"""Arguments that decide nothing but how hits are shown, or how many on a page."""

NOT_ASKED_OR_PACKED = NOT_ASKED | {"vector"}

APPROXIMATE = "approximate index under a filter; exact: true scores every match"
INCOMPLETE = "approximate index: the last page may come early; exact: true pages through every match"

SparseVector = Annotated[dict[str, float], WithJsonSchema({"type": "object"})]


class SearchInput(Input):
    """What is near to what."""

    collection_name: Name
    text: str | None = Field(None, description="Found by meaning and words")
    vector: list[float] | SparseVector | None = Field(None, description='Dense: [0.1, …]; sparse: {"index": weight}')
    id: Annotated[int | str | None, Field(description="More like this entity")] = None
    mode: SearchMode = Field(SearchMode.AUTO, strict=False)
    anns_field: Name | None = Field(None, description="Needed only when several fit")
    limit: int = Field(10, ge=1, le=16_384)
    offset: int = Field(0, ge=0)
    cursor: str | None = None
    filter: str = Field("", description="As in query")
    filter_params: dict[str, Any] | None = None
    output_fields: list[str] | None = Field(None, description="Default: all but vectors")
    snippet: bool | None = Field(None, description="Passage instead of the text")
    partition_names: list[Name] | None = None
    radius: float | None = Field(None, description="Worst score of a hit")
    range_filter: float | None = Field(None, description="Best score, with radius")
    group_by_field: Name | None = Field(None, description="The best of each group")
    group_size: int | None = Field(None, ge=1, le=1_000)
    exact: bool = Field(default=False, description="Score every match; slow")
    params: dict[str, Any] = Field(default_factory=dict, description='Of the index: {"ef": 100}, {"nprobe": 32}, …')
    consistency_level: Level | None = None
    db_name: Name | None = None


class PlanOutput(Output):
    """How the hits were found."""

    mode: str | None = None
    fields: list[str] | None = None
    metric_type: str | None = None
    embedder: str | None = None
    why: str | None = None


class SearchOutput(BoundedOutput):
    """Hits, best first."""

    hits: list[dict[str, Any]] = Field(description="{id, score, fields}, and a snippet that marks **words** sought")
    metric_type: str = Field(
        description="Of the scores: for L2, HAMMING and JACCARD smaller is better; "
        "relative: 1 is the same meaning in the same words"
    )
    anns_field: str | None = None
    entity_uri: str = Field(description="Address of a hit, to cite it by")
    next_cursor: str | None = None
    plan: PlanOutput | None = Field(default=None, description="How the hits were found, if that matters")
    loaded: bool | None = Field(default=None, description="The collection was loaded for this call")


@tool(toolset=Toolset.SEARCH, effect=Effect.READ)
async def search(app: App, args: SearchInput) -> SearchOutput:
    """Finds the entities nearest to a text, a vector, or another entity (exactly one of text, vector, id)."""
    _require_consistent(args)
    db_name = app.database(args.db_name)
    seconds = app.settings.build_timeout if args.exact or args.cursor is not None else None

    async def attempt(schema: "CollectionSchema") -> SearchOutput:
        plan = await _planned(app, db_name, schema, args)
        read = partial(_searched, app, args, plan)
        return await app.with_client(db_name, schema, read, seconds=seconds)

    output, loaded = await app.loaded_if_needed(
        db_name, args.collection_name, lambda: app.schemas.used_by(db_name, args.collection_name, attempt)
    )
    return output.model_copy(update={"loaded": True}) if loaded else output


def _require_consistent(args: SearchInput) -> None:
    sought = (args.text, args.vector, args.id)
    if len(sought) - sought.count(None) != 1:
        raise InvalidArgument("search: give exactly one of text, vector, id")
    if args.text is None and (args.mode is not SearchMode.AUTO or args.snippet):
        raise InvalidArgument("mode and snippet need text")
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
    if twice := {"radius", "range_filter"} & args.params.keys():
        raise InvalidArgument(f"params: {min(twice)} is an argument of its own")


async def _planned(app: App, db_name: str, schema: "CollectionSchema", args: SearchInput) -> Plan | None:
    """How to search for the text. It is embedded before a client is borrowed: an embedder may take its time."""
    if args.text is None:
        return None
    asked = Asked(args.text, args.mode, args.anns_field, _one_leg(args))
    plan = planned(schema, app.bindings(db_name, schema), asked, can_embed=bool(app.embedders))
    return await plan.embedded(app.embedders, app.settings.timeout)


def _one_leg(args: SearchInput) -> str:
    """Why it can be no more than one search."""
    if args.radius is not None:
        return "one leg: radius bounds one kind of score"
    if args.group_by_field is not None:
        return "one leg: group_by_field ranks by one kind of score"
    return "one leg" if args.exact else ""


@dataclass(frozen=True)
class _Call:
    """One call: its searches, of which the first is that of the meaning, and the page that they fill."""

    args: SearchInput
    plan: Plan | None
    legs: tuple[Search, ...]
    turn: Turn

    @property
    def search(self) -> Search:
        """The only search, or the first."""
        return self.legs[0]

    async def turned(self) -> Turned:
        """The page, once it is full."""
        search, args = self.search, self.args
        if len(self.legs) > 1:
            return await fused_page(search, self.legs[1], self.turn)
        if args.exact:
            return await exact_page(search, self.turn)
        if args.cursor is not None or (search.looks_for_range and args.group_by_field is None):
            return await later_page(search, self.turn)
        return await first_page(search, self.turn, _grouping(args, search.schema, search.client.backend))


async def _searched(
    app: App, args: SearchInput, plan: Plan | None, client: "Client", schema: "CollectionSchema"
) -> SearchOutput:
    await client.confirm_indexes(args.collection_name, schema)
    legs = await _legs(app, args, plan, client, schema)
    fingerprint = _fingerprint(args, legs)
    page = Page(schema, app.settings.max_result_bytes, frozenset(args.output_fields or ()), _passages(args, plan))
    position = _position(args, legs, fingerprint)
    turn = Turn(page, position, args.limit, app.settings.max_scan, app.report_progress)
    this = _Call(args, plan, legs, turn)
    turned = await this.turned()
    goes_on = turned.more and args.group_by_field is None
    cursor = encode_cursor(fingerprint, position.moved(turned.given).encoded()) if goes_on else None
    return _output(this, turned, cursor)


async def _legs(
    app: App, args: SearchInput, plan: Plan | None, client: "Client", schema: "CollectionSchema"
) -> tuple[Search, ...]:
    """The searches that become one ranking: two of them for a text that is sought by its meaning and its words."""
    matching = rendered(args.filter, args.filter_params)
    if plan:
        made_by = f"embedder {plan.embedder}"
        sought = [
            (way.field, packed(way.field, what, made_by)) for way, what in zip(plan.ways, plan.sought, strict=True)
        ]
    else:
        bindings = app.bindings(app.database(args.db_name), schema)
        field = vector_field(schema, args.vector, args.anns_field, bindings)
        sought = [(field, await _given(client, schema, args, field))]
    if args.id is not None:
        own_key = checked_key(schema.primary_key, args.id)
        matching = both(matching, f"{schema.primary_key.name} != {literal(own_key)}")
    shown = schema.output_fields(_shown(args, plan))
    source = Source(args.collection_name, matching, shown, args.partition_names, args.consistency_level)
    group_size = 0 if args.group_by_field is None else args.group_size or 1
    fields = [field.name for field, _ in sought]
    return tuple(
        Search(client, schema, source, _target(schema, field, data, args, fields, client.backend), group_size)
        for field, data in sought
    )


def _shown(args: SearchInput, plan: Plan | None) -> list[str] | None:
    """The fields to read: those that were named, and the text of passages that were asked for."""
    if plan and args.snippet and args.output_fields is not None:
        return [*args.output_fields, _passages_of(plan)]
    return args.output_fields


def _passages_of(plan: Plan) -> str:
    """The text field whose passages are shown: of two, that in which words are sought."""
    return plan.ways[-1].text_field


def _target(
    schema: "CollectionSchema", field: "schemas.Field", data: Any, args: SearchInput, legs: list[str], backend: Backend
) -> Target:
    by_words = field.name == legs[-1]
    params = {
        name: value for name, value in args.params.items() if len(legs) == 1 or (name in LEXICAL_PARAMS) == by_words
    }
    return target_of(schema, field, data, params, backend).within(args.radius, args.range_filter)


async def _given(client: "Client", schema: "CollectionSchema", args: SearchInput, field: "schemas.Field") -> Any:
    """The vector to search with, or the value of the entity that was named."""
    if args.vector is not None:
        return packed(field, args.vector)
    key = args.id if args.id is not None else ""
    return await own_value(client, args.collection_name, schema, key, field, args.consistency_level)


def _fingerprint(args: SearchInput, legs: tuple[Search, ...]) -> str:
    """What a cursor is tied to: all that decides which hits there are, and in which order."""
    data = legs[0].target.data
    packed = data.tobytes() if args.vector is not None and isinstance(data, array) else b""
    asked = args.model_dump(exclude=NOT_ASKED_OR_PACKED if packed else NOT_ASKED, exclude_defaults=True)
    return cursor_fingerprint(asked, [leg.target.field.name for leg in legs], packed=packed)


def _position(args: SearchInput, legs: tuple[Search, ...], fingerprint: str) -> Position:
    """Where this page begins. An exact search has no first window; of two legs it is what each of them adds.

    That depends on no offset: with more candidates, hits would change places between one page and the next.
    """
    if args.cursor is not None:
        position = decode_cursor(args.cursor, fingerprint)
        return decoded_position(position, legs[0].schema.primary_key, exact=args.exact)
    first = max(CANDIDATES, args.limit) if len(legs) > 1 else min(args.offset + args.limit + 1, MAX_WINDOW)
    return Position(0 if args.exact else first, args.offset)


def _passages(args: SearchInput, plan: Plan | None) -> Passages | None:
    if plan is None or args.snippet is False:
        return None
    from mcp_server_milvus.text.snippets import Sought  # its patterns take a while to compile

    asked = args.snippet is True
    sought = Sought(plan.asked.text)
    return Passages(_passages_of(plan), -1 if asked else LONG_TEXT, sought.snippet, asked=asked)


def _grouping(args: SearchInput, schema: "CollectionSchema", backend: Backend) -> dict[str, Any]:
    if args.group_by_field is None:
        return {}
    if args.group_by_field not in schema.by_name and schema.enable_dynamic_field:
        raise NotSupported(
            f"group_by_field: {args.group_by_field} is not in the schema; only its fields can group hits",
            hint="name it in metadata when the collection is created, source_id too; chunk_size fills it",
        )
    schema.require(args.group_by_field)
    backend.require(Feature.GROUP_BY, where="group_by_field")
    if args.group_size is None:
        return {"group_by_field": args.group_by_field}
    backend.require(Feature.GROUP_SIZE, where="group_size")
    return {"group_by_field": args.group_by_field, "group_size": args.group_size}


def _output(this: _Call, turned: Turned, next_cursor: str | None) -> SearchOutput:
    args, page = this.args, this.turn.page
    is_cut = turned.more and len(turned.given) < args.limit
    limits = page.limits(stopped=_continuing(args, len(turned.given)) if is_cut else "") or []
    limits += [*turned.notes, *near_misses(page.schema, args.filter, args.output_fields)]
    is_fused = len(this.legs) > 1
    return SearchOutput(
        hits=page.entities,
        metric_type="relative" if is_fused else this.search.target.metric_type,
        anns_field=None if is_fused else this.search.target.field.name,
        entity_uri=entity_template(this.search.client.database, args.collection_name),
        next_cursor=next_cursor,
        plan=_plan(this, turned.why or _note(this)),
        applied_limits=limits or None,
    )


def _plan(this: _Call, note: str) -> PlanOutput | None:
    plan, targets = this.plan, [leg.target for leg in this.legs]
    if plan is None:
        return PlanOutput(why=note) if note else None
    return PlanOutput(
        mode=plan.mode,
        fields=[target.field.name for target in targets],
        metric_type=" + ".join(target.metric_type for target in targets),
        embedder=plan.embedder,
        why="; ".join(filter(None, [plan.why or _why_no_words(this, plan), note])) or None,
    )


def _why_no_words(this: _Call, plan: Plan) -> str:
    if not plan.lacks_words:
        return ""
    backend, schema = this.search.client.backend, this.search.schema
    return f"{schema.name if FunctionType.BM25 in backend.functions else backend} has no BM25 function"


def _note(this: _Call) -> str:
    """What an approximate index may have missed."""
    if len(this.legs) > 1 or not this.search.target.is_approximate:
        return ""
    return APPROXIMATE if this.args.filter else INCOMPLETE if this.args.cursor else ""


def _continuing(args: SearchInput, given: int) -> str:
    """How to get the hits that a page had no room for."""
    offset = f"search again with offset: {args.offset + given}"
    ways = (
        [offset] if args.group_by_field else ["follow next_cursor"] if args.cursor else ["follow next_cursor", offset]
    )
    return ", or ".join([*ways, "name fewer output_fields"])


TOOLS = (search,)
