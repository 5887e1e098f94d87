"""What calls leave behind: nothing that has to wait for the garbage collector."""

import contextlib
import gc
import io
import logging
import subprocess
import sys
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult

from mcp_server_milvus.app import App, open_app
from mcp_server_milvus.calls import LOGGER, call
from mcp_server_milvus.garbage import OBJECTS_BETWEEN_LOOKS, without_frames
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.tool import Output, tool
from mcp_server_milvus.tools import TOOLS
from mcp_server_milvus.tools.entities import InsertInput
from mcp_server_milvus.vocabulary import Effect, Toolset
from tests.agent import UNATTENDED

FIELDS = [{"name": "id", "type": "INT64", "is_primary": True}, {"name": "vector", "type": "FLOAT_VECTOR", "dim": 2}]
GOOD = {"id": 1, "vector": [1, 2]}
REFUSED: dict[str, dict[str, Any]] = {
    "it does not fit the collection": {"collection_name": "refusing", "data": [{"id": 2, "vector": [1]}]},
    "it is there already": {"collection_name": "refusing", "data": [GOOD]},
    "there is no such collection": {"collection_name": "nowhere", "data": [GOOD]},
    "it is no argument": {"collection_name": "refusing", "data": [GOOD], "colour": "red"},
}


class Entities(list[Any]):
    """What a call is given, and can be looked for afterwards."""


@contextlib.contextmanager
def nothing_collected() -> Generator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@tool(toolset=Toolset.DATA, effect=Effect.READ)
async def fails(app: App, args: InsertInput) -> Output:
    """Has a fault."""
    failure = ValueError(f"{app.settings.db_name} has nothing to do with {args.data}")
    raise failure


@pytest.mark.anyio
@pytest.mark.parametrize("why", REFUSED)
async def test_a_refused_call_lets_go_of_what_it_was_given(why: str, tmp_path: Path) -> None:
    tools = {tool.name: tool for tool in TOOLS}
    async with open_app(Settings.model_validate({"data_dir": tmp_path} | UNATTENDED)) as app:
        await call(tools["create_collection"], app, {"collection_name": "refusing", "fields": FIELDS})
        await call(tools["insert"], app, {"collection_name": "refusing", "data": [GOOD]})
        with nothing_collected():
            data = Entities(REFUSED[why]["data"])
            given = weakref.ref(data)
            outcome = await call(tools["insert"], app, REFUSED[why] | {"data": data})
            del data
            assert isinstance(outcome, CallToolResult)
            assert outcome.is_error
            assert given() is None


@pytest.mark.anyio
async def test_a_fault_of_ours_is_logged_with_its_place_and_lets_go_of_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    monkeypatch.setattr(LOGGER, "propagate", False)  # pytest keeps what is logged
    monkeypatch.setattr(LOGGER, "handlers", [logging.StreamHandler(log)])
    async with open_app(Settings.model_validate({"data_dir": tmp_path} | UNATTENDED)) as app:
        with nothing_collected():
            data = Entities([GOOD])
            given = weakref.ref(data)
            outcome = await call(fails, app, {"collection_name": "refusing", "data": data})
            del data
            assert isinstance(outcome, CallToolResult)
            assert outcome.structured_content
            assert outcome.structured_content["code"] == "internal"
            assert "raise failure" in log.getvalue()
            assert given() is None


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    with contextlib.suppress(Exception):
        raise error from cause
    return error


def test_frames_are_let_go_of_all_that_an_error_comes_from() -> None:
    parts = [raised(ValueError("a part")), raised(ValueError("another"))]
    group = raised(ExceptionGroup("some", parts))
    meanwhile = raised(LookupError("while something else was handled"))
    error = raised(KeyError("a key"), group)
    error.__context__ = meanwhile
    meanwhile.__context__ = error
    errors = [error, group, meanwhile, *parts]
    assert all(each.__traceback__ for each in errors)
    without_frames(error)
    assert not any(each.__traceback__ for each in errors)


def test_a_server_looks_for_garbage_seldom_and_importing_it_changes_nothing(tmp_path: Path) -> None:
    program = """
import gc, anyio
usual = gc.get_threshold()[0]
from mcp_server_milvus.commands import serve
from mcp_server_milvus.settings import Settings
before = gc.get_threshold()[0]
anyio.run(serve, Settings())
print(before - usual, gc.get_threshold()[0])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert done.stdout.split() == [b"0", str(OBJECTS_BETWEEN_LOOKS).encode()]
