"""Splice visual tokens into text embeddings."""

from __future__ import annotations

import torch


def splice(
    text: torch.Tensor, visual_rows: torch.Tensor, visual_index: torch.Tensor
) -> torch.Tensor:
    """Replace the embeddings at the positions of images by visual tokens.

    Args:
        text: [B, L, D] token embeddings.
        visual_rows: [R, D], the visual tokens of all images; [0] where there are none.
        visual_index: [B, L] row of a visual token, -1 where text stays.

    Returns:
        [B, L, D]; one gather, so its cost does not grow with the number of images.
    """
    if not len(visual_rows):
        return text
    gathered = visual_rows.to(text.dtype)[visual_index.clamp(min=0)]
    return torch.where((visual_index >= 0).unsqueeze(-1), gathered, text)
