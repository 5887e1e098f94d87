"""What every test may use."""

import argparse
import subprocess
import sys
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """pymilvus's async client runs on asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
async def one_event_loop(anyio_backend: str) -> None:
    """Keeps it open: what gRPC still has to say of a connection when its loop is closed would fail another test."""
    del anyio_backend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "one_event_loop")


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of an embedder with a real model in a local folder."""
    folder = tmp_path_factory.mktemp("minilm")
    script = Path(__file__).parents[1] / "tools" / "minilm.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return {
        "embedder": "fastembed",
        "embed_model": "sentence-transformers/all-MiniLM-L6-v2",
        "embed_model_dir": str(folder),
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-support", action="store_true", help="write what works on which backend to tools/")
    parser.addoption(
        "--fuzz-calls", type=_at_least_1, default=500, help="calls of each tool that is fuzzed (default: 500)"
    )
    parser.addoption("--flood-seconds", type=_at_least_1, default=180, help="how long floods last (default: 180)")


def _at_least_1(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} would test nothing")
    return number
