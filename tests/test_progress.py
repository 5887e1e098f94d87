"""Progress: whatever takes long says so every two seconds, to a host that asks for it and at a terminal."""

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from google.protobuf.message_factory import GetMessageClass
from mcp.client import Client

from mcp_server_milvus import progress
from mcp_server_milvus.app import open_app
from mcp_server_milvus.milvus.waiting import ReportProgress
from mcp_server_milvus.progress_bar import drawn, shown_progress
from mcp_server_milvus.server import build_server
from mcp_server_milvus.settings import load_settings
from mcp_server_milvus.tools import TOOLS
from tests.agent import UNATTENDED
from tests.fake_milvus import METHODS, FakeMilvus, fake_milvus
from tests.openai_server import Answer, openai_server

pytestmark = pytest.mark.anyio

NAME = "slow_books"
FILTER = {"collection_name": NAME, "filter": 'title == "a"'}
ENTITIES = [{"id": 1, "title": "a", "vector": [0.0, 1.0]}]

LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "aggregate": ("Query", {"collection_name": NAME, "group_by": ["title"]}),
    "build_index": ("CreateIndex", {"collection_name": NAME, "field_name": "title", "index_type": "INVERTED"}),
    "compact": ("ManualCompaction", {"collection_name": NAME}),
    "delete": ("Delete", FILTER),
    "drop_collection": ("DropCollection", {"collection_name": NAME}),
    "export_file": ("Query", {"collection_name": NAME, "path": "out.jsonl"}),
    "flush": ("Flush", {"collection_name": NAME}),
    "import_file": ("Upsert", {"collection_name": NAME, "path": "in.jsonl"}),
    "insert": ("Insert", {"collection_name": NAME, "data": ENTITIES}),
    "load_collection": ("LoadCollection", {"collection_name": NAME}),
    "query": ("Query", FILTER | {"order_by": ["title"]}),
    "refresh_load": ("LoadCollection", {"collection_name": NAME}),
    "release_collection": ("ReleaseCollection", {"collection_name": NAME}),
    "search": ("Search", {"collection_name": NAME, "vector": [0.0, 1.0]}),
    "truncate_collection": ("TruncateCollection", {"collection_name": NAME}),
    "upsert": ("Upsert", {"collection_name": NAME, "data": ENTITIES}),
}
"""Tools that may take long, and the request in which each is held up here."""


@dataclass
class Heard:
    """What a host was told, and whether it was told so while nothing else went on."""

    reports: list[tuple[float, float | None, str | None]] = field(default_factory=list[Any])
    _further: anyio.Event = field(default_factory=anyio.Event)

    async def hear(self, progress: float, total: float | None, message: str | None) -> None:
        self.reports.append((progress, total, message))
        self._further.set()
        self._further = anyio.Event()

    async def more(self, count: int) -> None:
        """Returns after so many further reports; fails when they do not come."""
        wanted = len(self.reports) + count
        with anyio.fail_after(10):
            while len(self.reports) < wanted:
                await self._further.wait()


