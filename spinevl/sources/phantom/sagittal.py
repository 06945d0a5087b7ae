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
from spinevl.schema.task import VERTEBRAE
from spinevl.sources.phantom.acquisition import Signal
from spinevl.sources.phantom.axial import CORD_DEPTH_PX
from spinevl.sources.phantom.column import Body, column, level_rows, local, posterior_wall, smooth
from spinevl.sources.phantom.geometry import SAGITTAL_PER_AXIAL_PX, Geometry
from spinevl.sources.phantom.head import Head, paint_skull, paint_soft_tissue
from spinevl.sources.phantom.raster import ROWS, SIDE_PX, X, paint, soft, texture, window

SLICE_SPACING_PX = 6.5  # between sagittal slices, in px of the axial image
_FRAME = np.zeros((SIDE_PX, SIDE_PX), dtype=np.float32)
_K = SAGITTAL_PER_AXIAL_PX


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
    bodies = column(geometry, [boxes[vertebra][slice_number - 5] for vertebra in VERTEBRAE])
    wall = posterior_wall(bodies)
    front, back, disc_front = _canal_borders(geometry, bodies, wall, lateral)
    grain, mottle = texture(rng, cell_px=2.5), texture(rng, cell_px=8.0)
    fibres = texture(rng, cell_px=3.0, stretch=5.0)

    image = _FRAME.copy()
    paint_soft_tissue(image, geometry, bodies, wall, back, head, signal, mottle, fibres)
    paint_skull(image, bodies, wall, head, signal, grain, mottle)
    _posterior_bones(image, bodies, back, signal, grain, shown=0.9 if lateral == 0 else 0.45)
    _canal(image, geometry, bodies, (wall, front, back), signal, grain, lateral)
    _discs(image, bodies, signal, grain)
    _bodies(image, bodies, signal, grain, mottle)
    _disc_material(image, bodies, wall, disc_front, signal)
    return image


