"""The embedders of one server, made when they are first asked for."""

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio

from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.embedding.embedder import Model, ModelEmbedder
from mcp_server_milvus.embedding.fingerprint import Fingerprint
from mcp_server_milvus.errors import Conflict, EmbedderFailed, InvalidArgument, NotSupported
from mcp_server_milvus.settings import EmbedderSettings
from mcp_server_milvus.vocabulary import EmbedderBackend

HOW_TO_HAVE_ONE = "the operator starts this server with --embedder openai or --embedder fastembed"

CLOSING_SECONDS = 5.0
"""How long one embedder may take to let go of its connections."""


class Embedders:
    """The configured embedders by name. Nothing is imported, loaded or connected before the first text."""

    def __init__(self, settings: dict[str, EmbedderSettings]) -> None:
        self._settings = settings
        self._made: dict[str, ModelEmbedder] = {}

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Lets go of the connections of each, also when another one fails or this is cancelled."""
        async with AsyncExitStack() as closing:
            for embedder in self._made.values():
                closing.push_async_callback(_close, embedder)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._settings)

    def named(self, name: str = "") -> ModelEmbedder:
        """The embedder of that name, or the first.

        Raises:
            NotSupported: none is configured.
            InvalidArgument: none has the name.
        """
        if not self._settings:
            raise NotSupported("this server has no embedder", hint=HOW_TO_HAVE_ONE)
        name = name or next(iter(self._settings))
        if name not in self._settings:
            raise InvalidArgument(f"embedder: there is no {name!r}; configured: {', '.join(self._settings)}")
        if name not in self._made:
            self._made[name] = ModelEmbedder(self._settings[name], _model(self._settings[name]))
        return self._made[name]

    async def bound(self, binding: Binding) -> ModelEmbedder:
        """The embedder that made the vectors of this field, asked whether it still makes the same.

        Raises:
            NotSupported: none is configured.
            Conflict: those that are make other vectors; the message says in what they differ.
            EmbedderFailed: it refuses or cannot be reached.
        """
        if binding.fingerprint is None:
            return self.named(binding.embedder)
        if not self._settings:
            return self.named()
        differences: list[str] = []
        failures: list[EmbedderFailed] = []
        for name in self._settings:
            try:
                difference = await self._difference(name, binding.fingerprint)
            except EmbedderFailed as failure:  # another one may say the same and answer
                failures.append(failure)
                continue
            if not difference:
                return self.named(name)
            differences.append(difference)
        if failures:
            raise failures[0]
        raise Conflict(
            f"{binding.vector_field} was made from {binding}; {'; '.join(differences)}",
            hint="the operator configures the embedder that made it; or make another collection with this one",
        )

    async def _difference(self, name: str, made_by: Fingerprint) -> str:
        """In what the embedder of that name is another one. It is asked again at the next call if it answers so."""
        settings = self._settings[name]
        difference = _said_difference(settings, made_by)
        if not difference:  # only then is it worth asking
            embedder = self.named(name)
            difference = made_by.difference(await embedder.fingerprint())
            if difference:
                embedder.doubt()
        return difference and f"embedder {settings.backend} {settings.model_name} is another: {difference}"


async def _close(embedder: ModelEmbedder) -> None:
    with anyio.move_on_after(CLOSING_SECONDS, shield=True):
        await embedder.aclose()


def _said_difference(settings: EmbedderSettings, made_by: Fingerprint) -> str:
    """In what an embedder is another one by its settings alone."""
    said = {
        "backend": settings.backend.value,
        "model": settings.model_name,
        "query_prefix": settings.query_prefix,
        "document_prefix": settings.document_prefix,
    }
    return next(
        (
            f"{name}: {value!r}, not {getattr(made_by, name)!r}"
            for name, value in said.items()
            if value != getattr(made_by, name)
        ),
        "",
    )


def _model(settings: EmbedderSettings) -> Model:
    if settings.backend is EmbedderBackend.OPENAI:
        from mcp_server_milvus.embedding.openai import OpenAIModel

        return OpenAIModel(settings)
    from mcp_server_milvus.embedding.local import LocalModel

    return LocalModel(settings)
