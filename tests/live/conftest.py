"""The real Milvus 2.3.5. Where it cannot run, its tests are skipped, with the reason."""

import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import anyio.to_thread
import pytest

MILVUS_SERVER = Path(__file__).parents[2] / "tools" / "milvus_server.py"
CANNOT_RUN_HERE = 69


@pytest.fixture(scope="session")
def milvus_235(milvus_235_server: "RealMilvus") -> str:
    """Its uri. One server for all tests: they give their collections names of their own."""
    return milvus_235_server.uri


@pytest.fixture(scope="session")
def milvus_235_server() -> Iterator["RealMilvus"]:
    with real_milvus() as server:
        yield server


@pytest.fixture(scope="session")
def milvus_235_with_accounts() -> Iterator[str]:
    """The uri of another, whose only account is `root:Milvus`."""
    with real_milvus("--auth") as server:
        yield server.uri


@pytest.fixture
def mortal_milvus_235() -> Iterator["RealMilvus"]:
    """A server of this test's own, to kill and to start again."""
    with real_milvus() as server:
        yield server


class RealMilvus:
    def __init__(self, process: subprocess.Popen[str], uri: str) -> None:
        self.uri = uri
        self.process = process

    async def kill(self) -> None:
        """Returns once its address refuses connections. Its data is kept."""
        assert await anyio.to_thread.run_sync(self._ask, "kill") == "killed"

    async def start(self) -> None:
        """Returns once it answers at the same address: some 8 s after a kill."""
        assert await anyio.to_thread.run_sync(self._ask, "start") == self.uri

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def _ask(self, command: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def real_milvus(*options: str) -> Generator[RealMilvus]:
    """Leaving ends the server."""
    command = [sys.executable, str(MILVUS_SERVER), *options]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        uri = process.stdout.readline().strip()
        if not uri:
            reason = process.stderr.read()
            (pytest.skip if process.wait() == CANNOT_RUN_HERE else pytest.fail)(reason)
        try:
            yield RealMilvus(process, uri)
        finally:
            process.terminate()
