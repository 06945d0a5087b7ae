"""M3D-CLIP's image tower, a 3D vision transformer; its forward pass is our own code.

Sources: Bai et al. 2024 (arXiv 2404.00578) and the public code at https://github.com/BAAI-DCAI/M3D,
which builds it from MONAI's ViT. Held against MONAI 1.3 with the same weights. Not verified: the
published weights (GoodBaiBai88/M3D-CLIP), whose names are read as that code would write them.
Features are those that MedM-VL takes: a layer's output before the final norm, even the last one's.
M3D-LaMed takes the last layer's after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from spinevl.models.encoder.resize import foreground, resized
from spinevl.models.encoder.tower import Tower, TowerEncoder, patches


class MonaiViT(Tower):
    """volume [B, 1, D, H, W] -> the output of layer ``depth`` [B, 1 + tokens, dim]; pre-norm."""

    def __init__(
        self,
        *,
        size: tuple[int, ...],
        patch: tuple[int, ...],
        dim: int,
        layers: int,
        heads: int,
        mlp_dim: int,
    ) -> None:
        super().__init__()
        self.grid = tuple(a // b for a, b in zip(size, patch, strict=True))
        self.patch_embedding = _PatchEmbedding(patch, int(np.prod(self.grid)), dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(_Block(dim, heads, mlp_dim) for _ in range(layers))
        # its contrastive head's: kept so that a checkpoint goes back whole
        self.norm = nn.LayerNorm(dim)

    def forward(self, volume: torch.Tensor, *, depth: int) -> torch.Tensor:
        """volume [B, 1, D, H, W] -> [B, 1 + tokens, dim] after ``depth`` layers, not normed."""
        hidden = self.patch_embedding(volume)
        hidden = torch.cat([self.cls_token.expand(len(hidden), -1, -1), hidden], dim=1)
        for block in self.blocks[:depth]:
            hidden = block(hidden)
        return hidden

    def above(self, depth: int) -> list[nn.Module | nn.Parameter]:
        """See Tower."""
        return [*self.blocks[depth:], self.norm]


class _PatchEmbedding(nn.Module):
    def __init__(self, patch: tuple[int, ...], tokens: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        # index as in the published weights, where 0 was the rearrangement
        self.patch_embeddings = nn.Sequential(nn.Identity(), nn.Linear(int(np.prod(patch)), dim))
        self.position_embeddings = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """[B, 1, D, H, W] -> [B, tokens, dim]"""
        cells = patches(volume, self.patch).flatten(4).flatten(1, 3)
        return self.patch_embeddings(cells) + self.position_embeddings


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.mlp = _MLP(dim, mlp_dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, L, dim] -> [B, L, dim]"""
        hidden = hidden + self.attn(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


class _MLP(nn.Module):
    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, mlp_dim)
        self.linear2 = nn.Linear(mlp_dim, dim)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, L, dim] -> [B, L, dim]"""
        return self.linear2(functional.gelu(self.linear1(hidden)))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.out_proj = nn.Linear(dim, dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, L, dim] -> [B, L, dim]"""
        query, key, value = (
            self.qkv(hidden).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class M3DClipEncoder(TowerEncoder):
    """Features of M3D-CLIP; each volume is scaled to [0, 1] by its own range."""

    keys = ("num_layers", "hidden_size", "img_size", "patch_size", "mlp_dim", "num_heads")

    def tower(self, config: Mapping[str, Any]) -> Tower:
        """See TowerEncoder."""
        depth, height, width = config["img_size"]
        self.size = (int(depth), int(height), int(width))
        return MonaiViT(
            size=self.size,
            patch=tuple(config["patch_size"]),
            dim=config["hidden_size"],
            layers=config["num_layers"],
            heads=config["num_heads"],
            mlp_dim=config["mlp_dim"],
        )

    def transform(self, image: np.ndarray) -> torch.Tensor:
        """float32 [D, H, W] -> [1, D, H, W] of the encoder's size in [0, 1]."""
        low, high = float(image.min()), float(image.max())
        scaled = (image - low) / max(high - low, 1e-8)
        return resized(foreground(scaled), self.size)[None]
