"""What embedders remember, and how the one of a field is found: on a real endpoint."""

import threading
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_server_milvus.embedding import embedder as embedder_module
from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.embedding.deadline import within
from mcp_server_milvus.embedding.embedder import CACHED_CHARACTERS, CACHED_QUERIES, ModelEmbedder
from mcp_server_milvus.embedding.embedders import Embedders
from mcp_server_milvus.embedding.fingerprint import PROBE_TEXT
from mcp_server_milvus.errors import Conflict, EmbedderFailed, EmbedderUnavailable, InvalidArgument, NotSupported
from tests.embedding.conftest import Make, settings_of
from tests.openai_server import Answer, Endpoint, cosine, openai_server, refusal, silence

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


async def failures_of(count: int, ask: Callable[[], Any], meanwhile: Callable[[], Any]) -> list[EmbedderFailed]:
    """What so many who ask at one time are told."""
    failures: list[EmbedderFailed] = []

    async def one() -> None:
        with pytest.raises(EmbedderFailed) as failed:
            await ask()
        failed.value.hint += "; added by the one who was told"
        failures.append(failed.value)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one)
            await meanwhile()
    return failures


@pytest.mark.parametrize("what", ["query", "probe"])
async def test_all_who_wait_for_what_fails_are_told_each_by_a_failure_of_its_own(
    endpoint: Endpoint, make: Make, what: str
) -> None:
    embedder, gate = make(), anyio.Event()
    if what == "query":
        await embedder.fingerprint()
    before = len(endpoint.requests)
    endpoint.always = replace(refusal(503, "down"), until=gate)

    async def open_gate() -> None:
        await endpoint.asked(before + 1)
        gate.set()

    ask = embedder.fingerprint if what == "probe" else lambda: embedder.embed_query("text")
    failures = await failures_of(10, ask, open_gate)
    assert len(endpoint.requests) == before + 4
    assert len(set(map(id, failures))) == 10
    assert {failure.message[-9:] for failure in failures} == {"503: down"}
    assert {failure.hint.count("added by") for failure in failures} == {1}
    told = [frame.name for failure in failures for frame in traceback.extract_tb(failure.__traceback__)]
    assert told.count("vectors") == 1  # the frames of the one who asked are of nobody else
    endpoint.always = None
    assert len(await embedder.embed_query("text")) == 16


async def test_a_query_whose_caller_gives_up_is_asked_by_the_one_that_waits(endpoint: Endpoint, make: Make) -> None:
    embedder = make()
    await embedder.fingerprint()
    endpoint.next(silence())
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            given_up = anyio.CancelScope()

            async def gives_up() -> None:
                with given_up:
                    await embedder.embed_query("text")

            group.start_soon(gives_up)
            await endpoint.asked(2)
            group.start_soon(embedder.embed_query, "text")
            given_up.cancel()
    assert endpoint.texts == [PROBE_TEXT, "text", "text"]


async def test_what_the_old_model_answers_late_is_not_remembered(endpoint: Endpoint, make: Make) -> None:
    embedder, gate = make(), anyio.Event()
    await embedder.fingerprint()
    endpoint.next(lambda request: replace(endpoint.embeddings(request), until=gate))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(embedder.embed_query, "some text")
            await endpoint.asked(2)
            endpoint.model = "another"
            embedder.doubt()
            await embedder.fingerprint()
            gate.set()
    assert cosine(await embedder.embed_query("some text"), endpoint.vector("some text")) == pytest.approx(1)


async def test_a_long_query_is_not_remembered(endpoint: Endpoint, make: Make) -> None:
    embedder = make()
    for text in ("x" * CACHED_CHARACTERS, "y" * (CACHED_CHARACTERS + 1)) * 2:
        await embedder.embed_query(text)
    assert [text[0] for text in endpoint.texts[1:]] == ["x", "y", "y"]


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
    probe = f"passage: {PROBE_TEXT}"
    assert endpoint.texts == [probe, "query: fish", probe, "passage: fish"]
    with pytest.raises(EmbedderFailed, match="is empty"):
        await embedder.embed_documents(["fish", " "])
    assert await embedder.embed_documents([]) == []
    assert len(endpoint.texts) == 4


