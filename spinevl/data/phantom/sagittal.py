"""A T2-like sagittal slice: bodies and discs, cord in bright CSF, airway, muscles and skull."""

from __future__ import annotations

import numpy as np

from spinevl.data.phantom.acquisition import SIDE_PX, X, Y, paint, soft, texture
from spinevl.data.phantom.anatomy import Anatomy
from spinevl.schema.task import VERTEBRAE

_ROWS = np.arange(SIDE_PX, dtype=np.float32)
_DEPTH_AT = ([0.0, 1.0, 2.0, 3.0], [0.0, 1.3, 3.0, 5.2])  # disc severity -> px into the canal
_WIDTH_AT = ([0.0, 1.0, 2.0, 3.0], [10.4, 8.6, 6.6, 4.4])  # stenosis severity -> canal in px


def render_sagittal(anatomy: Anatomy, *, slice_number: int, rng: np.random.Generator) -> np.ndarray:
    """The ideal image, float [H, W] on the scale 0..255; the scanner comes after."""
    lateral = slice_number - 6
    x, y = (values.astype(np.float32) for values in anatomy.centres())
    boxes = [anatomy.boxes[name][slice_number - 5] for name in VERTEBRAE]
    half_width = np.array([(box.x2 - box.x1) / 2 - 3 for box in boxes], dtype=np.float32)
    axis = _axis(x, y)  # [H] the column's x in each row
    wall = axis + np.interp(_ROWS, y, half_width).astype(np.float32) + 0.6
    image = _background(axis, rng)
    _skull(image, axis, float(y[0]), rng)
    front, back, bright = _canal(anatomy, y, wall, lateral)
    _posterior(image, back, y, rng)
    _draw_canal(image, front, back, bright, y, lateral)
    _draw_column(image, anatomy, x, y, boxes, axis, half_width)
    return image


def _axis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The column's x in each row, steps and all, run on straight beyond C2 and C7."""
    pitch = (y[-1] - y[0]) / 5
    top = x[0] + 0.35 * (x[0] - x[1])
    bottom = x[-1] + 1.6 * (x[-1] - x[-2]) + 5
    ys = np.concatenate([[y[0] - 2 * pitch], y, [y[-1] + 4 * pitch]])
    xs = np.concatenate([[top], x, [bottom]])
    return np.interp(_ROWS, ys, xs).astype(np.float32)


