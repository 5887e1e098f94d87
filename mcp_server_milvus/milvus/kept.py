"""Entities that were deleted: kept as Parquet in the data folder, until they are restored, purged or too old.

Each deletion has a folder of its own, with one file of entities for each partition and a note of what they were. It
gets its name once all of it is written out, and the deletion begins after that: whoever finds the folder finds all of
it. `.part` folders are unfinished, `.gone` ones about to be removed.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mcp_server_milvus.errors import Conflict, Error, MilvusFailed, NotFound
from mcp_server_milvus.milvus.entities import Entity
from mcp_server_milvus.milvus.locks import FileLock
from mcp_server_milvus.milvus.names import is_name
from mcp_server_milvus.milvus.schema import CollectionSchema
from mcp_server_milvus.milvus.trash import LAST_SECOND, MOST_ENTITIES, in_bounds, name_until

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.exporting import Writer

KEPT_PREFIX = "_deleted_"
IS_KEPT = re.compile(rf"{KEPT_PREFIX}[0-9]{{10}}_[0-9a-f]{{16}}")
UNFINISHED, GONE = ".part", ".gone"
NOTE, LOCK, PROGRESS = "note.json", "lock", "restored.json"
ABANDONED_SECONDS = 24 * 3600
"""Age of an unfinished folder that nobody writes any more: its server was killed."""

MEGABYTE = 1024 * 1024


class NoRoomError(Exception):
    """What is to be kept is larger than what is left of the room for it."""


@dataclass(frozen=True)
class Part:
    """The entities of one partition; without a name, of all of them."""

    partition_name: str
    entity_count: int


@dataclass(frozen=True)
class KeptNote:
    """What was deleted. `removed_at` is in Unix time; `owner` is a digest of who deleted it."""

    tool: str
    db_name: str
    collection_name: str
    removed_at: int
    owner: str
    parts: tuple[Part, ...] = ()

    @property
    def entity_count(self) -> int:
        """How many entities there are."""
        return sum(part.entity_count for part in self.parts)


@dataclass(frozen=True)
class Kept:
    """One deletion, as it is in the folder."""

    folder: Path
    note: KeptNote

    @property
    def name(self) -> str:
        """By which it is restored."""
        return self.folder.name

    @property
    def until(self) -> int:
        """The Unix time at which it may be removed."""
        return expiry(self.name)

    def file_of(self, number: int) -> Path:
        """The entities of one of its parts."""
        return self.folder / file_name(number)

    def keys(self, number: int, key: str, at_once: int) -> Iterator[list[int | str]]:
        """The primary keys of one of its parts."""
        from pyarrow import parquet

        opened: Any = parquet.ParquetFile(self.file_of(number))
        with opened:
            for batch in opened.iter_batches(at_once, columns=[key], use_threads=False):
                yield batch.column(0).to_pylist()

    def _locked(self, lock: FileLock) -> bool:
        try:
            return lock.try_exclusive()
        except FileNotFoundError:
            raise NotFound(f"nothing is kept as {self.name!r} any more", hint="list_dropped shows what is") from None

    def progress(self) -> dict[str, int]:
        """How many entities of which part were written again, by an earlier attempt."""
        with suppress(FileNotFoundError, ValueError, RecursionError):
            done: Any = json.loads((self.folder / PROGRESS).read_bytes())
            if isinstance(done, dict) and all(map(_is_count, cast("dict[str, Any]", done).values())):
                return cast("dict[str, int]", done)
        return {}

    def note_progress(self, done: dict[str, int]) -> None:
        """Remembers it, for an attempt after this process has died."""
        _write(self.folder / (PROGRESS + UNFINISHED), json.dumps(done).encode())
        (self.folder / (PROGRESS + UNFINISHED)).replace(self.folder / PROGRESS)

    def remove(self) -> None:
        """It is no longer there from one moment to the next. Whoever calls this holds it."""
        gone = self.folder.with_suffix(GONE)
        self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    @contextmanager
    def held(self) -> Generator[None]:
        """Nobody else restores or removes it within the block.

        Raises:
            Conflict: somebody does at this moment.
            NotFound: somebody has just removed it.
        """
        lock = FileLock(self.folder / LOCK)
        try:
            if not self._locked(lock):
                raise Conflict(f"{self.name} is being restored or removed at this moment", hint="call list_dropped")
            yield
        finally:
            lock.release()


def expiry(name: str) -> int:
    """The Unix time at which what has this name may be removed."""
    return int(name.removeprefix(KEPT_PREFIX)[:10])


def file_name(number: int) -> str:
    """The name of the file of a part."""
    return f"entities-{number}.parquet"


class KeptEntities:
    """The deletions of one Milvus that the data folder keeps, beside those of others. Everything blocks."""

    def __init__(self, data_dir: Path, uri: str, most_megabytes: int) -> None:
        self._folder = data_dir.expanduser().absolute() / "dropped"
        self._uri = hashlib.sha256(uri.encode()).hexdigest()
        self._most = most_megabytes * MEGABYTE

    @property
    def room(self) -> int:
        """Bytes that can still be kept."""
        return max(0, self._most - sum(_sizes(self._folder)))

    def begun(self, hours: float) -> "Keeping":
        """A new deletion, to be abandoned at the end: what was finished stays, and nothing else.

        Raises:
            MilvusFailed: the data folder cannot be written.
        """
        name = name_until(KEPT_PREFIX, hours)
        unfinished = self._folder / (name + UNFINISHED)
        with _told():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished.mkdir(mode=0o700)
        return Keeping(unfinished, self._folder / name, self._uri, self.room)

    @contextmanager
    def restoring(self) -> Generator[bool]:
        """Whether no other server of this folder puts a collection back, nor can within the block."""
        with _told():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(self._folder / LOCK)
        try:
            yield lock.try_exclusive()
        finally:
            lock.release()

    def listed(self) -> list[Kept]:
        """What is kept of this Milvus, the oldest first."""
        found = [kept for folder in self._folders() if (kept := self._read(folder))]
        return sorted(found, key=lambda kept: (kept.note.removed_at, kept.name))

    def find(self, name: str) -> Kept | None:
        """The deletion of that name, if this Milvus has it."""
        return self._read(self._folder / name) if IS_KEPT.fullmatch(name) else None

    def remove(self, kept: Kept) -> None:
        """Removes what is kept of a deletion.

        Raises:
            Conflict: somebody restores it at this moment.
        """
        with kept.held():
            kept.remove()

    def remove_old(self) -> None:
        """Removes what is too old and nobody restores now, of whichever Milvus, and what killed servers left."""
        for folder in self._folders():
            if expiry(folder.name) < time.time():
                old = Kept(folder, KeptNote("", "", "", 0, ""))
                with suppress(Error, OSError), old.held():
                    old.remove()
        with suppress(OSError):
            for left in self._folder.iterdir():
                unfinished = left.suffix == UNFINISHED and left.stat().st_mtime < time.time() - ABANDONED_SECONDS
                if left.suffix == GONE or unfinished:
                    shutil.rmtree(left, ignore_errors=True)

    def _folders(self) -> list[Path]:
        with suppress(OSError):
            return [each for each in self._folder.iterdir() if IS_KEPT.fullmatch(each.name)]
        return []

    def _read(self, folder: Path) -> Kept | None:
        with suppress(OSError, ValueError, RecursionError):
            return Kept(folder, _parsed(json.loads((folder / NOTE).read_bytes()), self._uri))
        return None


class Keeping:
    """A deletion whose entities are being written."""

    def __init__(self, unfinished: Path, folder: Path, uri: str, room: int) -> None:
        self._unfinished = unfinished
        self._final = folder
        self._uri = uri
        self._room = room
        self._parts: list[Part] = []
        self._open: tuple[BinaryIO, Writer] | None = None

    def begin(self, partition_name: str, schema: CollectionSchema, names: Sequence[str]) -> None:
        """The entities that follow are those of this partition."""
        from mcp_server_milvus.milvus.exporting import writer
        from mcp_server_milvus.milvus.formats import Format

        with _told():
            file = _private(self._unfinished / file_name(len(self._parts)))
            self._open = (file, writer(file, Format.PARQUET, schema, names))
        self._parts.append(Part(partition_name, 0))

    def write(self, entities: Sequence[Entity]) -> None:
        """Keeps these entities of the partition.

        Raises:
            NoRoomError: there is no room for all of them.
        """
        if self._open:
            with _told():
                self._open[1].write(entities)
            part = self._parts[-1]
            self._parts[-1] = replace(part, entity_count=part.entity_count + len(entities))
            self._require_room()

    def end(self) -> None:
        """The partition has no more entities."""
        if self._open:
            file, out = self._open
            with _told():
                out.close()
                file.flush()
                os.fsync(file.fileno())
                file.close()
            self._open = None
            self._require_room()

    @property
    def entity_count(self) -> int:
        """How many entities it has until now."""
        return sum(part.entity_count for part in self._parts)

    def finish(self, note: KeptNote) -> Kept:
        """All of it is kept from now on, whatever happens."""
        complete = replace(note, parts=tuple(self._parts))
        with _told():
            _write(self._unfinished / NOTE, json.dumps(asdict(complete) | {"uri": self._uri}).encode())
            _sync(self._unfinished)
            self._unfinished.rename(self._final)
            _sync(self._final.parent)
        return Kept(self._final, complete)

    def abandon(self) -> None:
        """Nothing that is unfinished stays."""
        if self._open:
            with suppress(OSError, ValueError):
                self._open[1].abandon()
            self._open[0].close()
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def _require_room(self) -> None:
        if sum(_sizes(self._unfinished)) > self._room:
            raise NoRoomError


def _parsed(note: Any, uri: str) -> KeptNote:
    """The note of a deletion in that Milvus. Raises ValueError when it is none."""
    match note:
        case {
            "uri": str(told),
            "tool": str(tool),
            "db_name": str(db_name),
            "collection_name": str(collection_name),
            "removed_at": int(removed_at),
            "owner": str(owner),
            "parts": [*parts],
        } if told == uri and is_name(collection_name) and in_bounds(removed_at, LAST_SECOND):
            return KeptNote(tool, db_name, collection_name, removed_at, owner, tuple(map(_part, parts)))
        case _:
            raise ValueError("no note of this Milvus")


def _part(told: Any) -> Part:
    match told:
        case {"partition_name": str(name), "entity_count": count} if (not name or is_name(name)) and _is_count(count):
            return Part(name, count)
        case _:
            raise ValueError("no part")


def _is_count(told: Any) -> bool:
    return isinstance(told, int) and in_bounds(told, MOST_ENTITIES)


def _sizes(folder: Path) -> Iterator[int]:
    """Of all files in it, unfinished ones too."""
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                yield (Path(place) / name).stat().st_size


def _write(path: Path, content: bytes) -> None:
    with _private(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _private(path: Path) -> BinaryIO:
    """A file to be written that is its owner's alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600), "wb")


def _sync(folder: Path) -> None:
    """What the folder lists is on the disk, where folders can be synchronised."""
    with suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _told() -> Generator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno is None:  # a deadline's TimeoutError is one too
            raise
        raise MilvusFailed(
            f"the server's folder of deleted entities cannot be used: {failure.strerror}; nothing was deleted",
            hint="the operator makes room in the data folder, or starts the server with --undo false",
        ) from failure
