"""What a question shows: 2D images and volumes."""

from __future__ import annotations

from typing import Literal

Modality = Literal["image", "image3d"]
"""``image`` is a 2D image, ``image3d`` a volume; as the placeholders ``<image>``, ``<image3d>``."""

Picture = tuple[Modality, str]
"""The modality and the file of one image."""

MODALITIES: tuple[Modality, ...] = ("image", "image3d")
