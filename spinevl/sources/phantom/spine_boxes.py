"""Draw vertebra boxes with the statistics of the 400 real patients (``boxes_train.json``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spinevl.schema.box import Box
from spinevl.schema.patient import Label
from spinevl.sources.labels import VERTEBRAE
from spinevl.sources.phantom.raster import SIDE_PX

Boxes = dict[str, tuple[Box, Box, Box]]

MARGIN_PX = 3  # the study widens every box by this much on each side

# Bow of the column by curvature label: how far C2 to C7 lie behind (+) or before (-) the straight
# line from C2 to C7, in px, and the spread of that bow.
_BOW_PX = (
    (0.0, -3.17, -4.84, -5.04, -3.53, 0.0),
    (0.0, -1.12, -1.70, -1.81, -1.53, 0.0),
    (0.0, 0.61, 0.87, 0.44, -0.41, 0.0),
)
_BOW_SPREAD = np.array((0.0, 1.0, 1.55, 1.55, 1.05, 0.0))
_BOW_SPREAD_BY_LABEL = (1.15, 0.85, 0.8)
_S_SHAPE = np.array((0.0, 0.65, 0.35, -0.35, -0.6, 0.0))

_SPACING_PX = np.array((13.53, 13.04, 12.84, 13.71))
_WIDTH_PX = np.array((11.9, 12.4, 12.5, 12.7, 13.2, 13.95))
_HEIGHT_PX = np.array((0.0, 11.2, 10.7, 10.5, 11.1, 12.6))

# Slices 5 and 7 beside the middle one: C2 is cut shorter on one side, all else hardly moves.
_SIDE_HEIGHT_PX = {0: (-1.1, 3.0), 2: (-3.7, 4.0)}


def draw_boxes(rng: np.random.Generator, qd: Label, steps_px: np.ndarray) -> Boxes:
    """The boxes of one patient in slices 5, 6 and 7, widened by 3 px.

    Args:
        rng: the patient's stream.
        qd: the curvature label, which bows the column.
        steps_px: [6] how far each vertebra's box is moved backward by malalignment.
    """
    assert isinstance(qd, int)
    centre_x, centre_y, width, height = _middle_slice(rng, qd)
    centre_x = centre_x + steps_px
    slices = []
    for index in range(3):
        x, y, w, h = centre_x, centre_y, width, height.copy()
        if index != 1:
            x = x + rng.normal(0.0, 0.35, 6)
            y = y + rng.normal(0.0, 0.4, 6)
            w = w + rng.normal(-0.25 * index, 0.6, 6)
            h = h + rng.normal(0.0, 0.6, 6)
            mean, spread = _SIDE_HEIGHT_PX[index]
            shorter = np.clip(rng.normal(mean, spread), -9.0, 3.0)
            h[0] += shorter
            y = y - np.eye(6)[0] * shorter / 2  # the lower end of C2 stays where it is
        slices.append(_rounded(x, y, w, h))
    return {
        vertebra: (slices[0][index], slices[1][index], slices[2][index])
        for index, vertebra in enumerate(VERTEBRAE)
    }


def _middle_slice(
    rng: np.random.Generator, qd: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centre x, centre y, width and height [6] of the vertebrae, without the margin."""
    size = rng.normal(0.0, 0.75)
    spacing = _SPACING_PX + 0.95 * size + rng.normal(0.0, 0.8, 4)
    height = _HEIGHT_PX + 0.95 * size + rng.normal(0.0, 0.95, 6)
    height[0] = np.clip(22.4 + 0.6 * size + rng.normal(0.0, 3.6), 12.0, 32.0)
    from_c2 = 19.3 + 0.9 * size + 0.42 * (height[0] - 22.4) + rng.normal(0.0, 0.9)
    width = _WIDTH_PX + 1.25 * rng.normal() + rng.normal(0.0, 0.95, 6)

    c3_y = float(np.clip(rng.normal(99.9, 7.3) - 0.8 * size, 70.0, 125.0))
    centre_y = np.concatenate(([c3_y - from_c2, c3_y], c3_y + np.cumsum(spacing)))
    # No disc may close altogether.
    height[1:] = np.minimum(height[1:], 2 * (centre_y[1:] - centre_y[:-1]) - height[:-1] - 1.0)
    height[1:] = np.clip(height[1:], 7.0, 17.0)

    c2_x = rng.normal(100.5, 4.3)
    c7_x = 107.3 + 0.57 * (c2_x - 100.5) + rng.normal(0.0, 5.1)
    along = (centre_y - centre_y[0]) / (centre_y[-1] - centre_y[0])
    bow = (
        np.array(_BOW_PX[qd])
        + _BOW_SPREAD * _BOW_SPREAD_BY_LABEL[qd] * rng.normal()
        + _S_SHAPE * rng.normal()
    )
    noise = rng.normal(0.0, 0.2, 6)
    return c2_x + along * (c7_x - c2_x) + bow + noise, centre_y, np.clip(width, 8.0, 18.0), height


def _rounded(x: np.ndarray, y: np.ndarray, w: np.ndarray, h: np.ndarray) -> list[Box]:
    half_w, half_h = w / 2 + MARGIN_PX, h / 2 + MARGIN_PX
    corners = np.stack((x - half_w, y - half_h, x + half_w, y + half_h), axis=1)
    corners = np.clip(np.rint(corners), 0, SIDE_PX).astype(int)
    return [Box(*(int(value) for value in row)) for row in corners]


def centres(boxes: Sequence[Box]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the boxes' centres."""
    x1, y1, x2, y2 = np.array([box.as_list() for box in boxes]).T
    return (x1 + x2) / 2, (y1 + y2) / 2


def bow_px(boxes: Boxes) -> float:
    """How far C3 to C6 lie behind (+) the line from C2 to C7 on average, in the middle slice."""
    x, y = centres([boxes[vertebra][1] for vertebra in VERTEBRAE])
    along = (y - y[0]) / (y[-1] - y[0])
    return float(np.mean((x - x[0] - along * (x[-1] - x[0]))[1:5]))
