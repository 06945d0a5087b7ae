"""The vertebral column of one sagittal slice: where its bodies stand and how they lean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spinevl.schema.box import Box
from spinevl.sources.phantom.geometry import Geometry
from spinevl.sources.phantom.raster import ROWS, X, Y, window
from spinevl.sources.phantom.spine_boxes import MARGIN_PX

_THORACIC = 5  # bodies drawn below C7


@dataclass(frozen=True)
class Body:
    """One vertebral body: centre, half width, half height and tilt (radians, + leans back)."""

    x: float
    y: float
    half_width: float
    half_height: float
    tilt: float


def column(geometry: Geometry, boxes: list[Box]) -> list[Body]:
    """C2 to C7 at their boxes' centres, stepped and tilted, and some thoracic bodies below.

    The boxes leave the tilt open, which carries the curvature; of a step they hold what the
    geometry says.
    """
    x = np.array([(box.x1 + box.x2) / 2 for box in boxes])
    x = x + np.array(geometry.step_px) * (1.0 - geometry.step_in_boxes)
    y = np.array([(box.y1 + box.y2) / 2 for box in boxes])
    lean = math.atan2(x[-1] - x[0], y[-1] - y[0])
    share = np.linspace(-0.5, 0.5, len(boxes))
    tilts = lean + math.radians(geometry.curvature_deg) * share
    bodies = [
        Body(
            float(x[k]),
            float(y[k]),
            max((box.x2 - box.x1) / 2 - MARGIN_PX, 3.0),
            max((box.y2 - box.y1) / 2 - MARGIN_PX, 3.0),
            float(tilts[k]),
        )
        for k, box in enumerate(boxes)
    ]
    tilt = float(np.clip(0.6 * lean + 0.25, 0.12, 0.5))
    pitch = float(np.clip(y[-1] - y[-2], 11.0, 18.0))
    for _ in range(_THORACIC):
        last = bodies[-1]
        tilt = 0.5 * tilt + 0.5 * max(tilt - 0.06, 0.1)
        bodies.append(
            Body(
                last.x + pitch * math.sin(tilt),
                last.y + pitch * math.cos(tilt),
                last.half_width + 0.25,
                pitch / 2 - 1.2,
                tilt,
            )
        )
    return bodies


def level_rows(bodies: list[Body]) -> np.ndarray:
    """[11] y of C2, C2-C3, ... C7."""
    y = np.array([body.y for body in bodies[:6]])
    heights = np.array([body.half_height for body in bodies[:6]])
    rows = np.empty(11)
    rows[0::2] = y
    rows[1::2] = (y[:-1] + heights[:-1] + y[1:] - heights[1:]) / 2
    return rows


def posterior_wall(bodies: list[Body]) -> np.ndarray:
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
    wall = np.interp(ROWS, order, xs)
    return smooth(wall)


def smooth(border: np.ndarray, times: int = 1) -> np.ndarray:
    """A border [H] without its corners; twice ``times`` is about the variance in px."""
    for _ in range(times):
        padded = np.pad(border, 1, mode="edge")
        border = (padded[:-2] + 2 * border + padded[2:]) / 4
    return border.astype(np.float32)


def local(body: Body) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The window around a body, and in it the px along and across its axis."""
    reach = max(body.half_width, body.half_height) + 4
    part = window(body.x - reach, body.y - reach, body.x + reach, body.y + reach)
    dx, dy = X[part] - np.float32(body.x), Y[part] - np.float32(body.y)
    cosine, sine = np.float32(math.cos(body.tilt)), np.float32(math.sin(body.tilt))
    return part, dy * cosine + dx * sine, dx * cosine - dy * sine
