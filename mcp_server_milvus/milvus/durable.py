"""Milvus Lite that loses nothing when its disk is full or when it is killed.

What it does by itself, seen with 3.2.2:

- A write that fails leaves half a batch in the log. Whatever is acknowledged afterwards stands behind it, and is lost
  at the next crash: a log is read up to the first batch that is broken.
- A flush that fails forgets the entities that it was to write out, and the next one that succeeds deletes their log.
- A write is said to have failed when the flush failed that came after it.
- An index that could not be saved leaves half a file, and its collection can never be loaded again. The same happens
  when the engine is killed meanwhile.
"""

# Milvus Lite publishes no types, and has no other names for what this is about.
# pyright: reportMissingTypeStubs=false, reportPrivateUsage=false
# ruff: noqa: SLF001

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, cast

from milvus_lite import db
from milvus_lite.engine import collection
from milvus_lite.engine.collection import Collection
from milvus_lite.storage.wal import WAL

log = logging.getLogger("engine")

IN_PART = "a part of the entities may be in"

UNREADABLE = (OSError, ValueError, EOFError, RuntimeError)
"""What NumPy, faiss and JSON say of half a file."""


class WholeLog(WAL):
    """A log without broken batches: after a failure it ends where it ended before, and goes on in new files."""

    def write_insert(self, record_batch: Any) -> None:
        with self._whole():
            super().write_insert(record_batch)

    def write_delete(self, record_batch: Any) -> None:
        with self._whole():
            super().write_delete(record_batch)

    def keep(self) -> None:
        """Closes the files, and leaves them there."""
        sinks = ((self._data_sink, self._data_size_bytes), (self._delta_sink, self._delta_size_bytes))
        self._data_writer = self._data_sink = self._delta_writer = self._delta_sink = None
        self._data_size_bytes = self._delta_size_bytes = 0
        for sink, size in sinks:
            if sink is not None:
                _close_at(sink, size)

    @contextmanager
    def _whole(self) -> Generator[None]:
        try:
            yield
        except OSError:
            try:
                self.keep()
            finally:
                self._number += 1  # a flush deletes the log of every number up to its own
            raise


def _close_at(sink: Any, size: int) -> None:
    """Closes a file, which has this many bytes afterwards, whatever is still in its buffer."""
    with suppress(OSError):
        sink.close()
    path = Path(sink.name)
    if not size:
        path.unlink()
        return
    with path.open("r+b") as file:
        file.truncate(size)


class DurableCollection(Collection):
    """A collection that keeps what it cannot flush, in memory and in its log."""

    _unflushed: OSError | None = None

    def _trigger_flush(self) -> None:
        """Flushes. If that fails, memory, log and manifest are as they were, and the next write tries again."""
        memtable, wal = self._memtable, self._wal
        self._unflushed = None
        with self._maintenance_lock:  # or a compaction in between would save half of what has failed
            manifest = copy(self._manifest)
            manifest._partitions = deepcopy(manifest._partitions)  # the rest of it is replaced, not changed
            is_flushed = False
            try:
                super()._trigger_flush()
                is_flushed = True
            except OSError as problem:
                log.warning("%s is not flushed: %s", self._name, problem)
                self._unflushed = None if wal._closed else problem
            finally:
                if not is_flushed:
                    self._put_back(memtable, wal, manifest)

    def _put_back(self, memtable: Any, wal: WAL, manifest: Any) -> None:
        """Undoes a flush that failed, unless all is written out and only the deletion of the log has failed."""
        if wal._closed:
            self._recovered_wal_bytes = 0
            self._refresh_segment_cache()
            self._schedule_bg_maintenance()
        else:
            self._memtable, self._wal, self._manifest = memtable, wal, manifest

    def _insert_with_partition_key(self, records: list[dict[str, Any]]) -> list[Any]:
        """Writes them partition by partition."""
        try:
            return super()._insert_with_partition_key(records)
        except OSError as problem:
            raise OSError(problem.errno, f"{problem.strerror or problem}; {IN_PART}") from problem

    def _build_or_load_segment_index(self, seg: Any, spec: Any) -> None:
        """Loads an index or makes it. Of one that cannot be read or saved no file is left; the former is made anew."""
        folder = self._index_dir(seg.partition)
        paths = (seg.index_file_path(folder, spec.index_type, spec.field_name, scalar=each) for each in (False, True))
        files = [Path(each) for each in paths]
        was_there = any(each.exists() for each in files)
        try:
            super()._build_or_load_segment_index(seg, spec)
        except UNREADABLE as problem:
            for each in files:
                each.unlink(missing_ok=True)
            if not was_there:
                raise
            log.warning("the index of %s.%s is made anew: %s", self._name, spec.field_name, problem)
            super()._build_or_load_segment_index(seg, spec)

    def flush(self) -> None:
        """Raises OSError when it fails."""
        super().flush()
        if self._unflushed:
            raise self._unflushed

    def drop_partition(self, partition_name: str) -> None:
        """Raises OSError when others cannot be flushed before."""
        self.flush()
        super().drop_partition(partition_name)

    def close(self) -> None:
        """Ends it. What cannot be flushed stays in its log."""
        with suppress(OSError):
            self.flush()
        if self._unflushed is None:
            super().close()
            return
        cast("WholeLog", self._wal).keep()
        self._bg_closed = True
        self._bg_executor.shutdown(wait=True)


def lose_nothing() -> None:
    """Makes all that Milvus Lite opens in this process durable."""
    if not is_mendable():
        log.warning("this Milvus Lite is made otherwise: what its disk has no room for may be lost")
        return
    collection.WAL = WholeLog
    db.Collection = DurableCollection


def is_mendable() -> bool:
    """Whether Milvus Lite still looks up its logs and collections where they are replaced."""
    log_class, collection_class = getattr(collection, "WAL", None), getattr(db, "Collection", None)
    return log_class in {WAL, WholeLog} and collection_class in {Collection, DurableCollection}
