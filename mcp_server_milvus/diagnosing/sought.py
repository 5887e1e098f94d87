"""What is searched for, and in which fields: a text by its words and meaning, a vector, or an entity's own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_server_milvus.app import App
from mcp_server_milvus.diagnosing.findings import Findings, State
from mcp_server_milvus.errors import Conflict, EmbedderFailed, NotSupported
from mcp_server_milvus.milvus.searching import own_value
from mcp_server_milvus.milvus.targets import choices, packed, vector_field
from mcp_server_milvus.planning import Asked, Plan, planned
from mcp_server_milvus.vocabulary import FunctionType, SearchMode

if TYPE_CHECKING:
    from mcp_server_milvus.diagnosing.reading import Reading
    from mcp_server_milvus.milvus.schema import CollectionSchema, Field


@dataclass(frozen=True)
class Wanted:
    """What a caller searches for; at most one of text, vector and id."""

    text: str | None
    vector: list[float] | dict[str, float] | None
    id: int | str | None
    anns_field: str | None
    one_leg: str


@dataclass(frozen=True)
class Leg:
    """A field, and what is searched for in it: `data` as Milvus takes it, None while it is to be read of an entity."""

    field: "Field"
    data: Any
    text_field: str = ""
    by_words: bool = False


async def legs_sought(
    app: App, db_name: str, schema: "CollectionSchema", wanted: Wanted, findings: Findings
) -> list[Leg]:
    """The legs of the search, the one of the meaning first; none where nothing is sought, or nothing can be."""
    if wanted.text is not None:
        return await _of_text(app, db_name, schema, wanted, wanted.text, findings)
    if wanted.vector is None and wanted.id is None:
        return []
    bindings = app.bindings(db_name, schema)
    with findings.refused("vector"):
        field = vector_field(schema, wanted.vector, wanted.anns_field, bindings)
        return [Leg(field, None if wanted.vector is None else packed(field, wanted.vector))]
    findings.advise(State.PROBLEM, f"search with what fits; {choices(schema, bindings)}")
    return []


async def _of_text(
    app: App, db_name: str, schema: "CollectionSchema", wanted: Wanted, text: str, findings: Findings
) -> list[Leg]:
    plan: Plan | None = None
    with findings.refused("text"):
        asked = Asked(text, SearchMode.AUTO, wanted.anns_field, wanted.one_leg)
        plan = planned(schema, app.bindings(db_name, schema), asked, can_embed=bool(app.embedders))
    if plan is None:
        return []
    try:
        embedded = await plan.embedded(app.embedders, app.settings.timeout)
    except (NotSupported, Conflict, EmbedderFailed) as refusal:
        findings.tell_refusal("embedder", refusal)
        if plan.mode is SearchMode.HYBRID:
            findings.search_with(State.PROBLEM, "search by words alone", mode=SearchMode.BM25.value)
        return [Leg(way.field, text, way.text_field, by_words=True) for way in plan.ways if way.mode is SearchMode.BM25]
    _tell(findings, embedded)
    return [
        Leg(way.field, packed(way.field, sought, f"embedder {embedded.embedder}"), way.text_field,
            way.mode is SearchMode.BM25)
        for way, sought in zip(embedded.ways, embedded.sought, strict=True)
    ]  # fmt: skip


def _tell(findings: Findings, plan: Plan) -> None:
    """By what the text is searched for, where that may be why something is missed."""
    ways = " and ".join(map(str, plan.ways))
    if plan.mode is SearchMode.BM25 and plan.why:
        findings.tell("embedder", State.WARNING, f"found by words alone: {plan.why}")
    elif plan.mode is SearchMode.BM25:
        findings.tell("text", State.OK, f"sought in {ways}, so only entities with its words are found")
    elif plan.lacks_words:
        findings.tell("text", State.OK, f"sought in {ways}: by meaning alone, so that codes and names may be missed")
    else:
        findings.tell("text", State.OK, f"sought in {ways}")


async def with_own_value(reading: "Reading", leg: Leg, key: int | str, findings: Findings) -> Leg | None:
    """The leg with what the entity has in its field; None if it has nothing there."""
    with findings.refused("id"):
        data = await own_value(reading.client, reading.collection_name, reading.schema, key, leg.field)
        source = reading.schema.text_source_of(leg.field.name)
        by_words = source is not None and source.type is FunctionType.BM25
        return Leg(leg.field, data, source.inputs[0] if source else "", by_words)
    return None
