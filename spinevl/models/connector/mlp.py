"""The MLP connector: MedM-VL's ``mlpNx_gelu``."""

from __future__ import annotations

import torch
from torch import nn


class MLPConnector(nn.Module):
    """features [U, N, in_dim] -> visual tokens [U, N, out_dim].

    ``layers`` Linears with GELUs between them; keys ``connector.{0,2,..}.{weight,bias}``.

    Attributes:
        tokens: visual tokens an image becomes.
    """

    def __init__(self, *, in_dim: int, out_dim: int, in_tokens: int, layers: int = 2) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"connector.layers={layers}: expected 1 or more")
        parts: list[nn.Module] = [nn.Linear(in_dim, out_dim)]
        for _ in range(layers - 1):
            parts += [nn.GELU(), nn.Linear(out_dim, out_dim)]
        self.connector = nn.Sequential(*parts)
        self.tokens = in_tokens

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [U, N, in_dim] -> [U, N, out_dim]."""
        return self.connector(features)
