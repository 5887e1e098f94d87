"""What is dropped or deleted is listed, restored and purged; and who can do that, for how long, and how much fits."""

import json
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from pymilvus import MilvusClient

from mcp_server_milvus import dropped as what_was_dropped
from mcp_server_milvus.milvus.trash import NOTE
from mcp_server_milvus.tool import Tool
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.vocabulary import Effect
from tests.agent import Agent, agent_on, keys
from tests.milvus.conftest import watching
from tests.openai_server import openai_server

pytestmark = pytest.mark.anyio

HOURS = 72


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder, in which deleted entities are kept."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
async def agent(lite: str, kept: Path) -> AsyncIterator[Agent]:
    """It keeps what it destroys without being told to: the engine is the embedded one."""
    async with agent_on(lite, undo=None, data_dir=kept) as agent:
        yield agent


async def make(agent: Agent, collection: str, **arguments: Any) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, **arguments)
    data = [{"id": number, "vector": [number, 1], "n": number} for number in range(4)]
    await agent.call("insert", collection_name=collection, data=data)


async def stored(agent: Agent, collection: str) -> list[dict[str, Any]]:
    return (await agent.call("query", collection_name=collection, output_fields=["*"], limit=1_000))["entities"]


async def listed(agent: Agent, collection: str) -> list[dict[str, Any]]:
    found = (await agent.call("list_dropped"))["dropped"]
    return [each for each in found if each.get("collection_name") == collection]


async def test_a_dropped_collection_is_nowhere_until_it_is_restored(agent: Agent, collection: str) -> None:
    await make(agent, collection)
    dropped = await agent.call("drop_collection", collection_name=collection)
    (line,) = await listed(agent, collection)
    assert line == {
        "id": dropped["kept_as"],
        "tool": "drop_collection",
        "collection_name": collection,
        "entity_count": 4,
        "dropped_at": line["dropped_at"],
        "kept_until": dropped["kept_until"],
    }
    kept_seconds = [time.mktime(time.strptime(line[at], "%Y-%m-%dT%H:%M:%SZ")) for at in ("dropped_at", "kept_until")]
    assert kept_seconds[1] - kept_seconds[0] == pytest.approx(3600 * HOURS, abs=30)
    for tool in ("describe_collection", "query", "drop_collection", "load_collection", "list_partitions"):
        assert (await agent.fails(tool, collection_name=line["id"]))["code"] == "not_found"
    assert not await agent.exists(line["id"])
    taken = await agent.fails("create_collection", collection_name=line["id"], dimension=2)
    assert taken["code"] == "denied"
    assert "kept for dropped collections" in taken["message"]
    assert await agent.call("restore_collection", id=line["id"]) == {
        "collection_name": collection,
        "entity_count": 4,
        "loaded": True,
    }
    assert keys(await stored(agent, collection)) == [0, 1, 2, 3]
    assert (await agent.fails("restore_collection", id=line["id"]))["code"] == "not_found"


async def test_aliases_come_back_unless_they_are_anothers_by_now(agent: Agent, collection: str) -> None:
    await make(agent, collection)
    for alias in ("stays", "goes"):
        await agent.call("create_alias", collection_name=collection, alias=f"{collection}_{alias}")
    dropped = await agent.call("drop_collection", collection_name=collection)
    assert (await agent.fails("count", collection_name=f"{collection}_stays"))["code"] == "not_found"
    await make(agent, f"{collection}_other")
    await agent.call("create_alias", collection_name=f"{collection}_other", alias=f"{collection}_goes")
    restored = await agent.call("restore_collection", id=dropped["kept_as"])
    assert restored["lost_aliases"] == [f"{collection}_goes"]
    assert await agent.count(f"{collection}_stays") == 4
    assert (await agent.call("list_aliases", collection_name=collection))["aliases"] == [
        {"alias": f"{collection}_stays", "collection_name": collection}
    ]


