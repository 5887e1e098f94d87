import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """pymilvus's async client runs on asyncio only."""
    return "asyncio"
