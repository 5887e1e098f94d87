"""What becomes of entities before they are written, with a real embedder and without a Milvus."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import pytest

from mcp_server_milvus.app import App, open_app, report_nothing
from mcp_server_milvus.embedding.binding import PROPERTY, Binding, as_property
from mcp_server_milvus.embedding.embedder import Vector, nowhere
from mcp_server_milvus.embedding.fingerprint import Fingerprint
from mcp_server_milvus.errors import Conflict, InvalidArgument, LimitExceeded, NotSupported
from mcp_server_milvus.filling import FIRST_TEXTS, MOST_NUMBERS, QUICK, SLOW, FileFilling, Filling, _next_number
from mcp_server_milvus.milvus.entities import entity_bytes
from mcp_server_milvus.milvus.fitting import Fitting
from mcp_server_milvus.milvus.formats import Batch, Format
from mcp_server_milvus.milvus.schema import CollectionSchema, Field
from mcp_server_milvus.milvus.vectors import vector_numbers
from mcp_server_milvus.pieces import Given
from mcp_server_milvus.settings import Settings, load_settings
from mcp_server_milvus.vocabulary import DataType

pytestmark = pytest.mark.anyio

KEY = Field("id", DataType.INT64, is_primary=True)
BODY = Field("body", DataType.VARCHAR, max_length=1_000)
DIM = 384


@pytest.fixture(scope="module")
async def app(minilm: dict[str, Any]) -> AsyncIterator[App]:
    async with open_app(Settings(**minilm)) as app:
        yield app


async def bound(app: App, *fields: Field, **sources: str) -> CollectionSchema:
    """A collection with these fields, and vector fields that are made from these text fields."""
    fingerprint = await app.embedders.named().fingerprint()
    bindings = as_property(Binding(name, text_field, fingerprint) for name, text_field in sources.items())
    return CollectionSchema(
        "texts", (KEY, *fields), (), (), enable_dynamic_field=False, properties={PROPERTY: bindings}
    )


async def filled(app: App, schema: CollectionSchema, *entities: dict[str, Any]) -> list[dict[str, Any]]:
    return await Filling(app, "default", report_nothing).checked(schema, Given(entities), keys_required=False)


async def embedded(app: App, text: str) -> Vector:
    (vector,) = await app.embedders.named().embed_documents([text])
    return vector


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(DataType.FLOAT_VECTOR, 1e-7), (DataType.FLOAT16_VECTOR, 2e-4), (DataType.BFLOAT16_VECTOR, 2e-3)],
)
async def test_vectors_are_packed_as_their_fields_hold_them(app: App, kind: DataType, tolerance: float) -> None:
    schema = await bound(app, BODY, Field("vector", kind, dim=DIM), vector="body")
    (entity,) = await filled(app, schema, {"id": 1, "body": "a fish"})
    stored = entity["vector"].tolist() if kind is DataType.FLOAT_VECTOR else vector_numbers(kind, entity["vector"])
    assert stored == pytest.approx(await embedded(app, "a fish"), abs=tolerance)


async def test_each_vector_field_is_made_from_its_own_text(app: App) -> None:
    title = Field("title", DataType.VARCHAR, max_length=100, nullable=True)
    one, other = Field("one", DataType.FLOAT_VECTOR, dim=DIM), Field("other", DataType.FLOAT_VECTOR, dim=DIM)
    schema = await bound(app, BODY, title, one, other, one="body", other="title")
    (entity,) = await filled(app, schema, {"id": 1, "body": "a fish", "title": "taxes"})
    assert list(entity["one"]) == pytest.approx(await embedded(app, "a fish"), abs=1e-7)
    assert list(entity["other"]) == pytest.approx(await embedded(app, "taxes"), abs=1e-7)
    (entity,) = await filled(app, schema, {"id": 1, "body": "a fish"})
    assert list(entity["other"]) == pytest.approx(nowhere(DIM))
    with pytest.raises(InvalidArgument, match=r"entity 0: field 'body' is empty.*field 'title' is empty"):
        await filled(app, schema, {"id": 1, "body": " ", "title": ""})


async def test_a_vector_that_may_be_null_is_null_where_there_is_no_text(app: App) -> None:
    vector = Field("vector", DataType.FLOAT_VECTOR, dim=DIM, nullable=True)
    schema = await bound(app, BODY, vector, vector="body")
    blank, text = await filled(app, schema, {"id": 1, "body": " "}, {"id": 2, "body": "a fish", "vector": None})
    assert blank.get("vector") is None
    assert list(text["vector"]) == pytest.approx(await embedded(app, "a fish"), abs=1e-7)


async def test_a_text_that_milvus_fills_in_is_the_one_that_is_embedded(app: App) -> None:
    body = Field("body", DataType.VARCHAR, max_length=100, default_value="a fish")
    schema = await bound(app, body, Field("vector", DataType.FLOAT_VECTOR, dim=DIM), vector="body")
    (entity,) = await filled(app, schema, {"id": 1})
    assert list(entity["vector"]) == pytest.approx(await embedded(app, "a fish"), abs=1e-7)


async def test_a_vector_takes_four_bytes_a_number_here_and_in_a_request(app: App) -> None:
    schema = await bound(app, BODY, Field("vector", DataType.FLOAT_VECTOR, dim=DIM), vector="body")
    (entity,) = await filled(app, schema, {"id": 1, "body": "a fish"})
    assert sys.getsizeof(entity["vector"]) < 5 * DIM
    assert 4 * DIM < entity_bytes(entity) < 5 * DIM


async def test_what_a_collection_says_of_its_embedder_is_quoted_where_a_shell_could_take_it_for_more() -> None:
    vector = Field("vector", DataType.FLOAT_VECTOR, dim=2)
    schema = CollectionSchema("texts", (KEY, BODY, vector), (), (), enable_dynamic_field=False)
    binding = Binding("vector", "body", Fingerprint("openai", "a; rm -rf ~", 2, True, "", "", (1.0, 0.0)))  # noqa: FBT003
    async with open_app(load_settings({})) as app:
        with pytest.raises(NotSupported) as raised:
            await Filling(app, "default", report_nothing).fill(schema, [binding], [{"body": "a fish"}])
    assert "--embedder openai --embed-model 'a; rm -rf ~'; import_file" in raised.value.hint


async def test_more_vectors_than_memory_should_hold_are_refused_before_one_is_made(app: App) -> None:
    one, other = Field("one", DataType.FLOAT_VECTOR, dim=DIM), Field("other", DataType.FLOAT_VECTOR, dim=DIM)
    schema = await bound(app, BODY, one, other, one="body", other="body")
    most = MOST_NUMBERS // (2 * DIM)
    with pytest.raises(LimitExceeded, match=f"{most + 1:,} texts to embed, of which one call takes {most:,} in texts"):
        await filled(app, schema, *({"id": number, "body": "a fish"} for number in range(most + 1)))


async def test_an_embedder_whose_vectors_do_not_fit_the_field_is_a_conflict(minilm: dict[str, Any]) -> None:
    async with open_app(Settings(**minilm, embed_map="texts.vector=body")) as app:
        schema = await bound(app, BODY, Field("vector", DataType.FLOAT_VECTOR, dim=3))
        with pytest.raises(Conflict, match=r"384 dimensions, which do not fit vector FLOAT_VECTOR\(3\)"):
            await filled(app, schema, {"id": 1, "body": "a fish"})


@pytest.mark.parametrize("with_vectors", [0, 1, 30, 100])
async def test_a_batch_of_a_file_is_filled_in_parts_that_are_all_of_it(app: App, with_vectors: int) -> None:
    schema = await bound(app, BODY, Field("vector", DataType.FLOAT_VECTOR, dim=DIM), vector="body")
    same = {"body": "the same text", "vector": await embedded(app, "the same text")}
    entities = [{"id": n} | (same if n < with_vectors else {"body": f"text {n}"}) for n in range(100)]
    filling = FileFilling(app, "default", schema)
    fitting = Fitting(schema, {}, keys_required=False, kind=Format.JSONL, from_text=filling.from_text)
    entities[50] = {"id": 50}
    fitted = fitting.fit(Batch(7, [*entities]))
    parts = await anyio.to_thread.run_sync(lambda: list(filling.parts(fitted)))
    assert [number for part in parts for number in part.numbers] == [n + 7 for n in range(100) if n != 50]
    assert [part.first for part in parts] == [7, *(part.end for part in parts[:-1])]
    assert parts[-1].end == 107
    assert len(parts[0].entities) == (with_vectors + FIRST_TEXTS if with_vectors < 100 else 99)
    written = [each for part in parts for each in part.entities]
    assert all(len(each["vector"]) == DIM for each in written if "vector" in each)
    assert ("vector" in written[0]) == (with_vectors < 100)  # all of them are apart, as one array


def test_fewer_texts_follow_those_that_took_long() -> None:
    assert [_next_number(8, seconds, 12) for seconds in (QUICK / 2, QUICK, SLOW, 2 * SLOW)] == [12, 8, 8, 4]
    assert _next_number(1, 2 * SLOW, 12) == 1


async def test_texts_of_which_the_model_reads_only_the_beginning_are_told_of(app: App) -> None:
    schema = await bound(app, BODY, Field("vector", DataType.FLOAT_VECTOR, dim=DIM), vector="body")
    filling = Filling(app, "default", report_nothing)
    given = Given([{"id": 1, "body": "a b " * 240}, {"id": 2, "body": "a fish"}])
    await filling.checked(schema, given, keys_required=False)
    assert filling.notes == ["body: 1 longer than the model reads; insert splits them by chunk_size"]
