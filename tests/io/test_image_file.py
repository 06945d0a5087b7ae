"""Which image files are decoded, and which are refused because they hold more than is read."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spinevl.io import image_file
from spinevl.io.image_file import load_image, load_rgb
from spinevl.schema.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)
BOTH: list[Callable[[Path], np.ndarray]] = [load_image, load_rgb]


def png(width: int, height: int, *, bits: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        summed = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + summed

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def refused(load: Callable[[Path], np.ndarray], path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    (line,) = caught.value.problems
    assert str(path) in line
    return line


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_images_are_known_by_their_content(tmp_path: Path, kind: str) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", format=kind)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), GREY)
    Image.fromarray(COLOUR).save(tmp_path / "c.png", format=kind)
    np.testing.assert_array_equal(load_rgb(tmp_path / "c.png"), COLOUR)


def test_postscript_is_refused_and_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'RAN'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    Image.new("L", (6, 6), 40).save(tmp_path / "a.png", format="EPS")
    with pytest.raises(UserError, match=r"a\.png"):
        load_image(tmp_path / "a.png", side_px=6)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("load", BOTH)
def test_png_of_16_bits_is_refused(
    tmp_path: Path, load: Callable[[Path], np.ndarray], colour: int, channels: int
) -> None:
    rows = (b"\0" + bytes(4 * channels * 2)) * 3
    (tmp_path / "a.png").write_bytes(png(4, 3, bits=16, colour=colour, data=rows))
    assert "16-bit" in refused(load, tmp_path / "a.png")


def deep_tiff(path: Path) -> None:
    """16-bit RGB, one strip of zeros."""
    data = 8
    tags = [(256, 3, 1, 4), (257, 3, 1, 3), (258, 3, 3, data + 72), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, data), (277, 3, 1, 3), (278, 3, 1, 3), (279, 4, 1, 72)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags)
    bits = struct.pack("<HHH", 16, 16, 16)
    start = data + 72 + len(bits)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + bytes(72) + bits + directory + bytes(4))


def deep_jpeg2000(path: Path) -> None:
    """An 8-bit one whose header says that its three channels have 12."""
    Image.fromarray(COLOUR).save(path, format="JPEG2000", no_jp2=True)
    content = bytearray(path.read_bytes())
    for channel in range(3):
        content[42 + 3 * channel] = 11
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "bits"),
    [
        (deep_tiff, 16),
        (deep_jpeg2000, 12),
        (lambda path: path.write_bytes(b"P6 4 3 65535\n" + bytes(72)), 16),
        (lambda path: path.write_bytes(b"P3 1 1 1023\n1 2 3\n"), 10),
        (lambda path: Image.fromarray(GREY.astype(np.uint16)).save(path, "JPEG2000"), 16),
        (lambda path: Image.fromarray(GREY.astype(np.int32)).save(path, "TIFF"), 16),
        (lambda path: Image.fromarray(GREY.astype(np.float32)).save(path, "TIFF"), 32),
    ],
)
def test_other_formats_of_more_than_8_bits_are_refused(
    tmp_path: Path, write: Callable[[Path], Any], bits: int
) -> None:
    write(tmp_path / "a")
    for load in BOTH:
        assert f"{bits}-bit" in refused(load, tmp_path / "a")


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
def test_colours_that_need_a_profile_are_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(COLOUR).convert(mode).save(tmp_path / "a.tif")
    assert f"mode {mode}" in refused(load_rgb, tmp_path / "a.tif")


def test_palettes_and_black_and_white_are_read_as_they_are_shown(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR).quantize(30)
    wanted = np.asarray(image.convert("RGB"))
    for number, transparency in enumerate((3, bytes(range(30)))):
        image.save(tmp_path / f"{number}.png", transparency=transparency)
        np.testing.assert_array_equal(load_rgb(tmp_path / f"{number}.png"), wanted)
    Image.fromarray(GREY > 99).save(tmp_path / "b.png")
    np.testing.assert_array_equal(load_rgb(tmp_path / "b.png")[..., 1], 255 * (GREY > 99))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_several_frames_are_refused(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(COLOUR)
    frames: Any = {"save_all": True, "append_images": [image.rotate(180)]}
    image.save(tmp_path / "a", format=kind, **frames)
    for load in BOTH:
        assert "several frames" in refused(load, tmp_path / "a")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, np.fliplr),
        (3, lambda pixels: pixels[::-1, ::-1]),
        (6, lambda pixels: np.rot90(pixels, -1)),
        (8, np.rot90),
    ],
)
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int, turn: Any) -> None:
    image = Image.fromarray(GREY)
    image.save(tmp_path / "upright", format=kind)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a", format=kind, exif=exif)
    np.testing.assert_array_equal(load_rgb(tmp_path / "a"), turn(load_rgb(tmp_path / "upright")))
    # boxes are in pixels of the image as it is stored, or as it is shown?
    assert f"orientation {orientation}" in refused(load_image, tmp_path / "a")


def test_an_orientation_that_means_upright_or_nothing_changes_nothing(tmp_path: Path) -> None:
    image = Image.fromarray(GREY)
    for orientation in (0, 1, 9):
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(load_image(tmp_path / "a.png"), GREY)


@pytest.mark.parametrize("side", [8200, 12_000, 30_000, 2**31 - 1])
def test_a_size_beyond_reason_is_refused_before_decoding(
    tmp_path: Path, side: int, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "a.png").write_bytes(png(side, side, bits=8, colour=0, data=b""))
    image_file._without_warning_of_size.cache_clear()  # pytest's own filters came later
    for load in BOTH:
        assert "more than 8192 x 8192" in refused(load, tmp_path / "a.png")
    assert not recwarn.list


def test_every_flipped_bit_of_the_pixels_of_a_png_is_found(tmp_path: Path) -> None:
    """zlib's own sum stands behind the last row, where decoders do not get to."""
    Image.fromarray(GREY).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for place in range(whole.index(b"IDAT"), whole.index(b"IEND") - 4):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        (tmp_path / "b.png").write_bytes(damaged)
        refused(load_image, tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(whole + b"what viewers read over")
    np.testing.assert_array_equal(load_image(tmp_path / "c.png"), GREY)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000"])
def test_damaged_images_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(2)
    Image.fromarray(COLOUR).save(tmp_path / "a", format=kind)
    whole = (tmp_path / "a").read_bytes()
    for _ in range(40):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "b").write_bytes(damaged)
        with contextlib.suppress(UserError):  # no other error
            load_rgb(tmp_path / "b")


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "named pipe" in refused(load_image, tmp_path / "a.png")
