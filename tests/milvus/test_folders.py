"""Files in the operator's folders, and every way out of them."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_server_milvus.errors import AlreadyExists, Denied, Error, InvalidArgument, NotFound
from mcp_server_milvus.milvus import folders
from mcp_server_milvus.milvus.folders import Folders, is_reserved

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and devices of a Unix")


@pytest.fixture(params=[True, False], ids=["walking", "checking"])
def allowed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An allowed folder beside a secret, by either way to open files."""
    if request.param and not folders.WALKS:
        pytest.skip("this system opens no file below an open folder")
    monkeypatch.setattr(folders, "WALKS", request.param)
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "allowed"
    (folder / "below").mkdir(parents=True)
    (folder / "plain.csv").write_text("plain")
    (folder / "below" / "deep.csv").write_text("deep")
    return folder


def text_of(allowed: Path, path: str) -> str:
    with Folders((allowed,)).open(path) as file:
        return file.read().decode()


def test_a_file_is_found_by_its_name_its_path_below_the_folder_and_its_whole_path(allowed: Path) -> None:
    assert text_of(allowed, "plain.csv") == "plain"
    assert text_of(allowed, "below/deep.csv") == "deep"
    assert text_of(allowed, "./below/deep.csv") == "deep"
    assert text_of(allowed, str(allowed / "below" / "deep.csv")) == "deep"


def test_several_folders_are_looked_through_in_turn(allowed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "plain.csv").write_text("other")
    (other / "only.csv").write_text("only")
    both = Folders((allowed, other))
    with both.open("plain.csv") as plain, both.open("only.csv") as only:
        assert (plain.read(), only.read()) == (b"plain", b"only")


def test_a_file_that_is_not_there_is_named_beside_those_that_are(allowed: Path) -> None:
    with pytest.raises(NotFound) as refusal:
        text_of(allowed, "palin.csv")
    assert "plain.csv" in refusal.value.hint


def test_without_a_folder_everything_is_denied_and_the_setting_named() -> None:
    for use in (lambda: Folders(()).open("/etc/passwd"), lambda: Folders(()).created("x", overwrite=True).__enter__()):
        with pytest.raises(Denied) as refusal:
            use()
        assert "--files-dir" in refusal.value.hint


@pytest.mark.parametrize(
    "path", ["../secret", "below/../../secret", "/etc/passwd", "below/../plain.csv", "{parent}/secret", "..", "/"]
)
def test_no_path_leads_out(allowed: Path, path: str) -> None:
    for refused in ways(allowed, path.format(parent=allowed.parent)):
        with pytest.raises(Denied):
            refused()


@pytest.mark.parametrize("path", ["", ".", "a\0b", "x" * 256], ids=["nothing", "folder", "nul", "long"])
def test_what_is_no_path_is_said_to_be_none(allowed: Path, path: str) -> None:
    for refused in ways(allowed, path):
        with pytest.raises(InvalidArgument):
            refused()


@posix
def test_no_link_leads_out_of_the_folder_whether_to_a_file_or_on_the_way(allowed: Path) -> None:
    (allowed / "link.csv").symlink_to(allowed.parent / "secret")
    (allowed / "way").symlink_to(allowed.parent)
    (allowed / "below" / "up").symlink_to("..")
    for path in ("link.csv", "way/secret", "below/up/../../secret"):
        with pytest.raises((Denied, NotFound)):
            text_of(allowed, path)
    with pytest.raises(Error), Folders((allowed,)).created("way/new.csv", overwrite=True) as new:
        new.finish()
    assert sorted(path.name for path in allowed.parent.iterdir()) == ["allowed", "secret"]
    with Folders((allowed,)).created("link.csv", overwrite=True) as new:
        new.file.write(b"new")
        new.finish()
    assert (allowed.parent / "secret").read_text() == "secret"  # the link was replaced, not followed
    assert text_of(allowed, "link.csv") == "new"


@posix
def test_what_is_no_plain_file_is_refused_at_once(allowed: Path) -> None:
    os.mkfifo(allowed / "pipe.csv")  # which would wait for a writer
    (allowed / "device.csv").symlink_to("/dev/zero")
    for path in ("pipe.csv", "device.csv", "below"):
        with pytest.raises(Error) as refusal:
            text_of(allowed, path)
        assert isinstance(refusal.value, Denied | InvalidArgument)


