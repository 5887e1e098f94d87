"""A rename that the engine's death cuts short, at each of its steps, leaves one collection and its alias."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from milvus_lite.db import MilvusLite

from mcp_server_milvus.milvus.renaming import open_lite

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="engines are forked")

# The engine's rename in a process that dies before its first, second ... step: what changes the folder's files.
DYING = """
import os, sys
from pathlib import Path
from milvus_lite import CollectionSchema, DataType, FieldSchema
from mcp_server_milvus.milvus.renaming import open_lite

def rename(data, steps):
    database = open_lite(data, data / "renaming")
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=2)]
    for name in ("old", "other"):
        database.create_collection(name, CollectionSchema(fields)).insert([{"id": 1, "v": [1.0, 2.0]}])
        database.create_alias(name, f"{name}_alias")
    left = [steps]
    def dying(plain):
        def step(*names, **options):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return plain(*names, **options)
        return step
    os.rename, os.replace = dying(os.rename), dying(os.replace)
    database.rename_collection("old_alias", "new")
    os._exit(0)

for steps in range(int(sys.argv[2])):
    if not (child := os.fork()):
        rename(Path(sys.argv[1]) / str(steps), steps)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_rename_that_is_cut_short_leaves_the_collection_its_alias(tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), "8"], check=True, capture_output=True, text=True)
    outcomes = died.stdout.split()
    assert set(outcomes) == {"9", "0"}
    names: list[str] = []
    for steps, outcome in enumerate(outcomes):
        data = tmp_path / str(steps)
        database = open_lite(data, data / "renaming")
        (name,) = set(database.list_collections()) - {"other"}
        assert database.describe_alias("old_alias")["collection"] == name
        assert database.describe_alias("other_alias")["collection"] == "other"
        assert database.get_collection("old_alias").num_entities == 1
        assert not (data / "renaming").exists()
        database.close()
        names.append(name)
        assert outcome == "9" or name == "new"
    assert names == sorted(names, reverse=True)
    assert outcomes[names.index("new")] == "9", "it dies between the new name and the alias too"


@pytest.mark.parametrize("note", [None, "", "[]", '["default", "gone", 1]', '["default", "gone", "nowhere"]'])
def test_an_alias_that_leads_nowhere_is_gone_and_others_stay(tmp_path: Path, note: str | None) -> None:
    MilvusLite(str(tmp_path)).close()
    (tmp_path / "aliases.json").write_text('{"dangling": "gone"}')
    if note is not None:
        (tmp_path / "renaming").write_text(note)
    database = open_lite(tmp_path, tmp_path / "renaming")
    assert database.list_aliases() == []
    database.close()


def test_aliases_that_cannot_be_read_keep_no_engine_from_opening(tmp_path: Path) -> None:
    MilvusLite(str(tmp_path)).close()
    (tmp_path / "aliases.json").write_text("{")
    database = open_lite(tmp_path, tmp_path / "renaming")
    assert database.list_collections() == []
    database.close()
