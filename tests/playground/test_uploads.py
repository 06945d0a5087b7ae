"""Uploads that nobody honest sends: one clear message each, and nothing outside the folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spinevl.config.options.playground import LimitOptions
from spinevl.playground.patient_files import file_name, take_patient
from spinevl.playground.uploads import Received, Uploads
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout

SIDE = 64
LAYOUT = StudyLayout(side_px=SIDE)
WANTED: list[int | str] = [6, "C2-C3", "C5"]


def png(side: int = SIDE, mode: str = "L", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), 99 if mode == "L" else None).save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    total = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", total)


def declared(width: int, height: int) -> bytes:
    """A PNG of some bytes that says it is that large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png()[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(
        b"IEND", b""
    )  # fmt: skip


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npy_header(text: str, content: bytes = b"") -> bytes:
    padded = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode() + content


def nifti(*shape: int, kind: int = 4, bits: int = 16) -> bytes:
    """A header that says so, and no voxels."""
    dim = [len(shape), *shape, *[1] * (7 - len(shape))]
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, *dim)
    struct.pack_into("<2h", head, 70, kind, bits)
    struct.pack_into("<f", head, 108, 352.0)
    head[344:348] = b"n+1\0"
    return bytes(head)


def zipped(entries: dict[str, bytes], change: Callable[[zipfile.ZipInfo], object] = id) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name.rstrip("#"))
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, content)
    return file.getvalue()


def linked(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def whole(root: str = "p1/") -> dict[str, bytes]:
    return {f"{root}{file_name(LAYOUT, slot)}": png() for slot in WANTED}


def method(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_BZIP2


def stored(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_STORED


def locked(content: bytes) -> bytes:
    """The same zip whose entries say that they have a password."""
    changed = bytearray(content)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(magic)
        while at >= 0:
            changed[at + offset] |= 1
            at = changed.find(magic, at + 1)
    return bytes(changed)


def long_list() -> bytes:
    """An end of a zip that promises more entries than memory holds."""
    return zipped(whole())[:-22] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 9, 0, 0)


# name in the browser -> content; each is refused as the image of a conversation
IMAGES: dict[str, bytes] = {
    "text.png": b"hello",
    "empty.png": b"",
    "cut.png": png()[:60],
    "no-end.png": png()[:-12],
    "sum.png": png()[:50] + b"\0\0\0\0" + png()[54:],
    "large.png": declared(40_000, 40_000),
    "longest.png": declared(2**31 - 1, 1),
    "over.png": declared(1100, 1000),
    "zero.png": declared(0, 5),
    "deep.png": (lambda f: (Image.new("I;16", (9, 9)).save(f, "PNG"), f.getvalue())[1])(
        io.BytesIO()
    ),
    "moving.png": png(save_all=True, append_images=[Image.new("L", (SIDE, SIDE), 5)]),
    "cut.jpg": b"\xff\xd8\xff\xe0" + b"0" * 50,
    "cut.bmp": b"BM" + b"\xff" * 60,
    "cut.webp": b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 30,
    "page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "page.html": b"<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>.png": b"hello",
    "../../etc/passwd": b"root:x:0:0",
    "..\\..\\boot.ini": b"[boot]",
    "\u202egnp.exe": b"MZ\x90",
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "movie.gif": b"GIF89a" + b"\0" * 40,
    "scan.tiff": b"II*\0" + b"\0" * 40,
    "scan.dcm": b"\0" * 128 + b"DICM" + b"\0" * 40,
    "model.pt": b"PK\x03\x04" + b"\0" * 40,
    "empty.npy": b"\x93NUMPY",
    "objects.npy": npy(np.array([{"a": 1}], dtype=object)),
    "code.npy": npy_header("__import__('os').system('touch /tmp/pwned')"),
    "huge.npy": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (9999, 9999, 9999)}"),
    "minus.npy": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 5, 5)}"),
    "flat.npy": npy(np.zeros((5, 5), np.float32)),
    "nan.npy": npy(np.full((2, 3, 3), np.nan, np.float32)),
    "over.npy": npy(np.zeros((60, 60, 60), np.uint8)),
    "cut.npy": npy(np.zeros((5, 5, 5), np.float32))[:-9],
    "huge.nii": nifti(30_000, 30_000, 300),
    "cut.nii": nifti(9, 9, 9),
    "colour.nii": nifti(9, 9, 9, kind=128, bits=24),
    "text.nii": b"hello" * 99,
    "text.nii.gz": b"hello" * 99,
    "bomb.nii.gz": (lambda z: z.compress(nifti(50, 50, 50) + b"\0" * 30_000_000) + z.flush())(
        zlib.compressobj(9, wbits=31)
    ),
    "heavy.bin": b"\xff\xd8\xff" + b"0" * 1_100_000,
}  # fmt: skip

