"""What surrounds the spine in a sagittal slice: skin, muscles, airway, mouth and skull.

Nothing here is graded; only the nape bends with the column beneath it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spinevl.sources.phantom.canvas import Canvas
from spinevl.sources.phantom.column import Spine, smooth
from spinevl.sources.phantom.raster import ROWS, SIDE_PX, X, Y, ellipse, soft, window


@dataclass(frozen=True)
class Head:
    """How one patient's head and neck look where nothing is graded.

    Attributes:
        face_px: how far the face lies before the spine.
        nape_px: how far the skin of the nape lies behind the canal.
        fat_px: thickness of the fat there.
        chin_px: how far the chin lies below the top of C2.
        chest_px: how fast the skin leaves the neck further down.
        folia: spacing of the cerebellum's leaves.
    """

    face_px: float
    nape_px: float
    fat_px: float
    chin_px: float
    chest_px: float
    folia: float


def draw_head(rng: np.random.Generator) -> Head:
    """One patient's head and neck."""
    return Head(
        face_px=rng.uniform(72, 92),
        nape_px=rng.uniform(40, 54),
        fat_px=rng.uniform(7, 15),
        chin_px=rng.uniform(28, 46),
        chest_px=rng.uniform(0.7, 1.2),
        folia=rng.uniform(0.9, 1.2),
    )


def paint_soft_tissue(canvas: Canvas, spine: Spine, head: Head, *, fibres: np.ndarray) -> None:
    """Muscles, the fat of the nape (hollow where the neck is lordotic), throat and airway."""
    bodies, signal = spine.bodies, canvas.signal
    top, bottom = bodies[0].y - bodies[0].half_height, bodies[5].y
    mid_x = float(np.mean([body.x for body in bodies[:6]]))
    span = bottom - top
    chin_y = top + head.chin_px
    ys = [-20, top - 30, top - 8, chin_y - 6, chin_y + 6, chin_y + 22, bottom + 10, 230]
    face = mid_x - head.face_px
    throat = mid_x - 33.0
    skin_of_face = [face + px for px in (6, -2, -8, -2, 14)]
    xs = [*skin_of_face, throat, throat + 2, throat - 46 * head.chest_px]
    front_skin = smooth(np.interp(ROWS, ys, xs), 24)
    # The nape bends with the column beneath it.
    hollow = 7.0 * math.tanh(spine.geometry.curvature_deg / 25.0)
    nape = mid_x + 12 + head.nape_px
    ys = [-20, top - 26, top + 4, top + 0.45 * span, bottom + 4, 230]
    xs = [nape + 16, nape + 13, nape + 3, nape - hollow, nape + 6, nape + 40 * head.chest_px]
    back_skin = smooth(np.interp(ROWS, ys, xs), 60)

    skin = np.maximum(front_skin[:, None] - X, X - back_skin[:, None])
    muscle = signal.muscle * (1 + np.float32(0.14) * canvas.mottle + np.float32(0.16) * fibres)
    canvas.paint(soft(skin, 2.0), signal.fat * (1 + np.float32(0.06) * fibres))
    fat = head.fat_px * (1 + 0.5 * np.clip((ROWS - bottom) / 60, 0, 1))
    deep = np.maximum(front_skin[:, None] + 4 - X, X - (back_skin - fat)[:, None])
    canvas.paint(soft(deep, 2.5), muscle)

    behind = X - (spine.back + 4)[:, None]
    streaks = soft(-behind, 3.0) * soft(deep, 3.0)
    streaks *= np.clip(np.float32(0.22) + np.float32(0.22) * fibres, 0, 0.8)
    canvas.paint(streaks, signal.fat)
    ahead = (spine.wall - np.float32(2 * bodies[3].half_width))[:, None] - X
    thick = (3.0 + 5.0 * np.clip((ROWS - bodies[3].y) / 25, 0, 1))[:, None]
    canvas.paint(soft(np.abs(ahead - 0.5) - 0.9), signal.cortex)
    canvas.paint(soft(np.abs(ahead - thick / 2 - 1.5) - thick / 2), signal.muscle * 1.5)
    calibre = 4.5 + 2.0 * np.clip((top + 25 - ROWS) / 20, 0, 1)
    centre = thick + (4 + calibre)[:, None]
    airway = np.abs(ahead - centre) - calibre[:, None]
    shown = soft(top - 22 - Y, 5.0) * soft(front_skin[:, None] + 6 - X, 3.0)
    canvas.paint(soft(airway - 1.6, 2.0) * shown, signal.muscle * 2.2)
    canvas.paint(soft(airway, 2.0) * shown, 0.0)
    _mouth(canvas.cut(window(0, 0, mid_x - 12, min(top + 70, SIDE_PX - 1))), face, top)


