"""From labels to geometry: continuous latents that overlap between neighbouring grades."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinevl.schema.record import Box, Label
from spinevl.schema.task import VERTEBRAE

# Spread of a severity around its grade: two readers of one image differ about as much.
_DISC_SPREAD = 0.28
_CANAL_SPREAD = 0.34
_CURVE_SPREAD = 0.3
_CURVE_MEAN = (1.0, 0.1, -0.8)  # of qd 0, 1, 2
_ARC_PX = 5.0  # how far the arc of curvature 1 bows forward
_WIDENED_PX = 3  # boxes are this much wider than the bodies on each side


@dataclass(frozen=True)
class Anatomy:
    """The latent geometry of one patient.

    Attributes:
        curvature: 1 is lordotic, 0 straight, -1 reversed.
        steps: [6] forward shift of each vertebra out of line, in pixels of the sagittal image.
        discs: [5] disc severity on the scale of the grades 0..3.
        disc_sides: [5] where a focal protrusion sits, -1 (left) to 1 (right).
        canal: [11] stenosis severity on the scale of the grades 0..3.
        boxes: vertebra -> boxes of slices 5, 6, 7.
        build: overall size factor of the canal and the cord.
    """

    curvature: float
    steps: np.ndarray
    discs: np.ndarray
    disc_sides: np.ndarray
    canal: np.ndarray
    boxes: Mapping[str, tuple[Box, Box, Box]]
    build: float

    def latents(self) -> dict[str, Any]:
        """What the ceiling classifier sees, JSON-ready."""
        return {
            "curvature": round(self.curvature, 4),
            "steps": [round(float(v), 4) for v in self.steps],
            "discs": [round(float(v), 4) for v in self.discs],
            "canal": [round(float(v), 4) for v in self.canal],
        }

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres of the six bodies in the middle slice, x [6] (steps included) and y [6]."""
        boxes = [self.boxes[name][1] for name in VERTEBRAE]
        x = np.array([(box.x1 + box.x2) / 2 for box in boxes]) - self.steps
        y = np.array([(box.y1 + box.y2) / 2 for box in boxes])
        return x, y


def draw_anatomy(
    labels: Mapping[str, Label],
    rng: np.random.Generator,
    *,
    boxes: Mapping[str, tuple[Box, Box, Box]] | None = None,
) -> Anatomy:
    """Geometry for a patient's labels.

    Args:
        labels: qd, sl, zjppt, zyzg.
        rng: the patient's own generator.
        boxes: given vertebra boxes, which the bodies follow; drawn from the labels by default.
    """
    curvature = float(rng.normal(_CURVE_MEAN[_one(labels["qd"])], _CURVE_SPREAD))
    steps = rng.normal(0.0, 0.75, size=6)
    steps[0] = 0.0
    if _one(labels["sl"]) == 0:
        slipped = rng.integers(1, 5)
        steps[slipped] = rng.choice([-1.0, 1.0]) * max(1.2, rng.normal(3.7, 0.7))
    discs = np.array(labels["zjppt"]) + rng.normal(0, _DISC_SPREAD, 5)
    canal = np.array(labels["zyzg"]) + rng.normal(0, _CANAL_SPREAD, 11)
    sides = np.clip(rng.normal(0, 0.45, 5), -1, 1)
    build = float(np.clip(rng.normal(1.0, 0.035), 0.9, 1.1))
    if boxes is None:
        boxes = _draw_boxes(curvature, steps, rng)
    return Anatomy(curvature, steps, discs, sides, canal, boxes, build)


def _one(label: Label) -> int:
    assert isinstance(label, int)
    return label


def _draw_boxes(
    curvature: float, steps: np.ndarray, rng: np.random.Generator
) -> dict[str, tuple[Box, Box, Box]]:
    """Boxes along an arc, as a reader draws them: they follow a step only in part."""
    pitch = rng.normal(13.6, 0.6)
    top = rng.normal(68.0, 6.0)
    tilt = rng.normal(0.5, 1.6)
    k = np.arange(6)
    along = (k - 2.5) / 2.5
    x = rng.normal(104.0, 6.0) - _ARC_PX * curvature * (1 - along**2) + tilt * along
    x = x - 0.5 * steps + rng.normal(0, 0.5, 6)
    y = top + pitch * k + rng.normal(0, 0.4, 6)
    half_x = rng.normal(5.9, 0.35) + 0.25 * along + _WIDENED_PX
    half_y = rng.normal(5.4, 0.25) + np.where(k == 0, 3.2, 0.0) + _WIDENED_PX
    result = {}
    for number, name in enumerate(VERTEBRAE):
        slices = []
        for _ in range(3):
            jitter = rng.normal(0, 0.5, 4)
            corners = np.array(
                [
                    x[number] - half_x[number],
                    y[number] - half_y[number],
                    x[number] + half_x[number],
                    y[number] + half_y[number],
                ]
            )
            x1, y1, x2, y2 = np.clip(np.rint(corners + jitter), 0, 223).astype(int).tolist()
            slices.append(Box(x1, y1, x2, y2))
        result[name] = (slices[0], slices[1], slices[2])
    return result
