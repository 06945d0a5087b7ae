"""Files that nobody honest sends, and those that were damaged on the way."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from spinevl.playground.patient_files import file_name
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
    padded = text.ljust(373) + "\n"
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


def with_chunk(kind: bytes, content: bytes, times: int = 1) -> bytes:
    """A sound PNG with more chunks behind its header."""
    return png()[:33] + times * chunk(kind, content) + png()[33:]


def gzipped(content: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(content) + packer.flush()


def overlapping() -> bytes:
    """A zip whose entries are all the same 50 MB of zeros, which stand in it once."""
    packer, zeros = zlib.compressobj(9, wbits=-15), b"\0" * 50_000_000
    content = packer.compress(zeros) + packer.flush()
    names = [name.encode() for name in whole()]
    told = (8, 0, 0, zlib.crc32(zeros), len(content), len(zeros))
    start = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, *told, len(names[0]), 0) + names[0] + content
    listed = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, *told, len(name), *[0] * 6) + name
        for name in names
    )
    sizes = (len(names), len(names), len(listed), len(start), 0)
    return start + listed + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *sizes)


def lying() -> bytes:
    """A zip that says 100 bytes of an entry that has 60 MB."""
    made = bytearray(zipped({**whole(), "p1/sag/6.png": b"\0" * 60_000_000}))
    struct.pack_into("<L", made, made.find(b"p1/sag/6.png", made.find(b"PK\1\2")) - 22, 100)
    return bytes(made)


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
    "words.png": with_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 50_000_000), 3),
    "profile.png": with_chunk(b"iCCP", b"k\0\0" + zlib.compress(b"a" * 50_000_000)),
    "twice.nii.gz": gzipped(gzipped(nifti(9, 9, 9))),
    "zeros.nii.gz": gzipped(b"\0" * 50_000_000),
    "minus.nii": nifti(-5, 9, 9),
    "none.nii": nifti(0, 0, 0),
    "none.npy": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 0, 5)}"),
    "truth.npy": npy_header(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 3, 3)}", b"\0" * 72
    ),
    "axes.npy": npy_header(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1," + " 1," * 69 + ")}", b"\0" * 8
    ),
    "nested.npy": npy_header("(" * 3000),
    "long.npy": b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + b"x",
    "letters.npy": npy_header("{'descr': '<U9999999', 'fortran_order': False, 'shape': (3, 3, 3)}"),
    "complex.npy": npy(np.zeros((3, 3, 3), complex)),
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
    "overlapping.zip": overlapping(),
    "lying.zip": lying(),
    "in-one-another.zip": zipped({**whole(), "p1/sag/6.png": zipped({"6.png": zipped(whole())})}),
    "link.zip": zipped(whole(), lambda i: i.filename.endswith("6.png") and linked(i)),
    "digits.zip": zipped({**whole(), "p1/sag/06.png": png()}),
    "right-to-left.zip": zipped({**whole(), "p1/\u202egnp.exe": b""}),
    "newline.zip": zipped({**whole(), "p1/a\nb": b""}),
    "long.zip": zipped({**whole(), "p1/" + "n" * 60_000: b"", "../x": b""}),
    "many.zip": zipped({f"p1/{k}.png": b"" for k in range(10_001)}),
    "large.zip": b"PK\x03\x04" + os.urandom(1_100_000),
}

ODD_NAMES = (
    *("<script>alert(1)</script>.png", "\u202egnp.exe", "a\nb.png", "a\x00b.png", "a\x1b[31m.png"),
    *(
        "n" * 300 + ".png",
        "é" * 400,
        "..",
        ".",
        " ",
        "/",
        "\\",
        "/etc/passwd",
        "../../x.png",
        "nul",
    ),
    *(
        "C:\\x.png",
        "~/.ssh/id_rsa",
        "$(touch x).png",
        "%2e%2e%2fx.png",
        "&lt;b&gt;.png",
        "a\u2028b",
    ),
    *(
        "\ufeff.png",
        ".htaccess",
        "--help.png",
        "a/" * 100 + "b.png",
        "incoming",
        "😀" * 100,
        "a\rb",
    ),
)
"""What a browser may call a file."""


def damaged(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, content) of sound files some of whose bytes were changed, cut and repeated."""
    rng = np.random.default_rng(seed)
    volume = npy(np.zeros((3, 9, 9), np.float32))
    sound = {"a.png": png(), "b.npy": volume, "c.zip": zipped(whole(), stored), "d.zip": zipped(
        {**whole(), "p1/tra/7.png": os.urandom(900)})}  # fmt: skip
    for number in range(count):
        name = list(sound)[number % 4]
        content = bytearray(sound[name])
        for at in rng.integers(0, len(content), rng.integers(1, 9)):
            content[at] = rng.integers(256)
        yield name, bytes(content[: rng.integers(1, 2 * len(content))])
