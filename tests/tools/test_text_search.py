"""Search with text: by words, by meaning or by both, as the collection and this server allow; and it says how."""

import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from pymilvus import CollectionSchema, DataType, FieldSchema, Function, FunctionType
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

from mcp_server_milvus import planning, vocabulary
from mcp_server_milvus.embedding import openai
from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.embedding.embedder import ModelEmbedder
from mcp_server_milvus.embedding.embedders import Embedders
from mcp_server_milvus.errors import EmbedderUnavailable
from mcp_server_milvus.milvus import paging, schema
from mcp_server_milvus.milvus.paging import Hit, admitted
from mcp_server_milvus.milvus.ranking import meaning_and_words
from mcp_server_milvus.milvus.results import Page, Passages
from mcp_server_milvus.settings import EmbedderSettings
from mcp_server_milvus.text import snippets, words
from mcp_server_milvus.text.words import content_words
from tests.agent import Agent, agent_on, keys
from tests.fake_milvus import fake_milvus
from tests.milvus.conftest import watching
from tests.openai_server import Endpoint, openai_server, refusal, silence

pytestmark = pytest.mark.anyio

PAIRS = [
    ("my feline is resting on the rug", "The cat sleeps on the carpet", "My jaguar car is parked on the drive"),
    ("how can I fall asleep", "Tips against insomnia at bedtime", "How can I make a wreath in fall"),
    ("shares of the firm lost value", "Stock prices of the company fell sharply", "She shares stories of lost love"),
    ("who is the doctor for my children", "The paediatrician treats infants", "Who is the man for my team"),
]
"""A question, what answers it in other words, and what has its words and does not."""

