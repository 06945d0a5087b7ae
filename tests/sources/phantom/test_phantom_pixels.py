"""Labels drive the pixels: measured in ideal slices, without noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spinevl.schema.patient import Label
from spinevl.sources.labels import VERTEBRAE
from spinevl.sources.phantom.acquisition import Signal
from spinevl.sources.phantom.axial import draw_neck, render_axial
from spinevl.sources.phantom.column import column
from spinevl.sources.phantom.geometry import Geometry, draw_geometry
from spinevl.sources.phantom.head import draw_head
from spinevl.sources.phantom.sagittal import render_sagittal
from spinevl.sources.phantom.spine_boxes import draw_boxes

SIGNAL = Signal(
    csf=1.0, cord=0.4, marrow=0.3, disc=0.2, muscle=0.15, fat=0.7, cortex=0.04, brain=0.4
)


def geometry(**changes: object) -> Geometry:
    """A healthy neck but for ``changes``."""
    healthy = Geometry(
        curvature_deg=10.0,
        step_px=(0.0,) * 6,
        canal_px=(26.0,) * 11,
        t2_signal=(0.0,) * 11,
        disc_depth_px=(0.0,) * 5,
        disc_width_px=(10.0,) * 5,
        disc_neck=(0.0,) * 5,
        disc_offset_px=(0.0,) * 5,
    )
    return replace(healthy, **changes)  # type: ignore[arg-type]


def axial(level: int = 5, **changes: object) -> np.ndarray:
    """The middle of an axial slice, where the canal lies."""
    rng = np.random.default_rng(4)
    image = render_axial(geometry(**changes), draw_neck(rng), SIGNAL, level=level, rng=rng)
    return image[88:152, 76:148]


def test_csf_shrinks_with_the_canal() -> None:
    csf = [float((axial(canal_px=(px,) * 11) > 0.8).sum()) for px in (26.0, 21.0, 16.0, 11.0)]
    assert csf[0] > 1.3 * csf[1] > 1.3 * 1.3 * csf[2] > 1.3**3 * csf[3]


def test_a_disc_takes_csf_only_at_its_own_level() -> None:
    deep = {"disc_depth_px": (0.0, 0.0, 5.0, 0.0, 0.0), "canal_px": (21.0,) * 11}
    flat = {"canal_px": (21.0,) * 11}
    for level in (3, 4, 6, 7):
        assert np.array_equal(axial(level, **deep), axial(level, **flat))
    assert np.abs(axial(5, **deep) - axial(5, **flat)).max() > 0.5


def test_a_bulge_is_broader_than_a_protrusion_of_the_same_depth() -> None:
    dark = {
        width: float((axial(disc_depth_px=(4.0,) * 5, disc_width_px=(width,) * 5) < 0.25).sum())
        for width in (17.0, 8.0)
    }
    assert dark[17.0] > dark[8.0] + 40


def test_myelomalacia_brightens_the_cord() -> None:
    bright = axial(canal_px=(11.0,) * 11, t2_signal=(0.8,) * 11)
    dull = axial(canal_px=(11.0,) * 11)
    change = bright - dull
    assert change.max() > 0.3
    assert change.min() > -1e-6


def test_bodies_stand_at_their_boxes_and_a_step_moves_one() -> None:
    rng = np.random.default_rng(0)
    boxes = draw_boxes(rng, 1, np.zeros(6))
    middle = [boxes[name][1] for name in VERTEBRAE]
    given = geometry(step_px=(0.0, 0.0, -4.0, 0.0, 0.0, 0.0), step_in_boxes=0.0)
    for box, body, step in zip(middle, column(given, middle), given.step_px, strict=False):
        assert body.x == pytest.approx((box.x1 + box.x2) / 2 + step)
        assert body.y == pytest.approx((box.y1 + box.y2) / 2)
        assert 2 * body.half_width == pytest.approx(max(box.x2 - box.x1 - 6, 6))


@pytest.mark.parametrize("slice_number", [5, 6, 7])
def test_the_canal_of_a_sagittal_slice_narrows_at_the_graded_level(slice_number: int) -> None:
    boxes = draw_boxes(np.random.default_rng(1), 1, np.zeros(6))
    canal = [26.0] * 11
    canal[5] = 11.0

    def slice_of(sizes: list[float]) -> np.ndarray:
        rng = np.random.default_rng(2)
        shape = geometry(canal_px=tuple(sizes))
        head = draw_head(rng)
        return render_sagittal(shape, boxes, head, SIGNAL, slice_number=slice_number, rng=rng)

    narrowed = np.abs(slice_of(canal) - slice_of([26.0] * 11)).max(axis=1)
    level = (boxes["C4"][1].y2 + boxes["C5"][1].y1) / 2  # C4-C5
    rows = np.flatnonzero(narrowed > 0.2)
    assert rows.size > 3
    assert abs(rows.mean() - level) < 5
    assert rows.min() > boxes["C3"][1].y1
    assert rows.max() < boxes["C6"][1].y2


def test_neighbouring_grades_overlap() -> None:
    def canal(grade: int) -> np.ndarray:
        labels: dict[str, Label] = {"qd": 1, "sl": 1, "zjppt": (0,) * 5, "zyzg": (grade,) * 11}
        drawn = [draw_geometry(np.random.default_rng(k), labels).canal_px for k in range(60)]
        return np.array(drawn).ravel()

    for grade in range(3):
        worse, better = canal(grade + 1), canal(grade)
        misread = np.mean(worse > (better.mean() + worse.mean()) / 2)
        assert 0.03 < misread < 0.25