@pytest.fixture(autouse=True)
def soon() -> Generator[None]:
    """What is said after 1.5 s of silence is said after 0.05."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "SILENCE", 0.05)
        yield


@contextmanager
def held_up(fake: FakeMilvus, rpc: str) -> Generator[tuple[anyio.Event, anyio.Event]]:
    """An event that comes when the request does, and one that lets it be answered."""
    arrived, released = anyio.Event(), anyio.Event()

    async def answer(request: Any) -> Any:
        arrived.set()
        await released.wait()
        usual = getattr(fake, f"_{rpc}", None)
        return usual(request) if usual else GetMessageClass(METHODS[rpc].output_type)()

    fake.answers[rpc] = answer
    yield arrived, released
    del fake.answers[rpc]


async def heard_from(client: Client, tool: str, arguments: dict[str, Any], heard: Heard) -> Any:
    meta: Any = {"progressToken": "t"}
    return await client.call_tool(tool, arguments, meta=meta, progress_callback=heard.hear)


async def test_every_tool_that_may_take_long_says_so_while_milvus_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(ENTITIES[0]) + "\n")
    assert {tool.name for tool in TOOLS} >= LONG.keys()
    async with fake_milvus("2.6.11") as fake:
        chosen = {"uri": fake.uri, "toolsets": "all", "files_dir": str(tmp_path), "data_dir": tmp_path / "data"}
        settings = load_settings(UNATTENDED | chosen)
        async with open_app(settings) as app, Client(build_server(app, TOOLS)) as client:
            for tool, (rpc, arguments) in LONG.items():
                heard = Heard()
                with held_up(fake, rpc) as (arrived, released):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(heard_from, client, tool, arguments, heard)
                        with anyio.fail_after(10):
                            await arrived.wait()
                        await heard.more(3)
                        tasks.cancel_scope.cancel()
                    released.set()
                numbers = [done for done, _, _ in heard.reports]
                assert numbers == sorted(set(numbers)), tool
                assert all(message for *_, message in heard.reports), tool
                assert "s so far" in (heard.reports[-1][2] or ""), tool


async def test_an_insert_of_texts_says_so_while_the_embedder_does_not_answer(tmp_path: Path) -> None:
    slow = Answer(until=anyio.Event())
    async with openai_server() as endpoint:
        embedder = {"embedder": "openai", "embed_model": "bag-of-words", "embed_base_url": endpoint.base_url}
        settings = load_settings(UNATTENDED | embedder | {"data_dir": tmp_path / "data"})
        async with open_app(settings) as app, Client(build_server(app, TOOLS)) as client:
            created = await client.call_tool("create_collection", {"collection_name": NAME, "text_field": "text"})
            assert not created.is_error, created.structured_content
            heard, asked = Heard(), len(endpoint.requests)
            endpoint.next(slow)
            insert = {"collection_name": NAME, "data": [{"text": f"a text {n}"} for n in range(3)]}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(heard_from, client, "insert", insert, heard)
                await endpoint.asked(asked + 1)
                await heard.more(3)
                assert "embedding with" in (heard.reports[-1][2] or "")
                tasks.cancel_scope.cancel()


async def test_progress_goes_up_whatever_a_tool_tells() -> None:
    heard = Heard()

    async def tell(report: ReportProgress) -> None:
        for done in (0, 50, 50, 100, 3):
            await report(done, 100, "working")

    async with progress.kept_up(heard.hear, "load_collection") as report:
        await tell(report)
        await heard.more(1)
    assert [done for done, *_ in heard.reports[:5]] == [0, 50, 50.001, 100, 100.001]
    assert heard.reports[5][2] == "working (0 s so far)"
    assert [progress.is_wanted(meta) for meta in (None, {}, {"progressToken": 0}, {"progress_token": "a"})] == [
        *(False, False, True, True)
    ]


@pytest.mark.parametrize(
    ("columns", "told", "expected"),
    [
        (80, (1, 2, "loading b"), "[############------------]  50%   3 s  loading b"),
        (80, (9, 2, "x\x1b[2J\ny"), "[########################] 100%   3 s  x[2J y"),
        (20, (0, 2, "loading"), "[------------------"),
        (52, (1, 2, "表表表表表表"), "[############------------]  50%   3 s  表表表表表表"),
        (50, (1, 2, "表表表表表表"), "[############------------]  50%   3 s  表表表表表"),
    ],
)
def test_a_bar_fits_its_terminal(columns: int, told: tuple[float, float | None, str], expected: str) -> None:
    assert drawn(columns, *told, 3.0) == expected


def test_a_bar_without_a_total_moves() -> None:
    lines = {drawn(80, 0, None, "", seconds / 10) for seconds in range(100)}
    assert len({line[:26] for line in lines}) == 24
    assert all(line.count("#") == 1 for line in lines)


async def test_nothing_is_shown_in_a_pipe() -> None:
    pipe = StringIO()
    async with shown_progress(pipe) as report:
        assert report is None
    assert pipe.getvalue() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
async def test_a_call_at_a_terminal_shows_a_bar_and_takes_it_back(tmp_path: Path) -> None:
    import pty

    terminal, stderr = pty.openpty()
    async with fake_milvus("2.6.4") as fake:
        with held_up(fake, "ListDatabases") as (_, released):
            command = [sys.executable, "-m", "mcp_server_milvus", "--uri", fake.uri, "--data-dir", str(tmp_path)]
            call = [*command, "call", "list_databases", "{}"]
            async with await anyio.open_process(call, stderr=stderr) as process:
                os.close(stderr)
                shown = await read_until(terminal, b"[")
                released.set()
                assert process.stdout
                printed = b"".join([part async for part in process.stdout])
                shown += await read_until(terminal, b"")
    os.close(terminal)
    assert "databases" in json.loads(printed)
    *_, bar, erasing, rest = shown.decode().split("\r")
    assert rest == ""
    assert erasing.isspace()
    assert len(erasing) >= len(bar)
    assert "\n" not in shown.decode()


async def read_until(terminal: int, wanted: bytes) -> bytes:
    """What is at a terminal up to and with something; all of it for nothing wanted."""
    said = b""
    with anyio.fail_after(30):
        while not (wanted and wanted in said):
            await anyio.wait_readable(terminal)
            try:
                part = os.read(terminal, 4096)
            except OSError:  # nobody writes there any more
                part = b""
            if not part:
                break
            said += part
    return said
