"""Uploads that nobody honest sends: one clear message each, and nothing outside the folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import stat
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile_files import IMAGES, LAYOUT, WANTED, ZIPS, damaged, npy, png, whole, zipped

from spinevl.config.options.playground import LimitOptions
from spinevl.playground.patient_files import file_name, take_patient
from spinevl.playground.uploads import Received, Uploads
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout


def send(uploads: Uploads, name: str, content: bytes) -> Received:
    """As the server stores what a browser sends."""
    folder = uploads.incoming / f"{len(list(uploads.incoming.iterdir())):064d}"
    folder.mkdir()
    path = folder / "file.bin"
    path.write_bytes(content)
    return uploads.received(str(path), name)


def take(uploads: Uploads, sent: list[Received], into: Path) -> dict[int | str, Path]:
    return take_patient(uploads, sent, into, layout=LAYOUT, wanted=WANTED)


def files(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if not one.is_dir()]


def refused(act: Callable[[], object], name: str, tmp_path: Path) -> None:
    """One problem, in one line that names the file and no folder of ours; nothing is left."""
    tracemalloc.start()
    with pytest.raises(UserError) as told:
        act()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(told.value.problems) == 1, told.value.problems
    (line,) = told.value.lines
    assert line.isprintable()
    assert "expected" in line
    assert str(tmp_path) not in line
    shown = name.replace("\\", "/").rpartition("/")[2]
    assert shown.encode("unicode_escape").decode() in line or "the upload" in line, line
    assert peak < 30e6, f"{peak / 1e6:.0f} MB"


def kept(uploads: Uploads, tmp_path: Path) -> list[Path]:
    """The files below the private folder, and nothing is beside it."""
    assert list(tmp_path.iterdir()) == [uploads.folder]
    uploads.discard_older(-1)
    assert list(uploads.incoming.iterdir()) == []
    return [one for one in uploads.folder.rglob("*") if not one.is_dir()]


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_no_image(uploads: Uploads, tmp_path: Path, name: str) -> None:
    file, into = send(uploads, name, IMAGES[name]), uploads.new_folder()
    refused(lambda: uploads.take_images([file], into, (-1000, 1000)), name, tmp_path)
    assert kept(uploads, tmp_path) == []


@pytest.mark.parametrize("name", ZIPS)
def test_what_is_no_patient(uploads: Uploads, tmp_path: Path, name: str) -> None:
    file, into = send(uploads, name, ZIPS[name]), uploads.new_folder()
    refused(lambda: take(uploads, [file], into), name, tmp_path)
    assert kept(uploads, tmp_path) == []


def test_240_files_that_were_damaged_on_the_way(uploads: Uploads, tmp_path: Path) -> None:
    """Each is refused in one line that names it, or what is left of it is sound."""
    refusals: list[UserError] = []
    left: list[Path] = []
    for name, content in damaged(240):
        file = send(uploads, name, content)
        into = uploads.new_folder()
        try:
            if name.endswith("zip"):
                take(uploads, [file], into)
            else:
                uploads.take_images([file], into, None)
        except UserError as error:
            refusals.append(error)
            left += files(into)
    assert left == []
    assert len(refusals) > 150
    assert all(1 <= len(one.problems) <= len(WANTED) for one in refusals)
    lines = [line for one in refusals for line in one.problems]
    assert all("expected" in one and str(tmp_path) not in one for one in lines)
    assert all(one.suffix in (".png", ".npy") for one in kept(uploads, tmp_path))


def test_files_may_vanish_while_they_are_counted(uploads: Uploads) -> None:
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            for folder in [uploads.new_folder() for _ in range(20)]:
                (folder / "a").write_bytes(b"x")
                shutil.rmtree(folder)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert all(0 <= uploads.size() <= 20 for _ in range(300))
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("root", ["p1/", "", "images/p1/", "Ünïcode 病人/"])
def test_a_patient_in_a_zip(uploads: Uploads, tmp_path: Path, root: str) -> None:
    others = {"__MACOSX/p1/sag/._6.png": b"x", f"{root}sag/5.png": png(), "notes.txt": b"x"}
    file, into = send(uploads, "a.zip", zipped({**whole(root), **others})), uploads.new_folder()
    taken = take(uploads, [file], into)
    assert list(taken) == WANTED
    assert sorted(kept(uploads, tmp_path)) == sorted(taken.values())
    assert all(one.parent == into and one.read_bytes() == png() for one in taken.values())


def test_a_patient_in_single_files(uploads: Uploads, tmp_path: Path) -> None:
    names = {"sag_6.png": 6, "tra-2-3.png": "C2-C3", "tra 5.png": "C5"}
    sent = [send(uploads, name, png()) for name in names]
    into = uploads.new_folder()
    taken = take(uploads, sent, into)
    assert set(taken) == set(names.values())
    sent = [send(uploads, f"p-1_{name}", png()) for name in names]
    for path in taken.values():
        path.unlink()
    taken = take(uploads, sent, into)
    assert set(taken) == set(names.values())
    two = ["p1_sag_6.png", "p2_tra_2-3.png", "p1_tra_5.png"]
    for wrong in (["6.png"], ["sag_6.png", "sag-6.png"], ["sag_6.png", "a.zip"], two):
        sent = [send(uploads, name, png()) for name in wrong]
        with pytest.raises(UserError) as told:
            take(uploads, sent, into)
        assert len(told.value.problems) == 1
    assert sorted(kept(uploads, tmp_path)) == sorted(taken.values())


def test_images_are_kept_all_or_none(uploads: Uploads, tmp_path: Path) -> None:
    volume = npy(np.zeros((3, 4, 5), np.float32))
    good = [("a.png", png()), ("<b>.jpeg", png(mode="RGB")), ("c.npy", volume)]
    into = uploads.new_folder()
    taken = uploads.take_images([send(uploads, *one) for one in good], into, (-1000, 1000))
    assert [one.name for one in taken] == ["a.png", "<b>.jpeg", "c.npy"]
    assert [one.image.modality for one in taken] == ["image", "image", "image3d"]
    assert all(Path(one.image.path).parent == into for one in taken)
    sent = [send(uploads, *one) for one in (*good, ("d.png", b"hello"))]
    with pytest.raises(UserError, match=r"d\.png"):
        uploads.take_images(sent, into, None)
    assert len(kept(uploads, tmp_path)) == 3


def test_no_path_of_a_browser_is_opened(uploads: Uploads, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    link = uploads.incoming / "link.png"
    link.symlink_to(secret)
    (uploads.incoming / "folder").symlink_to(tmp_path)
    inside = f"{uploads.incoming}/../../secret.png"
    followed = f"{uploads.incoming}/folder/secret.png"
    others = ("/etc/passwd", "secret.png", "", "http://127.0.0.1/x.png")
    for path in (str(secret), inside, str(link), followed, *others):
        with pytest.raises(UserError):
            uploads.received(path, "x.png")
    assert secret.exists()


def test_the_folder_is_private_bounded_and_removed(tmp_path: Path) -> None:
    limits = LimitOptions(total_mb=0.01, files=2)
    with Uploads(limits, parent=tmp_path) as uploads:
        assert stat.S_IMODE(uploads.folder.stat().st_mode) == 0o700
        into = uploads.new_folder()
        (into / "other").write_bytes(b"0" * 11_000)
        file = send(uploads, "a.png", png())
        with pytest.raises(UserError, match=r"limits\.total_mb=0\.01"):
            uploads.take_images([file], into, None)
        with pytest.raises(UserError, match=r"limits\.files"):
            uploads.take_images([file] * 3, into, None)
    assert list(tmp_path.iterdir()) == []


def _killed(folder: Path) -> None:
    one = Uploads(LimitOptions(), parent=folder)
    (one.new_folder() / "a.png").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(files(tmp_path)) == 1
    with Uploads(LimitOptions(), parent=tmp_path) as uploads:
        assert list(tmp_path.iterdir()) == [uploads.folder]
        with Uploads(LimitOptions(), parent=tmp_path):  # beside one that runs
            assert uploads.incoming.is_dir()


def test_the_names_are_those_of_the_layout() -> None:
    assert file_name(LAYOUT, 6) == "sag/6.png"
    assert file_name(LAYOUT, "C2-C3") == "tra/2-3.png"
    own = StudyLayout(sagittal="{id}_s{slice}.png", axial="{id}_{level}.png")
    assert (
        json.dumps([file_name(own, 5), file_name(own, "C4")])
        == '["patient_s5.png", "patient_C4.png"]'
    )
