"""Files: no path leads out of the folder, and no file makes the server wait, run code or use memory without a bound."""

import io
import json
import os
import struct
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.agent import Agent
from tests.hostile.precious import Attacks, P
from tests.milvus.conftest import linux

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("unchanged"),
    pytest.mark.skipif(sys.platform == "win32", reason="has no FIFOs, and links only for administrators"),
]

ENTITY = {"id": 1, "title": "changed", "meta": {}, "vector": [9, 9]}
REFUSED = ("denied", "not_found", "invalid_argument")
MIB = 2**20


@pytest.fixture
def inside(kingdom: Path) -> Path:
    return kingdom / "inside"


@pytest.fixture
def secret(kingdom: Path) -> Path:
    return kingdom / "outside" / "secret.jsonl"


async def test_no_path_leads_out_of_the_folder(attacker: Agent, inside: Path, secret: Path) -> None:
    (inside / "below").mkdir()
    (inside / "link.jsonl").symlink_to(secret)
    (inside / "below" / "up").symlink_to("../../outside")
    (inside / "out").symlink_to(secret.parent, target_is_directory=True)
    (inside / "loop.jsonl").symlink_to("loop.jsonl")
    (inside / "root").symlink_to("/")
    outside = [
        "../outside/secret.jsonl",
        "below/../../outside/secret.jsonl",
        "./../outside/secret.jsonl",
        "below/up/secret.jsonl",
        "out/secret.jsonl",
        "link.jsonl",
        "loop.jsonl",
        "root/etc/passwd",
        str(secret),
        f"{inside}/../outside/secret.jsonl",
        f"//{secret}",
        f"file://{secret}",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "/dev/zero",
        "/dev/stdin",
        "~/.ssh/id_rsa",
        "$HOME/x.jsonl",
        "..%2foutside%2fsecret.jsonl",
        "%2e%2e/outside/secret.jsonl",
        "..\\outside\\secret.jsonl",
        "\\\\host\\share\\x.jsonl",
        "C:\\x.jsonl",
        "https://example.com/x.jsonl",
        "below/up\0/secret.jsonl",
        "no\0name.jsonl",
        "",
        ".",
        "/",
        "below",
        "below/",
        "x" * 300 + ".jsonl",
        "x/" * 5_000 + "x.jsonl",
        "x" * 1_000_000,
        "\ud800.jsonl",
        "\udcff.jsonl",
    ]
    attacks = Attacks(attacker)
    formats: tuple[dict[str, Any], ...] = (
        {"format": "jsonl"},
        {"format": "csv"},
        {"format": "json"},
        {"format": "npy"},
    )
    for each in formats:
        await attacks.fail("import_file", *REFUSED, calls=[P | {"path": path} | each for path in outside])
    exported = [f"{path.rstrip('/')}.jsonl" if not path.endswith(".jsonl") else path for path in outside[:14] if path]
    await attacks.fail("export_file", *REFUSED, "already_exists", calls=[P | {"path": path} for path in exported])
    (inside / "loop.jsonl").unlink()
    for each in (inside / "link.jsonl", inside / "out", inside / "root", inside / "below" / "up"):
        each.unlink()
    attacks.check()


async def test_what_is_no_plain_file_is_neither_read_nor_written_over(
    attacker: Agent, inside: Path, secret: Path
) -> None:
    os.mkfifo(inside / "pipe.jsonl")
    (inside / "folder.jsonl").mkdir()
    (inside / "there.jsonl").write_text("kept")
    (inside / "away.jsonl").symlink_to(secret)
    (inside / "same.jsonl").hardlink_to(secret)
    attacks = Attacks(attacker)
    with anyio.fail_after(20):
        calls = [P | {"path": f"{name}.jsonl"} for name in ("pipe", "folder")]
        await attacks.fail("import_file", *REFUSED, calls=calls)
        there = [P | {"path": f"{name}.jsonl"} for name in ("pipe", "folder", "there", "away", "same")]
        await attacks.fail("export_file", "already_exists", calls=there)
        over = [call | {"overwrite": True} for call in there]
        await attacks.end("export_file", over, "denied", "invalid_argument")
    # A name was given to another file; what it meant before is as it was, which `unchanged` looks at.
    assert not (inside / "away.jsonl").is_symlink()
    assert (inside / "folder.jsonl").is_dir()
    assert not list(inside.glob(".*.part"))
    attacks.check()


