"""An endpoint, and embedders on it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mcp_server_milvus.embedding import openai
from mcp_server_milvus.embedding.embedder import ModelEmbedder
from mcp_server_milvus.embedding.openai import OpenAIModel
from mcp_server_milvus.settings import EmbedderSettings
from tests.openai_server import Endpoint, openai_server

Make = Callable[..., ModelEmbedder]


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    """An endpoint that is asked again without a pause."""
    monkeypatch.setattr(openai, "PAUSES", (0.0,) * len(openai.PAUSES))
    async with openai_server() as endpoint:
        yield endpoint


def settings_of(endpoint: Endpoint, **given: Any) -> EmbedderSettings:
    values = {"backend": "openai", "model": "bag-of-words", "base_url": endpoint.base_url, "timeout": 20.0}
    return EmbedderSettings.model_validate(values | given)


@pytest.fixture
async def make(endpoint: Endpoint) -> AsyncIterator[Make]:
    """Makes embedders on the endpoint; those without connections at the end."""
    made: list[ModelEmbedder] = []

    def embedder(**given: Any) -> ModelEmbedder:
        settings = settings_of(endpoint, **given)
        made.append(ModelEmbedder(settings, OpenAIModel(settings)))
        return made[-1]

    yield embedder
    for each in made:
        await each.aclose()