def paint_skull(canvas: Canvas, spine: Spine, head: Head) -> None:
    """Posterior fossa over the canal: CSF, brain stem, cerebellum; clivus and occiput around."""
    top = spine.bodies[0].y - spine.bodies[0].half_height
    at_x = float(spine.wall[min(max(int(top) - 8, 0), SIDE_PX - 1)]) + 5.0
    part = canvas.cut(window(0, 0, SIDE_PX - 1, max(top + 6, 0)))
    x, y, mottle, signal = part.x, part.y, part.mottle, part.signal
    fossa = ellipse(x, y, at=(at_x + 21, top - 58), radii=(43, 50))
    np.maximum(fossa, (at_x - 12 - x) * 0.85 + (y - top + 20) * 0.5, out=fossa)
    funnel = np.maximum(
        np.abs(x - at_x - (top - 10 - y) * 0.30) - 6.5 - 0.22 * (top - 10 - y),
        np.maximum(y - top + 1, top - 34 - y),
    )
    np.minimum(fossa, funnel, out=fossa)
    clivus = np.abs(x - (at_x - 9 - (top - 10 - y) * 0.62)) - 4.5
    np.maximum(clivus, np.maximum(y - top + 9, top - 52 - y), out=clivus)
    part.paint(soft(clivus - 1), signal.cortex)
    part.paint(soft(clivus + 0.8), signal.marrow * 1.25)
    part.paint(soft(fossa - 4.5, 1.5), signal.marrow * 0.9)
    part.paint(soft(fossa - 1.5), signal.cortex)
    part.paint(soft(fossa), signal.csf * (0.92 + np.float32(0.03) * mottle))
    brain = signal.brain * (1 + np.float32(0.05) * part.grain)
    stem_x = at_x - 1.0 - (top - 12 - y) * 0.10
    stem = np.maximum(np.abs(x - stem_x) - 3.3 - 0.035 * np.clip(top - 8 - y, 0, 60), y - top - 8)
    part.paint(soft(np.maximum(stem, fossa + 1.2)), brain * 0.95)
    pons = ellipse(x, y, at=(at_x - 4.5, top - 45), radii=(8.0, 13))
    part.paint(soft(np.maximum(pons, fossa + 1.5), 1.2), brain)
    cerebellum = ellipse(x, y, at=(at_x + 27, top - 36), radii=(20, 17))
    np.maximum(cerebellum, fossa + 2.0, out=cerebellum)
    radius = np.hypot(x - at_x - 12, y - top + 40)
    leaves = np.sin(radius * np.float32(head.folia * 1.6) + np.float32(1.5) * mottle)
    leaves = np.float32(0.85) + np.float32(0.2) * leaves
    part.paint(soft(cerebellum, 1.2), brain * leaves)
    tentorium = y - (top - 60 + 0.0075 * np.square(x - at_x - 12))
    cerebrum = np.maximum(tentorium, fossa + 2.5)
    gyri = np.abs(mottle) < 0.16
    part.paint(soft(cerebrum, 1.5) * (1 - 0.7 * gyri), brain * 1.05)


def _mouth(part: Canvas, face: float, top: float) -> None:
    """Palate, tongue, jaw and the air of the nose, dim as far from the coil."""
    x, y, mottle, signal = part.x, part.y, part.mottle, part.signal
    grey = signal.muscle * (1.35 + np.float32(0.25) * mottle)
    tongue = ellipse(x, y, at=(face + 32, top + 8), radii=(23, 18))
    part.paint(soft(tongue - 2, 2.0), signal.cortex)
    part.paint(soft(tongue, 2.0), grey)
    part.paint(soft(ellipse(x, y, at=(face + 9, top + 23), radii=(6, 9)), 2.0), signal.marrow)
    nose = ellipse(x, y, at=(face + 34, top - 26), radii=(26, 10))
    part.paint(soft(nose + 4 * mottle, 4.0) * 0.9, signal.cortex)
    palate = soft(np.abs(y - (top - 13)) - 1.6, 1.5) * soft(np.abs(x - face - 30) - 24, 3.0)
    part.paint(palate, signal.cortex)
