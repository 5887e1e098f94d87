"""Tenants on the real Milvus 2.3.5, which keeps entities with the same key and deletes what a filter matches by key."""

from collections.abc import AsyncGenerator

import pytest
from hypothesis import given, settings

from tests.milvus.test_guard import hiding_databases, is_as_absent
from tests.tenants import (
    ATOMS,
    BROKEN,
    DRAWN,
    MANY,
    SHAPES,
    A,
    Pair,
    Result,
    done,
    keeps_apart,
    makes_no_difference,
    pair,
    told,
)

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live")]


@pytest.fixture(scope="module")
async def pairs(milvus_235: str) -> AsyncGenerator[list[Pair]]:
    async with pair({"uri": milvus_235}, SHAPES[:2], "235") as pairs:
        yield pairs


async def test_no_filter_reaches_another_tenant(pairs: list[Pair]) -> None:
    for matching in [*ATOMS[::8], *BROKEN[::9]]:
        await makes_no_difference(pairs[0], matching)
    await keeps_apart(pairs[0], [("delete", {"filter": 'tenant == "b" or id != ""'})])


@given(drawn=DRAWN.filter(lambda drawn: drawn[0] < 2))  # as many as there are
@settings(MANY, max_examples=4)
async def test_tenants_are_kept_apart(pairs: list[Pair], drawn: tuple[int, list[tuple[str, Result]]]) -> None:
    number, steps = drawn
    await keeps_apart(pairs[number], steps)


async def test_a_key_that_two_tenants_have_is_left_alone(pairs: list[Pair]) -> None:
    both = pairs[1]
    shape, named = both.shape, {"collection_name": both.shape.name}
    theirs = await both.shared.entities(shape, 'mark == "b0"')
    mine = next(each for each in shape.entities if each["tenant"] == "a") | {"id": theirs[0]["id"], "mark": "twice"}
    await done(both.shared.app, "insert", **named, data=[mine])
    for tool, arguments in (
        ("delete", {"ids": [mine["id"]]}),
        ("delete", {"filter": 'mark == "twice"'}),
        ("upsert", {"data": [mine]}),
    ):
        refused = await told(both.shared.app, A, tool, **named, **arguments)
        assert refused["code"] == "denied", tool
    assert await both.shared.entities(shape, 'mark == "b0"') == theirs
    assert len(await both.shared.entities(shape, 'mark == "twice"')) == 1


async def test_the_alias_of_a_collection_out_of_reach_is_as_one_that_is_not_there(milvus_235: str) -> None:
    async with hiding_databases(uri=milvus_235) as both:
        await is_as_absent(both, "docs_alias")
