"""What a flush that fails had to write out is there afterwards, and after a restart. In processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from mcp_server_milvus.milvus.durable import is_mendable

BEGIN = """
import errno, os, pathlib, sys, threading
from mcp_server_milvus.milvus.durable import DurableCollection, lose_nothing
lose_nothing()
from milvus_lite import db
from milvus_lite.engine import flush
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema
from milvus_lite.storage import wal
from milvus_lite.storage.manifest import Manifest

folder, fault = sys.argv[1:]
fields = [
    FieldSchema(name="id", dtype=DataType.INT64, is_primary=True),
    FieldSchema(name="vector", dtype=DataType.FLOAT_VECTOR, dim=2),
]

def entities(first, end):
    others = {"key": first} if len(fields) == 3 else {}
    return [{"id": number, "vector": [number, 1.0], **others} for number in range(first, end)]

def keys(opened):
    return sorted(each["id"] for each in opened.query("id >= 0", output_fields=["id"]))

def no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")
"""

FLUSHES = """
if fault == "no room for the manifest, with a partition key":
    fields.append(FieldSchema(name="key", dtype=DataType.INT64, is_partition_key=True))

def no_memory(*_, **__):
    raise MemoryError

def no_room_for_logs(fd):
    if "wal" in os.readlink(f"/proc/self/fd/{fd}"):
        no_room()

where, name, broken = {
    "no room for the manifest": (Manifest, "save", no_room),
    "no room for the manifest, with a partition key": (Manifest, "save", no_room),
    "a compaction in between": (Manifest, "save", no_room),
    "no memory": (flush, "write_data_file", no_memory),
    "the log stays": (wal.os, "fsync", no_room_for_logs),
}[fault]

database = db.MilvusLite(folder)
opened = database.create_collection("kept", CollectionSchema(fields=fields))
opened.insert(entities(0, 50))
compacting = threading.Thread(target=opened._bg_compact_and_index)
put_back = opened._put_back

def put_back_while_it_compacts(*failed):
    compacting.start()
    compacting.join(0.5)
    print("it waits" if compacting.is_alive() else "it compacts what is only half there")
    put_back(*failed)

if fault == "a compaction in between":
    opened._put_back = put_back_while_it_compacts
whole = getattr(where, name)
setattr(where, name, broken)
try:
    opened.flush()
except (OSError, MemoryError):
    pass
else:
    assert fault == "the log stays"
setattr(where, name, whole)
if compacting.ident:
    compacting.join()
assert keys(opened) == list(range(50)), keys(opened)
opened.delete([999])
opened.insert(entities(50, 60))
opened.flush()
assert keys(opened) == list(range(60)), keys(opened)
database.close()
database = db.MilvusLite(folder)
assert keys(database.get_collection("kept")) == list(range(60))
database.close()
print("kept")
"""

TORN_LOG = """
def refused(path, mode="r", *others, **named):
    return no_room() if mode == "r+b" else whole(path, mode, *others, **named)

class Torn:
    def write_batch(self, batch):
        log._data_sink.write(b"half a batch")
        log._data_sink.flush()
        no_room()

if fault == "afterwards":
    print(keys(db.MilvusLite(folder).get_collection("kept")) == [*range(50), *range(60, 70)])
    sys.exit()
opened = db.MilvusLite(folder).create_collection("kept", CollectionSchema(fields=fields))
opened.insert(entities(0, 50))
log = opened._wal
log._data_writer, whole, pathlib.Path.open = Torn(), pathlib.Path.open, refused
try:
    opened.insert(entities(50, 60))
except OSError:
    pathlib.Path.open = whole
    opened.insert(entities(60, 70))
    print("acknowledged", flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is told by /proc which file is synced")
@pytest.mark.parametrize(
    "fault",
    [
        "no room for the manifest",
        "no room for the manifest, with a partition key",
        "no memory",
        "the log stays",
    ],
)
def test_a_flush_that_fails_loses_nothing(tmp_path: Path, fault: str) -> None:
    assert printed(FLUSHES, tmp_path, fault) == ["kept"]


@pytest.mark.skipif(sys.platform != "linux", reason="it is told by /proc which file is synced")
def test_a_compaction_waits_until_a_flush_that_fails_is_undone(tmp_path: Path) -> None:
    assert printed(FLUSHES, tmp_path, "a compaction in between") == ["it waits", "kept"]


def test_what_follows_in_a_log_that_cannot_be_shortened_is_there_after_a_crash(tmp_path: Path) -> None:
    assert printed(TORN_LOG, tmp_path, "a crash") == ["acknowledged"]
    assert printed(TORN_LOG, tmp_path, "afterwards") == ["True"]


def printed(script: str, folder: Path, fault: str) -> list[str]:
    """The lines that a process of its own prints, which works on Milvus Lite in the folder."""
    command = [sys.executable, "-c", BEGIN + script, str(folder), fault]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_milvus_lite_can_still_be_mended() -> None:
    assert is_mendable()
