"""A 2D encoder over the slices of a volume, as MedM-VL reads volumes with SigLIP."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from spinevl.models.encoder.hf import HFVisionEncoder
from spinevl.models.encoder.resize import foreground, resized
from spinevl.schema.image_ref import Modality


class SliceEncoder(HFVisionEncoder):
    """The features of every slice of a volume, slice after slice.

    Args:
        slices: how many slices a volume is resized to.
        options: of HFVisionEncoder.

    Raises:
        ValueError: no slice.
    """

    modality: Modality = "image3d"

    def __init__(self, *, slices: int = 32, **options: Any) -> None:
        super().__init__(**options)
        if slices < 1:
            raise ValueError(f"encoder.slices={slices}: expected 1 or more")
        self.slices = slices
        self.tokens *= slices
        self.grid = (slices, *self.grid)

    def transform(self, image: np.ndarray) -> torch.Tensor:
        """float32 [D, H, W] in [0, 255] -> [3, slices, H, W]."""
        size = (self.slices, self.side, self.side)
        # cut to whole grey values and not rounded, as upstream does
        grey = resized(foreground(image), size).numpy().astype(np.uint8)
        return torch.stack([super(SliceEncoder, self).transform(one) for one in grey], dim=1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [U, 3, S, H, W] -> [U, S * tokens, dim]."""
        slices = pixel_values.transpose(1, 2).flatten(0, 1)
        features = super().forward(slices)
        return features.unflatten(0, (-1, self.slices)).flatten(1, 2)
