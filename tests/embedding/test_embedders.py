"""What embedders remember, and how the one of a field is found: on a real endpoint."""

import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from mcp_server_milvus.embedding import embedder as embedder_module
from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.embedding.embedder import CACHED_QUERIES
from mcp_server_milvus.embedding.embedders import Embedders
from mcp_server_milvus.embedding.fingerprint import PROBE_TEXT
from mcp_server_milvus.errors import Conflict, EmbedderFailed, EmbedderUnavailable, InvalidArgument, NotSupported
from tests.embedding.conftest import Make, settings_of
from tests.openai_server import Answer, Endpoint, cosine, refusal

pytestmark = pytest.mark.anyio

Configure = Callable[..., Embedders]


@pytest.fixture
async def configure(endpoint: Endpoint) -> AsyncIterator[Configure]:
    """A server's embedders, each of the options by its name."""
    opened: list[Embedders] = []

    def configured(**named: dict[str, Any]) -> Embedders:
        opened.append(Embedders({name: settings_of(endpoint, **options) for name, options in named.items()}))
        return opened[-1]

    yield configured
    for each in opened:
        async with each:
            pass


async def binding_of(embedders: Embedders, name: str = "") -> Binding:
    return Binding("vector", "body", await embedders.named(name).fingerprint())


async def test_a_repeated_query_embeds_once_also_two_at_one_time(endpoint: Endpoint, make: Make) -> None:
    embedder = make()
    found: list[list[float]] = []

    async def ask(text: str) -> None:
        found.append(await embedder.embed_query(text))

    async with anyio.create_task_group() as group:
        for text in ("red fish", "red fish", "blue", "red fish"):
            group.start_soon(ask, text)
    await ask("red fish")
    assert sorted(endpoint.texts) == sorted([PROBE_TEXT, "red fish", "blue"])
    assert max(cosine(vector, endpoint.vector("red fish")) for vector in found) == pytest.approx(1)
    assert len({tuple(vector) for vector in found}) == 2


async def test_a_query_that_fails_is_asked_by_the_one_that_waited_and_by_the_next(
    endpoint: Endpoint, make: Make
) -> None:
    embedder = make()
    await embedder.fingerprint()
    endpoint.next(refusal(400, "first"))
    answers: list[str] = []

    async def ask() -> None:
        try:
            answers.append(str(len(await embedder.embed_query("text"))))
        except EmbedderFailed as failed:
            answers.append(failed.message[-5:])

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        group.start_soon(ask)
    assert sorted(answers) == ["16", "first"]


async def test_the_caller_may_change_the_vector_that_it_gets(make: Make) -> None:
    embedder = make()
    first = await embedder.embed_query("text")
    first.clear()
    assert len(await embedder.embed_query("text")) == 16


async def test_the_queries_that_are_kept_are_bounded(endpoint: Endpoint, make: Make, monkeypatch: Any) -> None:
    assert CACHED_QUERIES * 4 * 1536 < 2**23
    monkeypatch.setattr(embedder_module, "CACHED_QUERIES", 2)
    embedder = make()
    for text in ("one", "two", "one", "three", "one", "two"):
        await embedder.embed_query(text)
    assert endpoint.texts[1:] == ["one", "two", "three", "two"]


async def test_prefixes_are_put_before_texts_and_queries_alone(endpoint: Endpoint, make: Make) -> None:
    embedder = make(query_prefix="query: ", document_prefix="passage: ")
    await embedder.embed_query("fish")
    await embedder.embed_documents(["fish"])
    assert endpoint.texts == [f"passage: {PROBE_TEXT}", "query: fish", "passage: fish"]
    with pytest.raises(EmbedderFailed, match="is empty"):
        await embedder.embed_documents(["fish", " "])
    assert await embedder.embed_documents([]) == []
    assert len(endpoint.texts) == 3


async def test_one_probe_serves_all_who_wait_also_when_it_fails(endpoint: Endpoint, make: Make) -> None:
    embedder = make()
    gate = anyio.Event()
    endpoint.next(Answer(400, b'{"error": "broken"}', until=gate))
    failures: list[str] = []

    async def ask(number: int) -> None:
        with pytest.raises(EmbedderFailed, match="broken") as failed:
            await embedder.embed_documents([str(number)])
        failures.append(failed.value.message)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(ask, number)
        while not endpoint.requests:
            await anyio.sleep(0.005)
        gate.set()
    assert len(failures) == 5
    assert len(endpoint.requests) == 1
    assert (await embedder.fingerprint()).dim == 16


async def test_a_probe_whose_caller_gives_up_is_made_by_the_next_who_waits(endpoint: Endpoint, make: Make) -> None:
    embedder = make()
    endpoint.next(Answer(until=anyio.Event()))
    async with anyio.create_task_group() as group:
        given_up = anyio.CancelScope()

        async def gives_up() -> None:
            with given_up:
                await embedder.fingerprint()

        group.start_soon(gives_up)
        while not endpoint.requests:
            await anyio.sleep(0.005)
        group.start_soon(embedder.embed_query, "text")
        given_up.cancel()
    assert endpoint.texts == [PROBE_TEXT, PROBE_TEXT, "text"]


