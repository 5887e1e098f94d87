"""Search: by vector, text or id, in the field that fits, with scores that mean the same everywhere."""

from typing import Any

import anyio
import pytest

from tests.agent import Agent, agent_on, keys
from tests.milvus.conftest import watching

pytestmark = pytest.mark.anyio

TEXTS = [
    "compress a file with gzip",
    "parse a date from a string",
    "parse a date, then parse another date",
    "the quick brown fox",
    "a file of dates",
]


@pytest.fixture(scope="module")
async def films(agent: Agent) -> str:
    """Ten entities with a dense and a sparse vector, each with an obvious order, and a year."""
    await agent.call(
        "create_collection",
        collection_name="films",
        fields=[
            {"name": "id", "type": "INT64", "is_primary": True},
            {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
            {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
            {"name": "year", "type": "INT32"},
            {"name": "genre", "type": "VARCHAR", "max_length": 20},
        ],
        indexes=[{"field_name": "vector", "metric_type": "L2"}],
        enable_dynamic_field=True,
    )
    data = [
        {
            "id": number,
            "vector": [number, 0],
            "sparse": {"1": number + 1, str(number + 10): 1},
            "year": 1990 + number,
            "genre": ["drama", "comedy", "horror"][number % 3],
            "note": f"n{number}",
        }
        for number in range(10)
    ]
    await agent.call("insert", collection_name="films", data=data)
    return "films"


@pytest.fixture(scope="module")
async def docs(agent: Agent) -> str:
    """Five texts with a BM25 function."""
    await agent.call(
        "create_collection",
        collection_name="docs",
        fields=[
            {"name": "id", "type": "INT64", "is_primary": True},
            {"name": "body", "type": "VARCHAR", "max_length": 200, "enable_analyzer": True, "enable_match": True},
            {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
            {"name": "dense", "type": "FLOAT_VECTOR", "dim": 2},
        ],
        functions=[{"name": "bm25", "type": "BM25", "input_field_names": ["body"], "output_field_names": ["sparse"]}],
    )
    data = [{"id": number, "body": text, "dense": [number, 1]} for number, text in enumerate(TEXTS)]
    await agent.call("insert", collection_name="docs", data=data)
    return "docs"


async def of_metric(agent: Agent, collection: str, metric_type: str, vectors: list[list[float]]) -> str:
    await agent.call("create_collection", collection_name=collection, dimension=2, metric_type=metric_type)
    data = [{"id": number, "vector": vector} for number, vector in enumerate(vectors)]
    await agent.call("insert", collection_name=collection, data=data)
    return collection


async def test_a_dense_vector_finds_its_field_by_itself_and_l2_scores_are_squared_distances(
    agent: Agent, films: str
) -> None:
    found = await agent.call("search", collection_name=films, vector=[3.2, 0], limit=3, output_fields=["year"])
    assert found.pop("next_cursor")
    assert found == {
        "hits": [
            {"id": 3, "score": 0.04, "fields": {"year": 1993}},
            {"id": 4, "score": 0.64, "fields": {"year": 1994}},
            {"id": 2, "score": 1.44, "fields": {"year": 1992}},
        ],
        "metric_type": "L2",
        "anns_field": "vector",
        "entity_uri": "milvus://default/films/{id}",
    }


async def test_a_sparse_vector_finds_its_field_by_itself(agent: Agent, films: str) -> None:
    found = await agent.call("search", collection_name=films, vector={"1": 1.0, "14": 100.0}, limit=2)
    assert (found["anns_field"], found["metric_type"]) == ("sparse", "IP")
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [(4, 105.0), (9, 10.0)]


async def test_hits_carry_all_fields_but_vectors_unless_fields_are_named(agent: Agent, films: str) -> None:
    async def fields(*names: str) -> Any:
        asked = {"output_fields": list(names)} if names else {}
        found = await agent.call("search", collection_name=films, vector=[1, 0], limit=1, **asked)
        return found["hits"][0]["fields"]

    scalars = {"year": 1991, "genre": "comedy", "note": "n1"}
    vectors = {"vector": [1.0, 0.0], "sparse": {"1": 2.0, "11": 1.0}}
    assert await fields() == scalars
    assert await fields("genre") == {"genre": "comedy"}
    assert await fields("note", "vector") == {"note": "n1", "vector": [1.0, 0.0]}
    assert await fields("*") == scalars | vectors


async def test_filter_limit_and_offset_apply(agent: Agent, films: str) -> None:
    found = await agent.call(
        "search",
        collection_name=films,
        vector=[0, 0],
        filter="year > {year} and genre in {genres}",
        filter_params={"year": 1991, "genres": ["drama", "horror"]},
        limit=3,
        offset=1,
    )
    assert keys(found["hits"]) == [3, 5, 6]


async def test_an_entity_s_id_finds_its_neighbours_and_not_itself(agent: Agent, films: str) -> None:
    found = await agent.call("search", collection_name=films, id=5, anns_field="vector", limit=2, filter="id > 0")
    assert sorted(keys(found["hits"])) == [4, 6]
    found = await agent.call("search", collection_name=films, id=5, anns_field="sparse", limit=2)
    assert keys(found["hits"]) == [9, 8]
    missing = await agent.fails("search", collection_name=films, id=77, anns_field="vector")
    assert missing["code"] == "not_found"
    assert "77" in missing["message"]


async def test_when_several_fields_fit_they_are_named(agent: Agent, films: str) -> None:
    error = await agent.fails("search", collection_name=films, id=5)
    assert error["code"] == "invalid_argument"
    assert "vector FLOAT_VECTOR(2)" in error["message"]
    assert "sparse SPARSE_FLOAT_VECTOR" in error["message"]
    assert "anns_field" in error["hint"]


async def test_the_dimensions_of_a_vector_choose_among_several_dense_fields(agent: Agent, collection: str) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "narrow", "type": "FLOAT_VECTOR", "dim": 2},
        {"name": "wide", "type": "FLOAT_VECTOR", "dim": 3},
    ]
    await agent.call("create_collection", collection_name=collection, fields=fields)
    await agent.call("insert", collection_name=collection, data=[{"id": 1, "narrow": [0, 1], "wide": [0, 1, 2]}])
    for vector, field in (([1, 0], "narrow"), ([1, 0, 0], "wide")):
        found = await agent.call("search", collection_name=collection, vector=vector)
        assert (keys(found["hits"]), found["anns_field"]) == ([1], field)
    error = await agent.fails("search", collection_name=collection, vector=[1, 0, 0, 0])
    assert error["code"] == "invalid_argument"
    assert "narrow FLOAT_VECTOR(2)" in error["message"]
    assert "wide FLOAT_VECTOR(3)" in error["message"]


async def test_what_no_field_takes_is_refused_with_what_each_takes(agent: Agent, docs: str, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2)
    error = await agent.fails("search", collection_name=collection, text="date")
    assert "vector FLOAT_VECTOR(2) (vector)" in error["message"]
    assert "anns_field" not in error["hint"]  # there is nothing to choose from
    assert "text_field" in error["hint"]
    assert "embed_fields" in error["hint"]
    assert "--embedder" in error["hint"]
    error = await agent.fails("search", collection_name=docs, vector={"1": 1.0})
    assert "sparse SPARSE_FLOAT_VECTOR (text)" in error["message"]
    assert "dense FLOAT_VECTOR(2) (vector)" in error["message"]


async def test_a_field_of_the_schema_that_is_not_there_cannot_group_hits(agent: Agent, docs: str) -> None:
    error = await agent.fails("search", collection_name=docs, vector=[0, 0], group_by_field="decade")
    assert error["code"] == "not_found"
    assert "decade" in error["message"]


async def test_an_index_rebuilt_through_another_server_is_searched_by_its_new_metric_soon(
    lite: str, agent: Agent, collection: str
) -> None:
    await of_metric(agent, collection, "COSINE", [[1.0, 0.0], [2.0, 2.0]])
    found = await agent.call("search", collection_name=collection, vector=[1, 0], limit=1)
    assert (found["metric_type"], found["hits"][0]["score"]) == ("COSINE", 1.0)
    rebuilt = {"collection_name": collection, "field_name": "vector", "replace": True}
    async with agent_on(lite) as another:
        for metric_type, score in (("L2", 0.0), ("IP", 2.0)):
            await another.call("build_index", metric_type=metric_type, **rebuilt)
            with anyio.fail_after(10):
                while found["metric_type"] != metric_type:
                    found = await agent.call("search", collection_name=collection, vector=[1, 0], limit=1)
            assert found["hits"][0]["score"] == score


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ({}, "invalid_argument", "exactly one"),
        ({"vector": [0, 0], "id": 1}, "invalid_argument", "exactly one"),
        ({"vector": [0, 0, 0]}, "invalid_argument", "3 dimensions; vector FLOAT_VECTOR(2)"),
        ({"vector": []}, "invalid_argument", "0 dimensions"),
        ({"vector": [0, 1e39]}, "invalid_argument", "out of range"),
        ({"vector": {}}, "invalid_argument", "sparse"),
        ({"vector": {"-1": 1.0}}, "invalid_argument", "-1"),
        ({"vector": "near"}, "invalid_argument", "vector"),
        ({"text": "near"}, "invalid_argument", "vector FLOAT_VECTOR(2)"),
        ({"text": " "}, "invalid_argument", "blank"),
        ({"vector": [0, 0], "mode": "dense"}, "invalid_argument", "text"),
        ({"id": 1, "snippet": True}, "invalid_argument", "text"),
        ({"text": "near", "mode": "semantic"}, "invalid_argument", "hybrid"),
        ({"vector": [0, 0], "anns_field": "year"}, "invalid_argument", "year INT32"),
        ({"vector": [0, 0], "anns_field": "sparse"}, "invalid_argument", "sparse"),
        ({"vector": [0, 0], "anns_field": "vektor"}, "not_found", "vektor"),
        ({"vector": [0, 0], "filter": "yeer > 3 and"}, "invalid_filter", ""),
        ({"vector": [0, 0], "limit": 0}, "invalid_argument", "limit"),
        ({"vector": [0, 0], "offset": -1}, "invalid_argument", "offset"),
        ({"vector": [0, 0], "range_filter": 1.0}, "invalid_argument", "radius"),
        ({"vector": [0, 0], "group_size": 2}, "invalid_argument", "group_by_field"),
        ({"vector": [0, 0], "group_by_field": "decade"}, "not_supported", "decade"),
        ({"vector": [0, 0], "params": {"metric_type": "IP"}}, "invalid_argument", "L2"),
        ({"vector": [0, 0], "params": {"nprob": 3}}, "invalid_argument", "did you mean nprobe"),
        ({"vector": [0, 0], "params": {"effort": 3}}, "invalid_argument", "ef, nprobe"),
        ({"vector": [0, 0], "params": {"radius": 3}}, "invalid_argument", "argument of its own"),
        ({"vector": [0, 0], "group_by_field": "genre", "cursor": "x"}, "invalid_argument", "group_by_field"),
        ({"vector": [0, 0], "offset": 16_384}, "invalid_argument", "16384"),
        ({"vector": [0, 0], "consistency_level": "Whatever"}, "invalid_argument", "consistency_level"),
        ({"id": "three", "anns_field": "vector"}, "invalid_argument", "three"),
    ],
)
async def test_a_search_that_cannot_be_says_why(
    agent: Agent, films: str, arguments: dict[str, Any], code: str, said: str
) -> None:
    error = await agent.fails("search", collection_name=films, **arguments)
    assert error["code"] == code
    assert said in error["message"]


