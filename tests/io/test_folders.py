"""A folder is replaced whole: by whatever means the file system has, and wherever a kill falls."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spinevl.io import folders
from spinevl.io.files import write_text_atomic
from spinevl.io.folders import recovered, whole_folder
from spinevl.io.temporary import beside, remove_leftovers

# Replaces the folder `f`, which holds `old`, with one that holds `new`, and dies after the n-th
# rename, os.replace or exchange.
DYING = """
import os, signal, sys
from pathlib import Path
from spinevl.io import folders
left, swaps = int(sys.argv[1]), sys.argv[2] == "swaps"
def dying(call):
    def wrapped(*args):
        global left
        result = call(*args)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped
os.rename, os.replace = dying(os.rename), dying(os.replace)
folders._exchange = dying(folders._exchange) if swaps else (lambda one, other: False)
with folders.whole_folder(Path("f")) as beside:
    (beside / "content").write_text("new")
"""


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_folder_replaces_another_and_leaves_nothing(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with whole_folder(tmp_path / "f") as new:
            (new / text).write_text(text)
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["new"]


def test_without_an_exchange_two_renames_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    test_a_folder_replaces_another_and_leaves_nothing(tmp_path)


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()

    def fail() -> None:
        with whole_folder(tmp_path / "f") as new:
            (new / "content").write_text("half")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        fail()
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == []


@pytest.mark.parametrize("how", ["swaps", "renames"])
@pytest.mark.parametrize("kill_at", [1, 2])
def test_killed_at_any_rename_there_is_a_whole_folder(
    tmp_path: Path, how: str, kill_at: int
) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "content").write_text("old")
    command = [sys.executable, "-c", DYING, str(kill_at), how]
    code = subprocess.run(command, cwd=tmp_path, check=False).returncode
    assert code == (0 if (how, kill_at) == ("swaps", 2) else -9)  # an exchange is one step
    assert (recovered(tmp_path / "f") / "content").read_text() in ("old", "new")
    with whole_folder(tmp_path / "f") as new:
        (new / "content").write_text("third")
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f" / "content").read_text() == "third"


def test_a_reader_that_recovers_while_another_writes_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    rename = os.rename

    def raced(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(target).name == ".f.old":
            monkeypatch.setattr(os, "rename", rename)
            recovered(tmp_path / "f")

    with whole_folder(tmp_path / "f") as new:
        (new / "content").write_text("old")
    monkeypatch.setattr(os, "rename", raced)
    with whole_folder(tmp_path / "f") as new:
        (new / "content").write_text("new")
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f" / "content").read_text() == "new"


@pytest.mark.parametrize("umask", [0o077, 0o002, 0o027])
def test_rights_follow_the_umask(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        with whole_folder(tmp_path / "f") as new:
            (new / "inner").mkdir()
            private = new / "inner" / "private"
            private.write_text("as safetensors writes")
            private.chmod(0o600)
        write_text_atomic(tmp_path / "file", "")
    finally:
        os.umask(former)
    for path, full in (
        ("f", 0o777),
        ("f/inner", 0o777),
        ("f/inner/private", 0o666),
        ("file", 0o666),
    ):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == full & ~umask, path


def test_a_link_keeps_pointing_to_the_folder_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with whole_folder(tmp_path / "link") as new:
        (new / "content").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "content").read_text() == "new"


def test_only_leftovers_of_processes_that_ended_are_removed(tmp_path: Path) -> None:
    make = "import sys; from pathlib import Path; from spinevl.io.temporary import beside\n"
    make += "beside(Path(sys.argv[1])).mkdir()"
    subprocess.run([sys.executable, "-c", make, str(tmp_path / "cohort")], check=True)
    (dead,) = names(tmp_path)
    elsewhere = dead.replace(dead.split(".")[2][:8], "0" * 8)
    (tmp_path / elsewhere).mkdir()
    mine = beside(tmp_path / "cohort")
    mine.mkdir()
    (tmp_path / ".notes.tmp").touch()
    remove_leftovers(tmp_path, of="other")
    assert dead in names(tmp_path)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([".notes.tmp", elsewhere, mine.name])
    remove_leftovers(tmp_path, locked=True)  # whoever holds the lock of the place knows more
    assert names(tmp_path) == sorted([".notes.tmp", mine.name])
