# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# fastembed's vectors are NumPy arrays, of which only `tolist` is used here.
"""Embeddings computed in this process by fastembed, the extra `local`."""

import asyncio
import functools
import json
import logging
import math
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import anyio
import anyio.to_thread

from mcp_server_milvus.embedding.embedder import Vector
from mcp_server_milvus.embedding.together import again
from mcp_server_milvus.errors import EmbedderFailed, EmbedderUnavailable
from mcp_server_milvus.settings import EmbedderSettings, nearest

if TYPE_CHECKING:
    from fastembed import TextEmbedding

LOGGER = logging.getLogger(__name__)

PADDED_CHARACTERS = 2_000
"""Characters of one batch, each text counted as long as the longest: long texts are faster one by one."""

LOADING_SECONDS = 15.0
"""How long a text waits for the model while another call, that has given up, still loads it."""

MODEL_FILES = ("model.onnx", "onnx/model.onnx")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OF_THE_LOG = "the operator finds in the log what was wrong"
OF_FOLDERS = "expected: model.onnx or onnx/model.onnx, tokenizer.json, tokenizer_config.json; 1_Pooling/config.json"


class LocalModel:
    """A model of fastembed's, loaded at the first text, in a thread; one batch at a time, since it uses every core."""

    may_change = False

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._loading: Future[TextEmbedding] | None = None
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._mark = uuid4().hex

    def __str__(self) -> str:
        """`embedder fastembed BAAI/bge-small-en-v1.5`: how messages begin."""
        return f"embedder {self._settings.backend} {self._settings.model_name}"

    async def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """One vector for each text, in their order.

        Raises:
            EmbedderFailed: fastembed is not installed, or cannot load or run the model.
            EmbedderUnavailable: the model cannot be downloaded, or is still being loaded.
        """
        model = await self._model()
        shortest_first = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found: dict[int, Vector] = {}
        for numbers in _batches(shortest_first, texts):
            batch = functools.partial(self._embedded, model, [texts[number] for number in numbers])
            # Who gives up waits for the end of the batch, which is short: an abandoned one would run beside the next.
            vectors = await anyio.to_thread.run_sync(batch, limiter=self._one_at_a_time)
            found |= dict(zip(numbers, vectors, strict=True))
        return [found[number] for number in range(len(texts))]

    async def cut(self, texts: Sequence[str]) -> int:
        """How many of these texts have more tokens than the model reads. A token has at least one character."""
        tokenizer: Any = cast("Any", (await self._model()).model).tokenizer
        long = [text for text in texts if len(text) > tokenizer.truncation["max_length"]]
        if not long:
            return 0
        encoded = await anyio.to_thread.run_sync(tokenizer.encode_batch, long, limiter=self._one_at_a_time)
        return sum(bool(each.overflowing) for each in encoded)

    async def aclose(self) -> None:
        """Nothing to let go of."""

    def _embedded(self, model: "TextEmbedding", texts: list[str]) -> list[Vector]:
        faults = _faults()
        try:
            return [vector.tolist() for vector in model.embed(texts, batch_size=len(texts))]
        except faults as error:
            raise self._failure("the model failed on a text", error) from error

    async def _model(self) -> "TextEmbedding":
        """The model, loaded once even when the call that began to load it has given up; again if that has failed."""
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = self._started()
            return await _awaited(self._loading)
        with anyio.move_on_after(LOADING_SECONDS):
            return await _awaited(self._loading)
        raise EmbedderUnavailable(f"{self}: the model is still being loaded or downloaded", hint="call again later")

    def _started(self) -> "Future[TextEmbedding]":
        """The loading, in a thread that does not keep the process alive."""
        loading = Future["TextEmbedding"]()
        loading.set_running_or_notify_cancel()  # from now on, who gives up waiting for it does not cancel it
        threading.Thread(target=self._load_into, args=[loading], name="loads a model", daemon=True).start()
        return loading

    def _load_into(self, loading: "Future[TextEmbedding]") -> None:
        failure = EmbedderFailed(f"{self}: the model cannot be loaded", hint=OF_THE_LOG)
        try:
            loading.set_result(self._load())
        except EmbedderFailed as known:
            failure = known
        finally:
            if not loading.done():
                loading.set_exception(failure)

    def _load(self) -> "TextEmbedding":
        try:
            import_module("fastembed")
        except ImportError as error:
            raise EmbedderFailed(
                f"{self}: fastembed is not installed ({error.name})", hint="pip install 'mcp-server-milvus[local]'"
            ) from None
        faults = _faults()
        try:
            return self._of_folder(Path(self._settings.model_dir)) if self._settings.model_dir else self._of_fastembed()
        except faults as error:
            raise self._failure("the model cannot be loaded", error) from error

    def _failure(self, what: str, error: Exception) -> EmbedderFailed:
        """What happened; what was said of it goes to the log, for it names files of this machine."""
        LOGGER.warning("%s: %s: %s", self, what, _first_line(error))
        return EmbedderFailed(f"{self}: {what} ({type(error).__name__})", hint=OF_THE_LOG)

    def _wrong_folder(self, folder: Path, what: str, hint: str = OF_FOLDERS) -> EmbedderFailed:
        LOGGER.warning("%s: the folder is %s", self, folder)
        return EmbedderFailed(f"{self}: {what}", hint=hint)

    def _of_fastembed(self) -> "TextEmbedding":
        from fastembed import TextEmbedding

        name = self._settings.model_name
        sources = {known["model"].lower(): known["sources"] for known in TextEmbedding.list_supported_models()}
        if name.lower() not in sources:
            raise EmbedderFailed(
                f"{self}: fastembed knows no such model{nearest(name, _known_names())}",
                hint="the operator names one that it knows, or a folder with embed_model_dir",
            )
        try:
            with _silent_fastembed():
                return TextEmbedding(name, local_files_only=True)
        except ValueError:  # it is not in the cache
            self._check_reachable(sources[name.lower()]["hf"] or name)
        return TextEmbedding(name)

    def _check_reachable(self, source: str) -> None:
        """What can be told in seconds; fastembed itself tries for a minute, silently."""
        from huggingface_hub import model_info

        try:
            model_info(source, timeout=10)
        except (*_transport_errors(), OSError) as error:
            LOGGER.warning("%s: %s", self, _first_line(error))
            raise EmbedderUnavailable(
                f"{self}: the model cannot be downloaded from Hugging Face ({source}): {type(error).__name__}",
                hint="the operator puts the model into a folder and sets embed_model_dir",
            ) from error

    def _of_folder(self, folder: Path) -> "TextEmbedding":
        folder = folder.expanduser().absolute()
        self._check_tokenizer(folder)
        loaded = self._as_it_is_pooled(folder)
        _cut_at(loaded, _longest(folder))
        return loaded

    def _as_it_is_pooled(self, folder: Path) -> "TextEmbedding":
        from fastembed import TextEmbedding

        files = {known["model"].lower(): known["model_file"] for known in TextEmbedding.list_supported_models()}
        known_file = files.get(self._settings.model_name.lower(), "")
        if known_file and (folder / known_file).is_file():
            return TextEmbedding(self._settings.model_name, specific_model_path=str(folder))
        model_file = self._model_file(folder)
        loaded = self._custom(folder, model_file, self._pooling(folder))
        if _gives_one_vector_a_text(loaded):
            return self._custom(folder, model_file, "DISABLED")
        return loaded

    def _custom(self, folder: Path, model_file: str, pooling: str) -> "TextEmbedding":
        """A model that fastembed does not know, under a name in its registry that no other has."""
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        name = f"{folder}#{model_file}#{pooling}#{self._mark}"
        if name not in _known_names():
            TextEmbedding.add_custom_model(
                name,
                PoolingType(pooling),
                normalization=True,
                sources=ModelSource(hf=str(folder)),
                dim=0,  # only told, never used
                model_file=model_file,
            )
        return TextEmbedding(name, specific_model_path=str(folder))

    def _check_tokenizer(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        if not folder.is_dir():
            raise self._wrong_folder(folder, "embed_model_dir names no folder", "the operator mends it")
        if missing := [name for name in TOKENIZER_FILES if not (folder / name).is_file()]:
            raise self._wrong_folder(folder, f"the folder embed_model_dir has no {' and no '.join(missing)}")
        Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())  # of which fastembed raises a bare Exception

    def _model_file(self, folder: Path) -> str:
        for name in MODEL_FILES:
            if (folder / name).is_file():
                return name
        raise self._wrong_folder(folder, f"the folder embed_model_dir has no {' and no '.join(MODEL_FILES)}")

    def _pooling(self, folder: Path) -> str:
        """How the model makes one vector of those of the tokens, in fastembed's word."""
        try:
            said: Any = json.loads((folder / "1_Pooling" / "config.json").read_bytes())
        except FileNotFoundError:
            return "MEAN"
        match said:
            case {"pooling_mode_mean_tokens": True} | {"pooling_mode": "mean"}:
                return "MEAN"
            case {"pooling_mode_cls_token": True} | {"pooling_mode": "cls"}:
                return "CLS"
            case {"pooling_mode_lasttoken": True} | {"pooling_mode": "lasttoken"}:
                return "LAST_TOKEN"
            case _:
                raise EmbedderFailed(
                    f"{self}: 1_Pooling/config.json asks for a pooling other than mean, cls, lasttoken"
                )


