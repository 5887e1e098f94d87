"""The embedders of one server, made when they are first asked for."""

from types import TracebackType
from typing import Self

from mcp_server_milvus.embedding.binding import Binding
from mcp_server_milvus.embedding.embedder import Model, ModelEmbedder
from mcp_server_milvus.embedding.fingerprint import Fingerprint
from mcp_server_milvus.errors import Conflict, InvalidArgument, NotSupported
from mcp_server_milvus.settings import EmbedderSettings
from mcp_server_milvus.vocabulary import EmbedderBackend

HOW_TO_HAVE_ONE = "the operator starts this server with --embedder openai or --embedder fastembed"


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
        """Lets go of connections."""
        for embedder in self._made.values():
            await embedder.aclose()

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
        differences: list[str] = []
        for name in self._alike(binding.fingerprint) or [""]:
            embedder = self.named(name)
            difference = binding.fingerprint.difference(await embedder.fingerprint())
            if not difference:
                return embedder
            differences.append(f"embedder {embedder} is another: {difference}")
        raise Conflict(
            f"{binding.vector_field} was made from {binding}; {'; '.join(differences)}",
            hint="the operator configures the embedder that made it; or make the collection anew with this one",
        )

    def _alike(self, made_by: Fingerprint) -> list[str]:
        """The names of the embedders that say to be this one."""
        return [
            name
            for name, settings in self._settings.items()
            if (settings.backend, settings.model_name, settings.query_prefix, settings.document_prefix)
            == (made_by.backend, made_by.model, made_by.query_prefix, made_by.document_prefix)
        ]


def _model(settings: EmbedderSettings) -> Model:
    if settings.backend is EmbedderBackend.OPENAI:
        from mcp_server_milvus.embedding.openai import OpenAIModel

        return OpenAIModel(settings)
    from mcp_server_milvus.embedding.local import LocalModel

    return LocalModel(settings)
