"""The MLP connector: MedM-VL's ``mlpNx_gelu``."""

from __future__ import annotations

import torch
from torch import nn

from spinevl.config.keys import Positive
from spinevl.models.connector.base import Connector


class MLPConnector(Connector):
    """features [U, N, in_dim] -> visual tokens [U, N, out_dim].

    Args:
        in_dim, out_dim, in_tokens, in_grid: see Connector.
        layers: Linears, with GELUs between them.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        in_tokens: int,
        in_grid: tuple[int, ...],
        layers: Positive = 2,
    ) -> None:
        super().__init__()
        self.connector = mlp(in_dim, out_dim, layers=layers)
        self.tokens = in_tokens

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [U, N, in_dim] -> [U, N, out_dim]."""
        return self.connector(features)


def mlp(in_dim: int, out_dim: int, *, layers: int) -> nn.Sequential:
    """``layers`` Linears with GELUs between them; keys ``{0,2,..}.{weight,bias}``.

    Raises:
        ValueError: no layer.
    """
    if layers < 1:
        raise ValueError(f"connector.layers={layers}: expected 1 or more")
    parts: list[nn.Module] = [nn.Linear(in_dim, out_dim)]
    for _ in range(layers - 1):
        parts += [nn.GELU(), nn.Linear(out_dim, out_dim)]
    return nn.Sequential(*parts)
