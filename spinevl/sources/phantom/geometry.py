"""The latent geometry of a patient: what the labels say, as continuous and overlapping measures.

Every label is the mean of a distribution that overlaps with its neighbours', as readings of real
images do; what is drawn here is what the renderers show, and what the ceiling is fitted on.
Lengths are px of the axial image at unit scale (about 0.6 mm), or, where said, of the sagittal one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spinevl.schema.patient import Label

SAGITTAL_PER_AXIAL_PX = 0.43
STEP_IN_DRAWN_BOXES = 0.4

# Mean and spread by label.
_CURVATURE_DEG = ((28.0, 9.0), (9.0, 7.3), (-10.0, 9.0))
_ABNORMAL_STEP_PX = (4.2, 1.25)
_USUAL_STEP_PX = 0.95
_STEP_SITES = (0.0, 0.2, 0.3, 0.3, 0.2, 0.0)  # C2 ... C7
_ANTERIOR_SHARE = 0.6
_CANAL_PX = ((26.0, 2.3), (21.0, 2.1), (16.0, 2.0), (11.0, 1.9))
_T2_SIGNAL = ((0.0, 0.06), (0.03, 0.07), (0.15, 0.16), (0.55, 0.24))
_DEPTH_PX = ((0.4, 1.05), (3.2, 1.05), (4.9, 1.35), (7.4, 1.4))
_WIDTH_PX = ((13.0, 4.0), (17.3, 2.7), (9.2, 2.5), (7.6, 1.7))
_NECK = ((0.1, 0.1), (0.1, 0.1), (0.13, 0.15), (0.62, 0.23))


@dataclass(frozen=True)
class Geometry:
    """What the pixels of one patient show.

    Attributes:
        curvature_deg: lordosis (+) or kyphosis (-) from C2 to C7.
        step_px: [6] sagittal px by which C2 ... C7 lie behind (+) or before (-) their neighbours.
        canal_px: [11] depth of the canal that disc and ligament leave, front to back.
        t2_signal: [11] brightness added to the cord, 0 (none) to 1 (as bright as CSF).
        disc_depth_px: [5] how far the disc reaches into the canal.
        disc_width_px: [5] half of the width of that part.
        disc_neck: [5] how much narrower its base is than its head, 0 to 1.
        disc_offset_px: [5] how far its middle lies from the midline, + to the image's right.
        step_in_boxes: share of a step that the vertebra's box follows; 0 where boxes are given.
    """

    curvature_deg: float
    step_px: tuple[float, ...]
    canal_px: tuple[float, ...]
    t2_signal: tuple[float, ...]
    disc_depth_px: tuple[float, ...]
    disc_width_px: tuple[float, ...]
    disc_neck: tuple[float, ...]
    disc_offset_px: tuple[float, ...]
    step_in_boxes: float = STEP_IN_DRAWN_BOXES

    def to_json(self) -> dict[str, Any]:
        """The patient's entry in ``latents.json``, rounded to a thousandth."""
        return {
            name: [round(v, 3) for v in value] if isinstance(value, tuple) else round(value, 3)
            for name, value in asdict(self).items()
        }


def draw_geometry(rng: np.random.Generator, labels: Mapping[str, Label]) -> Geometry:
    """Measures that a reader would plausibly have graded as ``labels``."""

    def by_label(
        table: tuple[tuple[float, float], ...], task: str, low: float, high: float
    ) -> tuple[float, ...]:
        mean, spread = np.array([table[grade] for grade in np.atleast_1d(labels[task])]).T
        return tuple(np.clip(rng.normal(mean, spread), low, high).tolist())

    (curvature,) = by_label(_CURVATURE_DEG, "qd", -np.inf, np.inf)
    step = rng.normal(0.0, _USUAL_STEP_PX, 6)
    if labels["sl"] == 0:
        site = int(rng.choice(6, p=_STEP_SITES))
        side = -1.0 if rng.random() < _ANTERIOR_SHARE else 1.0
        step[site] = side * rng.normal(*_ABNORMAL_STEP_PX)
    canal = by_label(_CANAL_PX, "zyzg", 7.0, 31.0)
    signal = by_label(_T2_SIGNAL, "zyzg", 0.0, 1.0)
    depth = by_label(_DEPTH_PX, "zjppt", 0.0, 11.0)
    width = by_label(_WIDTH_PX, "zjppt", 4.0, 22.0)
    neck = by_label(_NECK, "zjppt", 0.0, 1.0)
    # A broad disc has its middle in the midline, a focal one may sit beside it.
    offset = rng.normal(0.0, 2.2, 5) * np.clip((16.0 - np.array(width)) / 8.0, 0.0, 1.0)
    return Geometry(
        curvature_deg=curvature,
        step_px=tuple(np.clip(step, -6.0, 6.0).tolist()),
        canal_px=canal,
        t2_signal=signal,
        disc_depth_px=depth,
        disc_width_px=width,
        disc_neck=neck,
        disc_offset_px=tuple(offset.tolist()),
    )
