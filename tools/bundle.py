"""Builds mcp-server-milvus.mcpb, the bundle that Claude Desktop installs by a double click.

It holds the wheel; everything else is fetched by the host's uv on the user's machine, in the versions of
requirements-runtime.lock. Built twice from the same source, it is the same to the byte.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from mcp_server_milvus import __version__
from mcp_server_milvus.policy import Policy
from mcp_server_milvus.settings import PREFIX, Settings
from mcp_server_milvus.tools import TOOLS

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAME: str = PROJECT["name"]

ASKED: dict[str, dict[str, Any]] = {
    "uri": {"type": "string", "title": "Milvus address", "default": ""},
    "token": {"type": "string", "title": "Milvus token", "sensitive": True, "default": ""},
    "db_name": {"type": "string", "title": "Milvus database", "default": ""},
    "data_dir": {"type": "directory", "title": "Data folder", "default": ""},
    "files_dir": {"type": "directory", "title": "Folder for import and export", "default": ""},
    "read_only": {"type": "boolean", "title": "Read only", "default": False},
}
"""The settings that a host asks its user for. None is required; an empty one is not set."""

ENTRY_POINT = "server.py"
SERVER = f'''"""What the host starts."""

import sys

from {NAME.replace("-", "_")}.__main__ import main

sys.exit(main())
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=f"Builds {NAME}.mcpb.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="where it goes; default: dist")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    print(build(folder / f"{NAME}.mcpb"))
    return 0


def build(bundle: Path) -> Path:
    with tempfile.TemporaryDirectory() as built:
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", built]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        [wheel] = Path(built).glob("*.whl")
        files = {
            "LICENSE": (ROOT / "LICENSE").read_bytes(),
            "manifest.json": (json.dumps(manifest(), indent=2, ensure_ascii=False) + "\n").encode(),
            "pyproject.toml": pyproject(wheel.name).encode(),
            ENTRY_POINT: SERVER.encode(),
            wheel.name: wheel.read_bytes(),
        }
    with ZipFile(bundle, "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(entry(name), content)
    return bundle


def entry(name: str) -> ZipInfo:
    """A file that anybody may read, from the day on which zip files begin."""
    info = ZipInfo(name)
    info.external_attr = 0o100644 << 16
    info.compress_type = ZIP_DEFLATED
    return info


def manifest() -> dict[str, Any]:
    """As the bundle's specification 0.4 has it, the first with servers that uv installs."""
    return {
        "manifest_version": "0.4",
        "name": NAME,
        "display_name": "Milvus",
        "version": __version__,
        "description": PROJECT["description"],
        "author": {"name": f"The authors of {NAME}"},
        "license": PROJECT["license"],
        "keywords": PROJECT["keywords"],
        "server": {
            "type": "uv",
            "entry_point": ENTRY_POINT,
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--quiet", "--project", "${__dirname}", f"${{__dirname}}/{ENTRY_POINT}"],
                "env": {PREFIX + name.upper(): f"${{user_config.{name}}}" for name in ASKED},
            },
        },
        "user_config": {
            name: {**asked, "description": f"{Settings.model_fields[name].description}.", "required": False}
            for name, asked in ASKED.items()
        },
        "tools": [
            {"name": tool.name, "description": tool.description}
            for tool in Policy(Settings.model_validate({})).offered(TOOLS)
        ],
        "compatibility": {
            "platforms": ["darwin", "linux", "win32"],
            "runtimes": {"python": PROJECT["requires-python"]},
        },
    }


def pyproject(wheel: str) -> str:
    """What uv installs: the wheel, and of all else the locked versions. A JSON text is a TOML one, too."""
    return f"""\
[project]
name = "{NAME}-bundle"
version = "{__version__}"
requires-python = "{PROJECT["requires-python"]}"
dependencies = ["{NAME}"]

[tool.uv]
package = false
constraint-dependencies = {json.dumps(list(locked()), indent=4)}

[tool.uv.sources]
{NAME} = {{ path = "{wheel}" }}
"""


def locked() -> Iterator[str]:
    """The requirements of the lock, `NAME==VERSION ; MARKER`, without their hashes."""
    lock = (ROOT / "requirements-runtime.lock").read_text("utf-8")
    yield from (found.strip() for found in re.findall(r"^([a-z0-9][^\\\n]*==[^\\\n]*)", lock, re.MULTILINE))


if __name__ == "__main__":
    sys.exit(main())
