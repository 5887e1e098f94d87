"""Changes of a collection on Milvus Lite: what cannot be done is refused before anything is."""

from typing import Any

import pytest

from tests.agent import Agent, keys

pytestmark = pytest.mark.anyio

ENTITIES = [{"id": number, "vector": [number, 1], "title": f"t{number}"} for number in range(4)]


@pytest.fixture
async def filled(agent: Agent, collection: str) -> str:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    await agent.call("insert", collection_name=collection, data=ENTITIES)
    return collection


async def test_a_renamed_collection_keeps_everything_and_stays_loaded(agent: Agent, filled: str) -> None:
    new, alias = f"{filled}_new", f"{filled}_alias"
    await agent.call("create_alias", collection_name=filled, alias=alias)
    await agent.call("count", collection_name=alias)
    altered = await agent.call("alter_collection", collection_name=filled, new_name=new)
    assert altered["done"] == [f"renamed to {new}", "loaded again"]
    assert (altered["collection_name"], altered["loaded"]) == (new, True)
    found = await agent.call("search", collection_name=new, vector=[0, 1], limit=1)
    assert keys(found["hits"]) == [0]
    assert "loaded" not in found
    assert (await agent.fails("count", collection_name=filled))["code"] == "not_found"
    await agent.call("insert", collection_name=alias, data=[{"id": 9, "vector": [9, 1]}])
    assert await agent.count(new) == 5

    await agent.call("create_collection", collection_name=filled, dimension=3)
    await agent.call("insert", collection_name=filled, data=[{"id": 1, "vector": [1, 1, 1]}])
    assert (await agent.count(filled), await agent.count(new)) == (1, 5)


async def test_a_released_collection_stays_released_when_it_is_renamed(agent: Agent, filled: str) -> None:
    await agent.call("release_collection", collection_name=filled)
    altered = await agent.call("alter_collection", collection_name=filled, new_name=f"{filled}_new")
    assert (altered["done"], altered["loaded"]) == ([f"renamed to {filled}_new"], False)


async def test_a_taken_name_is_refused_and_nothing_is_changed(agent: Agent, filled: str) -> None:
    await agent.call("create_collection", collection_name=f"{filled}_other", dimension=2)
    await agent.call("create_alias", collection_name=f"{filled}_other", alias=f"{filled}_alias")
    for name in ("other", "alias"):
        error = await agent.fails(
            "alter_collection", collection_name=filled, properties={"a": 1}, new_name=f"{filled}_{name}"
        )
        assert error["code"] == "already_exists"
    assert "properties" not in await agent.call("describe_collection", collection_name=filled)


async def test_properties_and_the_description_are_set_and_dropped_and_writes_go_on(agent: Agent, filled: str) -> None:
    altered = await agent.call(
        "alter_collection",
        collection_name=filled,
        description="What it is",
        properties={"collection.ttl.seconds": 60, "mmap.enabled": True, "mine": "x"},
    )
    assert altered["done"] == ["description", "set collection.ttl.seconds, mmap.enabled, mine"]
    assert altered["properties"] == {"collection.ttl.seconds": "60", "mmap.enabled": "true", "mine": "x"}
    assert altered["description"] == "What it is"
    assert [note.partition(" keeps ")[2] for note in altered["notes"]] == [
        "collection.ttl.seconds and does not act on it",
        "mmap.enabled and does not act on it",
    ]
    await agent.call("upsert", collection_name=filled, data=[ENTITIES[0] | {"title": "new"}])
    await agent.call("delete", collection_name=filled, ids=[1])
    assert await agent.count(filled) == 3

    altered = await agent.call("alter_collection", collection_name=filled, properties={"mine": None}, description="")
    assert altered["done"] == ["description", "dropped mine"]
    assert altered["properties"].keys() == {"collection.ttl.seconds", "mmap.enabled"}
    assert "description" not in altered
    assert "notes" not in altered
    await agent.call("drop_collection", collection_name=filled)