@posix
def test_a_folder_that_becomes_a_link_between_the_look_and_the_opening_leads_nowhere(
    allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap happens just before the last part of the path is opened."""
    (allowed.parent / "deep.csv").write_text("secret")
    swapped: list[bool] = []
    really = os.open

    def opening(path: str, *arguments: int, **options: int) -> int:
        if str(path).endswith("deep.csv") and not swapped:
            (allowed / "below").rename(allowed / "before")
            (allowed / "below").symlink_to(allowed.parent)
            swapped.append(True)
        return really(path, *arguments, **options)

    monkeypatch.setattr(os, "open", opening)
    try:
        assert text_of(allowed, "below/deep.csv") == "deep"
    except Denied:
        assert not folders.WALKS
    assert swapped


def test_a_new_file_appears_when_it_is_finished_and_not_before(allowed: Path) -> None:
    with Folders((allowed,)).created("below/new.csv", overwrite=False) as new:
        new.file.write(b"whole")
        assert not (allowed / "below" / "new.csv").exists()
        assert new.finish() == 5
    assert (allowed / "below" / "new.csv").read_text() == "whole"
    assert names_in(allowed / "below") == ["deep.csv", "new.csv"]


def test_of_a_file_that_is_not_finished_nothing_stays(allowed: Path) -> None:
    with Folders((allowed,)).created("new.csv", overwrite=False) as new:
        new.file.write(b"half")
    assert names_in(allowed) == ["below", "plain.csv"]


@posix
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_that_becomes_a_link_while_a_file_is_written_leads_nowhere(allowed: Path, *, overwrite: bool) -> None:
    outside = allowed.parent / "outside"
    outside.mkdir()
    with Folders((allowed,)).created("below/new.csv", overwrite=overwrite) as new:
        (allowed / "below").rename(allowed / "before")
        (allowed / "below").symlink_to(outside)
        for unfinished in (allowed / "before").glob(".*.part"):
            (outside / unfinished.name).write_text("another's")
        try:
            new.finish()
        except Denied:
            assert not folders.WALKS
        else:
            assert (allowed / "before" / "new.csv").exists()
    assert not (outside / "new.csv").exists()


def test_unfinished_files_of_a_killed_server_are_removed_a_day_later(allowed: Path) -> None:
    old = time.time() - 2 * 24 * 3600
    ours, others = f".{'0f' * 8}.part", [".hidden.part", f"{'0f' * 8}.part", f".{'0f' * 8}.part.csv"]
    for name in (ours, *others):
        (allowed / name).touch()
        os.utime(allowed / name, (old, old))
    (allowed / f".{'1f' * 8}.part").touch()  # which may still be written
    with Folders((allowed,)).created("new.csv", overwrite=False):
        pass
    assert names_in(allowed) == sorted(["below", "plain.csv", f".{'1f' * 8}.part", *others])


def test_a_file_that_is_there_is_replaced_only_when_asked(allowed: Path) -> None:
    with pytest.raises(AlreadyExists), Folders((allowed,)).created("plain.csv", overwrite=False):
        pass
    with Folders((allowed,)).created("raced.csv", overwrite=False) as new:
        (allowed / "raced.csv").write_text("somebody else's")
        with pytest.raises(AlreadyExists):
            new.finish()
    assert text_of(allowed, "raced.csv") == "somebody else's"
    with Folders((allowed,)).created("plain.csv", overwrite=True) as new:
        new.file.write(b"new")
        new.finish()
    assert text_of(allowed, "plain.csv") == "new"
    with pytest.raises(NotFound), Folders((allowed,)).created("nowhere/new.csv", overwrite=False):
        pass
    assert names_in(allowed) == ["below", "plain.csv", "raced.csv"]


@pytest.mark.parametrize(
    "name",
    ["NUL", "con.csv", "Aux.tar.gz", "com1", "LPT9.txt", "nul .txt", "a.csv:stream", "a.csv.", "a.csv ", "CONIN$"],
)
def test_names_that_windows_reserves_are_known(name: str) -> None:
    assert is_reserved(name)


@pytest.mark.parametrize("name", ["null.csv", "console", "com10", "community.csv", ".hidden", "a b.csv"])
def test_other_names_are_not(name: str) -> None:
    assert not is_reserved(name)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ways(allowed: Path, path: str) -> list[Callable[[], object]]:
    """To read the file, and to make it."""
    there = Folders((allowed,))
    return [lambda: there.open(path), lambda: there.created(path, overwrite=True).__enter__()]
