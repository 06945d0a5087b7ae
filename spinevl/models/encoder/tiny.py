"""A convolutional encoder small enough to learn from scratch on two CPU cores."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from spinevl.config.keys import Positive
from spinevl.models.encoder.base import Encoder, require_size


class TinyEncoder(Encoder):
    """Three strided convolutions, then one token for each cell of a coarse grid.

    A cell's token is a learned projection of all its features rather than their mean, so that it
    can encode the position of a structure within the cell: a disc gap is two pixels of 224.

    Args:
        image_size: side of the square input in pixels.
        widths: channels after the strides 4, 8 and 16.
        tokens_per_side: the grid has the square of this many cells.
        dim: width of a token.

    Raises:
        ValueError: the grid does not divide the feature map.
    """

    def __init__(
        self,
        *,
        image_size: Positive = 224,
        widths: tuple[Positive, Positive, Positive] = (32, 64, 128),
        tokens_per_side: Positive = 2,
        dim: Positive = 128,
    ) -> None:
        super().__init__()
        side = image_size // 16
        if image_size % 16 or side % tokens_per_side:
            raise ValueError(
                f"encoder.image_size={image_size} gives a feature map of side {image_size / 16:g}; "
                f"encoder.tokens_per_side={tokens_per_side} does not divide it"
            )
        self.image_size = image_size
        self.dim = dim
        self.grid = (tokens_per_side, tokens_per_side)
        self.tokens = tokens_per_side**2
        first, second, third = widths
        self.stem = nn.Sequential(
            nn.Conv2d(1, first, kernel_size=7, stride=4, padding=3),
            nn.GroupNorm(8, first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, kernel_size=3, stride=2, padding=1),
            nn.GroupNorm(8, second),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, third, kernel_size=3, stride=2, padding=1),
            nn.GroupNorm(8, third),
            nn.ReLU(inplace=True),
        )
        cell = side // tokens_per_side
        self.project = nn.Conv2d(third, dim, kernel_size=cell, stride=cell)
        self.norm = nn.LayerNorm(dim)

    def transform(self, image: np.ndarray) -> torch.Tensor:
        """uint8 [H, W], or [H, W, 3] made grey -> [1, H, W] of about zero mean, unit variance."""
        if image.ndim == 3:
            image = np.asarray(Image.fromarray(image).convert("L"))
        require_size(image, self.image_size)
        return (torch.from_numpy(image.astype(np.float32))[None] - 64.0) / 64.0

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [U, 1, H, W] -> [U, tokens, dim], cells row by row."""
        features = self.project(self.stem(pixel_values))  # [U, dim, side, side]
        return self.norm(features.flatten(2).transpose(1, 2))
