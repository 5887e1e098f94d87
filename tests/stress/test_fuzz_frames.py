"""Bytes that are no messages, or nearly, on stdio and HTTP: each is answered that somebody may wait for."""

import contextlib
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.agent import served
from tests.stress.frames import ENVELOPE, MEGABYTE, Frames, awaits

pytestmark = pytest.mark.anyio

BATCHES, BATCH = 60, 50
BODIES = 1500
PATIENCE = 60
"""Seconds for what takes a hundredth of one."""

LARGEST_ANSWER = 2**27
HELLO = (
    b'{"jsonrpc":"2.0","id":"hello","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
    b'"clientInfo":{"name":"fuzz","version":"0"}}}\n{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
)


class Peer:
    """A client that says what it likes and remembers what it hears."""

    def __init__(self, process: Process, *, modern: bool) -> None:
        assert process.stdin
        assert process.stdout
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._modern = modern
        self._pings = 0
        self.heard: Counter[str | int | None] = Counter()

    async def say(self, data: bytes) -> None:
        await self._stdin.send(data)

    async def hear(self) -> None:
        """The next answer, which is one of JSON-RPC."""
        frame = json.loads(await self._stdout.receive_until(b"\n", LARGEST_ANSWER))
        assert frame["jsonrpc"] == "2.0", frame
        if "method" not in frame:
            assert ("result" in frame) != ("error" in frame), frame
            assert frame.get("error", {}).get("code") != -32603, frame
            self.heard[frame["id"]] += 1

    async def hear_until(self, wanted: Counter[str | int | None]) -> None:
        with anyio.fail_after(PATIENCE):
            while missing := wanted - self.heard:
                with anyio.move_on_after(PATIENCE / 2) as waiting:
                    await self.hear()
                assert not waiting.cancelled_caught, f"no answer to {list(missing)[:5]}"

    async def ping(self) -> None:
        """A request that is whole is answered, whatever came before it."""
        self._pings += 1
        name = f"ping {self._pings}"
        method, params = ("server/discover", ENVELOPE) if self._modern else ("ping", {})
        await self.say(json.dumps({"jsonrpc": "2.0", "id": name, "method": method, "params": params}).encode() + b"\n")
        await self.hear_until(Counter([name]))

    async def close(self) -> None:
        await self._stdin.aclose()


@asynccontextmanager
async def peer_of(data: Path, *, modern: bool) -> AsyncGenerator[Peer]:
    """The only client of a server, which exits 0 at the end of its input and has no fault to tell of."""
    log = data.with_suffix(".log")
    with log.open("wb") as stderr:
        command = [sys.executable, "-m", "mcp_server_milvus", "--data-dir", str(data)]
        async with await anyio.open_process(command, stderr=stderr) as process:
            try:
                peer = Peer(process, modern=modern)
                yield peer
                await peer.close()
                with anyio.fail_after(PATIENCE):
                    assert await process.wait() == 0
            finally:
                if process.returncode is None:
                    process.kill()
    assert b"Traceback" not in log.read_bytes(), log.read_text(errors="replace")


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
async def test_every_line_that_somebody_may_wait_for_is_answered(tmp_path: Path, *, modern: bool) -> None:
    frames = Frames(6, modern=modern)
    async with peer_of(tmp_path / "data", modern=modern) as peer:
        if not modern:
            await peer.say(HELLO)
        for _ in range(BATCHES):
            lines = [frames.next() for _ in range(BATCH)]
            wanted = Counter([request_id for line in lines if (request_id := awaits(line)) is not None])
            before = Counter(peer.heard)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.say, b"".join(line + b"\n" for line in lines))
                await peer.hear_until(before + wanted)
            await peer.ping()


async def test_what_comes_before_the_handshake_does_not_keep_it_from_being_made(tmp_path: Path) -> None:
    frames = Frames(7, modern=False)
    async with peer_of(tmp_path / "data", modern=False) as peer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.say, b"".join(frames.next() + b"\r\n" for _ in range(500)) + HELLO)
            await peer.hear_until(Counter(["hello"]))
        await peer.ping()


