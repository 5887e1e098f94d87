"""Embedders: whether each answers, and whether they are the ones that made the vectors in the database."""

from mcp_server_milvus.doctor.finding import Examined, Finding, failure, ok, warning
from mcp_server_milvus.errors import Conflict, EmbedderFailed, Error, NotFound
from mcp_server_milvus.vocabulary import EmbedderBackend

LOOKED_AT = 20
"""Collections whose bindings are looked at."""

TEXT = "Does this embedder answer?"


async def check_embedder(examined: Examined, name: str) -> Finding:
    """Whether it answers one short text, and how many dimensions its vectors have."""
    settings = examined.settings.all_embedders[name]
    told = f"{settings.backend} {settings.model_name}"
    try:
        vector = await examined.app.embedders.named(name).embed_query(TEXT)
    except EmbedderFailed as error:
        examined.every_embedder_answers = False
        return failure(f"embedder {name}", error.message, _remedy(name, settings.backend, error.hint))
    except Error as error:
        return failure(f"embedder {name}", f"{told}: {error.message}", error.hint or "run doctor again")
    return ok(f"embedder {name}", f"{told} answers, dimension {len(vector)}")


def _remedy(name: str, backend: EmbedderBackend, hint: str) -> str:
    if name != "default":
        return f"{hint}; check [embedders.{name}] of the TOML file"
    if backend is EmbedderBackend.OPENAI:
        return f"{hint}; check --embed-base-url, --embed-model and --embed-api-key"
    return hint or "check --embed-model and --embed-model-dir"


async def check_bindings(examined: Examined) -> Finding | None:
    """Whether the bound vector fields of some collections were made by an embedder that is configured."""
    app, db_name = examined.app, examined.settings.db_name
    if examined.backend is None or not examined.every_embedder_answers:
        return None
    fields = 0
    try:
        async with app.clients.client(db_name) as client:
            names = sorted(await client.list_collections())[:LOOKED_AT]
        for name in names:
            bindings = app.bindings(db_name, await app.schemas.get(db_name, name))
            fields += len(bindings)
            for binding in bindings.values():
                await app.embedders.bound(binding)
    except Conflict as error:
        return failure("bound collections", error.message, error.hint)
    except (EmbedderFailed, NotFound):
        return None  # which is said of the embedder itself, and of the database
    except Error as error:
        return warning("bound collections", error.message, error.hint or "configure the embedder that made them")
    return ok("bound collections", f"{fields} vector fields made by configured embedders") if fields else None
