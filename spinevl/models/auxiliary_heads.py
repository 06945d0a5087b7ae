"""Auxiliary classification heads on the visual tokens, dropped after training.

The next-token loss reaches an untrained encoder only through the whole decoder, and a decoder first
learns how often each level is abnormal. The loss of a linear head on an image's visual tokens
reaches the encoder directly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from spinevl.schema.batch import Batch


class AuxiliaryHeads(nn.Module):
    """visual tokens [U, N, D] -> the auxiliary losses.

    Args:
        sizes: head name -> number of classes.
        tokens: N; more than 4 tokens are averaged into 4 groups in order.
        dim: D.
    """

    valid: torch.Tensor

    def __init__(self, sizes: Mapping[str, int], *, tokens: int, dim: int) -> None:
        super().__init__()
        self.groups = min(tokens, 4)
        self.classes = max(sizes.values())
        self.norm = nn.LayerNorm(dim)
        self.heads = nn.Linear(self.groups * dim, len(sizes) * self.classes)
        valid = torch.arange(self.classes)[None, :] < torch.tensor(list(sizes.values()))[:, None]
        self.register_buffer("valid", valid, persistent=False)

    def forward(self, visual_tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The cross-entropy of each of the batch's auxiliary targets [A]."""
        pooled = mean_in_groups(visual_tokens, self.groups)
        features = self.norm(pooled).flatten(1)  # [U, groups * D]
        logits = self.heads(features).float().unflatten(1, (-1, self.classes))
        chosen = logits[batch.auxiliary_image, batch.auxiliary_head]  # [A, classes]
        chosen = chosen.masked_fill(
            ~self.valid[batch.auxiliary_head], torch.finfo(chosen.dtype).min
        )
        return functional.cross_entropy(chosen, batch.auxiliary_label, reduction="none")


def mean_in_groups(tokens: torch.Tensor, groups: int) -> torch.Tensor:
    """tokens [U, N, D] -> [U, groups, D], means of stretches of tokens as equal as can be.

    The numbers are those of ``adaptive_avg_pool1d``, whose backward is not deterministic on CUDA.
    """
    count = tokens.shape[1]
    spans = [(k * count // groups, -(-(k + 1) * count // groups)) for k in range(groups)]
    return torch.stack([tokens[:, start:stop].mean(1) for start, stop in spans], dim=1)