async def test_a_probe_is_believed_for_an_hour_and_what_the_old_model_said_is_forgotten(
    endpoint: Endpoint, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = make()
    first = await embedder.fingerprint()
    old = await embedder.embed_query("text")
    endpoint.model = "another"
    assert await embedder.fingerprint() is first
    assert await embedder.embed_query("text") == old
    later = anyio.current_time() + embedder_module.PROBE_SECONDS + 1
    monkeypatch.setattr(embedder_module.anyio, "current_time", lambda: later)
    assert "has changed" in first.difference(await embedder.fingerprint())
    assert cosine(await embedder.embed_query("text"), old) < 0.99


async def test_another_dimension_behind_the_name_is_noticed_and_probed_at_the_next_call(
    endpoint: Endpoint, configure: Configure
) -> None:
    embedders = configure(default={})
    binding = await binding_of(embedders)
    endpoint.dim = 8
    with pytest.raises(EmbedderFailed, match="it answered with 8 dimensions, and with 16 before"):
        await embedders.named().embed_query("text")
    with pytest.raises(Conflict, match="dim: 8, not 16"):
        await embedders.bound(binding)


async def test_the_embedder_of_a_field_is_found_by_what_it_is_not_by_its_name(configure: Configure) -> None:
    before = configure(default={"query_prefix": "q: "})
    binding = await binding_of(before)
    now = configure(default={"model": "x"}, code={"query_prefix": "q: ", "dim": 8}, renamed={"query_prefix": "q: "})
    assert await now.bound(binding) is now.named("renamed")
    assert await now.bound(await binding_of(now, "code")) is now.named("code")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "e5"}, "embedder openai e5 is another: model: 'e5', not 'bag-of-words'"),
        ({"dim": 8}, "embedder openai bag-of-words is another: dim: 8, not 16"),
        ({"query_prefix": "q: "}, "embedder openai bag-of-words is another: query_prefix: 'q: ', not ''"),
        ({"document_prefix": "d: "}, "embedder openai bag-of-words is another: document_prefix: 'd: ', not ''"),
    ],
)
async def test_another_embedder_is_refused_in_words_even_with_the_same_dimension(
    configure: Configure, options: dict[str, Any], message: str
) -> None:
    binding = await binding_of(configure(default={}))
    with pytest.raises(Conflict) as refused:
        await configure(default=options).bound(binding)
    assert refused.value.message.startswith("vector was made from body by openai bag-of-words (dim 16); ")
    assert message in refused.value.message
    assert "configures the embedder that made it" in refused.value.hint


async def test_a_model_that_changed_behind_its_name_is_refused(endpoint: Endpoint, configure: Configure) -> None:
    binding = await binding_of(configure(default={}))
    endpoint.model = "another"
    with pytest.raises(Conflict, match="the model behind the name has changed: it answers the same text otherwise"):
        await configure(default={}).bound(binding)


async def test_an_embedder_that_is_down_is_no_other_one(endpoint: Endpoint, configure: Configure) -> None:
    embedders = configure(default={})
    binding = await binding_of(configure(default={}))
    endpoint.always = refusal(503, "down")
    with pytest.raises(EmbedderUnavailable, match="503: down"):
        await embedders.bound(binding)
    endpoint.always = None
    assert await embedders.bound(binding) is embedders.named()


async def test_a_field_for_which_the_operator_vouches_is_not_asked_about(
    endpoint: Endpoint, configure: Configure
) -> None:
    embedders = configure(default={}, code={"model": "code"})
    assert str(await embedders.bound(Binding("vector", "body", None, "code"))) == "openai code"
    assert str(await embedders.bound(Binding("vector", "body", None))) == "openai bag-of-words"
    assert not endpoint.requests


async def test_a_name_that_is_not_configured_is_refused(configure: Configure) -> None:
    with pytest.raises(InvalidArgument, match=r"there is no 'cod'; configured: default, code"):
        configure(default={}, code={}).named("cod")
    with pytest.raises(NotSupported, match="this server has no embedder") as refused:
        configure().named()
    assert "--embedder" in refused.value.hint
    assert not configure()
    assert configure(default={})


async def test_what_an_endpoint_answers_is_read_and_normalized_in_threads(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, int] = {}
    embedder = make()

    def noted(name: str, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def wrapped(given: Any) -> Any:
            threads[name] = threading.get_ident()
            return work(given)

        return wrapped

    for owner, name in ((embedder, "_unit"), (embedder._model, "_vector")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    await embedder.embed_documents(["text"])
    assert threads.keys() == {"_unit", "_vector"}
    assert threading.get_ident() not in threads.values()
