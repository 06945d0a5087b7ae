"""A T2-like axial slice: body or disc, canal with cord, posterior arch, vessels, muscles, skin.

Coordinates: u to the image's right and v backward, in px at unit scale, from the middle of the
canal's front wall. Signal 0 to 1 (CSF).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spinevl.sources.phantom.acquisition import Signal
from spinevl.sources.phantom.canvas import Canvas
from spinevl.sources.phantom.geometry import Geometry
from spinevl.sources.phantom.raster import SIDE_PX, X, Y, ellipse, soft, window

CORD_DEPTH_PX = 13.5
_CORD_HALF_WIDTH_PX = 11.5
_CANAL_HALF_WIDTH_PX = 21.0
_PX = 1.18  # px of the picture a px of the geometry


@dataclass(frozen=True)
class Neck:
    """How one patient's neck looks where nothing is graded.

    Attributes:
        half_width, half_depth: of the skin's outline in px.
        fat: thickness of the fat under it in px.
        body: half width and depth of a vertebral body in px.
        septa: [n, 3] fat planes between the muscles: radius, bend and phase.
    """

    half_width: float
    half_depth: float
    fat: float
    body: tuple[float, float]
    septa: tuple[tuple[float, float, float], ...]


def draw_neck(rng: np.random.Generator) -> Neck:
    """One patient's neck."""
    septa = tuple(
        (radius + rng.normal(0, 2.5), rng.uniform(0.75, 1.0), rng.uniform(0, 6.3))
        for radius in (24.0, 41.0, 57.0, 72.0)
    )
    return Neck(
        half_width=rng.uniform(86, 99),
        half_depth=rng.uniform(82, 93),
        fat=rng.uniform(4, 9),
        body=(rng.uniform(33, 38), rng.uniform(29, 34)),
        septa=septa,
    )


def render_axial(
    geometry: Geometry, neck: Neck, signal: Signal, *, level: int, rng: np.random.Generator
) -> np.ndarray:
    """The ideal slice, float [H, W], of level 0 (C2) to 10 (C7); odd levels are discs."""
    scale = _PX * rng.normal(1.0, 0.025)
    angle = rng.normal(0.0, 0.035)
    at_x, at_y = 112 + rng.normal(0, 3.0), 102 + rng.normal(0, 3.0)
    cosine, sine = np.float32(math.cos(angle) / scale), np.float32(math.sin(angle) / scale)
    x, y = X - np.float32(at_x), Y - np.float32(at_y)
    u_v = x * cosine + y * sine, y * cosine - x * sine

    whole = Canvas.blank(u_v, signal, cells_px=(3.0, 9.0), rng=rng)
    _soft_tissue(whole, neck, level=level)
    near = window(at_x - 62 * scale, at_y - 62 * scale, at_x + 62 * scale, at_y + 66 * scale)
    part = whole.cut(near)
    _vessels(part, level=level)
    _posterior_arch(part, level=level)
    _body_or_disc(part, neck, level=level)
    _canal(part, geometry, level=level)
    return whole.image


