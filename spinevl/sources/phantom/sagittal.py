"""A T2-like sagittal slice: column, canal with cord, airway in front, muscles behind, skull above.

The picture looks to the left, as the study's do. Most shapes are borders x(y), one number a row;
bodies stand where the boxes of the slice say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from spinevl.schema.box import Box
from spinevl.sources.labels import VERTEBRAE
from spinevl.sources.phantom.acquisition import Signal
from spinevl.sources.phantom.axial import CORD_DEPTH_PX
from spinevl.sources.phantom.canvas import Canvas
from spinevl.sources.phantom.column import Body, Spine, local, sagittal_spine, smooth
from spinevl.sources.phantom.geometry import SAGITTAL_PER_AXIAL_PX, Geometry
from spinevl.sources.phantom.head import Head, paint_skull, paint_soft_tissue
from spinevl.sources.phantom.raster import ROWS, SIDE_PX, X, Y, soft, texture, window

SLICE_SPACING_PX = 6.5  # between sagittal slices, in px of the axial image
_K = SAGITTAL_PER_AXIAL_PX
_PROCESS_PX = (9.5, 6.5, 6.5, 7.0, 8.5, 12.0)  # half length, C2 ... C7 and below


def render_sagittal(
    geometry: Geometry,
    boxes: Mapping[str, tuple[Box, Box, Box]],
    head: Head,
    signal: Signal,
    *,
    slice_number: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The ideal slice, float [H, W], of slice 5, 6 (the middle) or 7."""
    lateral = (slice_number - 6) * SLICE_SPACING_PX
    of_slice = [boxes[vertebra][slice_number - 5] for vertebra in VERTEBRAE]
    spine = sagittal_spine(geometry, of_slice, lateral_px=lateral)
    canvas = Canvas.blank((X, Y), signal, cells_px=(2.5, 8.0), rng=rng)
    fibres = texture(rng, cell_px=3.0, stretch=5.0)

    paint_soft_tissue(canvas, spine, head, fibres=fibres)
    paint_skull(canvas, spine, head)
    _posterior_bones(canvas, spine, shown=0.9 if lateral == 0 else 0.45)
    _canal(canvas, spine)
    _discs(canvas, spine.bodies)
    _bodies(canvas, spine.bodies)
    _disc_material(canvas, spine)
    return canvas.image


def _canal(canvas: Canvas, spine: Spine) -> None:
    """CSF, in it the cord: before its middle in kyphosis, behind it in lordosis."""
    front, back, signal = spine.front, spine.back, canvas.signal
    part = canvas.cut(window(float(front.min()) - 6, 0, float(back.max()) + 6, SIDE_PX))
    room = back - front
    above = soft(spine.bodies[0].y - 42 - ROWS, 6.0)[:, None]
    middle = (front + back) / 2
    half = room / 2
    across = np.abs(part.x - middle[:, None])
    part.paint(soft(across - half[:, None] - 1.3) * above, signal.cortex)
    part.paint(soft(across - half[:, None]) * above, signal.csf)

    cord_half = np.minimum(CORD_DEPTH_PX * _K * spine.taper, room - 0.6) / 2
    cord_half = np.maximum(cord_half, 0.8)
    slack = np.maximum(half - cord_half - 0.4, 0.0)
    drape = math.tanh(spine.geometry.curvature_deg / 22.0)
    at = smooth(middle + slack * 0.85 * drape, 4)
    cord = np.abs(part.x - at[:, None]) - cord_half[:, None]
    np.maximum(cord, across - half[:, None] + 0.3, out=cord)
    part.paint(soft(cord) * above, signal.cord * (1 + np.float32(0.05) * part.grain))
    bright = np.zeros(SIDE_PX)
    for row, value in zip(spine.rows, spine.geometry.t2_signal, strict=True):
        bright = np.maximum(bright, value * np.exp(-np.square((ROWS - row) / 4.0)))
    lesion = soft(cord + 0.9, 1.2) * bright.astype(np.float32)[:, None]
    part.paint(lesion, signal.csf)


