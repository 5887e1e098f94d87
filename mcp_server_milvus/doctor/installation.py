"""What is on this machine: packages, settings, folders, disk."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, SecretStr

from mcp_server_milvus import __version__
from mcp_server_milvus.audit import STDERR
from mcp_server_milvus.doctor.finding import Examined, Finding, failure, ok, warning
from mcp_server_milvus.dropped import kept_entities
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.vocabulary import EmbedderBackend

DISTRIBUTION = "mcp-server-milvus"
ALWAYS_SHOWN = ("uri", "token", "db_name", "data_dir", "transport", "toolsets", "read_only", "confirm", "embedder")
GIGABYTE, MEGABYTE = 2**30, 2**20
SCARCE, TOO_LITTLE = GIGABYTE, 100 * MEGABYTE
"""Free bytes of a disk below which there is a warning, and below which nothing can be relied on."""

REMOTE = frozenset({"9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"})
"""File systems on which locks and memory maps do not work as on a disk."""

REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*([^;]*)")
BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")


def packages() -> Finding:
    """Whether this Python and what is installed are within the bounds that the package itself declares."""
    seen = f"mcp-server-milvus {__version__}, Python {platform.python_version()}"
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return warning("packages", f"{seen}; run from its source", f"pip install {DISTRIBUTION}")
    needed = [REQUIREMENT.match(each) for each in required if "extra ==" not in each]
    versions = {found[1]: (_installed(found[1]), found[2]) for found in needed if found}
    wrong = [
        f"{name} {version or 'is missing'} (needs {bounds.strip()})"
        for name, (version, bounds) in versions.items()
        if not version or not _fits(version, bounds)
    ]
    if wrong:
        return failure("packages", "; ".join(wrong), f"pip install --upgrade {DISTRIBUTION}")
    return ok("packages", ", ".join([seen, *(f"{name} {version}" for name, (version, _) in versions.items())]))


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fits(version: str, bounds: str) -> bool:
    """Whether a version is within bounds like `>=2.3,<3`."""
    found = _numbers(version)
    return all(
        (found >= _numbers(bound)) if relation == ">=" else (found < _numbers(bound))
        for relation, bound in BOUND.findall(bounds)
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


async def check_extras(examined: Examined) -> Finding | None:
    """Whether the extras are there that the settings need."""
    settings = examined.settings
    wanted: dict[str, str] = {}
    if any(each.backend is EmbedderBackend.FASTEMBED for each in settings.all_embedders.values()):
        wanted["local"] = "fastembed"
    if settings.metrics_port or settings.metrics_token.get_secret_value():
        wanted["metrics"] = "prometheus_client"
    missing = [extra for extra, module in wanted.items() if not importlib.util.find_spec(module)]
    if missing:
        command = f"pip install '{DISTRIBUTION}[{','.join(missing)}]'"
        return failure("extras", f"the settings need what is not installed: {', '.join(missing)}", command)
    return ok("extras", ", ".join(wanted)) if wanted else None


def settings_in_force(settings: Settings, origins: dict[str, str]) -> Iterator[Finding]:
    """The settings that matter most, and all that are set somewhere, each with where."""
    for name in type(settings).model_fields:
        if name in origins or name in ALWAYS_SHOWN:
            yield ok(f"setting {name}", f"{shown(getattr(settings, name))} ({origins.get(name, 'default')})")


def shown(value: Any) -> str:
    """The value of a setting; of a secret, whether there is one."""
    match value:
        case SecretStr():
            return "set" if value.get_secret_value() else "not set"
        case BaseModel():
            fields = type(value).model_fields
            return ", ".join(
                f"{name} {shown(getattr(value, name))}" for name in fields if name in value.model_fields_set
            )
        case dict():
            return "; ".join(f"{name}: {shown(each)}" for name, each in value.items()) or "none"  # pyright: ignore[reportUnknownVariableType]
        case bool():
            return "on" if value else "off"
        case _:
            return str(value) if value not in ("", None) else "empty"


async def check_data_folder(examined: Examined) -> Finding:
    """Whether the folder is there or can be made, is written by its owner alone, and is on a disk of this machine."""
    return await anyio.to_thread.run_sync(_data_folder, _data(examined), abandon_on_cancel=True)


def _data(examined: Examined) -> Path:
    return examined.settings.embedded_dir or examined.settings.data_dir.expanduser().absolute()


def _data_folder(data: Path) -> Finding:
    another = "make it a folder that this user may write to, or choose another with --data-dir"
    there = _existing(data)
    if not there.is_dir():
        return failure("data folder", f"{there} is a file, not a folder", another)
    if problem := _unwritable(there):
        return failure("data folder", f"{there} cannot be written: {problem}", another)
    if (kind := _file_system(there)) in REMOTE:
        local = "choose a folder on a disk of this machine with --data-dir"
        return warning("data folder", f"{data} is on {kind}, where locks may not hold", local)
    if there != data:
        return ok("data folder", f"{data} (made when it is first needed)")
    if sys.platform != "win32" and stat.S_IMODE(data.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        return warning("data folder", f"others than its owner may look into {data}", f"chmod 700 {data}")
    return ok("data folder", str(data))


def _existing(path: Path) -> Path:
    """The path, or the nearest above it that there is."""
    return next(each for each in (path, *path.parents) if os.path.lexists(each))


def _unwritable(folder: Path) -> str:
    """Why nothing can be written there; empty when it can."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"doctor")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _file_system(folder: Path) -> str:
    """Its kind, where the system tells cheaply."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    found = [line.split()[1:3] for line in mounts.read_text("utf-8", "replace").splitlines()]
    above = [(len(place), kind) for place, kind in found if folder.resolve().is_relative_to(place)]
    return max(above, default=(0, ""))[1]


async def check_disk(examined: Examined) -> Finding:
    """How much room the disk of the data folder has left."""
    there = _existing(_data(examined))
    try:
        free = (await anyio.to_thread.run_sync(shutil.disk_usage, there, abandon_on_cancel=True)).free
    except OSError as error:
        return warning("disk", f"unknown: {error.strerror}", "see the data folder")
    said = f"{free / GIGABYTE:.1f} GB free for {there}"
    make_room = "make room, or choose a folder on another disk with --data-dir"
    if free < TOO_LITTLE:
        return failure("disk", said, make_room)
    return warning("disk", said, make_room) if free < SCARCE else ok("disk", said)


async def check_undo(examined: Examined) -> Finding | None:
    """How much of the room for deleted entities is used."""
    settings = examined.settings
    if settings.undo is False or (settings.undo is None and settings.embedded_dir is None):
        return None
    room = await anyio.to_thread.run_sync(lambda: kept_entities(examined.app).room, abandon_on_cancel=True)
    used = settings.undo_megabytes - room // MEGABYTE
    said = f"{used} of {settings.undo_megabytes} MB of deleted entities kept"
    if room < settings.undo_megabytes * MEGABYTE // 10:
        return warning("undo", said, "purge_dropped makes room, or raise --undo-megabytes")
    return ok("undo", said)


async def check_files(examined: Examined) -> Finding | None:
    """Whether files can be written where export_file may."""
    folders = examined.settings.file_folders
    for folder in folders:
        if problem := await anyio.to_thread.run_sync(_unwritable, folder, abandon_on_cancel=True):
            remedy = "give this user the right to write there; importing works without it"
            return warning("files folder", f"{folder} cannot be written: {problem}", remedy)
    return ok("files folder", os.pathsep.join(map(str, folders))) if folders else None


async def check_audit(examined: Examined) -> Finding | None:
    """Whether the audit log can be written, without which no call that changes something runs."""
    audit = examined.settings.audit
    return None if audit in ("", STDERR) else await anyio.to_thread.run_sync(_audit, audit, abandon_on_cancel=True)


def _audit(audit: str) -> Finding:
    path = Path(audit).expanduser().absolute()
    remedy = "choose a file that this user may write with --audit: no call that changes something runs without it"
    if path.is_dir():
        return failure("audit", f"{path} is a folder", remedy)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return failure("audit", f"{path} cannot be written", remedy)
    return ok("audit", str(path))
