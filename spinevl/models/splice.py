"""Put visual tokens among text embeddings."""

from __future__ import annotations

import torch


def splice(
    text: torch.Tensor, visual_tokens: torch.Tensor, visual_index: torch.Tensor
) -> torch.Tensor:
    """Replace the embeddings of image places by visual tokens.

    Args:
        text: [B, L, D] token embeddings.
        visual_tokens: [U, N, D].
        visual_index: [B, L] row of the flattened visual tokens, -1 where text stays.

    Returns:
        [B, L, D]; one gather, so its cost does not grow with the number of images.
    """
    rows = visual_tokens.flatten(0, 1).to(text.dtype)
    gathered = rows[visual_index.clamp(min=0)]
    return torch.where((visual_index >= 0).unsqueeze(-1), gathered, text)