async def _awaited(loading: "Future[TextEmbedding]") -> "TextEmbedding":
    """What is loaded. Raises EmbedderFailed, a copy for each who waits."""
    try:
        return await asyncio.wrap_future(loading)
    except EmbedderFailed as failure:
        raise again(failure) from None


@contextmanager
def _silent_fastembed() -> Generator[None]:
    """Keeps it from logging as an error that a model is not in its cache yet: so is each before its download."""
    from loguru import logger

    logger.disable("fastembed")
    try:
        yield
    finally:
        logger.enable("fastembed")


def _batches(numbers: Sequence[int], texts: Sequence[str]) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in numbers:
        if batch and (len(batch) + 1) * len(texts[number]) > PADDED_CHARACTERS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _known_names() -> list[str]:
    from fastembed import TextEmbedding

    return [known["model"] for known in TextEmbedding.list_supported_models()]


def _gives_one_vector_a_text(loaded: "TextEmbedding") -> bool:
    """Whether the model has made one vector of those of the tokens by itself."""
    session: Any = cast("Any", loaded.model).model
    return len(session.get_outputs()[0].shape) == 2  # noqa: PLR2004  # texts x dimensions


def _longest(folder: Path) -> int | None:
    """The tokens after which the makers of the model cut a text; fastembed looks at what it can read at most."""
    with suppress(FileNotFoundError):
        match json.loads((folder / "sentence_bert_config.json").read_bytes()):
            case {"max_seq_length": int() as tokens} if tokens > 0:
                return tokens
            case _:
                pass
    match json.loads((folder / "tokenizer.json").read_bytes()):
        case {"truncation": {"max_length": int() as tokens}} if tokens > 0:
            return tokens
        case _:
            return None


def _cut_at(loaded: "TextEmbedding", tokens: int | None) -> None:
    tokenizer: Any = cast("Any", loaded.model).tokenizer
    now: dict[str, Any] = tokenizer.truncation or {}
    if tokens and tokens < now.get("max_length", math.inf):
        tokenizer.enable_truncation(max_length=tokens, direction=now.get("direction", "right"))


def _faults() -> tuple[type[Exception], ...]:
    """What fastembed and onnxruntime raise for files, models and texts that they cannot use."""
    kinds: dict[str, Any] = vars(import_module("onnxruntime.capi.onnxruntime_pybind11_state"))
    of_onnx = (kind for kind in kinds.values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*of_onnx, ValueError, TypeError, KeyError, AttributeError, OSError)


def _transport_errors() -> tuple[type[Exception], ...]:
    """What Hugging Face's library raises when nothing answers, and is no OSError in its newer versions."""
    try:
        from huggingface_hub.utils import httpx
    except ImportError:
        return ()
    return (httpx.TransportError,)


def _first_line(error: Exception) -> str:
    """The beginning of what it says, on one line."""
    line = " ".join(str(error).split())
    return line[:300] or type(error).__name__