def _soft_tissue(whole: Canvas, neck: Neck, *, level: int) -> None:
    """Skin, fat under it (thicker behind), muscles with fat planes, airway and its cartilage."""
    u, v, mottle, signal = whole.x, whole.y, whole.mottle, whole.signal
    wide = neck.half_width * (1.0 + 0.012 * (level - 5))
    skin = ellipse(u, v, at=(0, 4), radii=(wide, neck.half_depth))
    throat = np.clip(np.float32(-20) - v, 0, 60)  # narrower in front
    skin += np.float32(0.0028) * (np.hypot(u, np.float32(18)) - 18) * throat
    whole.paint(soft(skin, 2.0), signal.fat * (1 + 0.08 * mottle))
    deep = skin + np.float32(neck.fat) + np.clip(v - 15, 0, 60) * np.float32(0.09)
    muscle = 1 + np.float32(0.16) * mottle + np.float32(0.12) * whole.grain
    muscle *= np.float32(signal.muscle)
    whole.paint(soft(deep, 2.5), muscle)

    inside = soft(deep + 3, 3.0)
    lateral = ellipse(np.abs(u), v, at=(63, -10), radii=(8, 30))
    planes = soft(lateral + 4 * mottle, 6.0) * np.float32(0.7)
    behind = int(np.argmax(v[:, SIDE_PX // 2] > -12))
    half = slice(max(behind, 1), SIDE_PX)
    np.maximum(planes[half], _fat_planes(whole.cut(half), neck), out=planes[half])
    planes *= inside
    whole.paint(planes, signal.fat * 0.85)
    front = slice(0, max(int(np.argmax(v[:, SIDE_PX // 2] > -30)), 1))
    _throat(whole.cut(front), muscle[front], inside[front], level=level)


def _fat_planes(part: Canvas, neck: Neck) -> np.ndarray:
    """Bright, patchy arcs between the muscles behind the spine, and the midline."""
    v, mottle = part.y, part.mottle
    down, side = v - np.float32(10), np.abs(part.x)
    radius = np.hypot(part.x, down)
    slope = down / (side + np.abs(down) + 1)  # stands for the angle, and is cheaper
    planes = np.zeros_like(v)
    for size, bend, phase in neck.septa:
        wave = np.float32(5) * np.sin(np.float32(4.5) * slope + np.float32(phase))
        wave += np.float32(2) * mottle
        wave += np.float32(size) * (1 - np.float32(0.5 * bend) * slope)
        np.maximum(planes, soft(np.abs(radius - wave) - 1.0, 2.0), out=planes)
    planes *= np.clip(np.float32(0.55) + np.float32(0.4) * mottle, 0, 1)
    planes *= soft(-v - 2, 16.0)
    return np.maximum(planes, soft(side - 1.2, 1.6) * soft(38 - v, 4.0) * np.float32(0.8))


def _throat(part: Canvas, muscle: np.ndarray, inside: np.ndarray, *, level: int) -> None:
    """Glands and muscles beside the airway, its cartilage and the air."""
    u, v, signal = part.x, part.y, part.signal
    gland = ellipse(np.abs(u), v, at=(45, -56), radii=(22, 14))
    part.paint(soft(gland, 2.0) * inside, muscle * 1.45)
    part.paint(soft(ellipse(u, v, at=(0, -64), radii=(24, 15)), 2.0), signal.muscle * 1.9)
    part.paint(soft(ellipse(u, v, at=(0, -63), radii=(20, 11.5)), 1.5), signal.cortex)
    airway = ellipse(u, v, at=(0, -65), radii=(14 - 0.4 * level, 8 + 0.3 * level))
    part.paint(soft(airway - 1.5, 1.5), signal.muscle * 2.4)
    part.paint(soft(airway, 1.5), 0.0)


def _vessels(part: Canvas, *, level: int) -> None:
    """Arteries are flow voids; the long muscles of the neck lie before the body."""
    v, side, signal = part.y, np.abs(part.x), part.signal
    long_muscle = ellipse(side, v, at=(17, -40), radii=(17, 7))
    part.paint(soft(long_muscle, 1.5), signal.muscle * 1.15)
    for at, radius in (((50, -36), 6.5), ((40, -10), 4.5)):
        vessel = ellipse(side, v, at=at, radii=(radius, radius))
        part.paint(soft(vessel - 2.0, 1.5), signal.fat * 0.6)
        part.paint(soft(vessel, 1.2), signal.cortex)
    roots = np.abs(v - 7 + np.float32(0.28) * (side - 22)) - np.float32(2.6)
    part.paint(soft(roots, 1.2) * soft(np.abs(side - 29) - 9, 2.0), signal.marrow * 0.9)
    facet = ellipse(side, v, at=(36, 12), radii=(11, 8))
    part.paint(soft(facet - 0.8, 1.6), signal.cortex * 1.5)
    part.paint(soft(facet + 1.0, 2.0), signal.marrow * (0.85 if level % 2 else 0.7))


def _posterior_arch(part: Canvas, *, level: int) -> None:
    """Laminae, their ligament, which thickens into a narrow canal, and the spinous process."""
    u, v, signal = part.x, part.y, part.signal
    side = np.abs(u)
    roof = np.float32(26.0) - np.float32(0.52) * np.clip(side - 3, 0, 40)
    outside = np.maximum(np.maximum(v - roof - 11, side - np.float32(30)), -v)
    marrow = signal.marrow * (1 + np.float32(0.10) * part.grain)
    part.paint(soft(outside - 1.4, 1.2), signal.cortex)
    part.paint(soft(outside + 1.4, 1.2) * (1.0 if level % 2 == 0 else 0.55), marrow)
    process = np.maximum(side - 4.5 - np.float32(0.05) * (v - 36), np.abs(v - 47) - 14)
    present = 1.0 if level % 2 == 0 else 0.5
    part.paint(soft(process - 1.4, 1.2) * present, signal.cortex)
    part.paint(soft(process + 1.4, 1.2) * present, marrow)
    # What narrows the canal from behind is ligament: dark.
    ligament = np.maximum(v - roof - 3, side - np.float32(25))
    part.paint(soft(np.maximum(ligament, -v), 1.2), signal.cortex * 1.6)
    fat = ellipse(u, v, at=(0, 27.5), radii=(5, 2.2))
    part.paint(soft(fat, 1.2) * 0.8, signal.fat)


def _body_or_disc(part: Canvas, neck: Neck, *, level: int) -> None:
    """The oval before the canal, flat at the back."""
    u, v, grain, signal = part.x, part.y, part.grain, part.signal
    width, depth = neck.body
    grow = 0.93 + 0.014 * level
    oval = ellipse(u, v, at=(0, -depth * 0.5), radii=(width * grow, depth * 0.62))
    np.maximum(oval, v + np.float32(0.4), out=oval)
    part.paint(soft(oval - 1.3, 1.2), signal.cortex)
    if level % 2 == 0:
        marrow = signal.marrow * (1 + np.float32(0.10) * grain + np.float32(0.07) * part.mottle)
        part.paint(soft(oval + 1.3, 1.2), marrow)
        vein = np.abs(u) * np.float32(0.6) + np.abs(v + 5) - np.float32(3.5)
        part.paint(soft(vein, 2.0) * 0.35, signal.fat)
        return
    rings = 1 + np.float32(0.14) * np.sin(oval * np.float32(1.15)) + np.float32(0.08) * grain
    part.paint(soft(oval + 1.5, 2.5), signal.disc * 0.75 * rings)
    nucleus = ellipse(u, v, at=(0, -depth * 0.52), radii=(width * 0.55, depth * 0.33))
    part.paint(soft(nucleus, 6.0) * 0.6, signal.disc * 1.5)


def _canal(part: Canvas, geometry: Geometry, *, level: int) -> None:
    """CSF between disc and ligament, the cord in it, the disc's part in the canal last."""
    u, v, signal = part.x, part.y, part.signal
    room = geometry.canal_px[level]
    reach, head, depth = _disc_in_canal(part, geometry, level=level)
    side = np.abs(u)
    back = np.float32(depth + room) - np.float32(0.021) * side * side * np.float32(room / 26.0)
    narrow = min(1.0, 0.80 + 0.20 * room / 26.0)
    canal = np.maximum(v - back, np.float32(0.8) - v)
    np.maximum(canal, side - np.float32(_CANAL_HALF_WIDTH_PX * narrow), out=canal)
    corner = (side - np.float32(_CANAL_HALF_WIDTH_PX * narrow - 6)) * np.float32(0.75)
    np.maximum(canal, corner + np.abs(v - depth - room * 0.42) * np.float32(0.6) - 5.5, out=canal)
    part.paint(soft(canal - 2.4, 1.2), signal.cortex)
    part.paint(soft(canal, 1.2), signal.csf)

    roots = np.abs(np.abs(v - depth - room * 0.5) - np.float32(2.5)) - np.float32(0.7)
    shown = soft(roots, 1.2) * soft(np.abs(side - 15) - 3, 2.0) * soft(canal + 1, 1.0) * 0.4
    part.paint(shown, signal.cord)
    cord_depth = min(CORD_DEPTH_PX, max(room - 1.2, 5.0))
    flat = CORD_DEPTH_PX / cord_depth
    cord_v = depth + min(max(13.0 - depth, cord_depth / 2 + 0.6), room - cord_depth / 2 - 0.6)
    radii = (_CORD_HALF_WIDTH_PX * flat**0.3, cord_depth / 2)
    cord = ellipse(u, v, at=(0, cord_v), radii=radii)
    np.maximum(cord, np.maximum(reach + 1.0 - v, 1.0 - head), out=cord)  # a focal disc dents it
    np.maximum(cord, canal + 0.5, out=cord)
    part.paint(soft(cord, 1.2), signal.cord * (1 + np.float32(0.05) * part.grain))
    horns = ellipse(side, v, at=(radii[0] * 0.36, cord_v), radii=(radii[0] * 0.22, radii[1] * 0.5))
    part.paint(soft(np.maximum(horns, cord + 1), 1.5) * 0.6, signal.cord * 1.2)
    bright = geometry.t2_signal[level]
    core = ellipse(side, v, at=(radii[0] * 0.33, cord_v), radii=(radii[0] * 0.42, radii[1] * 0.7))
    part.paint(soft(np.maximum(core, cord + 0.8), 2.0) * np.float32(bright), signal.csf)

    if level % 2:
        herniated = np.minimum(v - reach, head)
        np.maximum(herniated, -v - 3, out=herniated)
        np.maximum(herniated, side - 24, out=herniated)
        part.paint(soft(herniated - 1.0), signal.cortex)
        part.paint(soft(herniated + 1.2, 1.5), signal.disc * 0.7)


def _disc_in_canal(
    part: Canvas, geometry: Geometry, *, level: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """The base's reach at each u, the distance to an extrusion's head, and the whole depth.

    A broad bulge has a flat top, a focal protrusion a bell's. Where the disc has a neck, the base
    is the neck and carries the head.
    """
    u = part.x
    nowhere = np.full_like(u, 99.0)
    if level % 2 == 0:
        return np.zeros_like(u), nowhere, 0.0
    index = level // 2
    depth, width = geometry.disc_depth_px[index], geometry.disc_width_px[index]
    neck, offset = geometry.disc_neck[index], geometry.disc_offset_px[index]
    power = 2.0 + 2.0 * np.clip((width - 10.0) / 8.0, 0.0, 1.0)
    reach = depth * np.exp(-(np.abs((u - offset) / (width * (1.0 - 0.5 * neck))) ** power))
    radii = (width * 1.05 * neck, depth * 0.34 * neck)
    if min(radii) < 0.8:
        return reach, nowhere, depth
    return reach, ellipse(u, part.y, at=(offset, depth * 0.66), radii=radii), depth