async def test_a_probe_whose_caller_gives_up_is_made_by_the_next_who_waits(endpoint: Endpoint, make: Make) -> None:
    embedder = make()
    endpoint.next(Answer(until=anyio.Event()))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            given_up = anyio.CancelScope()

            async def gives_up() -> None:
                with given_up:
                    await embedder.fingerprint()

            group.start_soon(gives_up)
            await endpoint.asked(1)
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


async def test_a_model_that_was_restored_is_taken_at_the_next_call(endpoint: Endpoint, configure: Configure) -> None:
    binding = await binding_of(configure(default={}))
    embedders = configure(default={})
    endpoint.model = "another"
    with pytest.raises(Conflict):
        await embedders.bound(binding)
    endpoint.model = "one"
    assert await embedders.bound(binding) is embedders.named()


async def test_a_model_that_has_just_changed_is_noticed_before_its_vectors_are_taken(
    endpoint: Endpoint, configure: Configure
) -> None:
    embedders = configure(default={})
    binding = await binding_of(embedders)
    embedder = await embedders.bound(binding)
    assert len(await embedder.embed_documents(["one"])) == 1
    endpoint.model = "another"
    with pytest.raises(EmbedderFailed, match=r"the model behind the name has changed.*vectors were not taken"):
        await embedder.embed_documents(["two"])
    assert endpoint.requests[-1].texts == [PROBE_TEXT, "two"]
    assert len(endpoint.requests) == 3
    with pytest.raises(Conflict, match="the model behind the name has changed"):
        await embedders.bound(binding)
    await embedder.fingerprint()  # another call, for which the new model is the right one
    assert len(await embedder.embed_documents(["three"])) == 1
    with pytest.raises(EmbedderFailed, match="the model behind the name has changed"):
        await embedder.embed_documents(["three"], made_by=binding.fingerprint)


async def test_of_two_embedders_that_say_the_same_the_one_that_answers_is_taken(
    endpoint: Endpoint, configure: Configure
) -> None:
    async with openai_server() as gone:
        pass
    down = {"base_url": gone.base_url}
    binding = await binding_of(configure(default={}))
    embedders = configure(first=down, second={})
    with anyio.fail_after(20):
        assert await embedders.bound(binding) is embedders.named("second")
        endpoint.model = "another"
        with pytest.raises(EmbedderUnavailable, match="cannot be reached"):
            await configure(first=down, second={}).bound(binding)


async def cancelled_while_open(embedders: Embedders, scope: anyio.CancelScope) -> None:
    async with embedders:
        embedders.named("one")
        embedders.named("two")
        scope.cancel()


async def test_each_embedder_is_closed_also_when_another_fails_or_closing_is_cancelled(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    async def aclose(self: ModelEmbedder) -> None:
        await anyio.lowlevel.checkpoint()
        closed.append(self.settings.model)
        if len(closed) == 1:
            raise OSError("broken")

    monkeypatch.setattr(ModelEmbedder, "aclose", aclose)
    with anyio.CancelScope() as scope, pytest.raises(OSError, match="broken"):
        await cancelled_while_open(configure(one={"model": "one"}, two={"model": "two"}), scope)
    assert sorted(closed) == ["one", "two"]


async def test_an_embedder_has_so_many_seconds(endpoint: Endpoint, make: Make) -> None:
    endpoint.always = silence()
    with anyio.fail_after(20), pytest.raises(EmbedderUnavailable, match=r"did not answer within 0\.05 s") as failed:
        async with within(0.05, hint="give fewer"):
            await make().fingerprint()
    assert failed.value.hint == "give fewer"
    with pytest.raises(TimeoutError, match="mine"):
        async with within(20):
            raise TimeoutError("mine")


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
