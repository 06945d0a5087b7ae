"""Images and volumes that hold more, less or other than they seem to."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_bytes import Mutation, replace
from PIL import Image
from small_study import SIDE


def _png(path: Path, header: bytes, rows: bytes) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    replace(path, b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _deep(color: int, channels: int) -> Mutation:
    """A PNG of 16 bits in each channel; color is PNG's color type."""

    def mutate(path: Path, rng: random.Random) -> None:
        rows = (b"\x00" + rng.randbytes(SIDE * channels * 2) for _ in range(SIDE))
        _png(path, struct.pack(">IIBBBBB", SIDE, SIDE, 16, color, 0, 0, 0), b"".join(rows))

    return mutate


def _vast(path: Path, rng: random.Random) -> None:
    _png(path, struct.pack(">IIBBBBB", 10**5, 10**5, 8, 0, 0, 0, 0), b"\x00" * 1000)


def _frames(kind: str) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        frames = [Image.fromarray(_pixels(rng)) for _ in range(3)]
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        replace(path, buffer.getvalue())

    return mutate


def _mode(mode: str, kind: str) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        buffer = io.BytesIO()
        Image.fromarray(_pixels(rng)).convert(mode).save(buffer, kind)
        replace(path, buffer.getvalue())

    return mutate


def _size(width: int, height: int) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        buffer = io.BytesIO()
        Image.new("L", (width, height)).save(buffer, "PNG")
        replace(path, buffer.getvalue())

    return mutate


def _pixels(rng: random.Random) -> np.ndarray:
    return np.frombuffer(rng.randbytes(SIDE * SIDE), np.uint8).reshape(SIDE, SIDE)


IMAGES: dict[str, tuple[Mutation, bool | None]] = {
    "16-bit grey": (_deep(0, 1), True),
    "16-bit RGB": (_deep(2, 3), True),
    "16-bit grey with alpha": (_deep(4, 2), True),
    "16-bit RGBA": (_deep(6, 4), True),
    "100,000 pixels wide": (_vast, True),
    "GIF with frames": (_frames("GIF"), True),
    "TIFF with frames": (_frames("TIFF"), True),
    "animated PNG": (_frames("PNG"), True),
    "float TIFF": (_mode("F", "TIFF"), True),
    "32-bit TIFF": (_mode("I", "TIFF"), True),
    "EPS": (_mode("L", "EPS"), True),
    "other size": (_size(SIDE + 1, SIDE), True),
    "one pixel": (_size(1, 1), True),
    "RGB": (_mode("RGB", "PNG"), None),
    "palette": (_mode("P", "PNG"), None),
}


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        buffer = io.BytesIO()
        np.save(buffer, change(np.load(path).copy()), allow_pickle=True)
        replace(path, buffer.getvalue())

    return mutate


def _filled(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(volume: np.ndarray) -> np.ndarray:
        volume.flat[volume.size // 2] = value
        return volume

    return change


def _header(shape: str, dtype: str = "<f4") -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
        text = text.ljust(117) + "\n"
        head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
        replace(path, head + rng.randbytes(4000))

    return mutate


NPY: dict[str, tuple[Mutation, bool | None]] = {
    "NaN": (_array(_filled(float("nan"))), True),
    "infinite": (_array(_filled(float("inf"))), True),
    "complex": (_array(lambda v: v.astype(np.complex64)), True),
    "text": (_array(lambda v: v.astype(str)), True),
    "objects": (_array(lambda v: v.astype(object)), True),
    "five axes": (_array(lambda v: v[None, None]), True),
    "one axis": (_array(np.ravel), True),
    "nothing": (_array(lambda v: v[:0]), True),
    "a petabyte": (_header("(100000, 100000, 100000)"), True),
    "negative shape": (_header("(-1, 20, 20)"), True),
    "code in its header": (_header("__import__('os').system('touch pwned')"), True),
    "Fortran order": (_array(np.asfortranarray), False),
    "big-endian": (_array(lambda v: v.astype(">f4")), False),
}


def _nifti(change: Callable[[Any], None]) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        import nibabel

        image: Any = nibabel.load(path)
        image = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        change(image)
        path.unlink()
        nibabel.save(image, path)

    return mutate


def _mirrored(image: Any) -> None:
    affine = image.affine.copy()
    affine[0] *= -1
    image.set_qform(affine, code=1)


def _no_side(image: Any) -> None:
    image.set_qform(None, code=0)
    image.set_sform(None, code=0)


def _nan(image: Any) -> None:
    np.asarray(image.dataobj).flat[0] = np.nan


def _vast_dims(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[40:56] = struct.pack("<8h", 3, 32000, 32000, 32000, 1, 1, 1, 1)
    replace(path, bytes(content))


def _bomb(path: Path, rng: random.Random) -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9) as stream:
        stream.write(gzip.decompress(path.read_bytes()))
        for _ in range(64):
            stream.write(bytes(2**24))
    replace(path, buffer.getvalue())


def _flipped(path: Path, rng: random.Random) -> None:
    """One bit in the deflated voxels, behind gzip's header."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(30, len(content) - 8)] ^= 1 << rng.randrange(8)
    replace(path, bytes(content))


NIFTI: dict[str, tuple[Mutation, bool | None]] = {
    "left in dispute": (_nifti(_mirrored), True),
    "no orientation": (_nifti(_no_side), True),
    "NaN": (_nifti(_nan), True),
}
NIFTI_PLAIN = NIFTI | {"dimensions beyond the file": (_vast_dims, True)}
NIFTI_GZIP = NIFTI | {"a gigabyte behind it": (_bomb, None), "flipped bit": (_flipped, True)}