@pytest.mark.parametrize(
    ("metric_type", "radius", "range_filter", "expected"),
    [
        ("L2", 5.0, None, {0: 0.0, 1: 1.0, 2: 4.0}),
        ("L2", 5.0, 0.5, {1: 1.0, 2: 4.0}),
        ("IP", 1.5, None, {2: 2.0, 3: 3.0}),
        ("IP", 0.5, 2.5, {1: 1.0, 2: 2.0}),
        ("COSINE", 0.9, None, {4: 1.0, 5: 1.0}),
        ("COSINE", -0.5, 0.9, {6: 0.0}),
    ],
)
async def test_radius_and_range_filter_bound_the_scores_of_each_metric(
    agent: Agent,
    collection: str,
    metric_type: str,
    radius: float,
    range_filter: float | None,
    expected: dict[int, float],
) -> None:
    if metric_type == "COSINE":
        vectors = [[-1.0, 0.0]] * 4 + [[1.0, 0.0], [5.0, 0.0], [0.0, 2.0]]
        query = [1.0, 0.0]
    else:
        vectors = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]
        query = [1.0, 0.0] if metric_type == "IP" else [0.0, 0.0]
    await of_metric(agent, collection, metric_type, vectors)
    bounds = {"radius": radius} | ({} if range_filter is None else {"range_filter": range_filter})
    found = await agent.call("search", collection_name=collection, vector=query, **bounds)
    assert found["metric_type"] == metric_type
    assert {hit["id"]: hit["score"] for hit in found["hits"]} == expected
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=metric_type != "L2")


