"""Shapes and textures as arrays, in single precision: soft masks, distances, windows, noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

SIDE_PX = 224
ROWS = np.arange(SIDE_PX, dtype=np.float32)
Y, X = np.meshgrid(ROWS, ROWS, indexing="ij")

_NONE, _WHOLE = np.float32(0.0), np.float32(1.0)

Window = tuple[slice, slice]


def soft(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """1 where a signed distance is well below 0, 0 well above; between a ramp of ``width`` px."""
    mask = distance * np.float32(-1.0 / width)
    mask += np.float32(0.5)
    np.maximum(mask, _NONE, out=mask)  # half the time of np.clip on small windows
    return np.minimum(mask, _WHOLE, out=mask)


def ellipse(
    x: np.ndarray, y: np.ndarray, *, at: tuple[float, float], radii: tuple[float, float]
) -> np.ndarray:
    """About the signed distance in px to an ellipse, exact along its axes' mean."""
    across = (x - np.float32(at[0])) * np.float32(1.0 / radii[0])
    along = (y - np.float32(at[1])) * np.float32(1.0 / radii[1])
    across *= across
    along *= along
    across += along
    np.sqrt(across, out=across)
    across -= np.float32(1.0)
    across *= np.float32(min(radii))
    return across


def window(x1: float, y1: float, x2: float, y2: float) -> Window:
    """The part of an image within these bounds; it may be empty."""
    low_x, low_y = (min(max(int(v), 0), SIDE_PX) for v in (x1, y1))
    high_x, high_y = (min(max(int(v) + 2, 0), SIDE_PX) for v in (x2, y2))
    return slice(low_y, max(high_y, low_y)), slice(low_x, max(high_x, low_x))


def texture(rng: np.random.Generator, *, cell_px: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise [H, W] of about unit variance.

    Args:
        rng: where it comes from.
        cell_px: size of its grains from left to right.
        stretch: how much longer they are from top to bottom.
    """
    row, column = (_cells(cell) for cell in (cell_px * stretch, cell_px))
    coarse = rng.standard_normal((row.count, column.count), dtype=np.float32)
    lines = coarse[row.low] * row.near[:, None] + coarse[row.low + 1] * row.far[:, None]
    fine = lines[:, column.low]
    fine *= column.near
    fine += lines[:, column.low + 1] * column.far
    return fine


@dataclass(frozen=True)
class _Cells:
    """Linear interpolation between noise values, scaled to keep unit variance."""

    count: int
    low: np.ndarray
    near: np.ndarray
    far: np.ndarray


@cache
def _cells(cell_px: float) -> _Cells:
    at = np.arange(SIDE_PX) / cell_px
    low = at.astype(int)
    far = at - low
    norm = np.hypot(far, 1.0 - far)
    return _Cells(
        int(low[-1]) + 2,
        low,
        ((1.0 - far) / norm).astype(np.float32),
        (far / norm).astype(np.float32),
    )