async def test_a_collection_whose_name_is_taken_is_restored_by_another(agent: Agent, collection: str) -> None:
    await make(agent, collection)
    dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
    await agent.call("create_collection", collection_name=collection, dimension=3)
    refusal = await agent.fails("restore_collection", id=dropped)
    assert refusal["code"] == "already_exists"
    assert "new_name" in refusal["hint"]
    await agent.call("restore_collection", id=dropped, new_name=f"{collection}_old")
    assert await agent.count(f"{collection}_old") == 4
    assert await agent.count(collection) == 0


async def test_a_name_that_is_taken_while_a_collection_is_restored_leaves_it_in_the_trash(
    agent: Agent, lite: str, kept: Path, collection: str
) -> None:
    await make(agent, collection)
    await agent.call("create_alias", collection_name=collection, alias=f"{collection}_alias")
    dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
    with watching() as wire:

        async def take(name: str, _request: Any) -> None:
            if name == "RenameCollection":
                await agent.call("create_collection", collection_name=collection, dimension=3)

        async with agent_on(lite, undo=True, data_dir=kept) as quick:
            await quick.call("list_databases")
            wire.before = take
            assert (await quick.fails("restore_collection", id=dropped))["code"] == "already_exists"
    await agent.call("create_alias", collection_name=collection, alias=f"{collection}_alias")
    assert [each["id"] for each in await listed(agent, collection)] == [dropped]


async def test_what_others_write_during_a_drop_is_restored_too(agent: Agent, collection: str) -> None:
    await make(agent, collection)
    acknowledged: list[int] = []

    async def write(first: int) -> None:
        for key in range(first, first + 1_000):
            entity = {"id": key, "vector": [key, 1]}
            result = await agent.client.call_tool("insert", {"collection_name": collection, "data": [entity]})
            if result.is_error:
                return
            acknowledged.append(key)

    dropped = ""
    async with anyio.create_task_group() as tasks:
        for writer in range(3):
            tasks.start_soon(write, 1_000 * (writer + 1))
        with anyio.fail_after(30):
            while len(acknowledged) < 20:
                await anyio.sleep(0.01)
            dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
    await agent.call("restore_collection", id=dropped)
    assert set(acknowledged) <= set(keys(await stored(agent, collection)))


async def test_a_restored_collection_is_embedded_as_before(lite: str, kept: Path, collection: str) -> None:
    async with openai_server() as endpoint:
        model = {"embedder": "openai", "embed_model": "bag-of-words", "embed_base_url": endpoint.base_url}
        async with agent_on(lite, undo=True, data_dir=kept, **model) as agent:
            await agent.call("create_collection", collection_name=collection, text_field="body")
            await agent.call("insert", collection_name=collection, data=[{"body": "a red fish"}, {"body": "a tax"}])
            before = await agent.call("describe_collection", collection_name=collection)
            dropped = await agent.call("drop_collection", collection_name=collection)
            await agent.call("restore_collection", id=dropped["kept_as"])
            after = await agent.call("describe_collection", collection_name=collection)
            assert after["embedding"] == before["embedding"]
            assert after.get("properties") == before.get("properties")
            found = await agent.call("search", collection_name=collection, text="red fish", limit=1)
            assert found["hits"][0]["fields"]["body"] == "a red fish"


