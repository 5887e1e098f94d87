"""What a flush that fails had to write out is there afterwards, and after a restart. In processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from mcp_server_milvus.milvus.durable import is_mendable

FLUSHES = """
import errno, os, sys
from mcp_server_milvus.milvus.durable import lose_nothing
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
if fault == "no room for the manifest, with a partition key":
    fields.append(FieldSchema(name="key", dtype=DataType.INT64, is_partition_key=True))

def entities(first, end):
    others = {"key": first} if len(fields) == 3 else {}
    return [{"id": number, "vector": [number, 1.0], **others} for number in range(first, end)]

def no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

def no_memory(*_, **__):
    raise MemoryError

def no_room_for_logs(fd):
    if "wal" in os.readlink(f"/proc/self/fd/{fd}"):
        no_room()

where, name, broken = {
    "no room for the manifest": (Manifest, "save", no_room),
    "no room for the manifest, with a partition key": (Manifest, "save", no_room),
    "no memory": (flush, "write_data_file", no_memory),
    "the log stays": (wal.os, "fsync", no_room_for_logs),
}[fault]

def keys(opened):
    return sorted(each["id"] for each in opened.query("id >= 0", output_fields=["id"]))

database = db.MilvusLite(folder)
opened = database.create_collection("kept", CollectionSchema(fields=fields))
opened.insert(entities(0, 50))
whole = getattr(where, name)
setattr(where, name, broken)
try:
    opened.flush()
except (OSError, MemoryError):
    pass
else:
    assert fault == "the log stays"
setattr(where, name, whole)
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
    command = [sys.executable, "-c", FLUSHES, str(tmp_path), fault]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.stdout == "kept\n", result.stderr


def test_milvus_lite_can_still_be_mended() -> None:
    assert is_mendable()
