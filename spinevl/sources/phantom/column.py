"""The spine of one sagittal slice: how its bodies stand and lean, and the canal behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spinevl.schema.box import Box
from spinevl.sources.phantom.canvas import Canvas
from spinevl.sources.phantom.geometry import SAGITTAL_PER_AXIAL_PX, Geometry
from spinevl.sources.phantom.raster import ROWS, SIDE_PX, window
from spinevl.sources.phantom.spine_boxes import MARGIN_PX, centres

_K = SAGITTAL_PER_AXIAL_PX
_THORACIC = 5  # bodies drawn below C7


@dataclass(frozen=True)
class Body:
    """One vertebral body: centre, half width, half height and tilt (radians, + leans back)."""

    x: float
    y: float
    half_width: float
    half_height: float
    tilt: float


@dataclass(frozen=True)
class Spine:
    """The column of one sagittal slice, and the canal behind it.

    Attributes:
        geometry: the measures that the slice shows.
        bodies: C2 to C7, and the thoracic bodies below.
        rows: [11] y of C2, C2-C3, ... C7.
        wall: [H] x of the bodies' back edges.
        reach: [H] how far disc reaches backward beyond the wall.
        front, back: [H] x of the canal's borders.
        taper: depth of the canal and its cord in this slice, as a share of that in the midline.
    """

    geometry: Geometry
    bodies: list[Body]
    rows: np.ndarray
    wall: np.ndarray
    reach: np.ndarray
    front: np.ndarray
    back: np.ndarray
    taper: float


def column(geometry: Geometry, boxes: list[Box]) -> list[Body]:
    """C2 to C7 at their boxes' centres, stepped and tilted, and some thoracic bodies below.

    The boxes leave the tilt open, which carries the curvature; of a step they hold what the
    geometry says.
    """
    x, y = centres(boxes)
    x = x + np.array(geometry.step_px) * (1.0 - geometry.step_in_boxes)
    lean = math.atan2(x[-1] - x[0], y[-1] - y[0])
    share = np.linspace(-0.5, 0.5, len(boxes))
    tilts = lean + math.radians(geometry.curvature_deg) * share
    half_widths = [max((box.x2 - box.x1) / 2 - MARGIN_PX, 3.0) for box in boxes]
    half_heights = [max((box.y2 - box.y1) / 2 - MARGIN_PX, 3.0) for box in boxes]
    bodies = list(map(Body, x.tolist(), y.tolist(), half_widths, half_heights, tilts.tolist()))
    tilt = float(np.clip(0.6 * lean + 0.25, 0.12, 0.5))
    pitch = float(np.clip(y[-1] - y[-2], 11.0, 18.0))
    for _ in range(_THORACIC):
        last = bodies[-1]
        tilt = 0.5 * tilt + 0.5 * max(tilt - 0.06, 0.1)
        at_x, at_y = last.x + pitch * math.sin(tilt), last.y + pitch * math.cos(tilt)
        bodies.append(Body(at_x, at_y, last.half_width + 0.25, pitch / 2 - 1.2, tilt))
    return bodies


def sagittal_spine(geometry: Geometry, boxes: list[Box], *, lateral_px: float) -> Spine:
    """The spine in a slice with these boxes, ``lateral_px`` (axial) beside the midline."""
    bodies = column(geometry, boxes)
    wall, rows = _posterior_wall(bodies), _level_rows(bodies)
    depth = np.zeros(11)
    beside = (lateral_px - np.array(geometry.disc_offset_px)) / np.array(geometry.disc_width_px)
    depth[1::2] = np.array(geometry.disc_depth_px) * np.exp(-np.square(beside))
    at_middle = np.zeros(11)
    at_middle[1::2] = geometry.disc_depth_px
    canal = (at_middle + np.array(geometry.canal_px)) * _K
    taper = 1.0 - 0.0035 * abs(lateral_px) ** 1.5  # the roof slopes to the sides
    canal *= taper
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
    return Spine(geometry, bodies, rows, wall, reach, front, back, taper)


def _level_rows(bodies: list[Body]) -> np.ndarray:
    """[11] y of C2, C2-C3, ... C7."""
    y = np.array([body.y for body in bodies[:6]])
    heights = np.array([body.half_height for body in bodies[:6]])
    rows = np.empty(11)
    rows[0::2] = y
    rows[1::2] = (y[:-1] + heights[:-1] + y[1:] - heights[1:]) / 2
    return rows


def _posterior_wall(bodies: list[Body]) -> np.ndarray:
    """[H] x of the bodies' back edges: straight along a body, stepping between two."""
    ys, xs = [], []
    for body in bodies:
        for end in (-0.8, 0.8):
            along = end * body.half_height
            ys.append(body.y + along)
            xs.append(body.x + body.half_width + along * math.sin(body.tilt))
    slope = math.tan(bodies[0].tilt) * 0.5 + 0.02
    ys = [ys[0] - 90.0, *ys, 320.0]
    xs = [xs[0] - 90.0 * slope * 0.4, *xs, xs[-1] + (320.0 - ys[-1]) * 0.15]
    order = np.maximum.accumulate(ys)
    return smooth(np.interp(ROWS, order, xs))


def smooth(border: np.ndarray, times: int = 1) -> np.ndarray:
    """A border [H] without its corners; twice ``times`` is about the variance in px."""
    for _ in range(times):
        padded = np.pad(border, 1, mode="edge")
        border = (padded[:-2] + 2 * border + padded[2:]) / 4
    return border.astype(np.float32)


def local(canvas: Canvas, body: Body) -> tuple[Canvas, np.ndarray, np.ndarray]:
    """The window around a body, and in it the px along and across the body's axis."""
    reach = max(body.half_width, body.half_height) + 4
    part = canvas.cut(window(body.x - reach, body.y - reach, body.x + reach, body.y + reach))
    dx, dy = part.x - np.float32(body.x), part.y - np.float32(body.y)
    cosine, sine = np.float32(math.cos(body.tilt)), np.float32(math.sin(body.tilt))
    return part, dy * cosine + dx * sine, dx * cosine - dy * sine
