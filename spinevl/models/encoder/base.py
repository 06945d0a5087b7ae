"""The interface of encoders: their sizes and their own image transform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spinevl.build.roles import role
from spinevl.models.fewer_passes import computed
from spinevl.models.held import autocast_of, half_of
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import Modality

# how many are encoded together: a single volume fills any device; more images would be faster on
# some devices, and mostly padding where few are asked for
FIXED_BATCH = {"image": 12, "image3d": 1}


@role("encoder")
class Encoder(nn.Module, ABC):
    """pixel_values [U, C, (D,) H, W] -> features [U, tokens, dim].

    Attributes:
        dim: width of a feature.
        tokens: features an image becomes.
        grid: their layout, (rows, columns) or (slices, rows, columns), row by row. There is one
            token more than the grid has cells where a class token comes first.
        modality: ``image`` reads 2D images, ``image3d`` volumes.
        plain_layers: compute every layer as its library does.
    """

    dim: int
    tokens: int
    grid: tuple[int, ...]
    modality: Modality = "image"
    plain_layers: bool = False

    @abstractmethod
    def transform(self, image: np.ndarray) -> torch.Tensor:
        """One image as the encoder was trained on it.

        Args:
            image: uint8 [H, W] (grey) or [H, W, 3]; a volume is float32 [D, H, W] in [0, 255].

        Returns:
            float32 [C, H, W], of a volume [C, D, H, W].
        """

    @abstractmethod
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [U, C, (D,) H, W] -> features [U, tokens, dim]."""

    def unreached(self) -> list[nn.Module | nn.Parameter]:
        """What its forward pass leaves out, such as the layers above a selected one.

        It is kept and saved, and never trained: training on several devices waits in each step for
        a gradient of every weight that learns.
        """
        return []

    def identity(self) -> str:
        """The settings that its features depend on besides weights: attributes and structure.

        An attribute whose repr holds an address makes every object another encoder: its features
        are then encoded again in every job, and never mistaken for another's.
        """
        own = {name: v for name, v in vars(self).items() if name not in vars(nn.Module())}
        arrays = {
            name: v.tobytes().hex() if isinstance(v, np.ndarray) else repr(v)
            for name, v in sorted({**own, "plain_layers": self.plain_layers}.items())
        }
        return f"{self!r}\n{arrays}"

    def save_description(self, folder: Path) -> None:
        """Write what a checkpoint needs besides weights and constructor arguments."""


def encode_in_fixed_batches(encoder: Encoder, pixel_values: torch.Tensor) -> torch.Tensor:
    """pixel_values [U, ...] -> features [U, tokens, dim], each independent of the other images.

    A convolution may round differently for another batch size. So a frozen encoder, whose features
    may be cached, always gets ``FIXED_BATCH`` images at a time; the last batch is padded.
    """
    parts = []
    together = FIXED_BATCH[encoder.modality]
    for chunk in pixel_values.split(together):
        padding = chunk[:1].expand(together - len(chunk), *chunk.shape[1:])
        parts.append(encode(encoder, torch.cat([chunk, padding]))[: len(chunk)])
    return torch.cat(parts)


def encode(encoder: Encoder, pixel_values: torch.Tensor) -> torch.Tensor:
    """pixel_values [U, ...] -> features [U, tokens, dim]; see autocast_of."""
    half = half_of(encoder)
    with autocast_of(encoder), computed(not encoder.plain_layers, norms=False):
        return encoder(pixel_values if half is None else pixel_values.to(half))


def state_index(select_layer: int, *, states: int, layers: int) -> int:
    """Which of ``states`` hidden states ``select_layer`` is, counted from the front.

    Raises:
        UserError: there is no such state.
    """
    if not -states <= select_layer < states:
        raise UserError(
            f"encoder.select_layer={select_layer}: expected {-states} to {states - 1} "
            f"for this encoder of {layers} layers"
        )
    return select_layer % states


def require_size(image: np.ndarray, size: int) -> None:
    """Raise ValueError where an image [H, W] is not ``size`` x ``size``."""
    if image.shape != (size, size):
        raise ValueError(
            f"encoder.image_size={size}: an image is {image.shape[1]} x {image.shape[0]}; "
            "resize the images or set encoder.image_size"
        )
