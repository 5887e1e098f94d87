"""The fourteen tools of zilliztech/mcp-server-milvus: what they were documented to take, said to this server."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from mcp_server_milvus.tools import TOOLS
from tests.milvus.conftest import Agent, agent

pytestmark = pytest.mark.anyio

MIGRATING = (Path(__file__).parents[1] / "docs" / "migrating.md").read_text("utf-8")
QUICK, FULL = {"collection_name": "quick"}, {"collection_name": "full"}
TEXT_AND_VECTOR = [
    {"name": "id", "type": "INT64", "is_primary": True},
    {"name": "text", "type": "VARCHAR", "max_length": 200, "enable_analyzer": True},
    {"name": "sparse", "type": "SPARSE_FLOAT_VECTOR"},
    {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
]
BM25 = {"name": "bm25", "type": "BM25", "input_field_names": ["text"], "output_field_names": ["sparse"]}
ENTITIES = [
    {"id": 1, "text": "a red apple", "vector": [1.0, 0.0]},
    {"id": 2, "text": "a green pear", "vector": [0.0, 1.0]},
]

# Their tool, their arguments (or what stands in their place), our tool, our arguments: in an order that works.
REPLAYED: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    (
        "milvus_create_collection",
        QUICK | {"auto_id": True, "dimension": 2, "metric_type": "COSINE"},
        "create_collection",
        QUICK | {"auto_id": True, "dimension": 2, "metric_type": "COSINE"},
    ),
    (
        "milvus_create_collection",
        FULL | {"field_schema": TEXT_AND_VECTOR, "index_params": [{"field_name": "vector", "index_type": "HNSW"}]},
        "create_collection",
        FULL
        | {"fields": TEXT_AND_VECTOR, "indexes": [{"field_name": "vector", "index_type": "HNSW"}], "functions": [BM25]},
    ),
    ("milvus_list_databases", {}, "list_databases", {}),
    ("milvus_use_database", {"db_name": "default"}, "list_collections", {"db_name": "default"}),
    ("milvus_list_collections", {}, "list_collections", {}),
    ("milvus_get_collection_info", FULL, "describe_collection", FULL),
    ("milvus_insert_data", FULL | {"data": ENTITIES}, "insert", FULL | {"data": ENTITIES}),
    (
        "milvus_text_search",
        FULL | {"query_text": "apple", "limit": 5, "output_fields": ["text"], "drop_ratio": 0},
        "search",
        FULL | {"text": "apple", "limit": 5, "output_fields": ["text"], "params": {"drop_ratio_search": 0}},
    ),
    (
        "milvus_text_similarity_search",
        FULL | {"query_text": "apple", "anns_field": "sparse", "limit": 5, "filter_expr": "id < 9"},
        "search",
        FULL | {"text": "apple", "anns_field": "sparse", "limit": 5, "filter": "id < 9"},
    ),
    (
        "milvus_vector_search",
        FULL | {"vector": [1.0, 0.0], "vector_field": "vector", "limit": 5, "filter_expr": "id < 9", "radius": 0.5},
        "search",
        FULL | {"vector": [1.0, 0.0], "anns_field": "vector", "limit": 5, "filter": "id < 9", "radius": 0.5},
    ),
    (
        "milvus_hybrid_search",
        FULL
        | {"query_text": "apple", "text_field": "sparse", "vector": [1.0, 0.0], "vector_field": "vector"}
        | {"limit": 5, "output_fields": ["text"], "filter_expr": "id < 9"},
        "hybrid_search",
        FULL
        | {"legs": [{"text": "apple", "anns_field": "sparse"}, {"vector": [1.0, 0.0], "anns_field": "vector"}]}
        | {"limit": 5, "output_fields": ["text"], "filter": "id < 9"},
    ),
    (
        "milvus_query",
        FULL | {"filter_expr": "id > 0", "output_fields": ["text"], "limit": 10},
        "query",
        FULL | {"filter": "id > 0", "output_fields": ["text"], "limit": 10},
    ),
    ("milvus_release_collection", FULL, "release_collection", FULL),
    ("milvus_load_collection", FULL | {"replica_number": 1}, "load_collection", FULL | {"replica_number": 1}),
    ("milvus_delete_entities", FULL | {"filter_expr": "id == 1"}, "delete", FULL | {"filter": "id == 1"}),
]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Agent]:
    async with agent(data_dir=tmp_path_factory.mktemp("upstream") / "data") as each:
        yield each


def told_in_the_docs() -> dict[str, tuple[str, dict[str, str]]]:
    """Their tools, each with ours and the arguments that have another name here."""
    rows = re.findall(r"^\| `(milvus_\w+)` \| (.+?) \| (.*?) ?\|$", MIGRATING, re.MULTILINE)
    return {
        theirs: (ours.strip("`"), dict(re.findall(r"`(\w+)` → `(\w+)`", changes))) for theirs, ours, changes in rows
    }


async def test_their_calls_work_in_the_new_form(server: Agent) -> None:
    results = [(theirs, await server.call(ours, **arguments)) for theirs, _, ours, arguments in REPLAYED]
    found = dict(results)
    for searched in ("milvus_text_search", "milvus_text_similarity_search", "milvus_vector_search"):
        assert [hit["id"] for hit in found[searched]["hits"]] == [1]
    assert [hit["id"] for hit in found["milvus_hybrid_search"]["hits"]] == [1, 2]
    assert [entity["text"] for entity in found["milvus_query"]["entities"]] == ["a red apple", "a green pear"]
    assert found["milvus_delete_entities"] == {"delete_count": 1}


def test_the_docs_map_each_of_their_tools() -> None:
    told = told_in_the_docs()
    assert told.keys() == {theirs for theirs, *_ in REPLAYED}
    assert len(told) == 14
    names = {tool.name for tool in TOOLS}
    for theirs, arguments, ours, new in REPLAYED:
        tool, renamed = told[theirs]
        assert (tool == ours and tool in names) or theirs == "milvus_use_database"
        same = arguments.keys() & new.keys()
        assert {name for name in arguments if name in renamed} | same | {"drop_ratio"} >= arguments.keys()
        assert all(renamed[name] in {*new, "legs"} for name in arguments if name in renamed)