def _background(axis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = np.full((SIDE_PX, SIDE_PX), 4.0, dtype=np.float32)
    u = X - axis[:, None]
    flare = np.clip((_ROWS - 150) / 70, 0, 1)[:, None]
    front, back = -44 - 30 * flare, 62 + 22 * flare
    neck = soft(front - u, 1.5) * soft(u - back, 1.5)
    muscle = 52 + 9 * texture(rng, cell_px=7) + 5 * texture(rng, cell_px=3)
    paint(image, neck, muscle)
    paint(image, soft(np.abs(u - back + 5) - 5, 2.0) * neck, 165)  # fat under the skin of the nape
    paint(image, soft(np.abs(u - front - 2) - 2.5, 1.5) * neck, 120)
    paint(image, soft(np.abs(u + 21) - 4.5, 1.5) * soft(60 - Y, 6), 8)  # airway
    paint(image, soft(np.abs(u + 12.5) - 2.0, 1.5) * soft(62 - Y, 6), 38)  # prevertebral
    return image


def _skull(image: np.ndarray, axis: np.ndarray, top: float, rng: np.random.Generator) -> None:
    centre_x, centre_y = float(axis[0]) + 6, top - 66
    radius = np.hypot((X - centre_x) / 76, (Y - centre_y) / 52)
    paint(image, soft((radius - 1.10) * 48, 2.0), 100)
    paint(image, soft((radius - 1.04) * 48, 1.5), 14)
    paint(image, soft((radius - 1.0) * 48, 1.5), 190)
    paint(image, soft((radius - 0.93) * 48, 1.5), 104 + 9 * texture(rng, cell_px=5))
    folia = np.hypot((X - centre_x - 30) / 26, (Y - centre_y - 22) / 20)  # the cerebellum
    stripes = 100 + 34 * np.sin(folia * 26)
    paint(image, soft((folia - 1.0) * 20, 1.5), stripes)
    stem = np.hypot((X - float(axis[0]) - 9) / 8, (Y - top + 30) / 20)  # the pons
    paint(image, soft((stem - 1.15) * 10, 1.0), 196)
    paint(image, soft((stem - 0.92) * 10, 1.0), 112)


def _canal(
    anatomy: Anatomy, y: np.ndarray, wall: np.ndarray, lateral: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Front and back border of the canal and the cord's T2 brightening, each [H]."""
    level_y = np.empty(11)
    level_y[0::2] = y
    level_y[1::2] = (y[:-1] + y[1:]) / 2
    near = np.abs(_ROWS[:, None] - level_y[None])  # narrowing is local to its level
    local = np.exp(-((near / 3.6) ** 2))
    severity = (local * anatomy.canal).sum(1) / np.maximum(local.sum(1), 0.35)
    width = np.interp(severity, *_WIDTH_AT) * anatomy.build * (1 - 0.07 * abs(lateral))
    front = wall.copy()
    for disc, at, side in zip(anatomy.discs, level_y[1::2], anatomy.disc_sides, strict=True):
        depth = np.interp(disc, *_DEPTH_AT) * (1 + 0.22 * lateral * side)
        spread = np.interp(disc, [0, 1, 2, 3], [2.0, 3.0, 2.3, 2.6])
        below = np.where(disc > 2.5, 1.7, 1.0)  # an extrusion migrates downwards
        distance = _ROWS - at
        front += depth * np.exp(-((distance / (spread * np.where(distance > 0, below, 1.0))) ** 2))
    back = wall + np.maximum(width, 2.6) + 0.6
    back = np.maximum(back, front + 2.4)
    bright = np.clip((severity - 2.2) / 0.8, 0, 1)
    return (
        front.astype(np.float32),
        back.astype(np.float32),
        bright.astype(np.float32),
    )


def _posterior(
    image: np.ndarray, back: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> None:
    u = X - back[:, None]
    pitch = (y[-1] - y[0]) / 5
    phase = (Y - y[0]) / pitch
    process = np.cos(2 * np.pi * (phase - 0.35 - u / 60))
    inside = soft(-u, 1.0) * soft(u - 24, 3.0) * soft(y[0] - 8 - Y, 3) * soft(Y - y[-1] - 22, 6)
    bone = np.where(process > 0.15, 92.0, 40.0) + 6 * texture(rng, cell_px=4)
    paint(image, inside, bone)
    paint(image, soft(np.abs(u - 1.0) - 0.9, 0.8) * soft(y[0] - 14 - Y, 3), 14)  # ligament


def _draw_canal(
    image: np.ndarray,
    front: np.ndarray,
    back: np.ndarray,
    bright: np.ndarray,
    y: np.ndarray,
    lateral: int,
) -> None:
    visible = soft(y[0] - 44 - Y, 3)
    paint(image, soft(front[:, None] - X, 0.7) * soft(X - back[:, None], 0.7) * visible, 212)
    width = back - front
    cord = np.minimum(5.3 * (1 - 0.08 * abs(lateral)), np.maximum(width - 1.0, 1.8))
    middle = (front + back) / 2
    paint(image, soft(np.abs(X - middle[:, None]) - cord[:, None] / 2, 0.7) * visible, 112)
    core = soft(np.abs(X - middle[:, None]) - cord[:, None] / 4, 0.6) * bright[:, None]
    paint(image, core * visible, 188)
    # the dura and the posterior ligament are a thin dark line
    paint(image, soft(np.abs(X - front[:, None] + 0.8) - 0.5, 0.5) * visible, 22)


def _draw_column(
    image: np.ndarray,
    anatomy: Anatomy,
    x: np.ndarray,
    y: np.ndarray,
    boxes: list,
    axis: np.ndarray,
    half_width: np.ndarray,
) -> None:
    low, high = float(y[0]) - 4, float(y[-1]) + 40
    extent = soft(low - Y, 1.0) * soft(Y - high, 3.0)
    column = np.abs(X - axis[:, None])
    column -= np.interp(_ROWS, y, half_width).astype(np.float32)[:, None]
    level_y = (y[:-1] + y[1:]) / 2
    grade = np.interp(_ROWS, level_y, anatomy.discs).astype(np.float32)[:, None]
    paint(image, soft(column, 0.8) * extent, 70 - 11 * np.clip(grade, 0, 3))  # discs, dry when worn
    pitch = (y[-1] - y[0]) / 5
    tops = [(box.y2 - box.y1) / 2 - 3 for box in boxes]
    bodies = [(x[k], y[k], half_width[k], tops[k]) for k in range(6)]
    bodies += [
        (float(axis[min(int(y[-1] + n * pitch), 223)]), y[-1] + n * pitch, half_width[-1], tops[-1])
        for n in (1, 2, 3)
    ]
    for number, values in enumerate(bodies):
        cx, cy, half_x, half_y = (float(value) for value in values)
        rows = slice(max(int(cy - half_y) - 4, 0), max(int(cy + half_y) + 5, 0))
        columns = slice(max(int(cx - half_x) - 4, 0), max(int(cx + half_x) + 5, 0))
        part = image[rows, columns]
        across = np.abs(X[rows, columns] - cx) - half_x
        along = np.abs(Y[rows, columns] - cy) - half_y
        corner = np.hypot(np.maximum(across + 1.5, 0), np.maximum(along + 1.5, 0)) - 1.5
        distance = np.maximum(np.maximum(across, along), corner)
        paint(part, soft(distance - 0.6, 0.6), 18)
        paint(part, soft(distance + 0.6, 0.6), 96 + 5 * float(np.sin(number)))
