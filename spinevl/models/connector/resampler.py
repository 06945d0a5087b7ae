"""A perceiver resampler: learned latents attend to any number of tokens in several layers.

Source: Flamingo (Alayrac et al. 2022, arXiv 2204.14198), its resampler for one image.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from spinevl.config.keys import Positive
from spinevl.models.connector.base import Connector


class ResamplerConnector(Connector):
    """features [U, N, in_dim] -> [U, tokens, out_dim], whatever N.

    Args:
        in_dim, out_dim, in_tokens, in_grid: see Connector.
        tokens: learned latents.
        layers: of cross-attention and feed-forward.
        heads: of the attention; divides in_dim.

    Raises:
        ValueError: no latent, no layer, or heads that do not divide in_dim.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        in_tokens: int,
        in_grid: tuple[int, ...],
        tokens: Positive = 32,
        layers: Positive = 2,
        heads: Positive = 8,
    ) -> None:
        super().__init__()
        if tokens < 1 or layers < 1:
            raise ValueError(f"connector.tokens={tokens}, layers={layers}: expected 1 or more")
        if heads < 1 or in_dim % heads:
            raise ValueError(f"connector.heads={heads} does not divide the encoder's {in_dim}")
        self.tokens = tokens
        self.latents = nn.Parameter(torch.randn(tokens, in_dim) * 0.02)
        self.layers = nn.ModuleList(_Layer(in_dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(in_dim)
        self.project = nn.Linear(in_dim, out_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [U, N, in_dim] -> [U, tokens, out_dim]."""
        latents = self.latents.expand(len(features), -1, -1)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.project(self.norm(latents))


class _Layer(nn.Module):
    """Latents attend to the features and to themselves, then pass a feed-forward net."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_features = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 4 * dim, bias=False),
            nn.GELU(),
            nn.Linear(4 * dim, dim, bias=False),
        )

    def forward(self, latents: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """latents [U, tokens, dim], features [U, N, dim] -> [U, tokens, dim]."""
        own = self.norm_latents(latents)
        inputs = torch.cat([self.norm_features(features), own], dim=1)
        key, value = self._heads(self.key_value(inputs)).chunk(2, dim=-1)
        attended = functional.scaled_dot_product_attention(self._heads(self.query(own)), key, value)
        latents = latents + self.output(attended.transpose(1, 2).flatten(2))
        return latents + self.feed_forward(latents)

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """[U, L, heads * d] -> [U, heads, L, d]"""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