CHINESE = "人工智能正在改变医学影像诊断"
LONG = (
    "Wind tunnels are used by engineers. " * 40 + "The zeppelin landed in Lakehurst. " + "Nothing more happened. " * 40
)
MODEL = "fastembed sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
async def store(text_agent: Agent) -> str:
    """A document store with a real model: the pairs, a text in Chinese, a long one; of two tenants."""
    name = "text_store"
    texts = [text for _, answer, trap in PAIRS for text in (answer, trap)] + [CHINESE, LONG]
    await text_agent.call(
        "create_collection",
        collection_name=name,
        text_field="body",
        id_type="int",
        metadata=[{"name": "tenant", "type": "VARCHAR", "max_length": 9}],
    )
    data = [{"id": number, "body": text, "tenant": "ab"[number // 2 % 2]} for number, text in enumerate(texts)]
    await text_agent.call("insert", collection_name=name, data=data)
    return name


@pytest.fixture(scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    """A model of another kind: texts are near that share words, and it costs nothing."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(openai, "PAUSES", (0.0,) * len(openai.PAUSES))
        async with openai_server() as endpoint:
            yield endpoint


def settings_of(endpoint: Endpoint) -> dict[str, Any]:
    return {"embedder": "openai", "embed_model": "bag-of-words", "embed_base_url": endpoint.base_url}


@pytest.fixture
async def quick_agent(lite: str, endpoint: Endpoint) -> AsyncIterator[Agent]:
    async with agent_on(lite, **settings_of(endpoint)) as agent:
        yield agent


@pytest.fixture(scope="module")
async def many(lite: str, endpoint: Endpoint) -> str:
    """More texts than a leg has candidates, of three groups. No two are equally long: hardly any are equally near."""
    name = "text_many"
    words = ["red", "green", "blue", "round", "square", "flat"]
    texts = [
        f"the {words[n % 6]} {words[n % 5]} thing and {'fox ' * (1 + n % 4)}w{n % 17}{' p' * (n * 37 % 150)}"
        for n in range(150)
    ]
    data = [{"id": number, "body": text, "shelf": "abc"[number % 3]} for number, text in enumerate(texts)]
    async with agent_on(lite, **settings_of(endpoint)) as agent:
        group = {"name": "shelf", "type": "VARCHAR", "max_length": 9}
        await agent.call("create_collection", collection_name=name, text_field="body", id_type="int", metadata=[group])
        await agent.call("insert", collection_name=name, data=data)
    return name


async def test_what_is_said_in_other_words_is_found_first_though_words_alone_find_the_opposite(
    text_agent: Agent, store: str
) -> None:
    firsts: dict[str, list[Any]] = {"auto": [], "dense": [], "bm25": []}
    for question, _, _ in PAIRS:
        for mode, found in firsts.items():
            result = await text_agent.call("search", collection_name=store, text=question, mode=mode, limit=3)
            found.append(keys(result["hits"])[0])
    assert firsts["auto"] == firsts["dense"] == [0, 2, 4, 6]
    assert firsts["bm25"] == [1, 3, 5, 7]
    found = await text_agent.call("search", collection_name=store, text="zeppelin Lakehurst", limit=3)
    assert keys(found["hits"])[0] == 9
    for question in ("人工智能", "医学影像"):
        for mode in ("auto", "dense"):
            found = await text_agent.call("search", collection_name=store, text=question, mode=mode, limit=3)
            assert keys(found["hits"])[0] == 8, (question, mode)


async def test_the_plan_says_how_a_text_was_searched_for(text_agent: Agent, store: str) -> None:
    question: dict[str, Any] = {"collection_name": store, "text": "my cat", "limit": 2}
    auto, hybrid, dense, bm25 = [
        await text_agent.call("search", **question, **how)
        for how in ({}, {"mode": "hybrid"}, {"mode": "dense"}, {"mode": "bm25"})
    ]
    both = {"mode": "hybrid", "fields": ["vector", "sparse"], "metric_type": "COSINE + BM25", "embedder": MODEL}
    assert auto["plan"] == both | {"why": "both legs: words and meaning"}
    assert hybrid["plan"] == both
    assert (auto["metric_type"], "anns_field" in auto) == ("relative", False)
    assert auto["hits"] == hybrid["hits"]
    assert dense["plan"] == {"mode": "dense", "fields": ["vector"], "metric_type": "COSINE", "embedder": MODEL}
    assert (dense["metric_type"], dense["anns_field"]) == ("COSINE", "vector")
    assert bm25["plan"] == {"mode": "bm25", "fields": ["sparse"], "metric_type": "BM25"}
    for field, expected in (("vector", dense), ("sparse", bm25)):
        named = await text_agent.call("search", **question, anns_field=field)
        assert (named["hits"], named["plan"]) == (expected["hits"], expected["plan"])
        named = await text_agent.call("search", **question, anns_field=field, mode="hybrid")
        assert (named["hits"], named["plan"]) == (auto["hits"], both)


async def test_the_filter_holds_for_both_legs(text_agent: Agent, store: str) -> None:
    for tenant in "ab":
        for mode in ("auto", "bm25", "dense"):
            found = await text_agent.call(
                "search",
                collection_name=store,
                text="my cat makes bread, shares and children",
                mode=mode,
                filter="tenant == {tenant} or tenant == {tenant}",
                filter_params={"tenant": tenant},
            )
            assert found["hits"]
            assert {hit["fields"]["tenant"] for hit in found["hits"]} == {tenant}
    error = await text_agent.fails("search", collection_name=store, text="cat", partition_names=["nowhere"])
    assert error["code"] == "not_found"


async def test_both_legs_are_sent_at_once_with_the_filter_the_partitions_and_the_consistency(
    lite: str, many: str, endpoint: Endpoint
) -> None:
    sent: list[Any] = []
    both_sent = anyio.Event()

    async def noted(name: str, request: Any) -> None:
        if name == "Search":
            sent.append(request)
            if len(sent) > 1:
                both_sent.set()
            with anyio.fail_after(20):
                await both_sent.wait()

    with watching() as wire:
        wire.before = noted
        async with agent_on(lite, **settings_of(endpoint)) as watched:
            await watched.call(
                "search",
                collection_name=many,
                text="what is the red thing",
                filter='shelf == "a"',
                partition_names=["_default"],
                consistency_level="Strong",
                params={"ef": 77},
                output_fields=["shelf"],
            )
            assert wire.sent["Query"] == 0
    assert [request.dsl for request in sent] == ['shelf == "a"'] * 2
    assert [list(request.partition_names) for request in sent] == [["_default"]] * 2
    assert len({request.consistency_level for request in sent}) == 1
    params = [{pair.key: pair.value for pair in request.search_params} for request in sent]
    assert [each["topk"] for each in params] == ["50", "50"]
    assert sorted(("77" in each["params"], each["anns_field"]) for each in params) == [
        (False, "sparse"),
        (True, "vector"),
    ]


async def test_a_server_without_an_embedder_searches_by_words_and_says_so(agent: Agent, store: str) -> None:
    question: dict[str, Any] = {"collection_name": store, "text": "cat carpet"}
    found = await agent.call("search", **question)
    assert keys(found["hits"])[0] == 0
    assert found["plan"]["mode"] == "bm25"
    assert found["plan"]["why"] == f"vector needs embedder {MODEL} (dim 384), which this server does not have"
    for how in ({"mode": "dense"}, {"mode": "hybrid"}, {"anns_field": "vector"}):
        error = await agent.fails("search", **question, **how)
        assert error["code"] == "not_supported"
        assert "no embedder" in error["message"]
        assert "--embedder" in error["hint"]
        assert "mode: bm25" in error["hint"]
    neighbours = await agent.call("search", collection_name=store, id=0, limit=2)
    assert neighbours["anns_field"] == "vector"
    assert "plan" not in neighbours
    vector = (await agent.call("get", collection_name=store, ids=[2], output_fields=["vector"]))["entities"][0][
        "vector"
    ]
    nearest = await agent.call("search", collection_name=store, vector=vector, limit=1)
    assert keys(nearest["hits"]) == [2]


async def test_another_embedder_than_that_of_the_field_is_refused(quick_agent: Agent, store: str, many: str) -> None:
    question: dict[str, Any] = {"collection_name": store, "text": "cat"}
    error = await quick_agent.fails("search", **question)
    assert error["code"] == "conflict"
    assert "openai bag-of-words" in error["message"]
    assert "mode: bm25" in error["hint"]
    assert keys((await quick_agent.call("search", mode="bm25", **question))["hits"]) == [0]
    assert keys((await quick_agent.call("search", collection_name=many, text="w16", limit=1))["hits"])


async def test_a_model_that_changed_behind_its_name_is_refused(lite: str, many: str, endpoint: Endpoint) -> None:
    endpoint.model = "another"
    try:
        async with agent_on(lite, **settings_of(endpoint)) as later:
            for how in ({}, {"mode": "dense"}):
                error = await later.fails("search", collection_name=many, text="red", **how)
                assert error["code"] == "conflict"
                assert "changed" in error["message"]
    finally:
        endpoint.model = "one"


async def test_an_endpoint_that_is_down_is_an_error_and_words_still_find(
    lite: str, many: str, endpoint: Endpoint
) -> None:
    question: dict[str, Any] = {"collection_name": many, "text": "red fox", "limit": 3}
    async with agent_on(lite, **settings_of(endpoint)) as agent:
        endpoint.always = refusal(500)
        try:
            error = await agent.fails("search", **question)
            assert (error["code"], error["retriable"]) == ("embedder_unavailable", True)
            assert "mode: bm25" in error["hint"]
            assert (await agent.call("search", mode="bm25", **question))["plan"]["mode"] == "bm25"
        finally:
            endpoint.always = None
        assert (await agent.call("search", **question))["plan"]["mode"] == "hybrid"


class Down(Embedders):
    """Embedders that tell everybody the same."""

    failure = EmbedderUnavailable("down", hint="call again")

    async def bound(self, binding: Binding) -> ModelEmbedder:  # noqa: ARG002  # whose ever it is
        raise self.failure


async def test_who_adds_what_to_do_to_a_failure_adds_it_for_nobody_else() -> None:
    kinds = {"body": "VARCHAR", "sparse": "SPARSE_FLOAT_VECTOR", "vector": "FLOAT_VECTOR"}
    fields = tuple(schema.Field(name, vocabulary.DataType(kind)) for name, kind in kinds.items())
    bm25 = schema.Function("bm25", vocabulary.FunctionType.BM25, ("body",), ("sparse",))
    docs = schema.CollectionSchema("docs", fields, (bm25,), (), enable_dynamic_field=False)
    bound = {"vector": Binding("vector", "body", None)}
    plan = planning.planned(docs, bound, planning.Asked("red fox"), can_embed=True)
    down = Down({"default": EmbedderSettings.model_validate({"backend": "fastembed"})})
    for _ in range(2):
        with pytest.raises(EmbedderUnavailable) as told:
            await plan.embedded(down, 5)
        assert told.value.hint == "call again; or mode: bm25 finds it by its words"
    assert Down.failure.hint == "call again"


async def test_a_slow_endpoint_holds_up_nobody_else_and_ends_with_the_timeout(
    lite: str, many: str, endpoint: Endpoint
) -> None:
    async with agent_on(lite, max_concurrency=1, timeout=5, **settings_of(endpoint)) as agent:
        await agent.call("search", collection_name=many, text="red")
        endpoint.next(silence())
        before = len(endpoint.requests)
        errors: list[dict[str, Any]] = []

        async def search() -> None:
            errors.append(await agent.fails("search", collection_name=many, text="never embedded"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(search)
            with anyio.fail_after(5):
                while len(endpoint.requests) == before:
                    await anyio.lowlevel.checkpoint()
            assert (await agent.call("count", collection_name=many))["count"] == 150
            assert not errors
    assert errors[0]["code"] == "embedder_unavailable"
    assert "5 s" in errors[0]["message"]


async def test_a_repeated_query_is_embedded_once(quick_agent: Agent, many: str, endpoint: Endpoint) -> None:
    text = "a green thing that nobody asked for"
    question: dict[str, Any] = {"collection_name": many, "text": text, "limit": 9}
    first = await quick_agent.call("search", **question)
    again = [page async for page in quick_agent.pages("search", **question)]
    assert again[0] == first
    assert len(again) > 5
    await quick_agent.call("search", mode="dense", **question)
    assert endpoint.texts.count(text) == 1


@pytest.mark.parametrize("at_once", [256, 20])
async def test_pages_of_both_legs_have_every_candidate_once_and_say_where_they_end(
    quick_agent: Agent, many: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether entities come with the hits or are read by key."""
    monkeypatch.setattr(paging, "READ_AT_ONCE", at_once)
    text = "what is the red and round fox w3"
    question: dict[str, Any] = {"collection_name": many, "text": text, "output_fields": ["id", "shelf"]}
    legs: list[list[tuple[int, float]]] = []
    for mode, sought in (("dense", text), ("bm25", content_words(text))):
        leg = await quick_agent.call("search", **question | {"text": sought, "mode": mode, "limit": 50})
        legs.append([(hit["id"], hit["score"]) for hit in leg["hits"]])
    expected = meaning_and_words(legs[0], legs[1], metric_type="COSINE")
    assert len(expected) > 55
    found = [page async for page in quick_agent.pages("search", limit=7, **question)]
    shown = [(hit["id"], hit["score"]) for page in found for hit in page["hits"]]
    assert {key for key, _ in shown} == {key for key, _ in expected}
    assert len(shown) == len(expected)
    assert dict(shown) == pytest.approx(dict(expected), abs=1e-4)
    assert [score for _, score in shown] == sorted((score for _, score in shown), reverse=True)
    assert all("applied_limits" not in page for page in found[:-1])
    assert found[-1]["applied_limits"] == [
        "fused over the best 50 of each leg; mode: dense (or bm25) goes on to the end"
    ]
    assert all(hit["fields"] == {"shelf": "abc"[hit["id"] % 3]} for page in found for hit in page["hits"])
    for offset in range(0, len(shown), 7):
        page = await quick_agent.call("search", limit=7, offset=offset, **question)
        assert keys(page["hits"]) == [key for key, _ in shown[offset : offset + 7]]
    rest = await quick_agent.call("search", limit=7, offset=30, **question)
    assert keys(rest["hits"]) == [key for key, _ in shown[30:37]]
    on = await quick_agent.call("search", limit=4, offset=30, cursor=rest["next_cursor"], **question)
    assert keys(on["hits"]) == [key for key, _ in shown[37:41]]
    whole = [
        key
        async for page in quick_agent.pages("search", mode="dense", limit=50, **question)
        for key in keys(page["hits"])
    ]
    assert sorted(whole) == list(range(150))


async def test_candidates_whose_texts_may_be_long_come_without_them(lite: str, many: str, endpoint: Endpoint) -> None:
    """Most of the hundred are not shown. That these texts happen to be short is not known before they are read."""
    asked: list[list[str]] = []

    async def noted(name: str, request: Any) -> None:
        if name in {"Search", "Query"}:
            asked.append(sorted(request.output_fields))

    question: dict[str, Any] = {"collection_name": many, "text": "red fox", "limit": 5}
    with watching() as wire:
        async with agent_on(lite, **settings_of(endpoint)) as agent:
            wire.before = noted
            whole = await agent.call("search", **question)
            assert asked[:2] == [["id"], ["id"]]
            assert len(asked) == 3
            assert "body" in asked[2]
            asked.clear()
            short = await agent.call("search", output_fields=["shelf"], **question)
            assert [set(fields) >= {"shelf"} for fields in asked] == [True, True]
    assert keys(short["hits"]) == keys(whole["hits"])
    assert all(hit["fields"].keys() == {"body", "shelf"} for hit in whole["hits"])


async def test_the_words_of_a_query_are_found_once_and_not_where_everybody_waits(
    quick_agent: Agent, many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, list[bool]] = {"sent": [], "marked": []}

    def noting(what: str) -> Any:
        def noted(query: str) -> str:
            found[what].append(threading.current_thread() is threading.main_thread())
            return content_words(query)

        return noted

    monkeypatch.setattr(words, "content_words", noting("sent"))
    monkeypatch.setattr(snippets, "content_words", noting("marked"))
    found_hits = await quick_agent.call("search", collection_name=many, text="the red fox", snippet=True)
    assert ["snippet" in hit for hit in found_hits["hits"]] == [True] * 10
    assert found == {"sent": [False], "marked": [True]}


async def test_only_the_texts_that_are_shown_decide_whether_passages_are_sought_in_a_thread() -> None:
    key = schema.Field("id", vocabulary.DataType.INT64, is_primary=True)
    docs = schema.CollectionSchema("docs", (key,), (), (), enable_dynamic_field=False)
    threads: list[threading.Thread] = []

    def passage(text: str) -> str:
        threads.append(threading.current_thread())
        return text[:9]

    page = Page(docs, 10_000, passages=Passages("body", 500, passage))
    entities: dict[int | str, dict[str, Any]] = {n: {"id": n, "body": "word " * 1_000} for n in range(100)}
    for shown in (1, 50):
        await admitted(page, [Hit(n, 0.5, by_score=True) for n in range(shown)], entities)
        assert (threads[-1] is threading.main_thread()) == (shown == 1)


async def test_a_page_of_both_legs_that_is_too_large_goes_on_where_it_ended(
    lite: str, quick_agent: Agent, many: str, endpoint: Endpoint
) -> None:
    question: dict[str, Any] = {"collection_name": many, "text": "red fox", "limit": 60}
    async with agent_on(lite, max_result_bytes=2_000, **settings_of(endpoint)) as brief:
        found = [page async for page in brief.pages("search", **question)]
    assert "next_cursor" in found[0]["applied_limits"][0]
    shown = [key for page in found for key in keys(page["hits"])]
    assert len(shown) == len(set(shown)) > 60
    whole = await quick_agent.call("search", **question)
    assert shown[:60] == keys(whole["hits"])
    for other in ({"mode": "dense"}, {"mode": "bm25"}, {"text": "blue"}):
        error = await quick_agent.fails("search", **question | {"cursor": whole["next_cursor"]} | other)
        assert error["code"] == "invalid_argument"
        assert "cursor" in error["message"]


async def test_what_needs_one_kind_of_score_searches_one_leg_and_says_why(quick_agent: Agent, many: str) -> None:
    question: dict[str, Any] = {"collection_name": many, "text": "red round fox", "limit": 5}
    for how, said in (
        ({"exact": True}, "every match was scored"),
        ({"radius": 0.1, "range_filter": 0.9}, "radius"),
        ({"group_by_field": "shelf"}, "group_by_field"),
    ):
        found = await quick_agent.call("search", **question, **how)
        assert found["hits"]
        assert (found["plan"]["mode"], found["metric_type"]) == ("dense", "COSINE")
        assert "one leg" in found["plan"]["why"]
        assert said in found["plan"]["why"]
        error = await quick_agent.fails("search", mode="hybrid", **question, **how)
        assert error["code"] == "invalid_argument"
        assert "mode: dense" in error["hint"]
    exact = await quick_agent.call("search", exact=True, **question)
    dense = await quick_agent.call("search", mode="dense", **question)
    assert [hit["score"] for hit in exact["hits"]] == pytest.approx([hit["score"] for hit in dense["hits"]], abs=1e-4)
    grouped = await quick_agent.call("search", group_by_field="shelf", mode="bm25", **question)
    assert len({hit["fields"]["shelf"] for hit in grouped["hits"]}) == len(grouped["hits"]) == 3
    error = await quick_agent.fails("search", exact=True, mode="bm25", **question)
    assert error["code"] == "not_supported"


async def test_a_long_text_is_shown_as_the_passage_that_was_sought(text_agent: Agent, store: str) -> None:
    question: dict[str, Any] = {"collection_name": store, "text": "zeppelin", "limit": 1}
    found = await text_agent.call("search", **question)
    (hit,) = found["hits"]
    assert hit["fields"] == {"tenant": "a"}
    assert "**zeppelin** landed" in hit["snippet"]
    assert len(hit["snippet"]) < 400
    assert found["applied_limits"] == [
        "body: passages instead of 1 whole texts; name it in output_fields to get it whole"
    ]
    named = await text_agent.call("search", output_fields=["body"], **question)
    assert named["hits"][0]["fields"] == {"body": LONG}
    assert "snippet" not in named["hits"][0]
    never = await text_agent.call("search", snippet=False, **question)
    assert "snippet" not in never["hits"][0]
    assert never["hits"][0]["fields"]["body"] == LONG[:1_000] + "…"
    starred = (await text_agent.call("search", output_fields=["*"], **question))["hits"][0]
    assert "snippet" in starred
    assert starred["fields"].keys() == {"tenant", "vector"}
    meant = await text_agent.call("search", collection_name=store, text="aerodynamics laboratory", limit=1)
    assert meant["hits"][0]["snippet"].startswith("Wind tunnels are used by engineers.")


async def test_passages_can_be_had_of_short_texts_and_beside_other_fields(text_agent: Agent, store: str) -> None:
    question: dict[str, Any] = {"collection_name": store, "text": "the cat", "limit": 1, "snippet": True}
    expected = "The **cat** sleeps on the carpet"
    found = await text_agent.call("search", **question)
    assert found["hits"][0]["snippet"] == expected
    assert found["hits"][0]["fields"] == {"tenant": "a"}
    assert "applied_limits" not in found
    chosen = (await text_agent.call("search", output_fields=["tenant"], **question))["hits"][0]
    assert (chosen["snippet"], chosen["fields"]) == (expected, {"tenant": "a"})
    whole = (await text_agent.call("search", output_fields=["body"], **question))["hits"][0]
    assert (whole["snippet"], whole["fields"]) == (expected, {"body": PAIRS[0][1]})
    short = await text_agent.call("search", **question | {"snippet": None})
    assert short["hits"][0]["fields"] == {"body": PAIRS[0][1], "tenant": "a"}


async def test_passages_of_very_long_texts_are_found(quick_agent: Agent, collection: str) -> None:
    await quick_agent.call("create_collection", collection_name=collection, text_field="body", id_type="int")
    data = [{"id": n, "body": f"filler number {n}. " * 2_500 + f"The needle is {n}."} for n in range(4)]
    await quick_agent.call("insert", collection_name=collection, data=data)
    found = await quick_agent.call("search", collection_name=collection, text="needle")
    assert len(found["hits"]) == 4
    assert all(f"The **needle** is {hit['id']}." in hit["snippet"] for hit in found["hits"])


async def test_a_mode_that_is_impossible_is_refused_with_those_that_are_not(
    agent: Agent, quick_agent: Agent, many: str, collection: str
) -> None:
    await agent.call("create_collection", collection_name=collection, text_field="body")
    for asked, name, how, said in (
        (quick_agent, many, {"mode": "function"}, "sparse (bm25), vector (dense)"),
        (quick_agent, many, {"mode": "dense", "anns_field": "sparse"}, "sparse (bm25)"),
        (quick_agent, many, {"anns_field": "body"}, "vector fields: sparse SPARSE_FLOAT_VECTOR (text)"),
        (agent, collection, {"mode": "dense"}, "sparse (bm25)"),
        (agent, collection, {"mode": "hybrid"}, "sparse (bm25)"),
        (quick_agent, many, {"text": " \n"}, "blank"),
    ):
        error = await asked.fails("search", **{"collection_name": name, "text": "red"} | how)
        assert error["code"] == "invalid_argument"
        assert said in error["message"], error
    found = await agent.call("search", collection_name=collection, text="red")
    assert found["plan"] == {"mode": "bm25", "fields": ["sparse"], "metric_type": "BM25"}


async def test_of_several_bound_fields_one_is_named(quick_agent: Agent, collection: str, endpoint: Endpoint) -> None:
    fields = [
        {"name": "id", "type": "INT64", "is_primary": True},
        *({"name": name, "type": "VARCHAR", "max_length": 99} for name in ("title", "body")),
        *({"name": f"{name}_vector", "type": "FLOAT_VECTOR", "dim": endpoint.dim} for name in ("title", "body")),
    ]
    await quick_agent.call("create_collection", collection_name=collection, fields=fields)
    bound = {"title_vector": "title", "body_vector": "body"}
    await quick_agent.call("alter_collection", collection_name=collection, embed_fields=bound)
    data = [{"id": 1, "title": "red fox", "body": "blue whale"}, {"id": 2, "title": "blue whale", "body": "red fox"}]
    await quick_agent.call("insert", collection_name=collection, data=data)
    question: dict[str, Any] = {"collection_name": collection, "text": "red fox", "limit": 1}
    error = await quick_agent.fails("search", **question)
    assert "title_vector (dense), body_vector (dense)" in error["message"]
    assert "anns_field" in error["hint"]
    for field, key in (("title_vector", 1), ("body_vector", 2)):
        found = await quick_agent.call("search", anns_field=field, **question)
        assert (keys(found["hits"]), found["anns_field"]) == ([key], field)
        leg = {"text": "red fox", "anns_field": field}
        fused = await quick_agent.call("hybrid_search", collection_name=collection, legs=[leg], limit=1)
        assert keys(fused["hits"]) == [key]
    assert found["plan"]["why"] == f"{collection} has no BM25 function"


async def test_the_legs_of_a_hybrid_search_take_text_wherever_a_text_is_embedded(
    agent: Agent, text_agent: Agent, store: str
) -> None:
    question = PAIRS[0][0]
    legs = [{"text": question, "anns_field": "vector"}, {"text": "cat", "anns_field": "sparse"}]
    fused = await text_agent.call("hybrid_search", collection_name=store, legs=legs, limit=3)
    assert keys(fused["hits"])[0] == 0
    assert fused["fused_by"] == "milvus"
    for wrong, said in (
        ({"text": question}, "vector FLOAT_VECTOR(384) (text or vector)"),
        ({"text": " ", "anns_field": "vector"}, "legs.1.text"),
    ):
        error = await text_agent.fails("hybrid_search", collection_name=store, legs=[legs[0], wrong])
        assert error["code"] == "invalid_argument"
        assert said in error["message"]
    assert (await agent.fails("hybrid_search", collection_name=store, legs=legs))["code"] == "not_supported"


async def test_a_function_inside_milvus_gets_the_text_itself() -> None:
    """TEXTEMBEDDING is of Milvus 2.6, which cannot run here: looked at where it arrives."""
    schema = CollectionSchema(
        [
            FieldSchema("id", DataType.INT64, is_primary=True),
            FieldSchema("body", DataType.VARCHAR, max_length=64),
            FieldSchema("meaning", DataType.FLOAT_VECTOR, dim=4),
        ]
    )
    params = {"provider": "openai", "model_name": "m"}
    schema.add_function(Function("embed", FunctionType.TEXTEMBEDDING, ["body"], ["meaning"], params=params))
    async with fake_milvus("2.6.4", schema) as fake, agent_on(fake.uri) as agent:
        nothing = schema_pb2.SearchResultData(num_queries=1, topks=[0], primary_field_name="id")
        fake.answers["Search"] = milvus_pb2.SearchResults(results=nothing)
        found = await agent.call("search", collection_name="docs", text="a red fox")
        assert found["plan"] == {
            "mode": "function",
            "fields": ["meaning"],
            "metric_type": "COSINE",
            "why": "docs has no BM25 function",
        }
        (request,) = fake.requests("Search")
        assert b"a red fox" in request.placeholder_group
        error = await agent.fails("search", collection_name="docs", text="a red fox", mode="dense")
        assert "meaning (function)" in error["message"]