async def test_an_export_that_fails_leaves_no_file_and_changes_none(attacker: Agent, inside: Path) -> None:
    (inside / "mine.jsonl").write_text("mine")
    attacks = Attacks(attacker)
    codes = ("invalid_argument", "invalid_filter", "not_found")
    wrong: list[dict[str, Any]] = [
        {"filter": "id >"},
        {"output_fields": ["no_such"], "collection_name": "keyed"},
        {"collection_name": "no_such"},
        {"path": "mine.npy"},
        {"path": "mine.exe"},
        {"path": "mine"},
    ]
    calls = [P | {"path": "mine.jsonl", "overwrite": True} | each for each in wrong]
    await attacks.fail("export_file", *codes, calls=calls)
    assert (inside / "mine.jsonl").read_text() == "mine"
    assert not [each for each in inside.iterdir() if each.name.startswith((".", "mine.npy", "mine.exe"))]
    attacks.check()


async def test_links_that_come_and_go_while_files_are_opened_lead_nowhere(
    attacker: Agent, inside: Path, secret: Path
) -> None:
    """A thread swaps a file and a link to the secret, and a folder and a link to the folder of the secret."""
    (inside / "real").mkdir()
    for folder in (inside, inside / "real"):
        (folder / "secret.jsonl").write_text(json.dumps(ENTITY | {"vector": [1, 2, 3]}))  # fits no schema
    (inside / "to_file").symlink_to(secret)
    (inside / "to_folder").symlink_to(secret.parent)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for here, link in ((inside / "secret.jsonl", "to_file"), (inside / "real", "to_folder")):
                here.rename(inside / "aside")
                (inside / link).rename(here)
                here.rename(inside / link)
                (inside / "aside").rename(here)

    swapping = threading.Thread(target=swap)
    swapping.start()
    attacks = Attacks(attacker)
    try:
        for path in ("secret.jsonl", "real/secret.jsonl"):
            await attacks.fail("import_file", *REFUSED, calls=[P | {"path": path}] * 25)
        new = [P | {"path": "real/secret.jsonl", "overwrite": True}, P | {"path": "real/new.jsonl", "overwrite": True}]
        await attacks.end("export_file", new * 10, *REFUSED, "milvus_error")
    finally:
        over.set()
        swapping.join()
    attacks.check()


async def test_a_name_that_cannot_be_shown_is_not(attacker: Agent, inside: Path) -> None:
    names = ["bad\udcff\udcfe.jsonl", "new\nline.jsonl", "red\x1b[31m.jsonl", "bidi\u202e.jsonl"]
    for name in names:
        (inside / name).write_text("{}")
    attacks = Attacks(attacker)
    (error,) = await attacks.fail("import_file", "not_found", calls=[P | {"path": "no_such.jsonl"}])
    assert error["hint"].isprintable()
    assert "bad" not in error["hint"]
    errors = await attacks.fail("import_file", "invalid_argument", calls=[P | {"path": name} for name in names[:3]])
    assert all(each["message"].replace("\n", "").isprintable() for each in errors)
    for name in names:
        (inside / name).unlink()
    attacks.check()


