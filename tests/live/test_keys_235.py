"""Keys and values of any kind against the filter parser of a real server."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymilvus import AsyncMilvusClient

from mcp_server_milvus.milvus.filters import KEY_RANGE, portable_key
from mcp_server_milvus.text.visible import escaped
from tests.milvus.conftest import Agent, agent
from tests.milvus.test_filters import FLOATS, HOSTILE, HOSTILE_KEYS, INTEGERS, KEYS, TEXT, WITH_AN_ENGINE

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]

FEW = settings(WITH_AN_ENGINE, max_examples=6)
OTHER = {"text": "", "whole": 0, "real": 0.5, "flag": False}
EACH = ["text", "whole", "real", "flag"]


@pytest.fixture(scope="module")
async def keyed(milvus_235: str) -> AsyncGenerator[Agent]:
    """A collection `ks_keys` with text keys, `ks_numbers` with integer keys, `ks_values` with a field of each type."""
    vector = {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}
    text_key = {"name": "pk", "type": "VARCHAR", "is_primary": True, "max_length": 2000}
    int_key = {"name": "pk", "type": "INT64", "is_primary": True}
    values = [
        {"name": "text", "type": "VARCHAR", "max_length": 2000},
        {"name": "whole", "type": "INT64"},
        {"name": "real", "type": "DOUBLE"},
        {"name": "flag", "type": "BOOL"},
    ]
    async with agent(uri=milvus_235) as each:
        await each.call("create_collection", collection_name="ks_keys", fields=[text_key, vector])
        await each.call("create_collection", collection_name="ks_numbers", fields=[int_key, vector])
        await each.call("create_collection", collection_name="ks_values", fields=[int_key, vector, *values])
        yield each


@given(keys=st.lists(TEXT, min_size=2, max_size=8, unique=True))
@FEW
async def test_text_keys_get_and_delete_exactly_their_entities(keyed: Agent, keys: list[str]) -> None:
    await exactly_their_entities(keyed, "ks_keys", keys)


async def test_hostile_keys_get_and_delete_exactly_their_entities(keyed: Agent) -> None:
    await exactly_their_entities(keyed, "ks_keys", HOSTILE_KEYS)
    await exactly_their_entities(keyed, "ks_keys", HOSTILE)


@given(keys=st.lists(KEYS, min_size=2, max_size=8, unique=True))
@FEW
async def test_integer_keys_get_and_delete_exactly_their_entities(keyed: Agent, keys: list[int]) -> None:
    await exactly_their_entities(keyed, "ks_numbers", [portable_key(key) for key in keys])


async def test_the_largest_and_smallest_keys_are_keys(keyed: Agent) -> None:
    await exactly_their_entities(keyed, "ks_numbers", [str(border) for border in KEY_RANGE])


@given(text=TEXT, whole=INTEGERS, real=FLOATS, flag=st.booleans())
@FEW
async def test_a_value_finds_exactly_the_entities_that_have_it(
    keyed: Agent, text: str, whole: int, real: float, *, flag: bool
) -> None:
    values = {"text": text, "whole": whole, "real": real, "flag": flag}
    other = {"text": text + "x", "whole": 5 if whole != 5 else 6, "real": 1e300, "flag": not flag}
    entities = [{"pk": 1, "vector": [1, 0]} | values, {"pk": 2, "vector": [1, 0]} | other]
    await keyed.call("upsert", collection_name="ks_values", data=entities)
    for field in EACH:
        for template, param in ((f"{field} == {{v}}", values[field]), (f"{field} in {{v}}", [values[field]])):
            found = await keyed.found("ks_values", filter=template, filter_params={"v": param})
            assert [each["pk"] for each in found] == [1], (field, values[field], template)


async def test_the_largest_integer_would_be_a_key_that_is_never_found_again(keyed: Agent, milvus_235: str) -> None:
    largest = 2**63 - 1
    async with AsyncMilvusClient(milvus_235, dedicated=True) as raw:
        await raw.insert("ks_values", [{"pk": largest, "vector": [1.0, 0.0]} | OTHER])
        assert await raw.query("ks_values", filter=f"pk == {largest}", consistency_level="Strong") == []

    entity = {"pk": str(largest), "vector": [1, 0]} | OTHER
    assert (await keyed.refused("insert", collection_name="ks_values", data=[entity]))["code"] == "invalid_argument"


async def exactly_their_entities(server: Agent, name: str, keys: list[Any]) -> None:
    """The first key gets its entity alone, a delete of it leaves all others, and a delete of the others leaves none."""
    await server.call("upsert", collection_name=name, data=[{"pk": key, "vector": [1, 0]} for key in keys])
    got = await server.call("get", collection_name=name, ids=[keys[0]])
    shown = [escaped(key) if isinstance(key, str) else key for key in keys]
    assert [each["pk"] for each in got["entities"]] == shown[:1]
    assert await server.call("delete", collection_name=name, ids=[keys[0]]) == {"delete_count": 1}
    got = await server.call("get", collection_name=name, ids=keys)
    assert [each["pk"] for each in got["entities"]] == shown[1:]
    assert got["missing_ids"] == shown[:1]
    await server.call("delete", collection_name=name, ids=keys[1:])
    assert await server.call("count", collection_name=name) == {"count": 0}