async def test_deleted_entities_of_every_type_come_back_as_they_were(agent: Agent, collection: str) -> None:
    fields: list[dict[str, Any]] = [
        {"name": "id", "type": "INT64", "is_primary": True},
        {"name": "tags", "type": "ARRAY", "element_type": "VARCHAR", "max_capacity": 4, "max_length": 20},
        {"name": "facts", "type": "JSON"},
        {"name": "score", "type": "DOUBLE", "nullable": True},
        {"name": "title", "type": "VARCHAR", "max_length": 99, "enable_analyzer": True, "is_partition_key": True},
        {"name": "words", "type": "SPARSE_FLOAT_VECTOR"},
        {"name": "given", "type": "SPARSE_FLOAT_VECTOR"},
        {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2},
    ]
    function = {"name": "bm25", "type": "BM25", "input_field_names": ["title"], "output_field_names": ["words"]}
    await agent.call(
        "create_collection",
        collection_name=collection,
        fields=fields,
        functions=[function],
        indexes=[{"field_name": "words", "metric_type": "BM25"}],
        enable_dynamic_field=True,
        num_partitions=4,
    )
    data = [
        {
            "id": number * 3_000_000_000_000_000_000,
            "tags": ["a", 'ü"'][: number + 1],
            "facts": {"deep": [number, None, {"é": 0.1}]},
            "score": None if number else 0.1,
            "title": f"title {number}",
            "given": {"7": 0.25},
            "vector": [0.1, number],
            "more": {"x": number},
        }
        for number in range(-1, 2)
    ]
    await agent.call("insert", collection_name=collection, data=data)
    before = await stored(agent, collection)
    assert len(before) == 3
    for arguments in ({"filter": "id <= 0"}, {"ids": [0]}):
        deleted = await agent.call("delete", collection_name=collection, **arguments)
        assert len(await stored(agent, collection)) == 3 - deleted["delete_count"] < 3
        await agent.call("restore_collection", id=deleted["kept_as"])
        assert await stored(agent, collection) == before
    found = await agent.call("search", collection_name=collection, text="title", anns_field="words")
    assert len(found["hits"]) == 3


async def test_what_has_come_since_is_not_overwritten(agent: Agent, collection: str) -> None:
    await make(agent, collection)
    deleted = await agent.call("delete", collection_name=collection, filter="n < 3")
    (line,) = await listed(agent, collection)
    assert (line["tool"], line["entity_count"], line["id"]) == ("delete", 3, deleted["kept_as"])
    await agent.call("insert", collection_name=collection, data=[{"id": 1, "vector": [9, 9], "n": 99}])
    restored = await agent.call("restore_collection", id=line["id"])
    assert restored == {"collection_name": collection, "entity_count": 2, "already_there": 1}
    assert [each["n"] for each in await stored(agent, collection)] == [0, 99, 2, 3]
    assert await listed(agent, collection) == []


async def test_generated_keys_come_back_on_milvus_lite(agent: Agent, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, auto_id=True)
    await agent.call("insert", collection_name=collection, data=[{"vector": [1, n], "n": n} for n in range(4)])
    before = await stored(agent, collection)
    deleted = await agent.call("delete", collection_name=collection, filter="n > 0")
    restored = await agent.call("restore_collection", id=deleted["kept_as"])
    assert restored == {"collection_name": collection, "entity_count": 3}
    assert await stored(agent, collection) == before


async def test_a_truncated_collection_and_a_dropped_partition_are_filled_again(agent: Agent, collection: str) -> None:
    await make(agent, collection)
    await agent.call("create_partition", collection_name=collection, partition_name="old")
    await agent.call("insert", collection_name=collection, data=[{"id": 10, "vector": [1, 2]}], partition_name="old")
    for tool, arguments, left in (("truncate_collection", {}, 0), ("drop_partition", {"partition_name": "old"}, 4)):
        await agent.call("release_collection", collection_name=collection)
        gone = await agent.call(tool, collection_name=collection, **arguments)
        assert (await agent.call("describe_collection", collection_name=collection))["loaded"] is False
        assert await agent.count(collection) == left
        await agent.call("restore_collection", id=gone["kept_as"])
        assert await agent.count(collection) == 5
        assert await agent.count(collection, partition_names=["old"]) == 1


async def test_a_deletion_that_does_not_fit_says_that_it_cannot_be_taken_back(
    lite: str, tmp_path: Path, collection: str
) -> None:
    async with agent_on(lite, undo=True, data_dir=tmp_path, undo_megabytes=1) as agent:
        await agent.call("create_collection", collection_name=collection, dimension=2)
        noise = [
            {"id": n, "vector": [n, 1], "text": "".join(f"{n * i * 7919 % 99991:x}" for i in range(15_000))}
            for n in range(40)
        ]
        await agent.call("insert", collection_name=collection, data=noise)
        deleted = await agent.call("delete", collection_name=collection, filter="id > 0")
        assert deleted.keys() == {"delete_count", "undo"}
        assert deleted["undo"].startswith("not kept: the 1 MB")
        assert await agent.count(collection) == 1
        assert list((tmp_path / "dropped").iterdir()) == []
        deleted = await agent.call("delete", collection_name=collection, ids=[0])
        await agent.call("restore_collection", id=deleted["kept_as"])
        assert await agent.count(collection) == 1


