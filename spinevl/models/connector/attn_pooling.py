"""Attention pooling: MedM-VL's ``attn_pooling``, learned queries over all tokens, then an MLP."""

from __future__ import annotations

import torch
from torch import nn

from spinevl.config.keys import Positive
from spinevl.models.connector.base import Connector
from spinevl.models.connector.mlp import mlp


class AttnPoolingConnector(Connector):
    """features [U, N, in_dim] -> [U, tokens, out_dim], whatever N.

    Args:
        in_dim, out_dim, in_tokens, in_grid: see Connector.
        tokens: learned queries; None takes as many as one slice of the encoder's grid has cells.
        heads: of the attention; divides in_dim.
        layers: Linears of the MLP.

    Raises:
        ValueError: no query, or heads that do not divide in_dim.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        in_tokens: int,
        in_grid: tuple[int, ...],
        tokens: int | None = None,
        heads: Positive = 8,
        layers: Positive = 2,
    ) -> None:
        super().__init__()
        self.tokens = in_grid[-2] * in_grid[-1] if tokens is None else tokens
        if self.tokens < 1:
            raise ValueError(f"connector.tokens={tokens}: expected 1 or more")
        if heads < 1 or in_dim % heads:
            raise ValueError(f"connector.heads={heads} does not divide the encoder's {in_dim}")
        self.query = nn.Parameter(torch.randn(self.tokens, in_dim))
        self.attn = nn.MultiheadAttention(in_dim, heads, batch_first=True)
        self.connector = mlp(in_dim, out_dim, layers=layers)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [U, N, in_dim] -> [U, tokens, out_dim]."""
        query = self.query.expand(len(features), -1, -1)
        pooled, _ = self.attn(query, features, features, need_weights=False)
        return self.connector(pooled)
