"""The real Milvus 2.3.5, standalone, on one loopback port: for tests/live and for people.

    python tools/milvus_server.py [--port 0] [--auth]

Prints its uri once it answers, and runs until SIGTERM, SIGINT or, when that is a pipe or a terminal, the end of its
standard input; then it wipes its data. Each line of standard input is a command, answered by one line when it is done:

    kill     ends Milvus at once (SIGKILL: after SIGTERM it takes minutes); the port refuses connections    -> killed
    start    starts it again, on the same port and the same data                                            -> its uri

Milvus listens on all interfaces, on a dozen ports. So this process binds its one loopback port and then moves into a
network namespace of its own, where it starts Milvus. A socket stays in the namespace that it was made in: what arrives
there is relayed to Milvus, and nothing else of Milvus can be reached. Exit code 69: this machine cannot do that.
"""

import argparse
import asyncio
import ctypes
import lzma
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EX_UNAVAILABLE = 69
LOOPBACK = "127.0.0.1"
METRICS_PORT = 9091
START_SECONDS = 90
CHUNK = 256 * 1024


class CannotRun(Exception):
    """This machine cannot run Milvus 2.3.5 behind one loopback port; the message says why."""


class MilvusFailed(Exception):
    """Milvus ended, or did not answer in time; the message has the end of its log."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Starts the real Milvus 2.3.5 behind one loopback port.")
    parser.add_argument("--port", type=int, default=0, help="the port of 127.0.0.1 (default: any free one)")
    parser.add_argument("--auth", action="store_true", help="with accounts: root, whose password is Milvus")
    options = parser.parse_args()
    try:
        check_machine()
        door = bind(options.port)
        enter_own_network()
        folder = folder_of_this_process()
        proxy_port = install(folder, accounts=options.auth)
        asyncio.run(serve(RealMilvus(folder, proxy_port, door)))
    except CannotRun as reason:
        print(reason, file=sys.stderr)
        return EX_UNAVAILABLE
    except MilvusFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


# The network


def check_machine() -> None:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise CannotRun("Milvus 2.3.5 is packaged for Linux on x86_64 only")
    if find_spec("milvus") is None:
        raise CannotRun("the package milvus==2.3.5 is not installed")


def bind(port: int) -> socket.socket:
    """A socket bound to 127.0.0.1, which does not listen yet.

    A port that the kernel chose is lost when its socket stops listening, a port that was asked for is not: so a free
    one is looked up and then asked for.
    """
    if not port:
        with socket.create_server((LOOPBACK, 0)) as free:
            port = free.getsockname()[1]
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind((LOOPBACK, port))
    return door


def enter_own_network() -> None:
    """Moves this process into a network that has nothing in it but a loopback interface."""
    new_network, new_user = 0x40000000, 0x10000000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_network) and libc.unshare(new_user | new_network):
        raise CannotRun(f"no network namespace for Milvus: {os.strerror(ctypes.get_errno())}")
    try:
        bring_up_loopback()
    except OSError as error:
        raise CannotRun(f"no loopback interface in a network namespace: {error.strerror}") from error


def bring_up_loopback() -> None:
    import fcntl

    get_flags, set_flags, up, request = 0x8913, 0x8914, 1, "16sh"  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP, struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        _, flags = struct.unpack(request, fcntl.ioctl(any_socket, get_flags, struct.pack(request, b"lo", 0)))
        fcntl.ioctl(any_socket, set_flags, struct.pack(request, b"lo", flags | up))


# Milvus


def folder_of_this_process() -> Path:
    """A folder that is wiped when this process ends, however it ends: then the kernel closes the pipe."""
    folder = tempfile.mkdtemp(prefix="milvus-2.3.5-")
    wipe = 'read -r _; for _ in 1 2 3 4 5; do rm -rf "$0" && break; sleep 1; done'
    end, _kept_open = os.pipe()
    subprocess.Popen(["/bin/sh", "-c", wipe, folder], stdin=end, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)
    return Path(folder)


def install(folder: Path, *, accounts: bool) -> int:
    """The port that Milvus's proxy will listen on, once its binaries and configuration are in the folder: some 3 s."""
    milvus: Any = import_module("milvus")  # untyped, and installed only where it runs
    packed = files("milvus") / "data" / "bin"
    (folder / "bin").mkdir()
    with ThreadPoolExecutor() as threads:
        for name, binary in [(file.name, file.read_bytes()) for file in packed.iterdir()]:
            threads.submit(unpack, binary, folder / "bin" / name.removesuffix(".lzma"))
    config = milvus.MilvusServerConfig(data_dir=str(folder))
    config.set("authorization_enabled", accounts)
    config.resolve()
    return int(config.get("proxy_port"))


