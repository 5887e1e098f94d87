"""The operator's folders, and files in them: no path, link or swap while a file is opened leads out of a folder.

Where the system can, each part of a path is opened below the one before it and no symbolic link is followed. Elsewhere
(Windows) the file is opened first, and then it is seen whether what was opened lies inside.
"""

import errno
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from mcp_server_milvus.errors import (
    AlreadyExists,
    Denied,
    Error,
    InvalidArgument,
    LimitExceeded,
    MilvusFailed,
    NotFound,
)

WALKS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
"""Whether a file can be opened below an open folder."""

RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(\..*)?", re.IGNORECASE)
"""Names that are devices in every folder of Windows."""

UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs, which no file system takes."""

UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")
ABANDONED_SECONDS = 24 * 3600
"""Age of an unfinished file that nobody writes any more: its server was killed."""

LONGEST_NAME = 255
SHOWN_FILES = 20
LOOKED_AT = 1_000
PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
UNLINKABLE = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


@dataclass(frozen=True)
class _Folder:
    """An open folder below an allowed one. `fd` is None where names are paths."""

    allowed: Path
    path: Path
    fd: int | None

    def at(self, name: str) -> str:
        return name if self.fd is not None else str(self.path / name)

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        opened = os.open(self.at(name), flags | PLAIN, mode, dir_fd=self.fd)
        try:
            if self.fd is None:
                _require_inside(self.allowed, self.path / name, opened)
        except (OSError, Denied):
            os.close(opened)
            if flags & os.O_CREAT:
                os.unlink(self.at(name), dir_fd=self.fd)
            raise
        return opened


@dataclass(frozen=True)
class NewFile:
    """A file that has no name yet."""

    path: str
    file: BinaryIO
    _folder: _Folder
    _unfinished: str
    _name: str
    _overwrite: bool

    def finish(self) -> int:
        """Writes the file out and gives it its name; its size in bytes.

        Raises:
            AlreadyExists: another file has taken the name meanwhile.
        """
        with _explained(self.path):
            size = self.file.tell()
            self.file.flush()
            os.fsync(self.file.fileno())
            if self._folder.fd is None:  # then the folder may be another one by now
                _require_inside(self._folder.allowed, self._folder.path / self._unfinished, self.file.fileno())
            self.file.close()
            if not self._overwrite and self._linked():
                return size
            folder = self._folder
            os.replace(folder.at(self._unfinished), folder.at(self._name), src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
        return size

    def _linked(self) -> bool:
        """Gives the file its name if nothing has it, at once; False where a file cannot have two names."""
        folder = self._folder
        try:
            os.link(folder.at(self._unfinished), folder.at(self._name), src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
        except FileExistsError:
            raise _taken(self.path) from None
        except OSError as failure:
            if failure.errno not in UNLINKABLE:
                raise
            if _exists(folder, self._name):
                raise _taken(self.path) from None
            return False
        return True


@dataclass(frozen=True)
class Folders:
    """The folders that files may be read from and written to."""

    allowed: tuple[Path, ...]

    def open(self, path: str) -> BinaryIO:
        """The file, to be read. The caller closes it.

        Raises:
            Denied: there is no allowed folder, or the path is no plain file in one.
            NotFound: there is no such file; the message lists some that there are.
        """
        for place, parts in self._places(path):
            try:
                with _opened(place, parts[:-1], path) as folder, _explained(path):
                    return _plain_file(folder.open(parts[-1], os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), path)
            except NotFound:
                continue
        raise NotFound(f"path: there is no file {path!r}", hint=self._what_is_there())

    @contextmanager
    def created(self, path: str, *, overwrite: bool) -> Generator["NewFile"]:
        """A new file. Unless it was finished, nothing of it stays when the block ends.

        Raises:
            AlreadyExists: the file is there and `overwrite` is not set.
            Denied, NotFound: as `open`, for the folder.
            LimitExceeded: while it was written, there was no room for more.
        """
        place, parts = self._place_of_new(path)
        with _opened(place, parts[:-1], path) as folder:
            unfinished = f".{secrets.token_hex(8)}.part"
            _remove_abandoned(folder)
            with _explained(path):
                if not overwrite and _exists(folder, parts[-1]):
                    raise _taken(path)
                opened = folder.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                with _explained(path), os.fdopen(opened, "wb") as file:
                    yield NewFile(path, file, folder, unfinished, parts[-1], overwrite)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(folder.at(unfinished), dir_fd=folder.fd)

    def _places(self, path: str) -> list[tuple[Path, tuple[str, ...]]]:
        """The allowed folders that the path may be in, with its parts below each."""
        if not self.allowed:
            raise Denied(
                "this server may use no files",
                hint="its operator allows folders with --files-dir (MILVUS_MCP_FILES_DIR)",
            )
        if not path or UNSPEAKABLE.search(path):
            raise InvalidArgument(f"path: {path[:80]!r} names no file")
        given = Path(path)
        if not given.is_absolute():
            return [(folder, _checked_parts(given.parts, path)) for folder in self.allowed]
        for folder in self.allowed:
            for known in (folder, folder.resolve()):
                if given.is_relative_to(known):
                    return [(folder, _checked_parts(given.relative_to(known).parts, path))]
        raise _outside(path)

    def _place_of_new(self, path: str) -> tuple[Path, tuple[str, ...]]:
        """The first allowed folder that has the path's own folder."""
        places = self._places(path)
        for place, parts in places:
            with suppress(NotFound), _opened(place, parts[:-1], path):
                return place, parts
        return places[0]

    def _what_is_there(self) -> str:
        """Some of the files; none whose name no answer can carry, or that a reader would not see as it is."""
        files = [
            entry.name
            for folder in self.allowed
            for entry in islice(_entries(folder), LOOKED_AT)
            if not entry.name.startswith(".") and entry.name.isprintable() and entry.is_file(follow_symlinks=False)
        ]
        more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
        return f"there are: {', '.join(sorted(files)[:SHOWN_FILES])}{more}" if files else "there are no files yet"


