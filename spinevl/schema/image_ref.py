"""Which image of which patient: identity is stated by the data source and never guessed later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Modality = Literal["image", "image3d"]
"""``image`` is a 2D image, ``image3d`` a volume; as the placeholders ``<image>``, ``<image3d>``."""

MODALITIES: tuple[Modality, ...] = ("image", "image3d")

Plane = Literal["sagittal", "axial", ""]
"""``""`` where the source does not say, as for the images of conversations."""


@dataclass(frozen=True)
class ImageRef:
    """One image, or a part of one, and what it shows.

    Attributes:
        path: the file.
        modality: whether it is a 2D image or a volume.
        patient: whose it is; ``""`` where the source does not say.
        plane: how the slice lies; other series are told apart by it too.
        slice: the number of a sagittal slice.
        level: the spine level of an axial slice, such as ``C2-C3``.
        crop: (x1, y1, x2, y2) in pixels of the file; None is the whole image.
        spacing_mm: between rows, and between columns; None where unknown.
    """

    path: str
    modality: Modality = "image"
    patient: str = ""
    plane: Plane = ""
    slice: int | None = None
    level: str | None = None
    crop: tuple[int, int, int, int] | None = None
    spacing_mm: tuple[float, float] | None = None
