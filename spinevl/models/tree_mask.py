"""Attention over packed prefix trees without masks, as FlexAttention computes it.

A row holds its trees in preorder, so a query q attends to a key k that stands before it and whose
subtree it is in: ``k <= q < end[k]``, and the end of each subtree is enough to decide it.
FlexAttention (Dong et al. 2024, arXiv 2412.05496) asks this of each pair only in tiles where some
pairs are allowed and others are not, and skips tiles without any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from spinevl.schema.batch import FLEX_TILE


@dataclass(frozen=True)
class TreeMask:
    """Which tokens each token of a batch attends to, the same for every layer.

    Attributes:
        tiles: FlexAttention's BlockMask of rows of L tokens.
    """

    tiles: Any

    @classmethod
    def of(cls, subtree_end: torch.Tensor) -> TreeMask:
        """The mask of rows whose subtrees end at ``subtree_end`` [B, L], each after its own place.

        Nothing of the size L^2 is made, and nothing waits for the GPU.
        """
        from torch.nn.attention.flex_attention import BlockMask

        rows, length = subtree_end.shape
        count = -(-length // FLEX_TILE)
        padded = torch.nn.functional.pad(subtree_end, (0, count * FLEX_TILE - length))
        ends = padded.view(rows, count, FLEX_TILE)
        start = torch.arange(count, device=subtree_end.device) * FLEX_TILE
        earlier = start[:, None] > start  # [tile of queries, tile of keys]
        reached = earlier & (ends.amax(-1)[:, None] > start[:, None])
        allowed_all = earlier & (ends.amin(-1)[:, None] >= start[:, None] + FLEX_TILE)
        allowed_any = reached | (start[:, None] == start)

        def sees(
            row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            return (key <= query) & (query < subtree_end[row, key])

        tiles = BlockMask.from_kv_blocks(
            *_tile_lists(allowed_any & ~allowed_all),
            *_tile_lists(allowed_all),
            BLOCK_SIZE=FLEX_TILE,
            mask_mod=sees,
            seq_lengths=(length, length),
        )
        return cls(tiles)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """query [B, H, L, d], key and value [B, H_kv, L, d] -> [B, L, H, d].

        ``dropout`` must be 0, see CausalLM.check_flex.
        """
        assert not dropout
        grouped = query.shape[1] != key.shape[1]
        compiled = query.is_cuda and not torch.compiler.is_compiling()
        output: torch.Tensor = _flex_attention(compiled)(
            query, key, value, block_mask=self.tiles, scale=scaling, enable_gqa=grouped
        )
        return output.transpose(1, 2)


def _tile_lists(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, q, k] -> how many tiles of keys are chosen [B, 1, q], and these ahead of the others."""
    order = chosen.int().argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None].contiguous()


def _flex_attention(compiled: bool) -> Callable[..., Any]:
    """FlexAttention; what is never compiled holds all scores, and is for comparisons alone."""
    from torch.nn.attention.flex_attention import flex_attention

    return _compiled(flex_attention) if compiled else flex_attention


@cache
def _compiled(function: Any) -> Any:
    # More is compiled than torch does by default, and anything beyond is an error: it would run
    # uncompiled from then on, and hold all scores.
    more: dict[str, Any] = {"recompile_limit": 256}
    return torch.compile(function, fullgraph=True, **more)