async def test_what_is_kept_is_for_its_owner_alone(agent: Agent, kept: Path, collection: str) -> None:
    await make(agent, collection)
    deleted = await agent.call("delete", collection_name=collection, ids=[1])
    folder = kept / "dropped" / deleted["kept_as"]
    assert {each.name for each in folder.iterdir()} >= {"entities-0.parquet", "note.json"}
    assert stat.S_IMODE((kept / "dropped").stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}


async def test_nothing_is_kept_where_undo_is_off(lite: str, tmp_path: Path, collection: str) -> None:
    async with agent_on(lite, undo=False, data_dir=tmp_path) as agent:
        await make(agent, collection)
        await agent.call("create_alias", collection_name=collection, alias=f"{collection}_alias")
        assert await agent.call("delete", collection_name=collection, ids=[1]) == {"delete_count": 1}
        assert (await agent.fails("drop_collection", collection_name=collection))["code"] == "conflict"
        await agent.call("drop_alias", alias=f"{collection}_alias")
        assert await agent.call("drop_collection", collection_name=collection) == {"dropped": True}
        assert await listed(agent, collection) == []
        assert list(tmp_path.rglob("*.parquet")) == []


async def test_what_is_too_old_is_gone_and_removed_by_whoever_comes_next(
    lite: str, tmp_path: Path, collection: str, monkeypatch: pytest.MonkeyPatch, another_program: MilvusClient
) -> None:
    async with agent_on(lite, undo=True, data_dir=tmp_path, undo_hours=1e-9) as agent:
        await make(agent, collection)
        deleted = (await agent.call("delete", collection_name=collection, ids=[1]))["kept_as"]
        dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
        assert await listed(agent, collection) == []
        for each in (deleted, dropped):
            assert (await agent.fails("restore_collection", id=each))["code"] == "not_found"
        assert another_program.has_collection(dropped), "somebody may be restoring it at this moment"
        monkeypatch.setattr(what_was_dropped, "GRACE_SECONDS", -10)
        await agent.call("list_dropped")
        assert not another_program.has_collection(dropped)
        assert [each for each in (tmp_path / "dropped").iterdir() if each.is_dir()] == []


async def test_purging_is_for_good(agent: Agent, collection: str) -> None:
    await make(agent, collection)
    deleted = (await agent.call("delete", collection_name=collection, ids=[1]))["kept_as"]
    dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
    assert await agent.call("purge_dropped", id=deleted) == {"purged": 1}
    assert [each["id"] for each in await listed(agent, collection)] == [dropped]
    assert (await agent.call("purge_dropped", id="all"))["purged"] >= 1
    assert (await agent.call("list_dropped"))["dropped"] == []
    for each in (deleted, dropped):
        assert (await agent.fails("restore_collection", id=each))["code"] == "not_found"
        assert (await agent.fails("purge_dropped", id=each))["code"] == "not_found"


async def test_a_caller_with_an_allow_list_finds_only_its_own(
    agent: Agent, lite: str, kept: Path, collection: str
) -> None:
    mine = f"mine_{collection}"
    for each in (mine, collection):
        await make(agent, each)
        await agent.call("delete", collection_name=each, ids=[1])
        await agent.call("drop_collection", collection_name=each)
    async with agent_on(lite, undo=True, data_dir=kept, collections="mine_*") as other:
        found = (await other.call("list_dropped"))["dropped"]
        assert {each["collection_name"] for each in found} == {mine}
        assert len(found) == 2
        for each in await listed(agent, collection):
            for tool in ("restore_collection", "purge_dropped"):
                assert (await other.fails(tool, id=each["id"]))["code"] == "not_found"
        dropped = next(each["id"] for each in found if each["tool"] == "drop_collection")
        assert (await other.fails("restore_collection", id=dropped, new_name="outside"))["code"] == "denied"
        await other.call("purge_dropped", id="all")
    assert len(await listed(agent, collection)) == 2
    assert await listed(agent, mine) == []


