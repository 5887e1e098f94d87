import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """pymilvus's async client runs on asyncio only."""
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-support", action="store_true", help="write what works on which backend to tools/")
