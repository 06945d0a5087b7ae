"""A T2-like axial slice: body or disc in front, canal and cord, lamina, muscles and fat."""

from __future__ import annotations

import math

import numpy as np

from spinevl.data.phantom.acquisition import SIDE_PX, X, Y, paint, soft, texture
from spinevl.data.phantom.anatomy import Anatomy

_DEPTH_AT = ([0.0, 1.0, 2.0, 3.0], [0.0, 5.5, 10.5, 16.0])  # disc severity -> px
_HEIGHT_AT = ([0.0, 1.0, 2.0, 3.0], [25.0, 20.5, 15.5, 10.5])  # stenosis -> half height in px


def render_axial(anatomy: Anatomy, *, level: int, rng: np.random.Generator) -> np.ndarray:
    """The ideal image, float [H, W] on the scale 0..255, of level 0 (C2) to 10 (C7)."""
    size = 1 + 0.018 * (level - 5)
    cx, cy = 112 + float(rng.normal(0, 3.5)), 116 + float(rng.normal(0, 3.5))
    angle = float(rng.normal(0, 0.04))
    cosine, sine = math.cos(angle), math.sin(angle)
    u = (X - cx) * cosine + (Y - cy) * sine
    v = (Y - cy) * cosine - (X - cx) * sine
    image = _neck(u, v, rng)
    disc_number = (level - 1) // 2 if level % 2 else None
    half_height = float(np.interp(anatomy.canal[level], *_HEIGHT_AT)) * anatomy.build * size
    _lamina(image, u, v, rng)
    _canal(image, u, v, half_height, anatomy, level, disc_number, size)
    _body(image, u, v, anatomy, disc_number, size, rng)
    return image


def _neck(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = np.full((SIDE_PX, SIDE_PX), 4.0, dtype=np.float32)
    outline = np.hypot(u / 104, (v + 2) / 98)
    paint(image, soft((outline - 1) * 98, 1.5), 168)
    muscle = 54 + 10 * texture(rng, cell_px=9) + 6 * texture(rng, cell_px=3)
    paint(image, soft((outline - 0.9) * 98, 2.0), muscle)
    streaks = np.abs(np.sin(np.arctan2(v - 10, np.abs(u) + 1) * 7 + 0.03 * np.hypot(u, v)))
    paint(image, soft((streaks - 0.12) * 20, 2.0) * soft((outline - 0.85) * 98, 4.0), 118)
    paint(image, soft((np.hypot(u / 17, (v + 79) / 12) - 1) * 12, 1.5), 8)  # airway
    for side in (-1, 1):  # carotid and vertebral arteries are flow voids, jugular veins are not
        paint(image, soft(np.hypot(u - side * 54, v + 52) - 6, 1.0), 14)
        paint(image, soft(np.hypot(u - side * 65, v + 46) - 7, 1.0), 150)
        paint(image, soft(np.hypot(u - side * 45, v + 14) - 5, 1.0), 16)
    return image


def _lamina(image: np.ndarray, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> None:
    ring = np.hypot(u / 44, (v - 12) / 36)
    paint(image, soft((ring - 1) * 36, 1.5) * soft(-v - 8, 2.0), 72 + 8 * texture(rng, cell_px=5))
    paint(image, soft(np.abs(ring - 0.99) * 36 - 1.6, 0.8) * soft(-v - 8, 2.0), 16)
    spine = np.maximum(np.abs(u) - 5, np.abs(v - 60) - 20)
    paint(image, soft(spine, 1.5), 80)
    paint(image, soft(np.abs(spine) - 1.2, 0.8), 20)


def _canal(
    image: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    half_height: float,
    anatomy: Anatomy,
    level: int,
    disc_number: int | None,
    size: float,
) -> None:
    front = -13.0  # the back of the body; the canal narrows from behind and from the sides
    middle = front + half_height
    severity = float(np.clip(anatomy.canal[level], 0, 3))
    half_width = (33 - 2.2 * severity) * size * anatomy.build
    inside = (np.hypot(u / half_width, (v - middle) / half_height) - 1) * half_height
    paint(image, soft(inside - 2.6, 0.8), 18)  # ligament and dura
    paint(image, soft(inside, 0.8), 214)
    depth = 0.0 if disc_number is None else _bump_depth(anatomy.discs[disc_number])
    free = 2 * half_height - depth
    cord_half = min(12.5 * size, max(free / 2 - 1.6, 4.0))
    cord_v = front + depth + free / 2
    cord = (np.hypot(u / (20 * size + 0.8 * severity), (v - cord_v) / cord_half) - 1) * cord_half
    paint(image, soft(cord, 0.8), 108)
    grey = np.minimum(np.hypot(np.abs(u) - 7, v - cord_v) - 3.2, np.abs(v - cord_v) + 3 - 4.5)
    paint(image, soft(np.maximum(grey, cord + 1.5), 0.8), 128)
    bright = float(np.clip((anatomy.canal[level] - 2.2) / 0.8, 0, 1))
    core = np.minimum(np.hypot(u - 7, v - cord_v), np.hypot(u + 7, v - cord_v)) - 3.6
    paint(image, soft(np.maximum(core, cord + 1), 1.0) * bright, 205)


def _bump_depth(severity: float) -> float:
    return float(np.interp(severity, *_DEPTH_AT))


def _body(
    image: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    anatomy: Anatomy,
    disc_number: int | None,
    size: float,
    rng: np.random.Generator,
) -> None:
    distance = (np.hypot(u / (43 * size), (v + 38) / (26 * size)) - 1) * 26
    distance = np.maximum(distance, v + 13.0)  # flat at the back
    if disc_number is None:
        paint(image, soft(distance - 1.2, 0.8), 16)
        paint(image, soft(distance + 1.2, 0.8), 98 + 8 * texture(rng, cell_px=5))
        return
    severity = float(anatomy.discs[disc_number])
    depth = _bump_depth(severity)
    side = float(anatomy.disc_sides[disc_number]) * 12
    # bulging is broad, protrusion focal, extrusion a head on a neck
    broad = float(np.interp(severity, [0.8, 1.4, 2.0], [27, 20, 12]))
    border = -13.0 + depth * np.exp(-(((u - side) / broad) ** 2))
    bulge = np.maximum(v - border, np.abs(u) - 40)
    distance = np.minimum(distance, np.where(v > -16, bulge, distance))
    if severity > 2.5:
        head = np.hypot((u - side) / 1.25, v - (-13 + depth - 4)) - 8.5
        distance = np.minimum(distance, head)
    tone = 74 - 12 * min(max(severity, 0.0), 3.0)
    paint(image, soft(distance - 1.0, 0.8), 14)
    paint(image, soft(distance + 1.0, 0.8), tone + 6 * texture(rng, cell_px=6))
