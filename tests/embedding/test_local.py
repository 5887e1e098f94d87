"""The backend fastembed, with real models in local folders: a real one, and small ones made on the spot."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import fastembed
import loguru
import pytest

from mcp_server_milvus.embedding import local
from mcp_server_milvus.embedding.embedder import ModelEmbedder, Vector
from mcp_server_milvus.embedding.local import LocalModel
from mcp_server_milvus.errors import EmbedderFailed, EmbedderUnavailable
from mcp_server_milvus.settings import EmbedderSettings
from tests.embedding.onnx import WORDS, put_model
from tests.openai_server import cosine

pytestmark = pytest.mark.anyio

VECTORS = [[math.sin(7 * word + 3 * place * place + 1) for place in range(6)] for word in range(len(WORDS))]


def embedder(**given: Any) -> ModelEmbedder:
    settings = EmbedderSettings.model_validate({"backend": "fastembed"} | given)
    return ModelEmbedder(settings, LocalModel(settings))


@pytest.fixture(scope="session")
def real(minilm: dict[str, Any]) -> ModelEmbedder:
    return embedder(model=minilm["embed_model"], model_dir=minilm["embed_model_dir"])


def mean(*words: str) -> Vector:
    return [sum(VECTORS[WORDS.index(word)][place] for word in words) for place in range(6)]


async def test_a_real_model_finds_what_is_meant(real: ModelEmbedder, capfd: pytest.CaptureFixture[str]) -> None:
    cat, ship, engine = await real.embed_documents(
        ["The cat sleeps on the sofa.", "A ship crosses the ocean.", "The motor of the car is broken."]
    )
    kitten = await real.embed_query("a kitten napping on a couch")
    assert cosine(kitten, cat) > 0.5 > max(cosine(kitten, ship), cosine(kitten, engine))
    assert str(await real.fingerprint()) == "fastembed sentence-transformers/all-MiniLM-L6-v2 (dim 384)"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [("sentence_bert_config.json", {"max_seq_length": 3}), ("tokenizer.json", {"truncation": {"max_length": 3}})],
)
async def test_a_text_is_cut_where_the_makers_of_the_model_cut_it(tmp_path: Path, name: str, said: Any) -> None:
    path = put_model(tmp_path, VECTORS) / name
    whole = json.loads(path.read_bytes()) if path.exists() else {}
    if "truncation" in said:
        said["truncation"] |= {"strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    path.write_text(json.dumps(whole | said), "utf-8")
    cutting = embedder(model_dir=str(tmp_path))
    (vector,) = await cutting.embed_documents(["red blue green"])
    assert cosine(vector, mean("[CLS]", "red", "blue")) == pytest.approx(1)
    assert await cutting.cut(["red blue green", "red blue", "red", "one two three four"]) == 2


async def test_any_text_is_embedded_and_the_order_is_kept(real: ModelEmbedder) -> None:
    texts = ["x " * 50_000, "用同一个模型。", "nul \0 inside", "\u202eright to left", "🂡", "short", "word " * 300]
    together = await real.embed_documents(texts)
    for text, vector in zip(texts[1:], together[1:], strict=True):
        assert cosine(vector, await real.embed_query(text)) > 0.98
    assert cosine(together[0], together[-1]) < 0.9


@pytest.mark.parametrize(
    ("text", "said"), [("", "is empty"), (" \n", "is empty"), ("ab\ud800c", r"half of a surrogate pair.*after 'ab'")]
)
async def test_what_is_no_text_is_refused_before_the_model_sees_it(real: ModelEmbedder, text: str, said: str) -> None:
    with pytest.raises(EmbedderFailed, match=said):
        await real.embed_documents(["good", text])
    with pytest.raises(EmbedderFailed, match=said):
        await real.embed_query(text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, mean("[CLS]", "red", "blue")),
        ({"file": "onnx/model.onnx"}, mean("[CLS]", "red", "blue")),
        (
            {"pooling": {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}},
            mean("[CLS]", "red", "blue"),
        ),
        ({"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}}, mean("[CLS]")),
        ({"pooling": {"pooling_mode_lasttoken": True}}, mean("blue")),
        ({"pooled": True}, mean("[CLS]", "red", "blue")),
    ],
)
async def test_a_folder_of_a_model_that_fastembed_does_not_know_is_pooled_as_it_says(
    tmp_path: Path, options: dict[str, Any], expected: Vector
) -> None:
    own = embedder(model_dir=str(put_model(tmp_path / "own", VECTORS, **options)))
    (vector,) = await own.embed_documents(["red blue"])
    assert cosine(vector, expected) == pytest.approx(1, abs=1e-5)
    assert str(own) == "fastembed own"


async def test_several_folders_of_one_name_are_several_models(tmp_path: Path) -> None:
    shorter = [vector[:4] for vector in VECTORS]
    folders = [put_model(tmp_path / "a" / "m", VECTORS), put_model(tmp_path / "b" / "m", shorter)]
    known = len(fastembed.TextEmbedding.list_supported_models())
    one, same, other = (embedder(model="m", model_dir=str(folder)) for folder in (folders[0], *folders))
    assert [len(await each.embed_query("red")) for each in (one, same, other)] == [6, 6, 4]
    assert not (await one.fingerprint()).difference(await same.fingerprint())
    assert (await one.fingerprint()).difference(await other.fingerprint()) == "dim: 4, not 6"
    assert len(fastembed.TextEmbedding.list_supported_models()) == known + 3


async def test_a_model_is_loaded_once_in_a_thread_and_one_batch_runs_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = LocalModel._load

    def counted(self: LocalModel) -> fastembed.TextEmbedding:
        loads.append(str(self))
        return load(self)

    monkeypatch.setattr(LocalModel, "_load", counted)
    own = embedder(model_dir=str(put_model(tmp_path, VECTORS)))
    async with anyio.create_task_group() as group:
        for word in WORDS[3:]:
            group.start_soon(own.embed_query, word)
            group.start_soon(own._model.vectors, [word])
    assert len(loads) == 1


async def test_a_batch_is_bounded_by_the_size_of_its_longest_text(tmp_path: Path) -> None:
    lengths = [number * number * 37 % 600 + 1 for number in range(60)]
    texts = [" ".join(WORDS[3 + (n * length) % 7] for n in range(length)) for length in lengths]
    own = LocalModel(
        EmbedderSettings.model_validate({"backend": "fastembed", "model_dir": str(put_model(tmp_path, VECTORS))})
    )
    batches: list[list[str]] = []
    embedded = own._embedded
    own._embedded = lambda model, texts: batches.append(texts) or embedded(model, texts)
    vectors = await own.vectors(texts)
    assert sorted(text for batch in batches for text in batch) == sorted(texts)
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= local.PADDED_CHARACTERS for batch in batches)
    assert 1 < len(batches) < len(texts)
    for text, vector in zip(texts, vectors, strict=True):
        assert cosine(vector, mean("[CLS]", *text.split()[:31])) == pytest.approx(1, abs=1e-4)


def broken(folder: Path, name: str, content: bytes | None) -> str:
    put_model(folder, VECTORS)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.onnx", None, r"has no model\.onnx and no onnx/model\.onnx"),
        ("tokenizer.json", None, r"has no tokenizer\.json"),
        ("model.onnx", b"", r"the model cannot be loaded \("),
        ("model.onnx", b"no model" * 99, r"the model cannot be loaded \("),
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\n", r"the model cannot be loaded \("),
        ("tokenizer.json", b"{}", r"the model cannot be loaded \(ValueError\)"),
        ("tokenizer_config.json", b"[]", r"the model cannot be loaded \("),
        ("tokenizer_config.json", b"{", r"the model cannot be loaded \("),
        ("1_Pooling/config.json", b"{", r"the model cannot be loaded \("),
        (
            "1_Pooling/config.json",
            b'{"pooling_mode_max_tokens": true}',
            "asks for a pooling other than mean, cls, lasttoken",
        ),
        ("config.json", b"nonsense", r"the model cannot be loaded \("),
    ],
)
async def test_a_folder_that_is_no_model_is_said_in_words_and_without_its_path(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    with pytest.raises(EmbedderFailed, match=f"^embedder fastembed m: .*{said}") as failed:
        await embedder(model_dir=broken(tmp_path / "m", name, content)).fingerprint()
    assert "/" not in failed.value.message.replace("onnx/", "").replace("1_Pooling/", "")
    assert tmp_path.name not in failed.value.hint


async def test_the_log_has_the_details_for_the_operator(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in (str(tmp_path / "none"), broken(tmp_path / "m", "model.onnx", b"no model")):
        with pytest.raises(EmbedderFailed) as failed:
            await embedder(model_dir=folder).fingerprint()
        assert str(tmp_path) not in failed.value.message + failed.value.hint
        assert folder in caplog.messages[-1]


async def test_a_folder_that_is_mended_is_loaded_at_the_next_call(tmp_path: Path) -> None:
    own = embedder(model_dir=str(tmp_path / "m"))
    with pytest.raises(EmbedderFailed, match="embed_model_dir names no folder"):
        await own.fingerprint()
    put_model(tmp_path / "m", VECTORS)
    assert (await own.fingerprint()).dim == 6


async def test_a_model_that_fails_on_a_text_is_said_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = embedder(model_dir=str(put_model(tmp_path / "m", VECTORS[:7])))
    assert await own.embed_query("red")
    with pytest.raises(EmbedderFailed, match=r"the model failed on a text \(InvalidArgument\)"):
        await own.embed_query("four")
    assert "indices element out of data bounds" in caplog.text


async def test_a_name_that_fastembed_does_not_know_gets_the_nearest() -> None:
    with pytest.raises(EmbedderFailed, match=r"no such model \(did you mean BAAI/bge-small-en-v1\.5\?\)"):
        await embedder(model="BAI/bge-small-en-v1.5").fingerprint()


async def test_a_model_that_cannot_be_downloaded_is_said_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:1")
    logged: list[str] = []
    sink = loguru.logger.add(logged.append)
    try:
        with (
            anyio.fail_after(20),
            pytest.raises(EmbedderUnavailable, match="cannot be downloaded from Hugging Face") as failed,
        ):
            await embedder().fingerprint()
    finally:
        loguru.logger.remove(sink)
    assert "embed_model_dir" in failed.value.hint
    assert logged == []  # that it is not in the cache yet is no error


async def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", None)
    with pytest.raises(EmbedderFailed, match="fastembed is not installed") as failed:
        await embedder().fingerprint()
    assert failed.value.hint == "pip install 'mcp-server-milvus[local]'"


async def test_dimensions_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbedderFailed, match="it answered with 6 dimensions, and embed_dim is 4"):
        await embedder(dim=4, model_dir=str(put_model(tmp_path, VECTORS))).fingerprint()


async def test_a_call_that_gives_up_leaves_the_loading_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, loads = threading.Event(), list[int]()
    load = LocalModel._load

    def slow(self: LocalModel) -> fastembed.TextEmbedding:
        loads.append(1)
        go.wait(30)
        return load(self)

    monkeypatch.setattr(LocalModel, "_load", slow)
    monkeypatch.setattr(local, "LOADING_SECONDS", 0.01)
    own = embedder(model_dir=str(put_model(tmp_path, VECTORS)))
    with anyio.move_on_after(0.05):
        await own.embed_query("red")
    with pytest.raises(EmbedderUnavailable, match="still being loaded"):
        await own.embed_query("red")
    go.set()
    monkeypatch.setattr(local, "LOADING_SECONDS", 30.0)
    assert len(await own.embed_query("red")) == 6
    assert len(loads) == 1


async def test_one_batch_runs_at_a_time_also_when_a_call_has_given_up(tmp_path: Path) -> None:
    own = LocalModel(
        EmbedderSettings.model_validate({"backend": "fastembed", "model_dir": str(put_model(tmp_path, VECTORS))})
    )
    entered, go, embedded, under_way = threading.Event(), threading.Event(), own._embedded, list[str]()

    def slow(model: fastembed.TextEmbedding, texts: list[str]) -> list[Vector]:
        under_way.append(texts[0])
        entered.set()
        go.wait(30)
        assert under_way.pop() == texts[0]
        return embedded(model, texts)

    own._embedded = slow
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            given_up = anyio.CancelScope()

            async def gives_up() -> None:
                with given_up:
                    await own.vectors(["red"])

            group.start_soon(gives_up)
            assert await anyio.to_thread.run_sync(entered.wait, 20)
            given_up.cancel()
            group.start_soon(own.vectors, ["blue"])
            while not own._one_at_a_time.statistics().tasks_waiting:
                await anyio.lowlevel.checkpoint()
            assert under_way == ["red"]
            go.set()


def test_the_process_does_not_wait_for_a_model_that_is_being_loaded() -> None:
    code = """
import threading, anyio
from mcp_server_milvus.embedding.local import LocalModel
from mcp_server_milvus.settings import EmbedderSettings

LocalModel._load = lambda self: threading.Event().wait()

async def main():
    with anyio.move_on_after(0.01):
        await LocalModel(EmbedderSettings(backend="fastembed")).vectors(["red"])

anyio.run(main)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_a_fault_of_ours_while_loading_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(_self: LocalModel) -> fastembed.TextEmbedding:
        raise RuntimeError("of ours")

    logged = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: logged.set())
    monkeypatch.setattr(LocalModel, "_load", fault)
    with anyio.fail_after(20), pytest.raises(EmbedderFailed, match="cannot be loaded"):
        await embedder().fingerprint()
    assert await anyio.to_thread.run_sync(logged.wait, 20)