FIELD = {"name": "year", "type": "INT64", "nullable": True}
BM25 = {"name": "bm25", "type": "BM25", "input_field_names": ["title"], "output_field_names": ["sparse"]}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"add_field": FIELD}, "not_supported", "add_field"),
        ({"drop_field": "vector"}, "not_supported", "drop_field"),
        ({"field_name": "vector", "field_params": {"mmap_enabled": True}}, "not_supported", "field_params"),
        ({"add_function": BM25}, "not_supported", "add_function"),
        ({"drop_function": "bm25"}, "not_supported", "drop_function"),
        ({"add_field": {"name": "year"}}, "invalid_argument", "add_field.type"),
        ({"field_name": "vector"}, "invalid_argument", "field_params"),
        ({"field_name": "vector", "field_params": {"dim": 3}}, "invalid_argument", "dim"),
        ({"field_name": "vektor", "field_params": {"mmap_enabled": True}}, "not_found", "vector"),
        ({"properties": {"collection.ttl.seconds": "soon"}}, "invalid_argument", "collection.ttl.seconds"),
        ({"properties": {"a": [1]}}, "invalid_argument", "properties.a"),
        ({"new_name": "../x"}, "invalid_argument", "new_name"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_changed(
    agent: Agent, refusing: str, change: dict[str, Any], code: str, said: str
) -> None:
    error = await agent.fails("alter_collection", collection_name=refusing, **{"description": "new"} | change)
    assert error["code"] == code
    assert said in error["message"]
    described = await agent.call("describe_collection", collection_name=refusing)
    assert not described.keys() & {"description", "properties"}


@pytest.fixture(scope="module")
async def refusing(agent: Agent) -> str:
    """A collection that no test changes."""
    await agent.call("create_collection", collection_name="refusing", dimension=2)
    return "refusing"


async def test_nothing_to_change_and_an_alias_are_refused(agent: Agent, filled: str) -> None:
    assert (await agent.fails("alter_collection", collection_name=filled))["code"] == "invalid_argument"
    await agent.call("create_alias", collection_name=filled, alias=f"{filled}_alias")
    for tool, arguments in (("alter_collection", {"new_name": "x"}), ("truncate_collection", {})):
        error = await agent.fails(tool, collection_name=f"{filled}_alias", **arguments)
        assert (error["code"], repr(filled) in error["message"]) == ("invalid_argument", True)
    assert await agent.count(filled) == 4


async def test_a_truncated_collection_has_no_entities_and_all_else(agent: Agent, filled: str) -> None:
    await agent.call("create_partition", collection_name=filled, partition_name="old")
    before = await agent.call("describe_collection", collection_name=filled)
    assert await agent.call("truncate_collection", collection_name=filled) == {"truncated": True, "loaded": True}
    after = await agent.call("describe_collection", collection_name=filled)
    assert after == before | {"entity_count": 0}
    assert (await agent.call("search", collection_name=filled, vector=[1, 1]))["hits"] == []
    await agent.call("insert", collection_name=filled, data=ENTITIES, partition_name="old")
    assert await agent.count(filled) == 4


async def test_a_refresh_is_for_what_is_loaded(agent: Agent, filled: str) -> None:
    assert await agent.call("refresh_load", collection_name=filled) == {"loaded": True}
    await agent.call("release_collection", collection_name=filled)
    assert (await agent.fails("refresh_load", collection_name=filled))["code"] == "not_loaded"
    described = await agent.call("describe_collection", collection_name=filled)
    assert described["loaded"] is False


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"replica_number": 2}, "not_supported"),
        ({"load_fields": ["id", "vector"]}, "not_supported"),
        ({"load_fields": ["vektor"]}, "not_found"),
        ({"skip_load_dynamic_field": True}, "not_supported"),
        ({"resource_groups": ["rg"]}, "not_supported"),
    ],
)
async def test_a_load_that_lite_cannot_do_as_asked_is_refused(
    agent: Agent, refusing: str, asked: dict[str, Any], code: str
) -> None:
    assert (await agent.fails("load_collection", collection_name=refusing, **asked))["code"] == code
    assert await agent.call("load_collection", collection_name=refusing, replica_number=1) == {"loaded": True}


async def test_a_misspelt_property_is_told(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    misspelt = {"collection.ttl.secods": 5, "our.own": "x"}
    altered = await agent.call("alter_collection", collection_name=collection, properties=misspelt)
    (note,) = altered["notes"]
    assert note.startswith("collection.ttl.secods: ")
    assert "did you mean collection.ttl.seconds?" in note
