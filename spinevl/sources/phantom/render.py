"""Draw one phantom patient and write the fourteen pictures. No clinical evidence."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spinevl.schema.box import Box
from spinevl.schema.patient import Label
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.phantom.acquisition import acquire, draw_scanner, draw_signal
from spinevl.sources.phantom.axial import draw_neck, render_axial
from spinevl.sources.phantom.geometry import Geometry, draw_geometry
from spinevl.sources.phantom.head import draw_head
from spinevl.sources.phantom.labels import draw_labels
from spinevl.sources.phantom.sagittal import render_sagittal
from spinevl.sources.phantom.spine_boxes import Boxes, bow_px, draw_boxes

AXIAL_STEMS = ("2", "2-3", "3", "3-4", "4", "4-5", "5", "5-6", "6", "6-7", "7")
"""The axial images of a patient, without their ending."""

_TEST_STREAM = 1_000_003  # test patients draw from another stream than training ones


@dataclass(frozen=True)
class Case:
    """One patient to render.

    Attributes:
        side: ``train`` (and dev) or ``test``.
        index: the patient's number on that side; with the seed it fixes everything drawn.
        id: the patient's folder.
        labels, boxes: given ones; drawn where None.
    """

    side: str
    index: int
    id: str
    labels: Mapping[str, Label] | None = None
    boxes: Mapping[str, Mapping[int, Box]] | None = None


@dataclass(frozen=True)
class Phantom:
    """What is behind one patient's pictures."""

    labels: Mapping[str, Label]
    geometry: Geometry
    boxes: Boxes

    def latents(self) -> dict[str, Any]:
        """The patient's entry in the side file."""
        return {**self.geometry.to_json(), "bow_px": round(bow_px(self.boxes), 3)}


def draw_phantom(case: Case, *, seed: int) -> tuple[Phantom, np.random.Generator]:
    """The patient's truth, and the stream that goes on to draw its pictures.

    They depend on the seed, the side and the number alone, not on how many patients there are.
    """
    offset = _TEST_STREAM if case.side == "test" else 0
    rng = np.random.default_rng([seed, case.index + offset])
    labels = case.labels if case.labels is not None else draw_labels(rng)
    geometry = draw_geometry(rng, labels)
    if case.boxes is None:
        in_boxes = np.array(geometry.step_px) * geometry.step_in_boxes
        boxes = draw_boxes(rng, labels["qd"], in_boxes)
    else:
        five, six, seven = StudyLayout.slices
        boxes = {name: (one[five], one[six], one[seven]) for name, one in case.boxes.items()}
        geometry = replace(geometry, step_in_boxes=0.0)
    return Phantom(labels, geometry, boxes), rng


def render_case(case: Case, folder: Path, seed: int) -> Phantom:
    """Write the patient's pictures to ``folder/images/{side}/{id}``."""
    from PIL import Image

    phantom, rng = draw_phantom(case, seed=seed)
    root = folder / "images" / case.side / case.id
    for plane in ("sag", "tra"):
        (root / plane).mkdir(parents=True, exist_ok=True)
    for name, pixels in _pictures(phantom, rng):
        # Noise repeats nothing: Huffman coding alone is quicker, and smaller too.
        Image.fromarray(pixels).save(
            root / name, compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY
        )
    return phantom


def _pictures(phantom: Phantom, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pixels, uint8 [H, W], of the three sagittal and the eleven axial slices."""
    signal = draw_signal(rng)
    head, neck = draw_head(rng), draw_neck(rng)
    scanner = draw_scanner(rng)
    for number in StudyLayout.slices:
        ideal = render_sagittal(
            phantom.geometry, phantom.boxes, head, signal, slice_number=number, rng=rng
        )
        yield f"sag/{number}.png", acquire(ideal, scanner, rng)
    scanner = draw_scanner(rng)
    for level, stem in enumerate(AXIAL_STEMS):
        ideal = render_axial(phantom.geometry, neck, signal, level=level, rng=rng)
        yield f"tra/{stem}.png", acquire(ideal, scanner, rng)
