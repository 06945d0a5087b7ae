"""MedM-CLIP's image tower, a 3D vision transformer; its forward pass is our own code.

Source of the architecture: https://github.com/MSIIP/MedM-VL (MedM-CLIP, ``medm-pretrain``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from spinevl.models.encoder.resize import foreground, resized
from spinevl.models.encoder.tower import Tower, TowerEncoder, patches

# of its training volumes after windowing to [0, 255]
MEAN, STD = 55.698219, 66.194348


class VisionTransformer3D(Tower):
    """volume [B, 1, D, H, W] -> the output of layer ``depth`` [B, 1 + tokens, dim].

    Patches are LayerNorm, Linear, LayerNorm; layers are post-norm with ReLU.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int, int],
        patch: tuple[int, int, int],
        dim: int,
        layers: int,
        heads: int,
        mlp_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.grid = tuple(a // b for a, b in zip(size, patch, strict=True))
        tokens, values = int(np.prod(self.grid)), int(np.prod(patch))
        # indices as in the published weights, where 0 was the rearrangement
        self.to_patch_embedding = nn.Sequential(
            nn.Identity(), nn.LayerNorm(values), nn.Linear(values, dim), nn.LayerNorm(dim)
        )
        self.pos_embedding = nn.Parameter(torch.randn(1, tokens + 1, dim) * 0.02)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.transformer_layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, mlp_dim, dropout, batch_first=True)
            for _ in range(layers)
        )
        # its contrastive head: kept so that a checkpoint goes back whole
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def forward(self, volume: torch.Tensor, *, depth: int) -> torch.Tensor:
        """volume [B, 1, D, H, W] -> [B, 1 + tokens, dim] after ``depth`` layers."""
        # within a patch the frames vary fastest: [B, f, h, w, rows, columns, frames]
        values = patches(volume, self.patch).movedim(4, -1)
        hidden = self.to_patch_embedding(values.flatten(4).flatten(1, 3))
        hidden = torch.cat([self.cls_token.expand(len(hidden), -1, -1), hidden], dim=1)
        hidden = hidden + self.pos_embedding
        for layer in self.transformer_layers[:depth]:
            hidden = layer(hidden)
        return hidden

    def above(self, depth: int) -> list[nn.Module | nn.Parameter]:
        """See Tower."""
        return [*self.transformer_layers[depth:], self.mlp_head]


class MedMClipEncoder(TowerEncoder):
    """Features of MedM-CLIP; volumes are z-scored with its training's mean and std."""

    keys = (
        "image_num_layers",
        "hidden_size",
        "image_size",
        "image_patch_size",
        "frame_size",
        "frame_patch_size",
        "image_num_heads",
        "image_mlp_dim",
    )

    def tower(self, config: Mapping[str, Any]) -> Tower:
        """See TowerEncoder."""
        side, patch = config["image_size"], config["image_patch_size"]
        self.size = (config["frame_size"], side, side)
        return VisionTransformer3D(
            size=self.size,
            patch=(config["frame_patch_size"], patch, patch),
            dim=config["hidden_size"],
            layers=config["image_num_layers"],
            heads=config["image_num_heads"],
            mlp_dim=config["image_mlp_dim"],
            dropout=config.get("dropout_rate", 0.0),
        )

    def transform(self, image: np.ndarray) -> torch.Tensor:
        """float32 [D, H, W] in [0, 255] -> [1, D, H, W] of the encoder's size, z-scored.

        What surrounds the values above ``MEAN`` is cut off first, as in its training.
        """
        return resized(foreground((image - MEAN) / STD), self.size)[None]
