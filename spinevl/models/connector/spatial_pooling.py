"""Spatial pooling: MedM-VL's ``spatial_pooling``, averages over the patch grid, then an MLP."""

from __future__ import annotations

import math

import torch

from spinevl.config.keys import Positive
from spinevl.models.connector.base import Connector
from spinevl.models.connector.grid import require_grid
from spinevl.models.connector.mlp import mlp


class SpatialPoolingConnector(Connector):
    """features [U, N, in_dim] -> [U, N / pool^axes, out_dim].

    Args:
        in_dim, out_dim, in_tokens, in_grid: see Connector.
        pool: cells averaged along each axis of the grid, 2D or 3D.
        layers: Linears of the MLP.

    Raises:
        ValueError: tokens off the grid, or a grid that ``pool`` does not divide.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        in_tokens: int,
        in_grid: tuple[int, ...],
        pool: Positive = 2,
        layers: Positive = 2,
    ) -> None:
        super().__init__()
        require_grid(in_tokens, in_grid, by=pool, key="connector.pool", axes=len(in_grid))
        self.grid = tuple(in_grid)
        self.pool = pool
        self.connector = mlp(in_dim, out_dim, layers=layers)
        self.tokens = math.prod(side // pool for side in in_grid)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [U, N, in_dim] -> [U, tokens, out_dim]."""
        cells = features.unflatten(1, self.grid)  # [U, *grid, in_dim]
        for axis in range(1, 1 + len(self.grid)):  # torch's pooling has no exact backward on GPUs
            cells = cells.unflatten(axis, (-1, self.pool)).mean(axis + 1)
        return self.connector(cells.flatten(1, -2))