def array(header: str, *, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header.encode() + body


def described(descr: str, shape: str) -> bytes:
    return array(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n", body=b"\0" * 64)


def archive(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name.replace("__", "/").replace("_npy", ".npy"), content)
    return out.getvalue()


def parquet_of(**columns: Any) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out, compression="zstd")
    return out.getvalue()


PICKLE = b"cposix\nsystem\n(S'true'\ntR."
DEEP = 100_000


def hostile_files() -> Iterator[tuple[str, bytes]]:
    """Names and contents of files that are none of their format, or of no entities that fit."""
    for kind in ("jsonl", "json", "csv", "parquet", "npy", "npz"):
        yield f"empty.{kind}", b""
        yield f"zeros.{kind}", b"\0" * 1_000
        yield f"noise.{kind}", bytes(range(256)) * 8
        yield f"pickle.{kind}", PICKLE
        yield f"zip.{kind}", archive(x_npy=b"x")
    yield "deep.jsonl", b"[" * DEEP + b"]" * DEEP
    yield "deep_value.jsonl", b'{"id": 1, "title": "t", "vector": [1, 2], "meta": ' + b'{"a":' * DEEP
    for depth in (150, 250, 500, 900, 990, 1_100):
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        entity = b'{"id": "x", "title": "t", "vector": [1, 2], "meta": ' + nested + b"}"
        yield f"nested_{depth}.jsonl", entity
        yield f"nested_{depth}.json", b"[" + entity + b"]"
        yield f"nested_{depth}.csv", b'id,title,vector,meta\nx,t,[1],"' + nested.replace(b'"', b'""') + b'"\n'
    yield "deep.json", b"[" * DEEP
    yield "endless.json", b'[{"id": ' + b"1" * 100_000
    yield "huge_number.jsonl", b'{"id": ' + b"9" * 5_000 + b', "title": "t", "meta": {}, "vector": [1, 2]}'
    yield "huge_float.jsonl", b'{"id": "x", "title": "t", "meta": {}, "vector": [1e999, ' + b"9" * 400 + b"]}"
    yield "surrogate.jsonl", b'{"id": 1, "title": "\\ud800", "meta": {}, "vector": [1, 2]}'
    yield "surrogate_key.jsonl", b'{"id": 1, "title": "t", "meta": {}, "vector": [1, 2], "\\ud800": 1}'
    yield "twice.jsonl", b'{"id": 1, "id": "x", "title": "t", "meta": {}, "vector": [1, 2]}'
    yield "columns.csv", b"id,id\n1,2\n"
    yield "quote.csv", b'id,title,meta,vector\n1,"' + b"x" * 100_000
    yield "wide.csv", b"," * 100_000 + b"\n" + b"," * 100_000
    for number, (descr, shape) in enumerate(
        [
            ("'|O'", "(1,)"),
            ("[('a', '|O')]", "(1,)"),
            ("'<f4'", "(4611686018427387904, 4611686018427387904)"),
            ("'<f4'", "(9223372036854775807, 2)"),
            ("'<f4'", "(-1, 2)"),
            ("'<f4'", "(2, -2)"),
            ("'<f4'", "()"),
            ("'<f4'", "(1, 0)"),
            ("'|S2000000000'", "(1,)"),
            ("'|V2000000000'", "(1,)"),
            ("'<f4'", "(" + "1, " * 500 + ")"),
            ("__import__('os').system('true')", "(1,)"),
            ("'<f4'", "(" * 3_000 + ")" * 3_000),
            ("'<f4'", "(9" + "9" * 5_000 + ",)"),
            ("[('a', '<f4', (1000000, 1000000))]", "(1,)"),
        ]
    ):
        yield f"header_{number}.npy", described(descr, shape)
        yield f"header_{number}.npz", archive(id_npy=described(descr, shape))
    yield "length.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{"
    yield "version.npy", b"\x93NUMPY\x09\x00" + b"\0" * 100
    plain = io.BytesIO()
    np.save(plain, np.zeros((2, 2), "<f4"))
    yield "slip.npz", archive(**{"..__..__outside__new_npy": plain.getvalue(), "__etc__passwd_npy": plain.getvalue()})
    yield "names.npz", archive(**{"\u202eid\n_npy": plain.getvalue(), "$meta_npy": plain.getvalue()})
    yield "pickled.npz", archive(id_npy=described("'|O'", "(1,)") + PICKLE)
    good = parquet_of(id=["x"], title=["t"], vector=[[1.0, 2.0]])
    yield "cut.parquet", good[: len(good) // 2]
    yield "no_start.parquet", b"XXXX" + good[4:]
    footer = struct.pack("<I", 2**31 - 1)
    yield "footer.parquet", good[:-8] + footer + b"PAR1"
    yield "changed.parquet", good[:40] + bytes(each ^ 0x55 for each in good[40:-8]) + good[-8:]


async def test_files_that_lie_are_refused_in_words(attacker: Agent, inside: Path) -> None:
    attacks = Attacks(attacker)
    with anyio.fail_after(60):
        for name, content in hostile_files():
            (inside / name).write_bytes(content)
            if name.startswith("empty"):  # no entities, where a file may have none
                await attacks.end("import_file", [P | {"path": name}], "invalid_argument")
                continue
            for skip in ({}, {"on_error": "skip"}):
                await attacks.end("import_file", [P | {"path": name} | skip], *REFUSED, "limit_exceeded")
            (inside / name).unlink()
    attacks.check()


def bombs() -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Small files that are large in memory."""

    def zipped(path: Path) -> None:
        header = array(f"{{'descr': '|S{6 * MIB}', 'fortran_order': False, 'shape': (40,), }}\n")
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
            file.open("title.npy", "w", force_zip64=True) as member,
        ):
            member.write(header)
            for _ in range(40):
                member.write(b"x" * 6 * MIB)

    def dictionary(path: Path, *, store_schema: bool) -> None:
        long = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), pa.array(["x" * 30 * MIB]))
        table = pa.table({"id": range(1_000), "title": long})
        parquet.write_table(table, path, compression="zstd", store_schema=store_schema)

    yield "bomb.npz", zipped
    yield "bomb.parquet", partial(dictionary, store_schema=True)
    yield "other_bomb.parquet", partial(dictionary, store_schema=False)


def most_memory(*, anew: bool = False) -> int:
    """The most bytes that this process has used, or that it uses now, from where they are counted anew."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


@linux
async def test_a_small_file_that_is_large_in_memory_is_refused_in_words_and_little_memory(
    attacker: Agent, inside: Path
) -> None:
    attacks = Attacks(attacker)
    for name, make in bombs():
        make(inside / name)
        assert (inside / name).stat().st_size < 3 * MIB
        before = most_memory(anew=True)
        await attacks.fail("import_file", "invalid_argument", calls=[P | {"path": name}])
        assert most_memory() - before < 300 * MIB, name
        (inside / name).unlink()
    attacks.check()
