"""Why a search finds nothing or the wrong things: each cause is made real, and what is advised is then tried."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.agent import Agent, agent_on, keys
from tests.openai_server import Endpoint, openai_server

pytestmark = pytest.mark.anyio

HAS_IT = {"toolsets": "+diagnose_search"}
POINTS = {"collection_name": "diagnosed_points"}
SOUGHT = {"vector": [1.0, 0.5, 0.25, 0.1]}
TEXTS = {"collection_name": "diagnosed_texts"}


@pytest.fixture(scope="module")
async def agent(lite: str) -> AsyncIterator[Agent]:
    async with agent_on(lite, **HAS_IT) as agent:
        yield agent


@pytest.fixture(scope="module")
async def points(agent: Agent) -> Agent:
    """Two hundred entities in a partition; the other one is empty."""
    await agent.call("create_collection", **POINTS, dimension=4, metric_type="COSINE")
    await agent.call("create_partition", **POINTS, partition_name="empty")
    data = [
        {
            "id": n,
            "vector": [1.0, n / 100, 0.25, 0.1],
            "color": "red" if n % 2 else "blue",
            "year": 1950 + n % 40,
            "meta": {"kind": {"name": "Novel"}},
            "tags": ["old", "good"],
            "code": str(n),
        }
        for n in range(200)
    ]
    await agent.call("insert", **POINTS, data=data)
    return agent


@pytest.fixture(scope="module")
async def texts(agent: Agent) -> Agent:
    await agent.call("create_collection", **TEXTS, text_field="body", id_type="string")
    data = [{"id": f"fox{n}", "body": f"the quick fox runs {n}"} for n in range(20)]
    await agent.call(
        "insert", **TEXTS, data=[*data, {"id": "snail", "body": "a slow snail"}, {"id": "blank", "body": " "}]
    )
    return agent


@pytest.fixture(scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    async with openai_server(dim=16) as endpoint:
        yield endpoint


def findings(diagnosis: dict[str, Any], *, but: str = "ok") -> dict[str, str]:
    """What was found, by check, where it is not in this state."""
    return {each["check"]: each.get("finding", "") for each in diagnosis["checks"] if each["state"] != but}


async def first_advice(agent: Agent, diagnosis: dict[str, Any]) -> dict[str, Any]:
    """What comes of the call that is advised first."""
    advice = diagnosis["next"][0]
    return await agent.call(advice["tool"], **advice["arguments"])


async def test_of_a_search_with_nothing_wrong_it_says_so_in_few_words(points: Agent) -> None:
    diagnosis = await points.call("diagnose_search", **POINTS, **SOUGHT, filter="year > 1955", expected_id=50)
    assert findings(diagnosis) == {}
    assert diagnosis["next"] == [{"do": "nothing: the search works, and finds it"}]
    unnamed = await points.call("diagnose_search", **POINTS, **SOUGHT)
    assert "expected_id" in unnamed["next"][0]["do"]
    assert {"check": "load", "state": "ok"} in diagnosis["checks"]
    assert findings(diagnosis, but="problem")["filter"] == "170 of 200 entities match"
    assert "is hit 1" in findings(diagnosis, but="problem")["expected_id"]
    assert len(json.dumps(diagnosis)) < 900


@pytest.mark.parametrize(
    ("filter_", "said", "advised"),
    [
        ('color == "Red" and year > 1960', 'stored is "red", not "Red"', 'color == "red" and year > 1960'),
        ('year > 1960 and (color == " RED ")', 'stored is "red"', 'year > 1960 and (color == "red")'),
        ('year == "1960"', "year holds numbers", "year == 1960"),
        ("code == 17", "code holds texts", 'code == "17"'),
        ('meta["kind"]["name"] == "novel"', 'stored is "Novel"', 'meta["kind"]["name"] == "Novel"'),
        ('color like "Bl%"', 'stored is "bl%"', 'color like "bl%"'),
        ('color in ["RED"]', 'stored is "red"', 'color in ["red"]'),
        ('color == "read"', 'close to "read": "red"', None),
        ('color == "green"', '"red"', None),
        ("year > 2100 and year > 3", "year goes from 1950 to 1989", "year > 3"),
        ('tags == "old"', 'array_contains(tags, "old")', None),
        ('colour == "red"', 'the dynamic field has "color"', None),
        ("year is null and id >= 0", "leg 1 `year is null` 0 (nothing), leg 2 `id >= 0` 200 (everything)", "id >= 0"),
    ],
)
async def test_of_a_filter_that_matches_nothing_it_shows_which_leg_and_what_is_stored_instead(
    points: Agent, filter_: str, said: str, advised: str | None
) -> None:
    diagnosis = await points.call("diagnose_search", **POINTS, **SOUGHT, filter=filter_)
    found = findings(diagnosis)
    assert "0 of 200 entities match" in found["filter"]
    assert said in "; ".join(found.values())
    assert diagnosis["next"][0]["arguments"].get("filter") == advised
    assert (await first_advice(points, diagnosis))["hits"]


async def test_legs_are_counted_and_the_one_that_excludes_the_others_is_left_out(points: Agent) -> None:
    contradiction = 'year < {year} and year > 1980 and color == "red"'
    diagnosis = await points.call("diagnose_search", **POINTS, filter=contradiction, filter_params={"year": 1955})
    told = findings(diagnosis)["filter"]
    assert "leg 1 `year < 1955` 25, leg 2 `year > 1980` 45" in told
    assert diagnosis["next"][0]["tool"] == "query"
    assert diagnosis["next"][0]["arguments"]["filter"] == 'year > 1980 and color == "red"'
    assert (await first_advice(points, diagnosis))["entities"]
    either = await points.call("diagnose_search", **POINTS, filter='color == "Red" or year > 1980')
    assert 'leg 1 `color == "Red"` 0 (nothing), leg 2 `year > 1980` 45' in findings(either)["filter"]
    wrong = await points.call("diagnose_search", **POINTS, **SOUGHT, filter="year >")
    assert "unexpected end" in findings(wrong)["filter"]
    unclosed = await points.call("diagnose_search", **POINTS, **SOUGHT, filter="(year > 3")
    assert "not closed" in findings(unclosed)["filter"]


async def test_matches_in_other_partitions_are_found(points: Agent) -> None:
    asked = {**POINTS, **SOUGHT, "filter": "year > 1960"}
    empty = await points.call("diagnose_search", **asked, partition_names=["empty"], expected_id=50)
    assert findings(empty)["entities"] == "these partitions are empty; entities are in _default (200)"
    assert "is in partition _default" in findings(empty)["expected_id"]
    assert (await first_advice(points, empty))["hits"]
    unknown = await points.call("diagnose_search", **asked, partition_names=["none"])
    assert findings(unknown)["partitions"] == "there is no partition 'none'; partitions: _default, empty"
    assert (await first_advice(points, unknown))["hits"]


async def test_a_vector_that_does_not_fit_or_says_nothing_is_told(points: Agent) -> None:
    short = await points.call("diagnose_search", **POINTS, vector=[1, 2, 3])
    assert "3 dimensions" in findings(short)["vector"]
    assert "FLOAT_VECTOR(4)" in short["next"][0]["do"]
    zeros = await points.call("diagnose_search", **POINTS, vector=[0, 0, 0, 0])
    assert "all zeros" in findings(zeros)["vector"]
    no_text = await points.call("diagnose_search", **POINTS, text="red")
    assert "no field of diagnosed_points can be searched with text" in findings(no_text)["text"]


@pytest.mark.parametrize(("metric_type", "said"), [("L2", "normalise both alike"), ("IP", "long ones win")])
async def test_lengths_that_a_metric_is_misled_by_are_told(
    agent: Agent, collection: str, metric_type: str, said: str
) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, metric_type=metric_type)
    data = [{"id": n, "vector": [10.0 + n, 1.0]} for n in range(20)]
    data += [{"id": n, "vector": [0.0, 0.0] if n < 22 else [50.0, 50.0]} for n in range(20, 30)]
    await agent.call("insert", collection_name=collection, data=data)
    told = findings(await agent.call("diagnose_search", collection_name=collection, vector=[1, 0]))["vector"]
    assert said in told
    assert "2 of 30 sampled vectors are all zeros" in told
    assert "8 of 30 sampled entities have the same vector" in told


async def test_a_radius_that_excludes_all_is_told_with_the_best_score(points: Agent) -> None:
    diagnosis = await points.call("diagnose_search", **POINTS, **SOUGHT, radius=1.5, expected_id=150)
    found = findings(diagnosis)
    assert found["radius"] == "the best score is 1 (COSINE, larger is better); no hit is within radius 1.5"
    assert "radius or range_filter excludes that" in found["expected_id"]
    assert (await first_advice(points, diagnosis))["hits"]
    both = await points.call("diagnose_search", **POINTS, **SOUGHT, radius=0.9, range_filter=0.8)
    assert "no hit is within radius 0.9 and range_filter 0.8" in findings(both)["radius"]


async def test_an_expected_entity_is_followed_to_where_it_is_lost(points: Agent) -> None:
    async def told(key: int, **how: Any) -> str:
        diagnosis = await points.call("diagnose_search", **{**POINTS, **SOUGHT, **how}, expected_id=key)
        await first_advice(points, diagnosis)
        return findings(diagnosis)["expected_id"]

    cut = await points.call("diagnose_search", **POINTS, **SOUGHT, expected_id=170)
    assert "rank 171 of 200 in vector; limit is 10" in findings(cut)["expected_id"]
    assert 170 in keys((await first_advice(points, cut))["hits"])
    assert await told(999) == "entity 999 is not in the collection"
    assert 'filtered out by leg 2 `color == "red"`: it has color: "blue"' in await told(
        50, filter='year > 1950 and color == "red"'
    )
    assert "filtered out by the filter: it has year: 1951" in await told(1, filter="year > 1960")
    assert (
        "no hit of its own search"
        in findings(await points.call("diagnose_search", **POINTS, id=7, expected_id=7))["expected_id"]
    )
    wrong = await points.call("diagnose_search", **POINTS, **SOUGHT, expected_id="seven")
    assert "not a whole number" in findings(wrong)["expected_id"]
    gone = await points.call("diagnose_search", **POINTS, id=999)
    assert "no entity 999" in findings(gone)["id"]


async def test_what_an_approximate_index_misses_is_told_and_found_by_an_exact_search(
    agent: Agent, collection: str
) -> None:
    """Clusters whose edges are nearer to each other than to their middles, and an index that looks into few."""
    numbers = random.Random(7)  # noqa: S311  # no secret
    named = {"collection_name": collection}
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 8},
    ]
    index = {"field_name": "vector", "metric_type": "L2", "index_type": "IVF_FLAT", "params": {"nlist": 64}}
    await agent.call("create_collection", **named, fields=fields, indexes=[index])
    data = [{"id": n, "vector": [numbers.gauss(0, 1) for _ in range(8)]} for n in range(2_000)]
    await agent.call("insert", **named, data=data)
    await agent.call("flush", **named)
    for _ in range(40):
        sought = {"vector": [numbers.gauss(0, 1) for _ in range(8)]}
        by_index = keys((await agent.call("search", **named, **sought, output_fields=["id"]))["hits"])
        exact = keys((await agent.call("search", **named, **sought, exact=True, output_fields=["id"]))["hits"])
        if missed := [key for key in exact if key not in by_index]:
            break
    else:
        pytest.fail("the index misses nothing")
    diagnosis = await agent.call("diagnose_search", **named, **sought, expected_id=missed[0])
    assert "but the index misses it among 10 hits" in findings(diagnosis)["expected_id"]
    assert missed[0] in keys((await first_advice(agent, diagnosis))["hits"])
    assert any("nprobe" in str(advice.get("arguments")) for advice in diagnosis["next"])


async def test_words_that_no_entity_has_are_told(texts: Agent) -> None:
    some = await texts.call("diagnose_search", **TEXTS, text="quick foxes", expected_id="snail")
    assert findings(some)["words"] == 'of "quick", "foxes" no entity has "foxes"'
    assert 'entity "snail" has none of the words (in body)' in findings(some)["expected_id"]
    none = await texts.call("diagnose_search", **TEXTS, text="foxes")
    assert findings(none) == {"words": 'of "foxes" no entity has "foxes"', "search": "sparse: 0 hits"}
    marks = await texts.call("diagnose_search", **TEXTS, text="!?")
    assert "makes no words" in findings(marks)["words"]
    assert await first_advice(texts, marks) == {"tokens": [[]]}
    blank = await texts.call("diagnose_search", **TEXTS, text="quick fox", expected_id="blank")
    told = [each.get("finding", "") for each in blank["checks"] if each["check"] == "expected_id"]
    assert "has nothing in body" in told[0]
    assert "has none of the words" in told[1]
    alike = await texts.call("diagnose_search", **TEXTS, id="fox3", expected_id="snail")
    assert "has none of the words" in findings(alike)["expected_id"]
    case = await texts.call("diagnose_search", **TEXTS, text="fox", filter='id == "Fox3"')
    assert keys((await first_advice(texts, case))["hits"]) == ["fox3"]
    ranked = await texts.call("diagnose_search", **TEXTS, text="fox", limit=1, expected_id="fox9")
    assert "(BM25), rank 10 of 22 in sparse; limit is 1" in findings(ranked)["expected_id"]


async def test_by_meaning_it_needs_the_embedder_that_made_the_vectors(
    lite: str, agent: Agent, endpoint: Endpoint, collection: str
) -> None:
    named = {"collection_name": collection}
    model: dict[str, Any] = {"embedder": "openai", "embed_model": "bag-of-words", "embed_base_url": endpoint.base_url}
    async with agent_on(lite, **HAS_IT, **model) as embedding:
        await embedding.call("create_collection", **named, text_field="body")
        data = [{"body": f"the quick fox runs {n}"} for n in range(80)]
        await embedding.call("insert", **named, data=[*data, {"body": "a slow snail"}])
        ids = keys((await embedding.call("query", **named, limit=100))["entities"])
        both = await embedding.call("diagnose_search", **named, text="quick fox", expected_id=ids[-1])
        told = findings(both)["expected_id"]
        assert "is not among 50 candidates of each leg" in told
        assert "it has none of the words (in body)" in told
        assert "(COSINE), rank 8" in told
        assert both["next"][0]["arguments"]["mode"] == "dense"
        assert (await first_advice(embedding, both))["hits"]
    async with agent_on(lite, **HAS_IT, **model | {"embed_model": "another"}) as another:
        other = await another.call("diagnose_search", **named, text="quick fox")
        assert "is another" in findings(other)["embedder"]
        assert (await first_advice(another, {"next": [each for each in other["next"] if "tool" in each]}))["hits"]
    words = findings(await agent.call("diagnose_search", **named, text="quick fox"))
    assert "found by words alone" in words["embedder"]


async def test_a_released_collection_is_loaded_or_said_to_be_unloaded(lite: str, agent: Agent, collection: str) -> None:
    named = {"collection_name": collection}
    await agent.call("create_collection", **named, dimension=2)
    nothing = await agent.call("diagnose_search", **named, vector=[1, 0])
    assert findings(nothing) == {"entities": "there are none"}
    await agent.call("insert", **named, data=[{"id": 1, "vector": [1, 0]}])
    await agent.call("release_collection", **named)
    async with agent_on(lite, **HAS_IT, auto_load=False) as strict:
        unloaded = await strict.call("diagnose_search", **named, vector=[1, 0])
        assert set(findings(unloaded)) == {"load"}
        assert unloaded["next"][0]["tool"] == "load_collection"
    loaded = await agent.call("diagnose_search", **named, vector=[1, 0])
    assert "this call has loaded it" in findings(loaded)["load"]
    await agent.call("release_collection", **named)
    await agent.call("drop_index", **named, index_name="vector")
    bare = await agent.call("diagnose_search", **named, vector=[1, 0])
    assert findings(bare) == {"index": "vector FLOAT_VECTOR(2) has no index"}
    assert bare["next"][0]["arguments"] == {**named, "field_name": "vector"}


async def test_masked_fields_tell_nothing_and_answers_stay_small(points: Agent, lite: str) -> None:
    async with agent_on(lite, **HAS_IT, mask_fields="*.color") as careful:
        refused = await careful.fails("diagnose_search", **POINTS, **SOUGHT, filter='color == "Red"')
        assert refused["code"] == "denied"
        other = json.dumps(await careful.call("diagnose_search", **POINTS, **SOUGHT, filter='colour == "red"'))
        assert "blue" not in other
        assert '\\"color' not in other
        filtered = await careful.call("diagnose_search", **POINTS, **SOUGHT, filter="year > 1990", expected_id=3)
        assert "blue" not in json.dumps(filtered)
    async with agent_on(lite, **HAS_IT, mask_fields="*.vector") as careful:
        for tool in ("search", "diagnose_search"):
            assert (await careful.fails(tool, **POINTS, **SOUGHT))["code"] == "denied"
    async with agent_on(lite, **HAS_IT, max_result_bytes=1_024) as brief:
        long = " and ".join(f'color != "{"x" * 900}{n}"' for n in range(8))
        diagnosis = await brief.call("diagnose_search", **POINTS, **SOUGHT, filter=long, expected_id=170)
        assert diagnosis["applied_limits"]
        assert len(json.dumps(diagnosis)) < 2_000
    wrong = await points.fails("diagnose_search", **POINTS, **SOUGHT, text="red")
    assert (wrong["code"], "one of" in wrong["message"]) == ("invalid_argument", True)
    assert (await points.fails("diagnose_search", collection_name="nowhere", text="a"))["code"] == "not_found"