def is_reserved(name: str) -> bool:
    """Whether Windows takes the name for a device, for a stream of another file, or for another name."""
    return bool(RESERVED.fullmatch(name)) or ":" in name or name != name.rstrip(". ")


def _checked_parts(parts: Sequence[str], path: str) -> tuple[str, ...]:
    if not parts:
        raise InvalidArgument(f"path: {path[:80]!r} is a folder")
    if ".." in parts:
        raise _outside(path)
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        raise InvalidArgument(f"path: {path[:80]!r}... has a name of more than {LONGEST_NAME} bytes")
    if sys.platform == "win32" and any(map(is_reserved, parts)):
        raise Denied(f"path: {path!r} is a name that Windows reserves")
    return tuple(parts)


@contextmanager
def _opened(allowed: Path, parts: Sequence[str], path: str) -> Generator[_Folder]:
    """The folder, with every folder on the way to it opened below the one before."""
    if not WALKS:
        folder = allowed.joinpath(*parts)
        with _explained(path):
            real = Path(os.path.realpath(folder, strict=True))
        if not real.is_relative_to(allowed.resolve()):
            raise _outside(path)
        yield _Folder(allowed, folder, None)
        return
    with _explained(path):
        fd = os.open(allowed, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with _explained(path):
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | PLAIN, dir_fd=fd)
            os.close(fd)
            fd = below
        yield _Folder(allowed, allowed.joinpath(*parts), fd)
    finally:
        os.close(fd)


def _require_inside(allowed: Path, path: Path, opened: int) -> None:
    """Nothing, if the opened file is the one at that path, and that path has no link that leads out."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(allowed.resolve()) or not os.path.samestat(os.fstat(opened), real.stat()):
        raise _outside(str(path.relative_to(allowed)))


def _plain_file(opened: int, path: str) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise Denied(f"path: {path!r} is no plain file")
    return os.fdopen(opened, "rb")


def _exists(folder: _Folder, name: str) -> bool:
    try:
        os.stat(folder.at(name), dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_abandoned(folder: _Folder) -> None:
    """Removes the unfinished files of servers that were killed."""
    with suppress(OSError), os.scandir(folder.path if folder.fd is None else folder.fd) as entries:
        names = [entry.name for entry in islice(entries, LOOKED_AT) if UNFINISHED.fullmatch(entry.name)]
        for name in names:
            found = os.stat(folder.at(name), dir_fd=folder.fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_mtime < time.time() - ABANDONED_SECONDS:
                os.unlink(folder.at(name), dir_fd=folder.fd)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


@contextmanager
def _explained(path: str) -> Generator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno is None:  # a deadline's TimeoutError is one too
            raise
        raise _error(failure, path) from failure


def _error(failure: OSError, path: str) -> Error:
    match failure.errno:
        case errno.ENOENT:
            error: Error = NotFound(
                f"path: there is no {path!r}", hint="folders are not made; write into one that is there"
            )
        case errno.ELOOP | errno.ENOTDIR:
            error = Denied(f"path: {path!r} leads over a symbolic link or a file", hint="name the file itself")
        case errno.EISDIR:
            error = InvalidArgument(f"path: {path!r} is a folder")
        case errno.ENAMETOOLONG | errno.EINVAL:
            error = InvalidArgument(f"path: {path[:80]!r} cannot be the name of a file")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            error = Denied(f"path: this server has no right to use {path!r}")
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            error = LimitExceeded(
                f"path: {path!r}: {failure.strerror}", hint="make room, or export less: filter, output_fields, limit"
            )
        case _:
            error = MilvusFailed(f"path: {path!r}: {failure.strerror}")
    return error


def _taken(path: str) -> AlreadyExists:
    return AlreadyExists(f"path: {path!r} is there already", hint="overwrite: true replaces it")


def _outside(path: str) -> Denied:
    return Denied(
        f"path: {path!r} is not inside a folder that this server may use",
        hint="give it relative to the folder of --files-dir, without '..'",
    )