async def test_words_find_texts_with_positive_scores_best_first(agent: Agent, docs: str) -> None:
    found = await agent.call("search", collection_name=docs, text="parse a date", limit=5)
    assert (found["metric_type"], found["anns_field"]) == ("BM25", "sparse")
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    assert set(keys(found["hits"])[:2]) == {1, 2}
    assert found["hits"][0]["fields"].keys() == {"body"}


async def test_radius_and_range_filter_bound_bm25_scores_too(agent: Agent, docs: str) -> None:
    everything = await agent.call("search", collection_name=docs, text="parse a date", limit=5)
    scores = {hit["id"]: hit["score"] for hit in everything["hits"]}
    middle = sorted(scores.values())[len(scores) // 2] + 1e-6
    for bounds, expected in (
        ({"radius": middle}, {key for key, score in scores.items() if score > middle}),
        ({"radius": 0.0, "range_filter": middle}, {key for key, score in scores.items() if score <= middle}),
    ):
        found = await agent.call("search", collection_name=docs, text="parse a date", limit=5, **bounds)
        assert 0 < len(expected) < len(scores)
        assert set(keys(found["hits"])) == expected


async def test_a_text_s_id_finds_similar_texts(agent: Agent, docs: str) -> None:
    found = await agent.call("search", collection_name=docs, id=1, anns_field="sparse", limit=2)
    assert keys(found["hits"])[0] == 2


async def test_a_dense_vector_beside_a_bm25_field_needs_no_field_name(agent: Agent, docs: str) -> None:
    found = await agent.call("search", collection_name=docs, vector=[4, 1], limit=1)
    assert (keys(found["hits"]), found["anns_field"]) == ([4], "dense")


async def test_a_computed_field_is_searched_with_text_only_and_never_read(agent: Agent, docs: str) -> None:
    error = await agent.fails("search", collection_name=docs, vector={"1": 1.0})
    assert "text" in error["message"]
    error = await agent.fails("search", collection_name=docs, text="date", output_fields=["sparse"])
    assert error["code"] == "invalid_argument"
    assert "sparse" in error["message"]
    starred = await agent.call("search", collection_name=docs, text="fox", output_fields=["*"])
    assert starred["hits"][0]["fields"].keys() == {"body", "dense"}


@pytest.mark.parametrize("text", ["zzzz qqqq", '"', "a" * 5000])
async def test_words_that_match_nothing_find_nothing_and_are_no_error(agent: Agent, docs: str, text: str) -> None:
    assert (await agent.call("search", collection_name=docs, text=text))["hits"] == []


async def test_groups_show_their_best_hits_only(agent: Agent, films: str) -> None:
    grouped = {"collection_name": films, "vector": [0, 0], "group_by_field": "genre", "limit": 3}
    assert keys((await agent.call("search", **grouped))["hits"]) == [0, 1, 2]
    two = (await agent.call("search", group_size=2, **grouped))["hits"]
    assert sorted(keys(two)) == [0, 1, 2, 3, 4, 5]


async def test_search_parameters_of_the_index_are_passed_on(agent: Agent, films: str) -> None:
    found = await agent.call("search", collection_name=films, vector=[0, 0], params={"ef": 64}, limit=2)
    assert keys(found["hits"]) == [0, 1]


async def test_only_the_hits_that_are_shown_are_read_when_there_may_be_many_or_large_ones(
    lite: str, agent: Agent, collection: str
) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
        *({"name": name, "type": "VARCHAR", "max_length": 60_000} for name in ("body", "notes", "shelf")),
    ]
    index = [{"field_name": "vector", "metric_type": "L2"}]
    await agent.call("create_collection", collection_name=collection, fields=fields, indexes=index)
    data = [
        {"id": n, "vector": [n, 0], "body": f"b{n}" * 300, "notes": f"n{n}", "shelf": "abc"[n % 3]} for n in range(400)
    ]
    await agent.call("insert", collection_name=collection, data=data)
    question: dict[str, Any] = {"collection_name": collection, "vector": [0, 0]}
    with watching() as wire:
        async with agent_on(lite) as watched:
            small = await watched.call("search", limit=20, **question)
            assert (wire.sent["Search"], wire.sent["Query"]) == (1, 0)
            shown = len(small["hits"])
            for how in ({"limit": 200}, {"limit": 300, "output_fields": ["body", "notes", "shelf"]}):
                large = await watched.call("search", **question, **how)
                assert large["hits"][:shown] == small["hits"]
                assert shown < len(large["hits"]) < 200
                assert list(wire.last["Search"].output_fields) == ["id"]
                assert 0 < wire.last["Query"].expr.count(",") < 190
                rest = await watched.call("search", cursor=large["next_cursor"], **question, **how)
                assert keys(rest["hits"])[0] == len(large["hits"])
            assert wire.sent["Query"] == 4
            some = await watched.call("search", limit=300, output_fields=["notes"], **question)
            assert keys(some["hits"]) == [*range(300)]
            assert some["hits"][299]["fields"] == {"notes": "n299"}
            grouped: dict[str, Any] = {"group_by_field": "shelf", "group_size": 2, "output_fields": ["shelf"]}
            found = (await watched.call("search", limit=200, **grouped, **question))["hits"]
            assert sorted(keys(found)) == [0, 1, 2, 3, 4, 5]
            assert {hit["id"]: hit["fields"]["shelf"] for hit in found} == {n: "abc"[n % 3] for n in range(6)}
            assert list(wire.last["Search"].output_fields) == ["id"]
