"""DINOv2's position embeddings at another size, with a backward that is deterministic on CUDA.

That of torch's bicubic interpolation is not. Where the positions are trained they are interpolated
by products of matrices, to the same numbers within rounding; elsewhere by transformers.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch.nn import functional


def interpolate_by_matrices(embeddings: Any, *, antialias: bool) -> None:
    """Have the embeddings of a DINOv2 interpolate the positions that they train so, in place."""
    embeddings.interpolate_pos_encoding = partial(_interpolated, embeddings, antialias)


def _interpolated(
    module: Any, antialias: bool, tokens: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Positions [1, 1 + rows * columns, dim] for an image of ``height`` x ``width`` pixels."""
    own = module.position_embeddings  # [1, 1 + side * side, dim]
    if not (torch.is_grad_enabled() and own.requires_grad):
        return type(module).interpolate_pos_encoding(module, tokens, height, width)
    side = math.isqrt(own.shape[1] - 1)
    patch_height, patch_width = module.patch_embeddings.patch_size
    rows, columns = height // patch_height, width // patch_width
    if rows == columns == side:
        return own
    with torch.autocast(own.device.type, enabled=False):
        grid = own[:, 1:].float().unflatten(1, (side, side))
        down = _resampling(side, rows, antialias=antialias).to(grid)
        across = _resampling(side, columns, antialias=antialias).to(grid)
        grid = torch.einsum("yr,brcd,xc->byxd", down, grid, across)
    return torch.cat([own[:, :1], grid.flatten(1, 2).to(own.dtype)], dim=1)


@torch.no_grad()
def _resampling(old: int, new: int, *, antialias: bool) -> torch.Tensor:
    """[new, old], the weights of bicubic interpolation along one axis."""
    each = torch.eye(old)[None, None]
    size = (new, old)
    return functional.interpolate(each, size=size, mode="bicubic", antialias=antialias)[0, 0]
