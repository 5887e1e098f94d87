"""What is released: wheel, source distribution, bundle, listing, image. Installing it is tested by `interop/run.py`."""

import contextlib
import http.client
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Generator
from email import message_from_bytes
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anyio
import jsonschema
import pytest
import yaml
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from mcp_server_milvus import __version__
from mcp_server_milvus.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ \\]+)", re.MULTILINE)

TEXT = {"type": "string", "minLength": 1}
LISTING = {
    "type": "object",
    "required": ["$schema", "name", "description", "version", "packages"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"pattern": r"/schemas/2025-12-11/server\.schema\.json$"},
        "name": {**TEXT, "maxLength": 200, "pattern": r"^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$"},
        "title": {**TEXT, "maxLength": 100},
        "description": {**TEXT, "maxLength": 100},
        "version": {**TEXT, "maxLength": 255, "pattern": r"^\d+\.\d+\.\d+"},
        "packages": {
            "items": {
                "type": "object",
                "required": ["registryType", "identifier", "version", "transport"],
                "additionalProperties": False,
                "properties": {
                    "registryType": {"const": "pypi"},
                    "identifier": TEXT,
                    "version": {"pattern": r"^\d+\.\d+\.\d+"},
                    "runtimeHint": {"enum": ["uvx"]},
                    "transport": {"const": {"type": "stdio"}},
                    "environmentVariables": {
                        "items": {
                            "type": "object",
                            "required": ["name", "description"],
                            "additionalProperties": False,
                            "properties": {
                                "name": {"pattern": "^[A-Z_]+$"},
                                "description": TEXT,
                                "format": {"enum": ["string", "number", "boolean", "filepath"]},
                                "isSecret": {"type": "boolean"},
                                "default": TEXT,
                            },
                        }
                    },
                },
            }
        },
    },
}
"""What the registry's schema of 2025-12-11 asks of the parts that we use; stricter where it allows more."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("built")
    build(ROOT, folder)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def build(source: Path, folder: Path, *options: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder), *options]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)


def test_the_wheel_has_the_package_and_the_licence_and_nothing_else(built: tuple[Path, Path]) -> None:
    with ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        info = f"mcp_server_milvus-{__version__}.dist-info"
        metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mcp_server_milvus").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    own = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    assert names == package | own
    assert (metadata["Version"], metadata["License-Expression"]) == (__version__, "Apache-2.0")
    assert "mcp-name: " in metadata.get_payload()
    unconditional = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert len(unconditional) == len(PROJECT["dependencies"])


def test_the_source_distribution_builds_the_same_wheel_to_the_byte(built: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    assert {"tests", "tools", "Makefile", "requirements.lock", "LICENSE"} <= {path.name for path in source.iterdir()}
    build(source, tmp_path, "--target", "wheel")
    assert (tmp_path / built[0].name).read_bytes() == built[0].read_bytes()


def test_what_an_image_and_a_bundle_pin_is_what_the_tests_run_with() -> None:
    tested = pins("requirements.lock")
    for lock in ("requirements-runtime.lock", "requirements-build.lock"):
        assert pins(lock) <= tested
        assert "://" not in (ROOT / lock).read_text("utf-8")
    needed = {re.split(r"[<>=\[ ;]", each)[0] for each in PROJECT["dependencies"]}
    assert needed <= {name for name, _ in pins("requirements-runtime.lock")}


def pins(lock: str) -> set[tuple[str, str]]:
    return set(PINNED.findall((ROOT / lock).read_text("utf-8")))


# The bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    archives = [Path(runpy.run_path(str(ROOT / "tools" / "bundle.py"))["build"](folder / name)) for name in "ab"]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with ZipFile(archives[0]) as archive:
        for name in archive.namelist():
            archive.extract(name, folder / "installed")
    return folder / "installed"


def test_a_bundle_has_what_it_says_and_pins_all_that_it_needs(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    project = tomllib.loads((bundle / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["uv"]["sources"]["mcp-server-milvus"]["path"]
    files = {"LICENSE", "manifest.json", "pyproject.toml", manifest["server"]["entry_point"], wheel}
    assert {path.name for path in bundle.iterdir()} == files
    assert manifest["version"] == project["project"]["version"] == __version__
    constraints = {tuple(re.split("==| ;", each)[:2]) for each in project["tool"]["uv"]["constraint-dependencies"]}
    assert constraints == pins("requirements-runtime.lock")
    secrets = {name for name in manifest["user_config"] if "SecretStr" in str(Settings.model_fields[name].annotation)}
    assert {name for name, asked in manifest["user_config"].items() if asked.get("sensitive")} == secrets == {"token"}


@pytest.mark.anyio
@pytest.mark.parametrize("given", [{}, {"read_only": True, "uri": "", "data_dir": ""}, {"uri": None, "db_name": None}])
async def test_a_bundle_starts_with_whatever_its_user_left_empty(
    bundle: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    config = manifest["server"]["mcp_config"]
    asked = {name: each["default"] for name, each in manifest["user_config"].items()} | given
    said = {f"user_config.{name}": as_text(value) for name, value in asked.items() if value is not None}
    args = [substituted(each, {"__dirname": str(bundle)}) for each in config["args"]]
    environ = {name: substituted(value, said) for name, value in config["env"].items()}
    assert (config["command"], args) == ("uv", ["run", "--quiet", "--project", str(bundle), f"{bundle}/server.py"])
    # As uv would, but with what is installed here.
    server = StdioServerParameters(
        command=sys.executable, args=args[-1:], env={**environ, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path)}
    )
    with anyio.fail_after(60):
        async with Client(stdio_client(server)) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
    listed = {tool["name"] for tool in manifest["tools"]}
    assert (names < listed and "search" in names) if given.get("read_only") else names == listed


def as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def substituted(text: str, said: dict[str, str]) -> str:
    """As a host does it: what nobody gave stays as it is written."""
    return re.sub(r"\$\{([^}]+)\}", lambda found: said.get(found[1], found[0]), text)


def test_only_a_placeholder_of_a_host_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILVUS_TOKEN", "${user_config.token}")
    monkeypatch.setenv("MILVUS_MCP_DB_NAME", "${user_config.db_name}")
    monkeypatch.setenv("MILVUS_MCP_USER", "x${user_config.user}")
    settings = load_settings({})
    assert (settings.token.get_secret_value(), settings.db_name) == ("", "default")
    assert settings.user == "x${user_config.user}"


# The listing


def test_the_listing_fits_the_registry_and_names_settings_that_there_are() -> None:
    listing = json.loads((ROOT / "server.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(LISTING).validate(listing)
    [package] = listing["packages"]
    assert listing["version"] == package["version"] == __version__
    assert package["identifier"] == PROJECT["name"]
    assert f"mcp-name: {listing['name']}" in (ROOT / "README.md").read_text("utf-8")
    fields = {PREFIX + name.upper(): str(field.annotation) for name, field in Settings.model_fields.items()}
    for variable in package["environmentVariables"]:
        assert variable.get("isSecret", False) == ("SecretStr" in fields[variable["name"]])


# The image


def test_the_image_is_built_from_what_is_pinned_and_runs_as_nobody_special() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert stages == ["python:3.13-slim-bookworm"] * 2
    installs = re.findall(r"pip install ([^&\n]+)", DOCKERFILE)
    assert all("--no-deps" in each and ("--require-hashes" in each or "dist/*.whl" in each) for each in installs)
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE)
    assert {"VOLUME /data", 'ENTRYPOINT ["mcp-server-milvus"]'} <= set(last.splitlines())
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_compose_publishes_nothing_beyond_loopback_and_waits_for_what_it_needs() -> None:
    services = COMPOSE["services"]
    images = {name: service["image"] for name, service in services.items() if "build" not in service}
    assert all(re.search(r":(v|RELEASE\.)\d", image) for name, image in images.items() if name != "token")
    assert {port for service in services.values() for port in service.get("ports", [])} == {"127.0.0.1:8000:8000"}
    waited = {
        (needed, how["condition"])
        for service in services.values()
        for needed, how in service.get("depends_on", {}).items()
    }
    assert waited == {(name, "service_healthy") for name in ("milvus", "etcd", "minio")}
    assert all("healthcheck" in services[name] for name, _ in waited)
    assert {each.partition(":")[0] for service in services.values() for each in service.get("volumes", [])} == set(
        COMPOSE["volumes"]
    )


def test_the_settings_of_compose_start_a_server_that_asks_for_its_token_and_is_healthy(tmp_path: Path) -> None:
    made = command(["token", "me"], tmp_path, {})
    (tmp_path / "tokens.toml").write_text(made.stdout)
    token = made.stderr.split()[-1]
    settings = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in in_compose().items()}
    settings |= {"MILVUS_MCP_AUTH_TOKENS": "tokens.toml", "MILVUS_MCP_URI": "http://127.0.0.1:1"}
    with served(tmp_path, settings) as (port, environ):
        assert healthy(environ)
        assert status(port, "") == 401
        assert status(port, token) == 200
    assert not healthy(environ)
    assert healthy({name: value for name, value in environ.items() if name != "MILVUS_MCP_TRANSPORT"})


def in_compose() -> dict[str, str]:
    return COMPOSE["services"]["mcp"]["environment"]


def command(arguments: list[str], folder: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    ours = [sys.executable, "-m", "mcp_server_milvus", *arguments]
    environ = environment(settings, folder)
    return subprocess.run(ours, cwd=folder, env=environ, check=True, capture_output=True, text=True, timeout=60)


def environment(settings: dict[str, str], folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILVUS_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "MILVUS_MCP_DATA_DIR": str(folder / "data"), **settings}


@contextlib.contextmanager
def served(folder: Path, settings: dict[str, str]) -> Generator[tuple[int, dict[str, str]]]:
    """The port of a server with these settings, and its environment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environ = environment({**settings, "MILVUS_MCP_PORT": str(port)}, folder)
    ours = [sys.executable, "-m", "mcp_server_milvus"]
    with subprocess.Popen(ours, cwd=folder, env=environ, stderr=subprocess.PIPE) as server:
        try:
            wait_for(server, port)
            yield port, environ
        finally:
            server.terminate()
            server.communicate(timeout=30)


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(600):
        assert server.poll() is None, server.communicate()
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    pytest.fail("it does not listen")


def healthy(environ: dict[str, str]) -> bool:
    """What the image's health check says, run as it is written there."""
    written = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert written
    python, *arguments = json.loads(written[1])
    assert python == "python"
    asked = [sys.executable, *arguments]
    return subprocess.run(asked, env=environ, check=False, capture_output=True, timeout=30).returncode == 0


def status(port: int, token: str) -> int:
    """Of an `initialize` with this token."""
    asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": asked}).encode()
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(asking):
        asking.request("POST", "/mcp", body, headers)
        return asking.getresponse().status
