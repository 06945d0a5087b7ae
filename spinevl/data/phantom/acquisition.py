"""What the scanner adds: blur, bias field, contrast and noise."""

from __future__ import annotations

import numpy as np

SIDE_PX = 224
Y, X = np.meshgrid(
    np.arange(SIDE_PX, dtype=np.float32), np.arange(SIDE_PX, dtype=np.float32), indexing="ij"
)


def soft(distance: np.ndarray, width: float = 0.8) -> np.ndarray:
    """1 where a signed distance in pixels is well below 0, 0 well above, soft between."""
    scaled = distance * np.float32(-0.5 / width)
    scaled += np.float32(0.5)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def paint(image: np.ndarray, mask: np.ndarray, value: float | np.ndarray) -> None:
    """Blend ``value`` into the image [H, W] where the soft mask is 1, in place."""
    image += mask * (value - image)


def texture(rng: np.random.Generator, *, cell_px: int) -> np.ndarray:
    """Smooth noise [H, W] of about unit variance with structures of ``cell_px`` pixels."""
    side = SIDE_PX // cell_px + 2
    coarse = rng.standard_normal((side, side)).astype(np.float32)
    at = np.arange(SIDE_PX) / cell_px
    low = at.astype(int)
    part = (at - low).astype(np.float32)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def acquire(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scanner's picture, uint8 [H, W], of an ideal one, float [H, W] on the scale 0..255."""
    x, y = (X - 112) / 112, (Y - 112) / 112
    a, b, c = rng.normal(0, [0.10, 0.10, 0.07]).tolist()
    field = (1 - 0.6 * c) + x * (a + c * x) + y * (b + c * y)
    gain, gamma = rng.uniform(0.85, 1.12), rng.uniform(0.9, 1.12)
    bright = gain * field * 255 * np.power(np.clip(image, 0, 255) / 255, gamma)
    noise = rng.standard_normal((2, SIDE_PX, SIDE_PX), dtype=np.float32) * rng.uniform(3.5, 7.0)
    # Rician, as MR magnitudes are
    magnitude = np.sqrt(np.square(bright + noise[0]) + np.square(noise[1]))
    return np.clip(magnitude, 0, 255).astype(np.uint8)