async def test_lines_of_many_megabytes_are_answered(tmp_path: Path) -> None:
    head = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"query","arguments":{"filter":"'
    async with peer_of(tmp_path / "data", modern=False) as peer:
        await peer.say(HELLO)
        for number, size in enumerate((MEGABYTE, 64 * MEGABYTE)):
            whole = head % number + b"x" * size + b'"}}}\n'
            await peer.say(whole)
            await peer.say(whole[:-4] + b"\n")
            await peer.hear_until(Counter({"hello": 1, number: 1, None: number + 1}))
        await peer.ping()


JSON_TYPE = ("content-type", "application/json")
BOTH = ("accept", "application/json, text/event-stream")
MODERN = ("mcp-protocol-version", "2026-07-28")
ODD_HEADERS: tuple[tuple[tuple[str, str], ...], ...] = (
    (JSON_TYPE, BOTH),
    (JSON_TYPE, BOTH, MODERN),
    (JSON_TYPE, BOTH, ("mcp-protocol-version", "1999-01-01")),
    (JSON_TYPE, BOTH, MODERN, ("mcp-method", "tools/call"), ("mcp-name", "=?base64?!?=")),
    (JSON_TYPE, BOTH, ("mcp-session-id", "0" * 32)),
    (JSON_TYPE, BOTH, ("mcp-session-id", "\x7f'; --")),
    (JSON_TYPE, BOTH, ("last-event-id", "x" * 5000)),
    (JSON_TYPE,),
    (BOTH,),
    (("content-type", "text/plain"), BOTH),
    (("content-type", "application/json; charset=utf-16"), BOTH),
    (("content-type", ";;;"), ("accept", ";;;,")),
    (JSON_TYPE, ("accept", "image/png")),
    (JSON_TYPE, BOTH, ("content-encoding", "gzip")),
    (JSON_TYPE, BOTH, ("authorization", "Bearer \xff")),
    (JSON_TYPE, BOTH, ("origin", "http://evil.example")),
    (JSON_TYPE, BOTH, ("host", "evil.example")),
)
RAW_REQUESTS = (
    b"\r\n\r\n",
    b"\0" * 1000,
    b"\xff\xfe\xfd\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /health HTTP/9.9\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1" + b"0" * 30 + b"\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX\0: y\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%00%ff%c0%af/../mcp HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    b"POST /messages/?session_id=zzz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /messages/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
)
"""What is sent and followed by the end of the client's half of the connection."""


@pytest.fixture(scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    """Of one server for all of the tests over HTTP, which has no fault to tell of in the end."""
    folder = tmp_path_factory.mktemp("http")
    log = folder / "log"
    async with served("http", "--data-dir", str(folder / "data"), log=log) as url:
        yield url
    assert b"Traceback" not in log.read_bytes(), log.read_text(errors="replace")


async def require_alive(http: httpx2.AsyncClient) -> None:
    whole = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": ENVELOPE}
    headers = encoded((JSON_TYPE, BOTH, MODERN, ("mcp-method", "server/discover")))
    answer = await http.post("/mcp", json=whole, headers=headers)
    assert answer.status_code == 200, answer.text
    assert "result" in answer.json(), answer.text


async def session_of(http: httpx2.AsyncClient) -> str:
    """The id of a new session of the handshake protocol."""
    hello, initialized = HELLO.splitlines()
    answer = await http.post("/mcp", content=hello, headers=encoded((JSON_TYPE, BOTH)))
    session = answer.headers["mcp-session-id"]
    headers = encoded((JSON_TYPE, BOTH, ("mcp-session-id", session)))
    assert (await http.post("/mcp", content=initialized, headers=headers)).status_code == 202
    return session


def fitting(body: bytes, session: str) -> tuple[tuple[str, str], ...]:
    """The headers with which a body goes furthest: those of its session, or what they repeat of a modern one."""
    if session:
        return (JSON_TYPE, BOTH, ("mcp-session-id", session))
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError, AttributeError):
        frame = json.loads(body)
        named = (("mcp-name", str(frame["params"]["name"])),) if frame["method"] == "tools/call" else ()
        headers = (JSON_TYPE, BOTH, MODERN, ("mcp-method", str(frame["method"])), *named)
        return headers if all(value.isprintable() and value.isascii() for _, value in headers) else ODD_HEADERS[1]
    return ODD_HEADERS[1]


@pytest.mark.parametrize("modern", [False, True], ids=["session", "modern"])
async def test_every_body_and_every_header_is_answered(url: str, *, modern: bool) -> None:
    pick = random.Random(8)  # noqa: S311  # no secret
    frames, statuses = Frames(8, modern=modern), Counter[int]()
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as http:
        session = "" if modern else await session_of(http)
        for number in range(BODIES):
            body = frames.next()
            right = fitting(body, session)
            headers = pick.choice((right, right, pick.choice(ODD_HEADERS)))
            path = pick.choice(("/mcp", "/mcp", "/mcp", "/messages/", "/messages/?session_id=" + "0" * 32))
            answer = await http.post(path, content=body, headers=encoded(headers))
            statuses[answer.status_code] += 1
            assert 200 <= answer.status_code < 500, (headers, body[:2000], answer.text)
            assert answer.content or answer.status_code == 202, (headers, body[:2000])
            if number % 100 == 0:
                await require_alive(http)
    print(statuses)
    assert statuses[200] > BODIES // 20
    assert {202, 400, 404} <= statuses.keys()


def encoded(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS", "HEAD", "BREW"])
async def test_every_method_is_answered(url: str, method: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as http:
        for path in ("/mcp", "/mcp/", "/messages/", "/health", "/metrics", "/", "/nothing", "/sse/x"):
            for headers in ODD_HEADERS[1:]:
                async with http.stream(method, path, headers=encoded(headers)) as answer:
                    assert 200 <= answer.status_code < 500, (path, headers)
        await require_alive(http)


@pytest.mark.parametrize("sent", RAW_REQUESTS, ids=range(len(RAW_REQUESTS)))
async def test_what_is_no_request_ends_its_own_connection_only(url: str, sent: bytes) -> None:
    port = int(url.rpartition(":")[2])
    with anyio.fail_after(PATIENCE):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            with contextlib.suppress(anyio.BrokenResourceError):
                await stream.send(sent)
                await stream.send_eof()
                answer = b"".join([chunk async for chunk in stream])
                assert b" 500 " not in answer[:20], answer[:500]
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as http:
        await require_alive(http)
