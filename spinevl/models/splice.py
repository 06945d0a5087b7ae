"""Put visual tokens among text embeddings, and say who may see whom."""

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


def tree_mask(subtree_end: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """The additive attention mask of rows packed as prefix trees in preorder.

    Args:
        subtree_end: [B, L] one past the end of each token's subtree.
        dtype: of the mask.

    Returns:
        [B, 1, L, L]: 0 where token i (row) may see token j (column), that is where j is i or an
        ancestor of i, the dtype's lowest number elsewhere.
    """
    place = torch.arange(subtree_end.shape[1], device=subtree_end.device)
    later = place[None, :, None]
    sees = (place[None, None, :] <= later) & (later < subtree_end[:, None, :])
    mask = torch.zeros(sees.shape, dtype=dtype, device=subtree_end.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min).unsqueeze(1)
