"""Pixel shuffle: neighbouring tokens become one, side by side in its width (space to depth)."""

from __future__ import annotations

import math

import torch

from spinevl.config.keys import Positive
from spinevl.models.connector.base import Connector
from spinevl.models.connector.grid import require_grid
from spinevl.models.connector.mlp import mlp


class PixelShuffleConnector(Connector):
    """features [U, N, in_dim] -> [U, N / scale^2, out_dim].

    Rows and columns are joined; the slices of a 3D grid stay apart. Nothing is averaged away, as
    in InternVL (Chen et al. 2024, arXiv 2404.16821) and Idefics 3.

    Args:
        in_dim, out_dim, in_tokens, in_grid: see Connector.
        scale: tokens joined along rows and along columns.
        layers: Linears of the MLP.

    Raises:
        ValueError: tokens off the grid, or a grid that ``scale`` does not divide.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        in_tokens: int,
        in_grid: tuple[int, ...],
        scale: Positive = 2,
        layers: Positive = 2,
    ) -> None:
        super().__init__()
        require_grid(in_tokens, in_grid, by=scale, key="connector.scale", axes=2)
        self.grid = tuple(in_grid)
        self.scale = scale
        self.connector = mlp(in_dim * scale**2, out_dim, layers=layers)
        self.tokens = math.prod(in_grid) // scale**2

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [U, N, in_dim] -> [U, tokens, out_dim]."""
        *_, rows, columns = self.grid
        scale = self.scale
        cells = features.unflatten(1, (-1, rows // scale, scale, columns // scale, scale))
        joined = cells.permute(0, 1, 2, 4, 3, 5, 6)  # [U, slices, r, c, scale, scale, in_dim]
        return self.connector(joined.flatten(4).flatten(1, 3))