def _bodies(canvas: Canvas, bodies: list[Body]) -> None:
    """Grey marrow in dark cortex; the dens narrows upward."""
    signal = canvas.signal
    for number, body in enumerate(bodies):
        part, along, across = local(canvas, body)
        waist = 1.0 - 0.07 * (1 - np.square(along / body.half_height))
        if number == 0:
            waist = np.clip(0.92 - 0.24 * along / body.half_height, 0.62, 1.0)
            waist = np.where(along > 0, np.maximum(waist, 1.0), waist)
        dx = np.abs(across) - body.half_width * waist + 1.5
        dy = np.abs(along) - body.half_height + 1.5
        distance = np.minimum(np.maximum(dx, dy), 0.0)
        distance += np.hypot(np.maximum(dx, 0.0), np.maximum(dy, 0.0)) - 1.5
        marrow = signal.marrow * (1 + 0.10 * part.grain + 0.08 * part.mottle)
        part.paint(soft(distance - 0.5), signal.cortex)
        part.paint(soft(distance + 0.7), marrow)


def _discs(canvas: Canvas, bodies: list[Body]) -> None:
    """Between the bodies: a nucleus in a dark ring."""
    signal = canvas.signal
    for upper, lower in pairwise(bodies):
        top, bottom = upper.y + upper.half_height, lower.y - lower.half_height
        disc = Body(
            (upper.x + lower.x) / 2,
            (top + bottom) / 2,
            (upper.half_width + lower.half_width) / 2,
            max((bottom - top) / 2, 0.8) + 1.0,
            (upper.tilt + lower.tilt) / 2,
        )
        part, along, across = local(canvas, disc)
        distance = np.maximum(np.abs(across) - disc.half_width, np.abs(along) - disc.half_height)
        part.paint(soft(distance), signal.cortex * 1.3)
        nucleus = np.maximum(np.abs(across) - disc.half_width * 0.66, np.abs(along) - 1.1)
        part.paint(soft(nucleus), signal.disc * 1.5 * (1 + 0.1 * part.grain))


def _disc_material(canvas: Canvas, spine: Spine) -> None:
    """What of a disc lies behind the wall is dark, and so is the ligament along it."""
    wall, reach, top = spine.wall, spine.reach, spine.bodies[0]
    part = canvas.cut(window(float(wall.min()) - 4, 0, float((wall + reach).max()) + 4, SIDE_PX))
    middle = (wall + reach / 2)[:, None]
    inside = np.abs(part.x - middle) - (reach / 2 + 0.55)[:, None]
    below_skull = soft(top.y - top.half_height - 6 - ROWS, 4.0)[:, None]
    part.paint(soft(inside) * below_skull, part.signal.cortex)


def _posterior_bones(canvas: Canvas, spine: Spine, *, shown: float) -> None:
    """Spinous processes with fat between them, and the roof of the canal."""
    bodies, back, signal = spine.bodies, spine.back, canvas.signal
    for number, body in enumerate(bodies):
        if body.y > SIDE_PX + 10:
            continue
        at = float(back[min(max(int(body.y), 0), SIDE_PX - 1)])
        length = _PROCESS_PX[min(number, 5)]
        process = Body(at + 4.5 + length, body.y + 6.0, length, 2.9, body.tilt + 0.32)
        part, along, across = local(canvas, process)
        distance = np.hypot(across / length, along / 2.9) - 1.0
        distance *= 2.9
        part.paint(soft(distance - 3.0, 4.0) * 0.5, signal.fat * 0.55)
        part.paint(soft(distance - 0.7) * shown, signal.cortex)
        marrow = signal.marrow * (1 + 0.12 * part.grain)
        part.paint(soft(distance + 0.6) * shown, marrow)
    roof = np.abs(X - (back + 1.2)[:, None]) - 1.1
    canvas.paint(soft(roof) * soft(bodies[0].y - 12 - ROWS, 6.0)[:, None], signal.cortex)
