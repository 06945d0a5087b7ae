"""What the scanner makes of a slice: blur, bias field, contrast, noise; and the tissues' signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spinevl.sources.phantom.raster import SIDE_PX, X, Y


@dataclass(frozen=True)
class Signal:
    """T2 signal of the tissues of one patient, 0 (none) to 1 (CSF)."""

    csf: float
    cord: float
    marrow: float
    disc: float
    muscle: float
    fat: float
    cortex: float
    brain: float


@dataclass(frozen=True)
class Scanner:
    """How one patient's series was taken.

    Attributes:
        gain: brightness of the picture.
        contrast: bend of its tone curve; positive lifts the greys.
        noise: standard deviation of the noise in either channel.
        field: [3] left-right, up-down and radial share of the bias field.
        blur: weight of the neighbouring pixels.
    """

    gain: float
    contrast: float
    noise: float
    field: tuple[float, float, float]
    blur: float


def draw_signal(rng: np.random.Generator) -> Signal:
    """Tissue contrast varies from scanner to scanner, and with nothing that is graded."""
    return Signal(
        csf=rng.uniform(0.84, 1.0),
        cord=rng.uniform(0.34, 0.46),
        marrow=rng.uniform(0.26, 0.42),
        disc=rng.uniform(0.16, 0.30),
        muscle=rng.uniform(0.13, 0.21),
        fat=rng.uniform(0.60, 0.85),
        cortex=rng.uniform(0.03, 0.07),
        brain=rng.uniform(0.36, 0.46),
    )


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """One series' settings; the sagittal and the axial series have their own."""
    return Scanner(
        gain=rng.uniform(0.82, 1.08),
        contrast=rng.uniform(-0.25, 0.25),
        noise=rng.uniform(0.012, 0.03),
        field=(rng.normal(0, 0.10), rng.normal(0, 0.10), rng.normal(-0.05, 0.08)),
        blur=rng.uniform(0.06, 0.16),
    )


def acquire(image: np.ndarray, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """The picture, uint8 [H, W], of an ideal slice, float [H, W] from 0 to 1."""
    middle, side = np.float32(1 - 2 * scanner.blur), np.float32(scanner.blur)
    blurred = image.copy()
    blurred[1:-1] = middle * image[1:-1] + side * (image[:-2] + image[2:])
    image = blurred.copy()
    image[:, 1:-1] = middle * blurred[:, 1:-1] + side * (blurred[:, :-2] + blurred[:, 2:])
    np.clip(image, 0.0, 1.3, out=image)
    tone = image * np.float32(-scanner.contrast)
    tone += np.float32(1.0 + scanner.contrast)
    image *= tone
    image *= _field(scanner)
    # Noise of a magnitude picture is Rician: never negative, and the air is not quite black.
    noise = rng.standard_normal((2, SIDE_PX, SIDE_PX), dtype=np.float32)
    noise *= np.float32(scanner.noise)
    image += noise[0]
    image *= image
    noise[1] *= noise[1]
    image += noise[1]
    np.sqrt(image, out=image)
    image *= np.float32(240.0)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _field(scanner: Scanner) -> np.ndarray:
    across, down, radial = (np.float32(v) for v in scanner.field)
    x, y = _UNIT_X[0], _UNIT_Y[:, 0]
    columns = 1 + across * x + radial * x * x
    rows = 1 + down * y + radial * y * y
    return np.float32(scanner.gain) * rows[:, None] * columns[None, :]


_UNIT_X = (X - np.float32(112)) / np.float32(112)
_UNIT_Y = (Y - np.float32(112)) / np.float32(112)
