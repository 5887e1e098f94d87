"""Entities that bring texts and no vectors: insert, upsert and import_file on Milvus Lite, embedded over real HTTP."""

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import grpc
import pytest

from mcp_server_milvus.embedding.fingerprint import PROBE_TEXT
from tests.agent import Agent, agent_on
from tests.milvus.conftest import rpc_error, watching
from tests.openai_server import Answer, Endpoint, Request, cosine, openai_server, refusal, silence

pytestmark = pytest.mark.anyio

CHINESE = "向量数据库保存文本的嵌入。" * 100
FISH = "The salmon swims up the river to spawn."
TAX = "Income tax is due at the end of April."
REFUSED = "a text that the model refuses"


@pytest.fixture(scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    """It refuses every request with REFUSED in it, and asks for more time than a call waits."""

    def usual(request: Request) -> Answer:
        if REFUSED in request.texts:
            return refusal(503, "the embedder is down", headers={"Retry-After": "999"})
        return endpoint.embeddings(request)

    async with openai_server(dim=384) as endpoint:
        endpoint.always = usual
        yield endpoint


@pytest.fixture(scope="module")
def embedder(endpoint: Endpoint) -> dict[str, Any]:
    """The settings of a server that has it."""
    return {"embedder": "openai", "embed_model": "bag-of-words", "embed_base_url": endpoint.base_url}


@dataclass(frozen=True)
class Watch:
    """What the model is asked from now on, apart from probes."""

    endpoint: Endpoint
    start: int

    @property
    def texts(self) -> list[str]:
        return [
            text for request in self.endpoint.requests[self.start :] for text in request.texts if text != PROBE_TEXT
        ]


@pytest.fixture
def model(endpoint: Endpoint) -> Watch:
    return Watch(endpoint, len(endpoint.requests))


@pytest.fixture
def stuck(endpoint: Endpoint) -> Iterator[anyio.Event]:
    """The endpoint never answers; set when it is first asked."""
    asked, usual = anyio.Event(), endpoint.always

    def never(_request: Request) -> Answer:
        asked.set()
        return silence()

    endpoint.always = never
    yield asked
    endpoint.always = usual


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
async def text_agent(lite: str, embedder: dict[str, Any], files: Path) -> AsyncIterator[Agent]:
    async with agent_on(lite, **embedder, files_dir=str(files), max_result_bytes=10_000_000) as agent:
        yield agent


@pytest.fixture(scope="module")
async def agent(lite: str, files: Path) -> AsyncIterator[Agent]:
    """Of a server without an embedder."""
    async with agent_on(lite, files_dir=str(files)) as agent:
        yield agent


@pytest.fixture
async def texts(text_agent: Agent, collection: str) -> str:
    await text_agent.call("create_collection", collection_name=collection, text_field="body")
    return collection


@pytest.fixture
async def keyed(text_agent: Agent, collection: str) -> str:
    """A collection whose keys are given."""
    made = {"text_field": "body", "id_type": "string", "metadata": [{"name": "year", "type": "INT64"}]}
    await text_agent.call("create_collection", collection_name=collection, **made)
    return collection


async def stored(agent: Agent, collection: str) -> list[dict[str, Any]]:
    found = await agent.call("query", collection_name=collection, output_fields=["*"], limit=1_000)
    return found["entities"]


async def nearest(agent: Agent, collection: str, vector: list[float]) -> dict[str, Any]:
    found = await agent.call("search", collection_name=collection, vector=vector, anns_field="vector", limit=1)
    return found["hits"][0]


async def test_a_text_is_enough_and_each_distinct_one_is_embedded_once(
    text_agent: Agent, texts: str, model: Watch
) -> None:
    data = {"body": [FISH, TAX, FISH, CHINESE], "page": [1, 2, 3, 4]}
    written = await text_agent.call("insert", collection_name=texts, data=data)
    assert (written["insert_count"], len(written["ids"])) == (4, 4)
    assert sorted(model.texts) == sorted([FISH, TAX, CHINESE])
    found = {each["page"]: each for each in await stored(text_agent, texts)}
    assert found[1]["vector"] == found[3]["vector"] != found[2]["vector"]
    assert (await nearest(text_agent, texts, found[2]["vector"]))["fields"]["page"] == 2
    assert (await nearest(text_agent, texts, found[4]["vector"]))["fields"]["page"] == 4


async def test_an_upsert_gives_the_new_text_a_new_vector(text_agent: Agent, keyed: str) -> None:
    await text_agent.call("insert", collection_name=keyed, data=[{"id": "a", "body": FISH, "year": 1}])
    (before,) = await stored(text_agent, keyed)
    assert await text_agent.call("upsert", collection_name=keyed, data=[{"id": "a", "body": TAX}]) == {
        "upsert_count": 1
    }
    (after,) = await stored(text_agent, keyed)
    assert after["body"] == TAX
    assert after["vector"] != before["vector"]


@pytest.mark.parametrize("tool", ["insert", "upsert"])
@pytest.mark.parametrize("blank", ["", " \n\u3000"])
async def test_a_call_without_any_text_is_refused_and_an_empty_text_among_others_is_told_of(
    text_agent: Agent, keyed: str, model: Watch, tool: str, blank: str
) -> None:
    refused = await text_agent.fails(tool, collection_name=keyed, data=[{"id": "a", "body": blank}])
    assert refused["message"] == "entity 0: field 'body' is empty: there is nothing to embed"
    data = [{"id": "a", "body": blank, "year": 5}, {"id": "b", "body": FISH}]
    written = await text_agent.call(tool, collection_name=keyed, data=data)
    assert written == {f"{tool}_count": 2, "notes": ["body: 1 empty, found last, if at all"]}
    assert model.texts == [FISH]
    found = await text_agent.call("search", collection_name=keyed, text=TAX, mode="dense")
    assert [hit["id"] for hit in found["hits"]] == ["b", "a"]
    assert abs(found["hits"][1]["score"]) < 0.15


@pytest.mark.parametrize(
    ("entity", "problem"),
    [
        ({"id": "a", "body": FISH, "vector": [0.5] * 384}, "field 'vector' is computed from 'body' here; leave it out"),
        ({"id": "a", "body": None}, "field 'body' is null"),
        ({"id": "a"}, "field 'body' is missing"),
        ({"id": "a", "body": 5}, "field 'body': got int 5"),
        ({"id": "a", "body": FISH, "year": "x"}, "field 'year': got str 'x'"),
    ],
)
async def test_an_entity_that_does_not_fit_is_told_before_anything_is_embedded(
    text_agent: Agent, keyed: str, model: Watch, entity: dict[str, Any], problem: str
) -> None:
    data = [{"id": "b", "body": TAX}, entity]
    for tool in ("insert", "upsert"):
        failed = await text_agent.fails(tool, collection_name=keyed, data=data)
        assert failed["code"] == "invalid_argument"
        assert failed["message"].startswith(f"entity 1: {problem}")
        assert failed["message"].count("entity") == 1
        assert "an entity needs: id VARCHAR" in failed["hint"]
        assert "vector FLOAT" not in failed["hint"]
        assert ("import_file takes vectors" in failed["hint"]) == ("vector" in entity)
    assert model.texts == []
    assert await text_agent.count(keyed) == 0


async def test_an_embedder_that_fails_writes_nothing(text_agent: Agent, texts: str, model: Watch) -> None:
    data = [*({"body": f"text {number}"} for number in range(20)), {"body": REFUSED}]
    failed = await text_agent.fails("insert", collection_name=texts, data=data)
    assert (failed["code"], failed["retriable"]) == ("embedder_unavailable", True)
    assert model.texts  # some were embedded before
    assert await text_agent.count(texts) == 0


async def test_an_endpoint_that_refuses_or_has_changed_writes_nothing(lite: str, collection: str) -> None:
    async with openai_server() as endpoint:
        endpoint.always = lambda request: (
            refusal(400, "no such text") if REFUSED in request.texts else endpoint.embeddings(request)
        )
        settings = {"embedder": "openai", "embed_model": "any", "embed_base_url": endpoint.base_url}
        async with agent_on(lite, **settings) as agent:
            await agent.call("create_collection", collection_name=collection, text_field="body")
            data = [{"body": f"text {number}"} for number in range(1_000)]
            written = await agent.call("insert", collection_name=collection, data=data)
            assert written["insert_count"] == len({*endpoint.texts} & {each["body"] for each in data}) == 1_000
            assert max(len(each.texts) for each in endpoint.requests) == 64
            failed = await agent.fails("insert", collection_name=collection, data=[*data, {"body": REFUSED}])
            assert failed["code"] == "embedder_failed"
            endpoint.dim = 8
            failed = await agent.fails("upsert", collection_name=collection, data=[{"id": 1, "body": TAX}])
            assert (failed["code"], "dim: 8, not 16" in failed["message"]) == ("conflict", True)
            endpoint.dim, endpoint.model = 16, "two"
        async with agent_on(lite, **settings) as agent:
            failed = await agent.fails("insert", collection_name=collection, data=[{"body": TAX}])
            assert failed["code"] == "conflict"
            assert "the model behind the name has changed" in failed["message"]
            assert await agent.count(collection) == 1_000


@pytest.mark.parametrize(("what", "value", "told"), [("model", "two", "has changed"), ("dim", 8, "dim: 8, not 16")])
async def test_vectors_of_a_model_that_changes_while_it_embeds_are_not_written(
    lite: str, collection: str, files: Path, what: str, value: Any, told: str
) -> None:
    data = [{"id": number, "body": f"text {number}"} for number in range(40)]
    path = write_lines(files / "changes.jsonl", data)
    async with openai_server() as endpoint:
        settings = {"embedder": "openai", "embed_model": "any", "embed_base_url": endpoint.base_url}

        def changing(request: Request) -> Answer:
            if data[20]["body"] in request.texts:
                setattr(endpoint, what, value)
            return endpoint.embeddings(request)

        endpoint.always = changing
        async with agent_on(lite, **settings, files_dir=str(files)) as agent:
            await agent.call("create_collection", collection_name=collection, text_field="body", id_type="int")
            failed = await agent.fails("insert", collection_name=collection, data=data)
            assert failed["code"] == "conflict"
            assert told in failed["message"]
            assert await agent.count(collection) == 0
            endpoint.model, endpoint.dim = "one", 16
            failed = await agent.fails("import_file", collection_name=collection, path=path)
            assert failed["code"] == "partial_write"
            assert "then conflict: vector was made from body by openai any (dim 16); embedder" in failed["message"]
            assert told in failed["message"]
            assert 0 < await agent.count(collection) == failed["resume_from"] <= 20


async def test_embedding_has_a_deadline_and_holds_up_no_other_call(
    lite: str, embedder: dict[str, Any], texts: str, stuck: anyio.Event
) -> None:
    refusals: list[dict[str, Any]] = []
    async with agent_on(lite, **embedder, build_timeout=2) as hurried, anyio.create_task_group() as tasks:

        async def insert() -> None:
            refusals.append(await hurried.fails("insert", collection_name=texts, data=[{"body": TAX}]))

        tasks.start_soon(insert)
        await stuck.wait()
        assert await hurried.count(texts) == 0
        assert refusals == []
    assert refusals[0]["code"] == "embedder_unavailable"
    assert refusals[0]["message"] == "the embedder did not answer within 2 s"
    assert "--build-timeout" in refusals[0]["hint"]


async def test_without_an_embedder_the_error_names_the_one_that_is_needed(
    agent: Agent, text_agent: Agent, texts: str
) -> None:
    failed = await agent.fails("insert", collection_name=texts, data=[{"body": FISH}])
    assert failed["code"] == "not_supported"
    assert "is made from body by openai bag-of-words (dim 384)" in failed["message"]
    assert "--embedder openai --embed-model bag-of-words; import_file" in failed["hint"]
    assert await text_agent.count(texts) == 0


async def test_progress_goes_on_from_the_embedding_to_the_writing(text_agent: Agent, texts: str) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    arguments = {"collection_name": texts, "data": [{"body": f"text {number}"} for number in range(40)]}
    await text_agent.client.call_tool("insert", arguments, progress_callback=note)
    assert [progress for progress, _, _ in told] == sorted(progress for progress, _, _ in told)
    assert {total for _, total, _ in told} == {80}
    assert told[0][2] == "embedding with openai bag-of-words"
    assert told[-1] == (40, 80, f"insert into {texts}")


# Pieces


def long_text(characters: int) -> str:
    """Sentences of one word each."""
    text = "".join(f"{number:x>110}. " for number in range(characters // 112 + 1))
    return text[:characters].strip()


async def test_a_long_text_becomes_pieces_that_say_where_they_are_from(text_agent: Agent, texts: str) -> None:
    text = long_text(100_000)
    data = [{"body": text, "page": 1}, {"body": FISH, "source_id": "fish"}, {"body": CHINESE, "page": 3}]
    written = await text_agent.call("insert", collection_name=texts, data=data, chunk_size=900, chunk_overlap=200)
    assert "ids" not in written
    long_id, fish_id, chinese_id = written["source_ids"]
    assert fish_id == "fish"
    assert long_id != chinese_id
    pieces = await stored(text_agent, texts)
    assert len(pieces) == written["insert_count"] > 100
    of_source = {source_id: [p for p in pieces if p["source_id"] == source_id] for source_id in written["source_ids"]}
    for source_id, whole in zip(written["source_ids"], [text, FISH, CHINESE], strict=True):
        found = sorted(of_source[source_id], key=lambda piece: piece["chunk"])
        assert [piece["chunk"] for piece in found] == list(range(len(found)))
        assert all(piece["body"] == whole[piece["start"] : piece["end"]] for piece in found)
        assert (found[0]["start"], found[-1]["end"]) == (0, len(whole))
        assert all(later["start"] <= earlier["end"] + 1 for earlier, later in itertools.pairwise(found))
    assert {piece["page"] for piece in of_source[long_id]} == {1}
    assert len(of_source[chinese_id]) > 1
    deleted = await text_agent.call("delete", collection_name=texts, filter=f'source_id == "{long_id}"')
    assert deleted["delete_count"] == len(of_source[long_id])


async def test_the_pieces_of_an_entity_with_a_key_have_keys_that_begin_with_it(text_agent: Agent, keyed: str) -> None:
    data = [{"id": "a", "body": long_text(1_000), "year": 7}, {"id": "b", "body": FISH}]
    written = await text_agent.call("insert", collection_name=keyed, data=data, chunk_size=600)
    assert written == {"insert_count": 3, "source_ids": ["a", "b"]}
    found = {piece["id"]: piece for piece in await stored(text_agent, keyed)}
    assert found.keys() == {"a#0", "a#1", "b#0"}
    assert [found[key]["source_id"] for key in ("a#0", "a#1", "b#0")] == ["a", "a", "b"]
    assert found["a#1"]["year"] == 7


async def test_what_is_wrong_with_pieces_is_told_of_the_entity_given(text_agent: Agent, keyed: str) -> None:
    good = {"id": "a", "body": FISH}
    refused = [
        ([good, {"id": "b", "body": long_text(2_000), "year": "x"}], {}, "entity 1: field 'year': got str 'x'"),
        ([good, {"id": "a", "body": TAX}], {}, "entity 1: field 'id' is the same as that of entity 0"),
        ([good | {"start": 5}], {}, "entity 0: start is set by chunk_size; leave it out"),
        ([good | {"source_id": "b"}], {}, "entity 0: source_id is set by chunk_size; leave it out"),
        ([{"body": FISH, "source_id": ["a"]}], {}, "entity 0: source_id must be a text or a whole number"),
        ([good], {"chunk_overlap": 250}, "chunk_overlap: must be less than half of chunk_size, 500"),
        ([{"id": "b", "body": " " * 2_000}], {}, "entity 0: field 'body' is empty: there is nothing to embed"),
    ]
    for data, more, problem in refused:
        arguments = {"collection_name": keyed, "data": data, "chunk_size": 500} | more
        failed = await text_agent.fails("insert", **arguments)
        assert failed["code"] == "invalid_argument"
        assert problem in failed["message"]
        assert failed["message"].count("entity 1: field 'year'") <= 1
    failed = await text_agent.fails("insert", collection_name=keyed, data=[good], chunk_overlap=5)
    assert "give chunk_size too" in failed["message"]
    failed = await text_agent.fails("upsert", collection_name=keyed, data=[good], chunk_size=500)
    assert "unknown argument 'chunk_size'" in failed["message"]
    assert await text_agent.count(keyed) == 0


async def test_a_text_that_does_not_fit_is_told_of_chunk_size(text_agent: Agent, keyed: str) -> None:
    data = [{"id": "a", "body": "长" * 30_000}]
    failed = await text_agent.fails("insert", collection_name=keyed, data=data)
    assert "90000 bytes of UTF-8 do not fit" in failed["message"]
    assert failed["hint"].startswith("chunk_size splits long texts; nothing was written")
    failed = await text_agent.fails("insert", collection_name=keyed, data=data, chunk_size=30_000)
    assert failed["hint"].startswith("give a smaller chunk_size; nothing was written")
    failed = await text_agent.fails("insert", collection_name=keyed, data=[{"id": "x" * 70_000, "body": FISH}])
    assert "chunk_size" not in failed["hint"]


async def test_pieces_need_a_text_keys_and_fields_of_their_own(agent: Agent, collection: str) -> None:
    key = {"name": "id", "type": "INT64", "is_primary": True}
    vector = {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}
    found = [{"name": each, "type": "VARCHAR", "enable_analyzer": True} for each in ("title", "body")]
    words = [{"name": f"{each['name']}_words", "type": "SPARSE_FLOAT_VECTOR"} for each in found]
    functions = [
        {"name": each["name"], "type": "BM25", "input_field_names": [each["name"]],
         "output_field_names": [f"{each['name']}_words"]}
        for each in found
    ]  # fmt: skip
    one = {"fields": [key, found[0], words[0]], "functions": functions[:1]}
    generated = {"fields": [key | {"auto_id": True}, found[0], words[0]], "functions": functions[:1]}
    refused = [
        ({"fields": [key, vector]}, "is searched as text, so it is unknown which one to split"),
        ({"fields": [key, *found, *words], "functions": functions}, "the texts of title and body, and one of them"),
        (one, "each piece needs a key of its own, which cannot be made from id INT64"),
        (generated, "has no fields source_id, chunk, start, end and no dynamic field"),
    ]
    for number, (made, problem) in enumerate(refused):
        name = f"{collection}_{number}"
        await agent.call("create_collection", collection_name=name, **made)
        failed = await agent.fails("insert", collection_name=name, data=[{"title": FISH}], chunk_size=100)
        assert problem in failed["message"]
    await agent.call("create_collection", collection_name=collection, **generated, enable_dynamic_field=True)
    data = [{"title": long_text(250)}]
    written = await agent.call("insert", collection_name=collection, data=data, chunk_size=100)  # without an embedder
    assert written["insert_count"] >= 3


async def test_pieces_of_which_only_some_are_in_can_be_deleted_by_their_source(lite: str, collection: str) -> None:
    inserts = itertools.count(1)

    async def fails_second(name: str, _request: Any) -> None:
        if name == "Insert" and next(inserts) == 2:
            raise rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    data = [{"body": long_text(150_000), "page": 1}, {"body": FISH, "source_id": "fish"}]
    with watching() as wire:
        wire.before = fails_second
        async with agent_on(lite) as agent:
            await agent.call("create_collection", collection_name=collection, text_field="body")
            partial = await agent.fails("insert", collection_name=collection, data=data, chunk_size=100)
            assert (partial["code"], partial["insert_count"]) == ("partial_write", await agent.count(collection))
            assert partial["insert_count"] > 0
            assert "delete those with these source_ids" in partial["hint"]
            these = "source_id in {ids}"
            arguments = {"filter": these, "filter_params": {"ids": partial["source_ids"]}}
            await agent.call("delete", collection_name=collection, **arguments)
            assert await agent.count(collection) == 0


@pytest.mark.parametrize(
    ("form", "entity"), [({"id_type": "string"}, {"id": "a 'b'"}), ({}, {"source_id": "a 'b'"})], ids=["key", "auto_id"]
)
async def test_a_source_that_is_there_is_not_split_in_a_second_time(
    text_agent: Agent, collection: str, model: Watch, form: dict[str, Any], entity: dict[str, Any]
) -> None:
    name = collection
    await text_agent.call("create_collection", collection_name=name, text_field="body", **form)
    old, new = entity | {"body": long_text(2_000)}, entity | {"body": long_text(900)}
    await text_agent.call("insert", collection_name=name, data=[old], chunk_size=200)
    count, asked = await text_agent.count(name), len(model.texts)
    refused = await text_agent.fails("insert", collection_name=name, data=[new], chunk_size=200)
    assert refused["code"] == "already_exists"
    assert (await text_agent.count(name), len(model.texts)) == (count, asked)
    told = refused["hint"].partition("with filter ")[2].partition(", then")[0]
    deleted = await text_agent.call("delete", collection_name=name, filter=told)
    assert deleted["delete_count"] == count
    await text_agent.call("insert", collection_name=name, data=[new], chunk_size=200)


async def test_what_another_server_has_bound_otherwise_gets_no_vectors_of_the_old_embedder(
    text_agent: Agent, lite: str, keyed: str
) -> None:
    await text_agent.call("insert", collection_name=keyed, data=[{"id": "a", "body": FISH}])
    async with openai_server(dim=384) as other:
        other.model = "another"
        settings = {"embedder": "openai", "embed_model": "another", "embed_base_url": other.base_url}
        async with agent_on(lite, **settings) as another:
            await another.call("alter_collection", collection_name=keyed, embed_fields={"vector": None})
            await another.call("delete", collection_name=keyed, ids=["a"])
            await another.call("alter_collection", collection_name=keyed, embed_fields={"vector": "body"})
            for tool in ("insert", "upsert"):
                refused = await text_agent.fails(tool, collection_name=keyed, data=[{"id": "b", "body": TAX}])
                assert refused["code"] == "conflict"
                assert "openai another" in refused["message"]
            assert await another.count(keyed) == 0


# Files


def write_lines(path: Path, entities: list[Any]) -> str:
    path.write_text("".join(json.dumps(entity) + "\n" for entity in entities))
    return path.name


async def test_an_import_embeds_what_has_no_vector_and_lists_what_has_no_text(
    text_agent: Agent, keyed: str, files: Path, model: Watch
) -> None:
    await text_agent.call("insert", collection_name=keyed, data=[{"id": "own", "body": FISH}])
    (made,) = await stored(text_agent, keyed)
    own = [round(number, 2) for number in made["vector"]]  # so that it is seen whose vector is kept
    asked = list(model.texts)
    lines = [
        *({"id": f"t{number}", "body": f"text {number}"} for number in range(60)),
        {"id": "own", "body": FISH, "vector": own},
        {"id": "null", "body": TAX, "vector": None},
        {"id": "empty", "body": " "},
        {"id": "none"},
    ]
    path = write_lines(files / "mixed.jsonl", lines)
    told: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert message
        assert total is None
        told.append(progress)

    arguments = {"collection_name": keyed, "path": path, "on_error": "skip"}
    result = await text_agent.client.call_tool("import_file", arguments, progress_callback=note)
    assert result.structured_content is not None
    assert result.structured_content["import_count"] == 63
    assert result.structured_content["notes"] == ["body: 1 empty, found last, if at all"]
    assert result.structured_content["wrong"] == [
        "line 64: field 'body' is missing; expected body VARCHAR(65535)",
    ]
    embedded = model.texts[len(asked) :]
    assert sorted(embedded) == sorted([*(f"text {number}" for number in range(60)), TAX, FISH])  # FISH to compare
    assert len(set(told)) > 2  # progress within one batch of the file
    found = {each["id"]: each for each in await stored(text_agent, keyed)}
    assert found["own"]["vector"] == own
    assert cosine(found["null"]["vector"], model.endpoint.vector(TAX)) > 0.999


async def test_an_embedder_that_fails_ends_an_import_which_another_one_completes(
    text_agent: Agent, keyed: str, files: Path, model: Watch
) -> None:
    lines = [{"id": f"{number:02}", "body": f"text {number}"} for number in range(40)]
    path = write_lines(files / "fails.jsonl", [*lines, {"id": "40", "body": REFUSED}])
    failed = await text_agent.fails("import_file", collection_name=keyed, path=path)
    assert failed["code"] == "partial_write"
    assert "then embedder_unavailable: " in failed["message"]
    assert "the embedder is down" in failed["message"]
    assert 0 < failed["resume_from"] == await text_agent.count(keyed) < 41
    write_lines(files / "fails.jsonl", [*lines, {"id": "40", "body": TAX}])
    before = len(model.texts)
    arguments = {"collection_name": keyed, "path": path, "resume_from": failed["resume_from"]}
    written = await text_agent.call("import_file", **arguments)
    assert written["import_count"] == 41 - failed["resume_from"] == len(model.texts) - before
    assert await text_agent.count(keyed) == 41


@pytest.mark.parametrize("name", ["round.parquet", "round.jsonl", "round.csv"])
async def test_what_is_exported_is_imported_with_its_vectors_by_a_server_without_an_embedder(
    agent: Agent, text_agent: Agent, collection: str, model: Watch, name: str
) -> None:
    made = {"text_field": "body", "id_type": "string"}
    await text_agent.call("create_collection", collection_name=collection, **made)
    data = [{"id": "a", "body": FISH}, {"id": "b", "body": CHINESE}]
    await text_agent.call("insert", collection_name=collection, data=data)
    await text_agent.call("export_file", collection_name=collection, path=name, overwrite=True)
    before = await stored(text_agent, collection)
    await text_agent.call("truncate_collection", collection_name=collection)
    asked = list(model.texts)
    written = await agent.call("import_file", collection_name=collection, path=name)
    assert written["import_count"] == 2
    assert model.texts == asked
    assert await stored(text_agent, collection) == before


async def test_a_file_with_vectors_of_another_model_is_refused_unless_they_are_left_out(
    text_agent: Agent, keyed: str, files: Path
) -> None:
    wrong = [number % 7 - 3.0 for number in range(384)]
    lines = [{"id": f"{number}", "body": f"text {number}", "vector": wrong} for number in range(20)]
    path = write_lines(files / "other.jsonl", lines)
    refused = await text_agent.fails("import_file", collection_name=keyed, path=path)
    assert refused["code"] == "conflict"
    assert "cosine" in refused["message"]
    assert await text_agent.count(keyed) == 0
    columns = json.loads(refused["hint"].partition("columns: ")[2].partition(" leaves")[0])
    await text_agent.call("import_file", collection_name=keyed, path=path, columns=columns)
    assert await text_agent.count(keyed) == 20


async def test_keys_of_a_file_for_a_collection_that_generates_its_own_can_be_left_out(
    text_agent: Agent, texts: str
) -> None:
    await text_agent.call("insert", collection_name=texts, data=[{"body": FISH}])
    await text_agent.call("export_file", collection_name=texts, path="keys.jsonl", overwrite=True)
    refused = await text_agent.fails("import_file", collection_name=texts, path="keys.jsonl")
    columns = json.loads(refused["hint"].partition("columns: ")[2].partition(" leaves")[0])
    written = await text_agent.call("import_file", collection_name=texts, path="keys.jsonl", columns=columns)
    assert written["import_count"] == 1


async def test_an_import_without_vectors_and_without_an_embedder_writes_nothing(
    agent: Agent, keyed: str, files: Path
) -> None:
    path = write_lines(files / "texts.jsonl", [{"id": "a", "body": FISH}])
    failed = await agent.fails("import_file", collection_name=keyed, path=path)
    assert (failed["code"], failed["resume_from"]) == ("not_supported", 0)
    assert await agent.count(keyed) == 0


async def test_an_import_that_embeds_waits_for_no_thread_that_imports_hold(
    text_agent: Agent, keyed: str, files: Path
) -> None:
    path = write_lines(files / "threads.jsonl", [{"id": f"{number}", "body": f"text {number}"} for number in range(40)])
    threads = anyio.to_thread.current_default_thread_limiter()
    usual, threads.total_tokens = threads.total_tokens, 1
    try:
        with anyio.fail_after(30):
            written = await text_agent.call("import_file", collection_name=keyed, path=path)
    finally:
        threads.total_tokens = usual
    assert written["import_count"] == 40


async def test_an_import_that_is_cancelled_while_it_embeds_ends_quietly(
    lite: str,
    embedder: dict[str, Any],
    keyed: str,
    files: Path,
    stuck: anyio.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = {"collection_name": keyed, "path": write_lines(files / "cancelled.jsonl", [{"id": "a", "body": FISH}])}
    async with agent_on(lite, **embedder, files_dir=str(files)) as agent:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    await stuck.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(cancel)
                await agent.client.call_tool("import_file", arguments)
        assert await agent.count(keyed) == 0
    assert "failed" not in caplog.text
