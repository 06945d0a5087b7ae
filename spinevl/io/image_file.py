"""Read images of 8 bits a channel, and say exactly what is wrong with others."""

from __future__ import annotations

import functools
import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from spinevl.io.regular_file import read_regular
from spinevl.schema.errors import UserError, refused

MAX_PIXELS = 2**26
"""The largest image that is decoded: 8192 x 8192. The header is asked before."""

_MAX_BYTES = 2**29

# no EPS, for which Pillow starts Ghostscript
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")

# modes that Pillow brings to RGB as a viewer shows them; CMYK and LAB need a colour profile
_SHOWN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")

_GREY = "an 8-bit grey PNG"
_TIFF_BITS_PER_SAMPLE = 258
_J2K_SIZE = b"\xff\x4f\xff\x51"  # start of the codestream, and of its size segment


def load_rgb(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image as a viewer shows it, uint8 [H, W, 3]: turned as its EXIF orientation says.

    An alpha channel is dropped, as MedM-VL does.

    Args:
        path: the file.
        max_pixels: the largest that is decoded.

    Raises:
        UserError: missing, not whole, too large, or holding more than this array could: more than
            8 bits a channel, several frames, or colours that need a profile.
    """
    expected = "an 8-bit image"
    image, orientation = _decoded(path, expected, max_pixels)
    if image.mode not in _SHOWN:
        raise refused(str(path), expected, f"mode {image.mode}", "convert it to RGB")
    if orientation != 1 and image.format != "TIFF":  # which Pillow turns itself
        image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # its transparent colours too
    return np.asarray(image.convert("RGB"))


def load_image(
    path: str | Path,
    *,
    side_px: int | None = None,
    max_pixels: int = MAX_PIXELS,
    absent: str = "add it",
) -> np.ndarray:
    """The image at ``path`` as uint8 [H, W].

    8-bit grey (L) and RGB with equal channels are accepted. An image that a viewer would turn is
    refused: boxes are in pixels, and nobody says of which of the two images.

    Args:
        path: the file.
        side_px: the required height and width; None accepts any size.
        max_pixels: the largest that is decoded.
        absent: what to do about a file that is not there.

    Raises:
        UserError: missing, truncated, too large, of another mode or size, or turned.
    """
    expected = _GREY + (f" of {side_px} x {side_px}" if side_px else "")
    image, orientation = _decoded(path, expected, max_pixels, absent)
    if orientation != 1:
        found = f"EXIF orientation {orientation}, by which viewers turn it"
        raise refused(str(path), expected, found, "save its pixels upright, without it")
    pixels = np.asarray(image)
    if image.mode == "RGB" and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    elif image.mode != "L":
        raise refused(str(path), expected, f"mode {image.mode}", "convert it to grey")
    if side_px is not None and pixels.shape != (side_px, side_px):
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        fix = f"set data.side_px if all have this size, or resample it to {side_px} x {side_px}"
        raise refused(str(path), expected, found, fix)
    return pixels


def _decoded(
    path: str | Path, expected: str, max_pixels: int, absent: str = "add it"
) -> tuple[Image.Image, int]:
    """A whole image of one frame and 8 bits, and its EXIF orientation: 1 upright, 2 to 8 turned."""
    where = str(path)
    content = read_regular(path, expected=expected, missing=absent, max_bytes=_MAX_BYTES)
    try:
        image = _opened(content)
        _require_plain(image, content, where, expected, max_pixels)
        if image.format == "PNG":  # decoding alone checks neither the sums nor the end of the file
            image.verify()
            image = _opened(content)
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        image.load()
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(where, expected, max_pixels) from None
    except Exception as error:  # decoders raise errors of every kind where a file is damaged
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        found = f"no whole image ({reason or type(error).__name__})"
        raise refused(where, expected, found, "export it again") from error
    return image, orientation if orientation in range(2, 9) else 1


def _opened(content: bytes) -> Any:
    """The header of an image. Returns Any: what a format tells differs."""
    _without_warning_of_size()
    return Image.open(io.BytesIO(content), formats=_FORMATS)


@functools.cache
def _without_warning_of_size() -> None:
    """Pillow warns of sizes that are refused here."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _require_plain(image: Any, content: bytes, where: str, expected: str, max_pixels: int) -> None:
    """Refuse by its header what would be read as less than it holds."""
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(where, expected, max_pixels, f"{width} x {height} pixels, ")
    if getattr(image, "is_animated", False):
        raise refused(where, expected, "several frames", "export the one that is meant")
    if (bits := _bits(image, content)) > 8:
        found = f"{bits}-bit channels (mode {image.mode})"
        raise refused(where, expected, found, "window it to 8 bits first")


def _too_large(where: str, expected: str, max_pixels: int, size: str = "") -> UserError:
    side = int(max_pixels**0.5)
    return refused(where, expected, f"{size}more than {side} x {side} pixels", "resample it")


def _bits(image: Any, content: bytes) -> int:
    """Bits a channel in the file; Pillow cuts those of colours to 8 without a word."""
    if image.mode[0] in "IF":
        return 32 if image.mode == "F" else 16
    if image.format == "TIFF":
        return max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (1,)))
    if image.format == "JPEG2000":
        start = content.index(_J2K_SIZE)
        (n_channels,) = struct.unpack_from(">H", content, start + 40)
        depths = content[start + 42 : start + 42 + 3 * n_channels : 3]
        return max((depth & 0x7F) + 1 for depth in depths)
    if image.format == "PNG":
        return 16 if any(";16" in str(tile[3]) for tile in image.tile) else 8
    if image.format == "PPM" and isinstance(image.tile[0][3], tuple):
        return int(image.tile[0][3][-1]).bit_length()  # of the highest value
    return 8
