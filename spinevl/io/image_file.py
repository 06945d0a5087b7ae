"""Read 8-bit grey PNGs, and say exactly what is wrong with others."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from spinevl.schema.errors import refused

_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# no EPS, for which Pillow starts Ghostscript
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")

_GREY = "an 8-bit grey PNG"


def load_rgb(path: str | Path) -> np.ndarray:
    """Any image that Pillow reads, as uint8 [H, W, 3]; an alpha channel is dropped.

    Raises:
        UserError: missing, or not a whole image.
    """
    image = _decoded(path, "an 8-bit image")
    return np.asarray(image.convert("RGB"))


def load_image(path: str | Path, *, side_px: int | None = None) -> np.ndarray:
    """The image at ``path`` as uint8 [H, W].

    8-bit grey (L) and RGB with equal channels are accepted.

    Args:
        path: the file.
        side_px: the required height and width; None accepts any size.

    Raises:
        UserError: missing, truncated, of another mode or size.
    """
    expected = _GREY + (f" of {side_px} x {side_px}" if side_px else "")
    image = _decoded(path, expected)
    pixels = np.asarray(image)
    if image.mode == "RGB" and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    elif image.mode != "L":
        raise refused(str(path), expected, f"mode {image.mode}", "convert it to grey")
    if side_px is not None and pixels.shape != (side_px, side_px):
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        fix = f"resample it to {side_px} x {side_px}"
        raise refused(str(path), expected, found, fix)
    return pixels


def _decoded(path: str | Path, expected: str) -> Image.Image:
    """A whole image file of 8 bits."""
    where = str(path)
    try:
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            image.load()
    except FileNotFoundError:
        fix = "add it, or see data.missing_images"
        raise refused(where, expected, "no such file", fix) from None
    except _DECODING_ERRORS as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        found = f"no whole image ({reason})"
        raise refused(where, expected, found, "export it again") from error
    if image.format == "PNG" and b"IEND" not in content:
        # Pillow does not miss the end where the pixels are whole; what else was cut, none can say
        raise refused(where, expected, "no whole image (its end is cut off)", "export it again")
    if image.mode[0] in "IF":
        found = f"mode {image.mode} (16-bit or more)"
        raise refused(where, expected, found, "window it to 8 bits first")
    return image