# each is refused as the zip of a patient
ZIPS: dict[str, bytes] = {
    "text.zip": b"hello",
    "empty.zip": b"",
    "nothing.zip": zipped({}),
    "cut.zip": zipped(whole())[:-30],
    "start.zip": zipped(whole())[:200],
    "list.zip": long_list(),
    "other.zip": zipped({"readme.txt": b"hello", "6.png": png()}),
    "missing.zip": zipped(dict(list(whole().items())[:2])),
    "up.zip": zipped({**whole(), "../p1/sag/5.png": png()}),
    "inner-up.zip": zipped({**whole(), "p1/../../x.png": png()}),
    "root.zip": zipped({**whole(), "/etc/passwd": b"x"}),
    "drive.zip": zipped({**whole(), "C:/x.png": b"x"}),
    "backslash.zip": zipped({**whole(), "..\\x.png": b"x"}),
    "control.zip": zipped({**whole(), "p1/\x1b[2J.png": b"x"}),
    "here.zip": zipped({**whole(), "p1/./x.png": b"x"}),
    "links.zip": zipped(whole(), linked),
    "device.zip": zipped(whole(), lambda i: setattr(i, "external_attr", stat.S_IFCHR << 16)),
    "twice.zip": zipped({**whole(), "p1/sag/6.png#": png()}),
    "case.zip": zipped({**whole(), "P1/SAG/6.PNG": png()}),
    "two.zip": zipped({**whole(), **whole("p2/")}),
    "nested.zip": zipped({**whole(), **whole("a/p1/")}),
    "second.zip": zipped({**whole(), "p2/sag/5.png": png()}),
    "bomb.zip": zipped({**whole(), "p1/sag/6.png": b"\0" * 30_000_000}),
    "text-inside.zip": zipped({**whole(), "p1/sag/6.png": b"hello"}),
    "jpeg-inside.zip": zipped({**whole(), "p1/sag/6.png": b"\xff\xd8\xff\xe0"}),
    "declared.zip": zipped({**whole(), "p1/sag/6.png": declared(40_000, 40_000)}),
    "size.zip": zipped({**whole(), "p1/sag/6.png": png(32)}),
    "colour.zip": zipped({**whole(), "p1/sag/6.png": png(mode="RGBA")}),
    "method.zip": zipped(whole(), method),
    "locked.zip": locked(zipped(whole())),
    "sum.zip": zipped(whole(), stored).replace(b"IDAT", b"IDAX"),
    "markup<script>.zip": zipped({"<script>alert(1)</script>.png": png()}),
    "large.zip": b"PK\x03\x04" + os.urandom(1_100_000),
}


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
    rng = np.random.default_rng(0)
    volume = npy(np.zeros((3, 9, 9), np.float32))
    sound = {"a.png": png(), "b.npy": volume, "c.zip": zipped(whole(), stored), "d.zip": zipped(
        {**whole(), "p1/tra/7.png": os.urandom(900)})}  # fmt: skip
    refusals: list[UserError] = []
    left: list[Path] = []
    for number in range(240):
        name = list(sound)[number % 4]
        content = bytearray(sound[name])
        for at in rng.integers(0, len(content), rng.integers(1, 9)):
            content[at] = rng.integers(256)
        file = send(uploads, name, bytes(content[: rng.integers(1, 2 * len(content))]))
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


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from spinevl.config.options.playground import LimitOptions\n"
        "from spinevl.playground.uploads import Uploads\n"
        "one = Uploads(LimitOptions(), parent=pathlib.Path(sys.argv[1]))\n"
        "(one.new_folder() / 'a.png').write_bytes(b'x')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
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
