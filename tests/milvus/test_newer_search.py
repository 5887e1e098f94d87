"""What newer Milvus servers are sent, which cannot run here: looked at where it arrives. Unverified on a real one."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pymilvus import CollectionSchema, DataType, FieldSchema
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from tests.fake_milvus import FakeMilvus, fake_milvus
from tests.milvus.conftest import Agent, agent

pytestmark = pytest.mark.anyio

LEGS: list[dict[str, Any]] = [
    {"vector": [1.0, 0.0], "filter": "id > {least}", "filter_params": {"least": 3}, "params": {"ef": 7}, "limit": 20},
    {"vector": [0.0, 1.0]},
]


@pytest.fixture
async def newer() -> AsyncGenerator[tuple[FakeMilvus, Agent]]:
    async with fake_milvus("2.6.4") as fake, agent(uri=fake.uri) as client:
        fake.answers |= {"HybridSearch": found(7, 5), "Search": found(7, 5)}
        yield fake, client


def found(*keys: int) -> Any:
    """Hits with these keys, each with a title."""
    titles = schema_pb2.FieldData(type=schema_pb2.DataType.VarChar, field_name="title")
    titles.scalars.string_data.data.extend(f"t{key}" for key in keys)
    results = schema_pb2.SearchResultData(
        num_queries=1,
        top_k=len(keys),
        topks=[len(keys)],
        scores=[1 / (place + 1) for place, _ in enumerate(keys)],
        fields_data=[titles],
        output_fields=["title"],
        primary_field_name="id",
    )
    results.ids.int_id.data.extend(keys)
    return milvus_pb2.SearchResults(results=results)


def params(pairs: Any) -> dict[str, Any]:
    return {pair.key: pair.value if pair.value.isidentifier() else json.loads(pair.value) for pair in pairs}


async def test_the_server_fuses_and_gets_the_outer_filter_in_every_leg(newer: tuple[FakeMilvus, Agent]) -> None:
    fake, client = newer
    result = await client.call(
        "hybrid_search",
        collection_name="docs",
        legs=LEGS,
        filter='title == "a"',
        k=5,
        limit=2,
        offset=3,
        output_fields=["title"],
    )
    assert result["fused_by"] == "milvus"
    assert result["hits"][0] == {"id": 7, "score": 1.0, "fields": {"title": "t7"}}
    (request,) = fake.requests("HybridSearch")
    assert [leg.dsl for leg in request.requests] == ['(title == "a") and (id > 3)', 'title == "a"']
    first, second = (params(leg.search_params) for leg in request.requests)
    assert (first["topk"], first["params"]["ef"], first["anns_field"]) == (20, 20, "vector")
    assert second["topk"] == 50
    ranking = params(request.rank_params)
    assert (ranking["strategy"], ranking["params"]) == ("rrf", {"k": 5})
    assert (ranking["limit"], ranking["offset"]) == (2, 3)
    assert list(request.output_fields) == ["id", "title"]


async def test_weights_and_functions_and_groups_reach_the_server(newer: tuple[FakeMilvus, Agent]) -> None:
    fake, client = newer
    question: dict[str, Any] = {"collection_name": "docs", "legs": LEGS}
    await client.call("hybrid_search", ranker="weighted", weights=[0.25, 1.0], **question)
    decay: dict[str, Any] = {
        "input_field_names": ["id"],
        "params": {"reranker": "decay", "function": "gauss", "origin": 1, "scale": 2},
    }
    await client.call("hybrid_search", ranker="function", function=decay, **question)
    await client.call("hybrid_search", group_by_field="title", group_size=2, **question)
    by_weight, by_function, grouped = fake.requests("HybridSearch")
    assert params(by_weight.rank_params)["params"]["weights"] == [0.25, 1.0]
    assert by_function.function_score.functions[0].input_field_names == ["id"]
    assert {pair.key for pair in by_function.function_score.functions[0].params} == decay["params"].keys()
    assert params(grouped.rank_params) | {"group_by_field": "title", "group_size": 2} == params(grouped.rank_params)


@pytest.mark.parametrize(
    ("version", "how", "since"),
    [("2.5.9", {"ranker": "function", "function": {"params": {"reranker": "decay"}}}, "2.6.0"), ("2.4.1", {}, None)],
)
async def test_what_is_older_is_refused_what_is_newer(version: str, how: dict[str, Any], since: str | None) -> None:
    async with fake_milvus(version) as fake, agent(uri=fake.uri) as client:
        fake.answers["HybridSearch"] = found(1)
        question: dict[str, Any] = {"collection_name": "docs", "legs": LEGS} | how
        if since is None:
            assert (await client.call("hybrid_search", **question))["fused_by"] == "milvus"
        else:
            assert since in (await client.refused("hybrid_search", **question))["message"]
            assert not fake.requests("HybridSearch")
        error = await client.refused("run_analyzer", texts=["a"])
        assert error["code"] == "not_supported"
        assert "2.5.11" in error["message"]


async def test_an_analyzer_runs_inside_the_server(newer: tuple[FakeMilvus, Agent]) -> None:
    fake, client = newer
    fake.schema.fields[1].params["enable_analyzer"] = True
    token = milvus_pb2.AnalyzerToken(token="fox")
    fake.answers["RunAnalyzer"] = milvus_pb2.RunAnalyzerResponse(
        results=[milvus_pb2.AnalyzerResult(tokens=[token, token])]
    )
    assert fake.schema.fields[1].dtype is DataType.VARCHAR
    assert await client.call("run_analyzer", texts=["Foxes"], analyzer_params={"type": "english"}) == {
        "tokens": [["fox", "fox"]]
    }
    await client.call("run_analyzer", texts=["Foxes"], collection_name="docs", field_name="title")
    by_params, by_field = fake.requests("RunAnalyzer")
    assert json.loads(by_params.analyzer_params) == {"type": "english"}
    assert (by_field.collection_name, by_field.field_name) == ("docs", "title")
    assert list(by_params.placeholder) == [b"Foxes"]


async def test_a_page_beyond_the_first_asks_for_more_than_it_skips(newer: tuple[FakeMilvus, Agent]) -> None:
    fake, client = newer
    question: dict[str, Any] = {"collection_name": "docs", "vector": [1.0, 0.0], "limit": 1, "params": {"ef": 3}}
    first = await client.call("search", **question)
    fake.answers["Query"] = None
    await client.client.call_tool("search", {**question, "cursor": first["next_cursor"]})
    sizes = [params(request.search_params)["topk"] for request in fake.requests("Search")]
    assert sizes[:3] == [2, 2, 1_024]
    widths = [params(request.search_params)["params"]["ef"] for request in fake.requests("Search")]
    assert widths[:3] == [3, 3, 1_024]


async def test_an_entity_is_searched_by_its_own_bytes() -> None:
    small = CollectionSchema(
        [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("tiny", DataType.INT8_VECTOR, dim=2)]
    )
    key = schema_pb2.FieldData(type=schema_pb2.DataType.Int64, field_name="id")
    key.scalars.long_data.data.append(7)
    tiny = schema_pb2.FieldData(type=schema_pb2.DataType.Int8Vector, field_name="tiny")
    tiny.vectors.dim, tiny.vectors.int8_vector = 2, b"\x01\xff"
    async with fake_milvus("2.6.4", small) as fake, agent(uri=fake.uri) as client:
        fake.answers |= {
            "Query": milvus_pb2.QueryResults(fields_data=[key, tiny], output_fields=["id", "tiny"]),
            "Search": found(5),
        }
        result = await client.call("search", collection_name="docs", id=7, output_fields=[], limit=1)
        assert [hit["id"] for hit in result["hits"]] == [5]
        sent = common_pb2.PlaceholderGroup.FromString(fake.requests("Search")[0].placeholder_group)
    assert [list(each.values) for each in sent.placeholders] == [[b"\x01\xff"]]