async def test_masked_fields_are_kept_whole_and_found_by_nobody(
    agent: Agent, lite: str, kept: Path, collection: str
) -> None:
    await make(agent, collection)
    before = await stored(agent, collection)
    async with agent_on(lite, undo=True, data_dir=kept, mask_fields=f"{collection}.n") as masked:
        assert (await masked.fails("delete", collection_name=collection, filter="n > 2"))["code"] == "denied"
        assert await stored(agent, collection) == before
        deleted = await masked.call("delete", collection_name=collection, filter="id > 1")
        refusal = await masked.fails("restore_collection", id=deleted["kept_as"], new_name=f"{collection}_bare")
        assert refusal["code"] == "denied"
        await masked.call("restore_collection", id=deleted["kept_as"])
        assert "n" not in (await stored(masked, collection))[-1]
    assert await stored(agent, collection) == before


async def test_a_collection_whose_note_is_not_ours_is_restored_by_a_new_name(
    agent: Agent, collection: str, another_program: MilvusClient
) -> None:
    await make(agent, collection)
    dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
    hostile = {
        "collection_name": "../x",
        "dropped_at": 1,
        "entity_count": 1,
        "aliases": [],
        "loaded": [],
        "all_loaded": 1,
    }
    true = hostile | {"collection_name": collection, "all_loaded": True}
    wrong: list[dict[str, Any]] = [
        *({"collection_name": name} for name in ("../x", dropped, None)),
        *({"dropped_at": number} for number in (-1, 1e300, 10**15, float("inf"), "1")),
        *({"entity_count": number} for number in (-1, 2**63, float("nan"))),
        *({names: value} for names in ("aliases", "loaded") for value in ("ab", [1], [["a"]], ["../x"], {"a": 1})),
        {"aliases": [dropped]},
    ]
    forged = [json.dumps(true | each) for each in wrong]
    for note in ("[]", "{}", "[" * 5_000, "1" * 5_000, json.dumps(hostile), *forged):
        another_program.alter_collection_properties(dropped, {NOTE: note})
        (line,) = [each for each in (await agent.call("list_dropped"))["dropped"] if each["id"] == dropped]
        assert line.keys() == {"id", "tool", "kept_until"}, note
    assert (await agent.fails("restore_collection", id=dropped))["code"] == "invalid_argument"
    await agent.call("restore_collection", id=dropped, new_name=collection)
    assert await agent.count(collection) == 4


async def test_a_note_that_another_client_wrote_shows_nothing_out_of_reach(
    agent: Agent, lite: str, kept: Path, collection: str, another_program: MilvusClient
) -> None:
    await make(agent, collection)
    note = {"dropped_at": 1, "entity_count": 1, "loaded": [], "all_loaded": False, "aliases": ["hidden_alias"]}
    forged = json.dumps(note | {"collection_name": "mine_forged"})
    another_program.alter_collection_properties(collection, {NOTE: forged})
    async with agent_on(lite, undo=True, data_dir=kept, collections="mine_*") as other:
        assert "mine_forged" not in str(await other.call("list_dropped"))
        await agent.call("describe_collection", collection_name=collection)
        dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
        assert dropped not in str(await other.call("list_dropped"))
        await make(agent, "mine_noted")
        mine = (await agent.call("drop_collection", collection_name="mine_noted"))["kept_as"]
        another_program.alter_collection_properties(mine, {NOTE: json.dumps(note | {"collection_name": "mine_noted"})})
        restored = await other.call("restore_collection", id=mine)
        assert restored == {"collection_name": "mine_noted", "entity_count": 1, "loaded": False}
    (line,) = await listed(agent, collection)
    assert line["entity_count"] == 4, "the drop wrote its own note"


