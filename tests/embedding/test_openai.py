"""The backend openai, against a real endpoint."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_milvus.embedding import openai
from mcp_server_milvus.embedding.openai import OpenAIModel, _batches, _seconds, _without
from mcp_server_milvus.errors import EmbedderFailed, EmbedderUnavailable
from tests.embedding.conftest import Make, settings_of
from tests.openai_server import Answer, Endpoint, Request, cosine, openai_server, refusal, said, silence

pytestmark = pytest.mark.anyio

KEY = "sk-5ecret-Key-0123456789"


async def test_texts_become_unit_vectors_in_their_order_in_few_requests(endpoint: Endpoint, make: Make) -> None:
    texts = [f"entity number {number} 用" for number in range(25)]
    vectors = await make(batch=10, concurrency=2).embed_documents(texts)
    for text, vector in zip(texts, vectors, strict=True):
        assert cosine(vector, endpoint.vector(text)) == pytest.approx(1)
        assert cosine(vector, vector) == pytest.approx(sum(number * number for number in vector)) == pytest.approx(1)
    assert sorted(len(request.texts) for request in endpoint.requests[1:]) == [6, 10, 10]  # the probe goes with them
    assert endpoint.requests[1].body.keys() == {"model", "input", "encoding_format"}
    assert endpoint.requests[1].body["model"] == "bag-of-words"
    assert "authorization" not in endpoint.requests[1].headers


async def test_dimensions_and_the_key_are_sent_when_they_are_set(endpoint: Endpoint, make: Make) -> None:
    endpoint.key = KEY
    assert len(await make(dim=8, api_key=KEY).embed_query("text")) == 8
    assert endpoint.requests[0].body["dimensions"] == 8


async def test_no_more_requests_than_allowed_are_under_way_whoever_asks(endpoint: Endpoint, make: Make) -> None:
    embedder = make(batch=1, concurrency=3)
    await embedder.fingerprint()
    gate = anyio.Event()
    endpoint.always = lambda request: replace(endpoint.embeddings(request), until=gate)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for call in range(3):
                group.start_soon(embedder.embed_documents, [f"{call} {number}" for number in range(4)])
            await endpoint.asked(4)
            for _ in range(500):  # turns of the loop, in which more could come
                await anyio.lowlevel.checkpoint()
            gate.set()
    assert endpoint.most_at_once == 3
    assert len(endpoint.requests) == 16


@given(st.lists(st.integers(1, 300_000).map("x".__mul__), max_size=8), st.integers(1, 4))
def test_a_batch_is_bounded_in_texts_and_characters_and_nothing_is_lost(texts: list[str], most: int) -> None:
    batches = list(_batches(texts, most))
    assert [text for batch in batches for text in batch] == texts
    assert all(0 < len(batch) <= most for batch in batches)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= openai.CHARACTERS for batch in batches)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(endpoint: Endpoint, make: Make, status: int) -> None:
    endpoint.next(refusal(status), refusal(status, headers={"Retry-After": "0"}), Answer(body=b"{", broken=True))
    assert (await make().fingerprint()).dim == 16
    assert len(endpoint.requests) == 4


async def test_what_does_not_pass_is_said_after_four_tries(endpoint: Endpoint, make: Make) -> None:
    endpoint.always = refusal(503, "overloaded")
    with pytest.raises(
        EmbedderUnavailable, match="embedder openai bag-of-words: the endpoint answered 503: overloaded"
    ):
        await make().fingerprint()
    assert len(endpoint.requests) == 4
    assert EmbedderUnavailable.retriable


async def test_a_retry_after_is_waited_for_and_a_long_one_is_told(
    endpoint: Endpoint, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(openai, "sleep", sleep)
    monkeypatch.setattr(openai, "PAUSES", (2.0, 2.0, 2.0))
    in_time = format_datetime(datetime.now(UTC) + timedelta(seconds=18), usegmt=True)
    endpoint.next(refusal(429, headers={"Retry-After": "7"}), refusal(503, headers={"Retry-After": in_time}))
    endpoint.next(refusal(429, headers={"Retry-After": "0.1"}), refusal(429, headers={"Retry-After": "3600"}))
    with pytest.raises(EmbedderUnavailable, match="it wants to be asked again in 3600 s"):
        await make().fingerprint()
    assert waited[0] == 7
    assert 1 <= waited[1] <= 18
    assert 1 <= waited[2] <= 3  # a shorter one does not shorten the pause
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize("header", ["", "soon", "nan", "inf", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_now(header: str) -> None:
    assert _seconds(header) == 0


@pytest.mark.parametrize("header", ["-5", "Mon, 01 Jan 2001 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:00"])
def test_a_retry_after_in_the_past_is_now(header: str) -> None:
    assert _seconds(header) == 0


async def test_an_endpoint_that_is_silent_is_given_up(endpoint: Endpoint, make: Make) -> None:
    endpoint.always = silence()
    with pytest.raises(EmbedderUnavailable, match=r"no answer in 0\.05 s \(embed_timeout\)"):
        await make(timeout=0.05).fingerprint()
    assert len(endpoint.requests) <= 4


async def test_an_endpoint_that_is_down_is_told_to_the_model_and_its_reason_to_the_operator(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with openai_server() as gone:
        pass
    with pytest.raises(EmbedderUnavailable, match=r"its endpoint cannot be reached \(ConnectError\)") as failed:
        await make(base_url=gone.base_url).fingerprint()
    assert "embed_base_url" in failed.value.hint
    assert "127.0.0.1" not in failed.value.message + failed.value.hint
    assert "connection attempts failed" in caplog.text


async def test_a_call_is_cancelled_at_once_and_the_next_one_works(endpoint: Endpoint, make: Make) -> None:
    embedder = make(batch=1)
    await embedder.fingerprint()
    endpoint.next(silence(), silence(), refusal(500, headers={"Retry-After": "15"}))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(embedder.embed_documents, ["one", "two", "three"])
            await endpoint.asked(4)
            group.cancel_scope.cancel()
        assert len(await embedder.embed_documents(["four"] * 8)) == 8


async def test_one_refused_batch_ends_the_call_and_the_other_requests(endpoint: Endpoint, make: Make) -> None:
    embedder = make(batch=1, concurrency=2)
    await embedder.fingerprint()
    endpoint.next(silence(), refusal(400, "no"))
    with anyio.fail_after(10), pytest.raises(EmbedderFailed, match="400: no"):
        await embedder.embed_documents([str(number) for number in range(9)])
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("answer", "key", "message", "hint"),
    [
        (refusal(401, "bad"), KEY, "the endpoint refused the key: 401: bad", "MILVUS_MCP_EMBED_API_KEY"),
        (refusal(403, "bad"), KEY, "the endpoint refused the key: 403: bad", "MILVUS_MCP_EMBED_API_KEY"),
        (refusal(401, "bad"), "", "the endpoint wants a key, and none is set: 401: bad", "MILVUS_MCP_EMBED_API_KEY"),
        (refusal(404, "model?"), "", "no such model, or no /embeddings at embed_base_url: 404: model?", ""),
        (refusal(400, "maximum context length is 8192 tokens"), "", "400: maximum context", "chunk_size"),
        (refusal(413, "payload too large"), "", "413: payload too large", "chunk_size"),
        (refusal(400, "odd"), "", "answered 400: odd", ""),
        (Answer(418, b'{"error": "a teapot"}'), "", "answered 418: a teapot", ""),
        (Answer(422, b'{"detail": "not so"}'), "", "answered 422: not so", ""),
        (Answer(400, b'{"message": "vLLM"}'), "", "answered 400: vLLM", ""),
        (Answer(400, b"<html>"), "", "answered 400", ""),
        (Answer(400, b'{"error": {"message": ["x"]}}'), "", "answered 400", ""),
        (Answer(400, b"[" * 60_000), "", "answered 400", ""),
        (Answer(302, headers={"Location": "http://elsewhere/"}), KEY, "answered 302, a redirect", "embed_base_url"),
        (Answer(200, b"x" * 99, {"Content-Encoding": "gzip"}), "", "compressed and broken", ""),
        (refusal(400, "a\r\nlog: line\x1b[31m\u202e" + "word " * 99), "", "400: a log: line [31m word", ""),
    ],
)
async def test_a_refusal_is_said_in_words_and_not_tried_again(
    endpoint: Endpoint, make: Make, answer: Answer, key: str, message: str, hint: str
) -> None:
    endpoint.always = answer
    with pytest.raises(EmbedderFailed) as failed:
        await make(api_key=key).fingerprint()
    assert not isinstance(failed.value, EmbedderUnavailable)
    assert message in failed.value.message
    assert (hint in failed.value.hint) if hint else not failed.value.hint
    assert failed.value.message.isprintable()
    assert len(failed.value.message) < 350
    assert len(endpoint.requests) == 1


def changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Endpoint], Callable[[Request], Answer]]:
    """An answer that is good but for a change."""

    def of(endpoint: Endpoint) -> Callable[[Request], Answer]:
        def answer(request: Request) -> Answer:
            document = json.loads(endpoint.embeddings(request).body)
            change(document)
            return said(document)

        return answer

    return of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer: answer["data"].pop(), "has 2 embeddings for 3 texts"),
        (lambda answer: answer["data"].append({}), "has 4 embeddings for 3 texts"),
        (lambda answer: answer.update(data={}), "has no list `data`"),
        (lambda answer: answer.update(data="[]"), "has no list `data`"),
        (lambda answer: answer["data"][0].update(index=1) or answer["data"][1].update(index=1), "does not number"),
        (lambda answer: answer["data"][0].update(index=True), "does not number"),
        (lambda answer: answer["data"].__setitem__(0, 7), "does not number"),
        (lambda answer: answer["data"][0].update(embedding="AAAAAA=="), "base64, though float was asked for"),
        (lambda answer: answer["data"][0].update(embedding=[]), "no list of numbers"),
        (lambda answer: answer["data"][0].update(embedding=[True] * 16), "no list of numbers"),
        (lambda answer: answer["data"][0].update(embedding=[[1.0]] * 16), "no list of numbers"),
        (lambda answer: answer["data"][0].update(embedding=["1"] * 16), "no list of numbers"),
        (lambda answer: answer["data"][0].update(embedding=[None] * 16), "no list of numbers"),
        (lambda answer: answer["data"][0].pop("embedding"), "no list of numbers"),
        (lambda answer: answer["data"][0].update(embedding=[float("nan")] * 16), "no JSON with finite numbers"),
        (lambda answer: answer["data"][0].update(embedding=[10**400] * 16), "not finite"),
        (lambda answer: answer["data"][0].update(embedding=[0.0] * 16), "a vector that has no direction"),
        (lambda answer: answer["data"][0].update(embedding=[1.0] * 15), "15 dimensions, and with 16 before"),
    ],
)
async def test_an_answer_without_vectors_is_refused_in_words(
    endpoint: Endpoint, make: Make, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    embedder = make()
    await embedder.fingerprint()
    endpoint.next(changed(change)(endpoint))
    with pytest.raises(EmbedderFailed, match=r"^embedder openai bag-of-words: ") as failed:
        await embedder.embed_documents(["one", "two"])
    assert message in failed.value.message
    assert len(await embedder.embed_documents(["one", "two"])) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"data": [{"index": 0, "embedding": [1e999, 1]}]}', "not finite"),
        (b'{"error": {"message": "quota"}}', "answered with an error: quota"),
        (b"null", "has no list `data`"),
    ],
)
async def test_garbage_is_refused_in_words(endpoint: Endpoint, make: Make, body: bytes, message: str) -> None:
    endpoint.always = said(body)
    with pytest.raises(EmbedderFailed, match=message):
        await make().fingerprint()
    assert len(endpoint.requests) == 1


async def test_entries_without_an_index_are_taken_as_they_come(endpoint: Endpoint) -> None:
    endpoint.next(said({"data": [{"embedding": [1, 2]}, {"embedding": [3, 4.5]}]}))
    model = OpenAIModel(settings_of(endpoint))
    assert await model.vectors(["one", "two"]) == [[1.0, 2.0], [3.0, 4.5]]
    await model.aclose()


async def test_an_endless_answer_is_cut_off(endpoint: Endpoint, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "ANSWER_BYTES", 2**20)
    endpoint.always = said(b" " * (2**20 + 1))
    with pytest.raises(EmbedderFailed, match="longer than 1 MiB") as failed:
        await make().fingerprint()
    assert "embed_batch" in failed.value.hint


@pytest.mark.parametrize("status", [200, 400, 401, 429, 302])
async def test_the_key_is_in_no_message_log_or_representation_even_when_the_endpoint_repeats_it(
    endpoint: Endpoint, make: Make, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"wrong Bearer {KEY}! {KEY[:12]} {KEY[-12:]} {KEY[5:14]}\n"
    headers = {"X-Key": KEY, "Location": f"http://elsewhere/{KEY}"}
    endpoint.always = Answer(status, json.dumps({"error": {"message": echo}}).encode(), headers)
    embedder = make(api_key=KEY)
    with pytest.raises(EmbedderFailed) as failed:
        await embedder.fingerprint()
    assert endpoint.requests[0].headers["authorization"] == f"Bearer {KEY}"
    shown = (
        str(failed.value.as_dict()),
        repr(failed.value),
        caplog.text,
        repr(embedder.settings),
        embedder.settings.model_dump_json(),
        str(embedder),
    )
    for start in range(len(KEY) - 7):
        assert all(KEY[start : start + 8] not in each for each in shown)
    assert status == 302 or "wrong Bearer ***! *** *** ***" in failed.value.message


@given(st.text("abc-", min_size=1, max_size=12), st.text("abc- ", max_size=80))
def test_a_key_is_hidden_wherever_it_stands(key: str, line: str) -> None:
    shown = _without(key, line + key + line).replace("***", "\0")
    assert key not in shown
    assert not any(key[start : start + 8] in shown for start in range(len(key) - 7))
    assert _without("", line) == line


async def test_an_address_or_a_proxy_that_cannot_be_one_is_said(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmbedderFailed, match="no connection can be set up"):
        await make(base_url="http://h:1/\0").fingerprint()
    monkeypatch.setenv("HTTP_PROXY", f"ftp://root:{KEY}@proxy")
    with pytest.raises(EmbedderFailed, match="no connection can be set up") as failed:
        await make().fingerprint()
    assert KEY not in str(failed.value.as_dict())
    assert "HTTP(S)_PROXY" in failed.value.hint


async def test_the_client_is_made_at_the_first_text_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(httpx2.AsyncClient):
        def __init__(self, **options: Any) -> None:
            made.append(1)
            super().__init__(**options)

    monkeypatch.setattr(openai.httpx2, "AsyncClient", Counted)
    embedder = make()
    assert not made
    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(embedder._model.vectors, [str(number)])
    assert len(made) == 1