def unpack(binary: bytes, target: Path) -> None:
    target.write_bytes(lzma.decompress(binary))
    target.chmod(0o755)


class RealMilvus:
    """A Milvus process that may be killed and started again behind one address, with its data kept."""

    def __init__(self, folder: Path, proxy_port: int, door: socket.socket) -> None:
        self.uri = f"http://{LOOPBACK}:{door.getsockname()[1]}"
        self._folder = folder
        self._log = folder / "logs" / "milvus.log"
        self._proxy_port = proxy_port
        self._door = door
        self._process: Process | None = None
        self._relay: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises MilvusFailed when Milvus does not answer within START_SECONDS."""
        self._process = await self._spawn()
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await answers(self._proxy_port):
                    if self._process.returncode is not None:
                        raise self._failed(f"ended with {self._process.returncode}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise self._failed(f"did not answer within {START_SECONDS} s") from None
        self._relay = await asyncio.start_server(self._connect, sock=self._door.dup(), limit=CHUNK)

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._relay is not None:
            self._relay.close()
            self._relay = None
            self._door.shutdown(socket.SHUT_RDWR)  # connections are refused from now on, and the port stays ours

    async def _spawn(self) -> Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(self._folder / "bin" / "milvus", "run", "standalone"),
                cwd=self._folder,
                env={
                    "DEPLOY_MODE": "STANDALONE",
                    "METRICS_PORT": str(METRICS_PORT),
                    "TMPDIR": str(self._folder),
                    "LD_LIBRARY_PATH": str(self._folder / "bin"),
                },
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _failed(self, what: str) -> MilvusFailed:
        return MilvusFailed(f"Milvus {what}; its log ends:\n{self._log.read_text(errors='replace')[-4000:]}")

    async def _connect(self, client: StreamReader, to_client: StreamWriter) -> None:
        try:
            milvus, to_milvus = await asyncio.open_connection(LOOPBACK, self._proxy_port, limit=CHUNK)
        except OSError:
            to_client.close()
        else:
            await asyncio.gather(pump(client, to_milvus), pump(milvus, to_client))


def die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


async def answers(proxy_port: int) -> bool:
    """Whether Milvus carries out requests: its port accepts connections much earlier."""
    request = b"GET /v1/vector/collections HTTP/1.0\r\nAuthorization: Bearer root:Milvus\r\n\r\n"
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(LOOPBACK, proxy_port)
            writer.write(request)
            answer = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in answer


async def pump(source: StreamReader, sink: StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await source.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
    sink.close()


# The commands


async def serve(milvus: RealMilvus) -> None:
    """Returns when standard input ends or a signal comes."""
    serving = asyncio.ensure_future(obey_commands(milvus))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving
    await milvus.kill()


async def obey_commands(milvus: RealMilvus) -> None:
    print(await obey("start", milvus), flush=True)
    async for command in commands():
        print(await obey(command, milvus), flush=True)


async def obey(command: str, milvus: RealMilvus) -> str:
    match command:
        case "start":
            await milvus.start()
            return milvus.uri
        case "kill":
            await milvus.kill()
            return "killed"
        case _:
            return f"{command!r} is not a command; kill and start are"


async def commands() -> AsyncIterator[str]:
    if not (sys.stdin.isatty() or stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)):
        await asyncio.Event().wait()  # nobody is there: only a signal ends it
    lines = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        yield line.decode().strip()


if __name__ == "__main__":
    sys.exit(main())
