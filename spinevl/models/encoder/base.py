"""What every encoder offers: its sizes and its own image transform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Encoder(nn.Module, ABC):
    """pixel_values [U, C, H, W] -> features [U, tokens, dim].

    Attributes:
        dim: width of a feature.
        tokens: features an image becomes.
    """

    dim: int
    tokens: int

    @abstractmethod
    def transform(self, image: np.ndarray) -> torch.Tensor:
        """One grey image, uint8 [H, W] -> float32 [C, H, W] as the encoder was trained on."""

    @abstractmethod
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [U, C, H, W] -> features [U, tokens, dim]."""

    def save_description(self, folder: Path) -> None:
        """Write what a checkpoint needs besides weights and constructor arguments."""


def require_size(image: np.ndarray, size: int) -> None:
    """Raise ValueError where an image [H, W] is not ``size`` x ``size``."""
    if image.shape != (size, size):
        raise ValueError(
            f"encoder.image_size={size}: an image is {image.shape[1]} x {image.shape[0]}; "
            "resize the images or set encoder.image_size"
        )