async def test_what_is_dropped_is_restored_by_no_name_of_the_trash(agent: Agent, collection: str) -> None:
    await make(agent, collection)
    deleted = (await agent.call("delete", collection_name=collection, ids=[1]))["kept_as"]
    dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
    for each in (deleted, dropped):
        for name in ("_dropped_0000000001_0000000000000000", "_dropped_mine", dropped):
            refusal = await agent.fails("restore_collection", id=each, new_name=name)
            assert refusal["code"] == "invalid_argument"
            assert refusal["hint"]
    assert {each["id"] for each in await listed(agent, collection)} == {deleted, dropped}


@pytest.mark.parametrize(
    "forged",
    [
        {"removed_at": 10**15},
        {"removed_at": "1"},
        {"collection_name": "../x"},
        {"parts": [{"partition_name": "", "entity_count": -1}]},
        {"parts": [{"partition_name": "../x", "entity_count": 1}]},
        {"parts": 1},
        {"tool": None},
    ],
)
async def test_a_folder_whose_note_is_not_ours_is_not_there(
    agent: Agent, kept: Path, collection: str, forged: dict[str, Any]
) -> None:
    await make(agent, collection)
    deleted = (await agent.call("delete", collection_name=collection, ids=[1]))["kept_as"]
    note = kept / "dropped" / deleted / "note.json"
    note.write_text(json.dumps(json.loads(note.read_bytes()) | forged))
    assert deleted not in str(await agent.call("list_dropped"))
    assert (await agent.fails("restore_collection", id=deleted))["code"] == "not_found"


async def test_fields_that_a_lost_name_masked_are_not_unmasked(
    agent: Agent, lite: str, kept: Path, collection: str, another_program: MilvusClient
) -> None:
    await make(agent, collection)
    dropped = (await agent.call("drop_collection", collection_name=collection))["kept_as"]
    another_program.alter_collection_properties(dropped, {NOTE: "{}"})
    async with agent_on(lite, undo=True, data_dir=kept, mask_fields=f"{collection}.n") as masked:
        assert (await masked.fails("restore_collection", id=dropped, new_name="bare"))["code"] == "denied"


async def test_a_database_with_dropped_collections_is_not_dropped(agent: Agent, collection: str) -> None:
    await agent.call("create_database", db_name="undo_db")
    await make_in(agent, "undo_db", collection)
    await agent.call("drop_collection", collection_name=collection, db_name="undo_db")
    refusal = await agent.fails("drop_database", db_name="undo_db")
    assert refusal["code"] == "conflict"
    assert "purge_dropped" in refusal["hint"]
    await agent.call("purge_dropped", id="all", db_name="undo_db")
    await agent.call("drop_database", db_name="undo_db")


async def make_in(agent: Agent, db_name: str, collection: str) -> None:
    await agent.call("create_collection", collection_name=collection, dimension=2, db_name=db_name)


async def test_a_dropped_index_tells_how_to_build_it_again(agent: Agent, collection: str) -> None:
    await make(agent, collection, metric_type="IP")
    described = await agent.call("describe_collection", collection_name=collection)
    told = await agent.call("drop_index", collection_name=collection, index_name="vector", release=True)
    await agent.call("build_index", collection_name=collection, **told["dropped_index"])
    after = await agent.call("describe_collection", collection_name=collection)
    assert after["indexes"] == described["indexes"]


def test_every_tool_that_destroys_is_undone_or_known_to_be_final() -> None:
    """A new one has to be thought about."""
    destroying = {each.name for each in TOOLS if is_destroying(each)}
    restorable = {"drop_collection", "truncate_collection", "delete", "drop_partition"}
    made_again = {"drop_index", "drop_alias", "drop_database", "drop_resource_group", "drop_role"}
    final = {"purge_dropped", "drop_user", "drop_snapshot", "drop_privilege_group", "alter_collection"}
    assert destroying - restorable - made_again - final == set()
    assert restorable <= destroying


def is_destroying(tool: Tool[Any, Any]) -> bool:
    return tool.effect is Effect.DELETE