def _canal_borders(
    geometry: Geometry, bodies: list[Body], wall: np.ndarray, lateral: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[H] x of the canal's front and back border, and how far disc reaches beyond the wall."""
    rows = level_rows(bodies)
    depth = np.zeros(11)
    beside = (lateral - np.array(geometry.disc_offset_px)) / np.array(geometry.disc_width_px)
    depth[1::2] = np.array(geometry.disc_depth_px) * np.exp(-np.square(beside))
    at_middle = np.zeros(11)
    at_middle[1::2] = geometry.disc_depth_px
    canal = (at_middle + np.array(geometry.canal_px)) * _K
    canal *= 1.0 - 0.0035 * abs(lateral) ** 1.5  # the roof slopes to the sides
    ys = np.concatenate(([-60.0, rows[0] - 32, rows[0] - 14], rows, [rows[-1] + 9, 300.0]))
    usual = 26.0 * _K
    edges = np.concatenate(([usual + 3, usual + 1.5, canal[0] + 0.6], canal, [usual - 0.3, usual]))
    # Laminae follow their bodies, but the roof between them is smooth.
    back = smooth(wall, 12) + smooth(np.interp(ROWS, ys, edges))

    reach = np.zeros(SIDE_PX)
    for index in range(5):
        size = depth[2 * index + 1] * _K
        neck = geometry.disc_neck[index]
        off = (ROWS - rows[2 * index + 1]) / (1.7 + 0.9 * neck)
        reach = np.maximum(reach, size * np.exp(-np.square(off)))
        if neck > 0.3:  # an extruded head hangs down behind the body below
            low = (ROWS - rows[2 * index + 1] - 2.2 * neck) / 2.3
            reach = np.maximum(reach, 0.85 * size * np.exp(-np.square(low)))
    reach = reach.astype(np.float32)
    front = wall + 0.5 + reach
    back = np.maximum(back, front + 1.6).astype(np.float32)
    return front, back, reach


def _canal(
    image: np.ndarray,
    geometry: Geometry,
    bodies: list[Body],
    borders: tuple[np.ndarray, np.ndarray, np.ndarray],
    signal: Signal,
    grain: np.ndarray,
    lateral: float,
) -> None:
    """CSF, in it the cord: before its middle in kyphosis, behind it in lordosis."""
    _, front, back = borders
    part = window(float(front.min()) - 6, 0, float(back.max()) + 6, SIDE_PX)
    image, x, grain = image[part], X[part], grain[part]
    room = back - front
    above = soft(bodies[0].y - 42 - ROWS, 6.0)[:, None]
    middle = (front + back) / 2
    half = room / 2
    across = np.abs(x - middle[:, None])
    paint(image, soft(across - half[:, None] - 1.3) * above, signal.cortex)
    paint(image, soft(across - half[:, None]) * above, signal.csf)

    cord_half = np.minimum(CORD_DEPTH_PX * _K * (1 - 0.0035 * abs(lateral) ** 1.5), room - 0.6) / 2
    cord_half = np.maximum(cord_half, 0.8)
    slack = np.maximum(half - cord_half - 0.4, 0.0)
    drape = math.tanh(geometry.curvature_deg / 22.0)
    at = smooth(middle + slack * 0.85 * drape, 4)
    cord = np.abs(x - at[:, None]) - cord_half[:, None]
    np.maximum(cord, across - half[:, None] + 0.3, out=cord)
    paint(image, soft(cord) * above, signal.cord * (1 + np.float32(0.05) * grain))
    rows = level_rows(bodies)
    bright = np.zeros(SIDE_PX)
    for row, value in zip(rows, geometry.t2_signal, strict=True):
        bright = np.maximum(bright, value * np.exp(-np.square((ROWS - row) / 4.0)))
    lesion = soft(cord + 0.9, 1.2) * bright.astype(np.float32)[:, None]
    paint(image, lesion, signal.csf)


def _bodies(
    image: np.ndarray, bodies: list[Body], signal: Signal, grain: np.ndarray, mottle: np.ndarray
) -> None:
    """Grey marrow in dark cortex; the dens narrows upward."""
    for number, body in enumerate(bodies):
        part, along, across = local(body)
        if along.size == 0:
            continue
        waist = 1.0 - 0.07 * (1 - np.square(along / body.half_height))
        if number == 0:
            waist = np.clip(0.92 - 0.24 * along / body.half_height, 0.62, 1.0)
            waist = np.where(along > 0, np.maximum(waist, 1.0), waist)
        dx = np.abs(across) - body.half_width * waist + 1.5
        dy = np.abs(along) - body.half_height + 1.5
        distance = np.minimum(np.maximum(dx, dy), 0.0)
        distance += np.hypot(np.maximum(dx, 0.0), np.maximum(dy, 0.0)) - 1.5
        marrow = signal.marrow * (1 + 0.10 * grain[part] + 0.08 * mottle[part])
        paint(image[part], soft(distance - 0.5), signal.cortex)
        paint(image[part], soft(distance + 0.7), marrow)


def _discs(image: np.ndarray, bodies: list[Body], signal: Signal, grain: np.ndarray) -> None:
    """Between the bodies: a nucleus in a dark ring."""
    for upper, lower in pairwise(bodies):
        top, bottom = upper.y + upper.half_height, lower.y - lower.half_height
        disc = Body(
            (upper.x + lower.x) / 2,
            (top + bottom) / 2,
            (upper.half_width + lower.half_width) / 2,
            max((bottom - top) / 2, 0.8) + 1.0,
            (upper.tilt + lower.tilt) / 2,
        )
        part, along, across = local(disc)
        if along.size == 0:
            continue
        distance = np.maximum(np.abs(across) - disc.half_width, np.abs(along) - disc.half_height)
        paint(image[part], soft(distance), signal.cortex * 1.3)
        nucleus = np.maximum(np.abs(across) - disc.half_width * 0.66, np.abs(along) - 1.1)
        paint(image[part], soft(nucleus), signal.disc * 1.5 * (1 + 0.1 * grain[part]))


def _disc_material(
    image: np.ndarray, bodies: list[Body], wall: np.ndarray, reach: np.ndarray, signal: Signal
) -> None:
    """What of a disc lies behind the wall is dark, and so is the ligament along it."""
    part = window(float(wall.min()) - 4, 0, float((wall + reach).max()) + 4, SIDE_PX)
    image, x = image[part], X[part]
    middle = (wall + reach / 2)[:, None]
    inside = np.abs(x - middle) - (reach / 2 + 0.55)[:, None]
    below_skull = soft(bodies[0].y - bodies[0].half_height - 6 - ROWS, 4.0)[:, None]
    paint(image, soft(inside) * below_skull, signal.cortex)


def _posterior_bones(
    image: np.ndarray,
    bodies: list[Body],
    back: np.ndarray,
    signal: Signal,
    grain: np.ndarray,
    *,
    shown: float,
) -> None:
    """Spinous processes with fat between them, and the roof of the canal."""
    for number, body in enumerate(bodies):
        if body.y > SIDE_PX + 10:
            continue
        at = float(back[min(max(int(body.y), 0), SIDE_PX - 1)])
        length = (9.5, 6.5, 6.5, 7.0, 8.5, 12.0)[number] if number < 6 else 12.0
        process = Body(at + 4.5 + length, body.y + 6.0, length, 2.9, body.tilt + 0.32)
        part, along, across = local(process)
        if along.size == 0:
            continue
        distance = np.hypot(across / length, along / 2.9) - 1.0
        distance *= 2.9
        paint(image[part], soft(distance - 3.0, 4.0) * 0.5, signal.fat * 0.55)
        paint(image[part], soft(distance - 0.7) * shown, signal.cortex)
        marrow = signal.marrow * (1 + 0.12 * grain[part])
        paint(image[part], soft(distance + 0.6) * shown, marrow)
    roof = np.abs(X - (back + 1.2)[:, None]) - 1.1
    paint(image, soft(roof) * soft(bodies[0].y - 12 - ROWS, 6.0)[:, None], signal.cortex)
