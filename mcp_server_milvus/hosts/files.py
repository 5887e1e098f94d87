"""The configuration files of hosts, read and written so that nothing in them can be lost."""

import os
import stat
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mcp_server_milvus.hosts.jsonc import Unreadable

LARGEST = 16 * 2**20
"""Bytes. What is larger is no configuration."""

MARK = "\ufeff"
"""With which some editors on Windows begin a file."""


@dataclass(frozen=True)
class ConfigFile:
    """A file as it was read. `path` is what was asked for; `target` is where links lead."""

    path: Path
    content: bytes | None

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """The file, or none.

        Raises:
            Unreadable: it is something else than a file, or too large, or not UTF-8.
            OSError: it cannot be read.
        """
        if not path.exists():
            return cls(path, None)
        if not path.is_file():
            raise Unreadable("it is not a file")
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Unreadable(f"it has more than {LARGEST // 2**20} MB, which is no configuration")
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise Unreadable(f"it is not UTF-8: byte {error.start}") from None
        return cls(path, content)

    @property
    def text(self) -> str:
        """What it says, without the mark at its beginning; nothing if there is no file."""
        return (self.content or b"").decode().removeprefix(MARK)

    @property
    def target(self) -> Path:
        """The file itself, where the path is a link."""
        return self.path.resolve()

    def write(self, text: str, now: datetime) -> Path | None:
        """Puts the text in its place, at once and with its permissions. Returns the copy of what was there.

        Raises:
            Unreadable: another program has changed the file since it was read.
            OSError: it, or its folder, cannot be written.
        """
        content = (MARK if (self.content or b"").startswith(MARK.encode()) else "").encode() + text.encode()
        self._require_unchanged()
        if self.content is None:
            self.target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _put(self.target, content, None)
            return None
        status = self.target.stat()
        if not status.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(self.target, os.W_OK):
            raise PermissionError(f"{self.target} may not be written")
        backup = _free(self.path.with_name(f"{self.path.name}.backup-{now:%Y%m%d-%H%M%S}"))
        _put(backup, self.content, status)
        _put(self.target, content, status)
        return backup

    def _require_unchanged(self) -> None:
        now = self.path.read_bytes() if self.path.exists() else None
        if now != self.content:
            raise Unreadable("another program has just changed it: try again")


def _free(path: Path) -> Path:
    """The path, or one with a number, at which there is nothing."""
    number, free = 1, path
    while free.exists() or free.is_symlink():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _put(path: Path, content: bytes, like: os.stat_result | None) -> None:
    """The content under the path, all of it or nothing. Only its owner reads what is new: it may hold secrets."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if like:
            _take_after(Path(name), like)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _take_after(path: Path, like: os.stat_result) -> None:
    path.chmod(stat.S_IMODE(like.st_mode))
    if hasattr(os, "chown") and (path.stat().st_uid, path.stat().st_gid) != (like.st_uid, like.st_gid):
        os.chown(path, like.st_uid, like.st_gid)
