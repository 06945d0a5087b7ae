"""Attention over packed prefix trees without masks, as FlexAttention computes it.

A row holds its trees in preorder, so a token attends to another one that stands before it and whose
subtree it is in: ``k <= q < end[k]``. One number a token says it all. FlexAttention (Dong et al.
2024, arXiv 2412.05496) asks that within tiles that are mixed, and leaves out those that are empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from spinevl.schema.errors import refused

TILE = 128
"""Queries and keys of a tile; FlexAttention's own."""


@dataclass(frozen=True)
class TreeMask:
    """Which tokens each token of a batch attends to, the same for every layer.

    Attributes:
        tiles: FlexAttention's BlockMask of rows of L tokens.
    """

    tiles: Any

    @classmethod
    def of(cls, subtree_end: torch.Tensor) -> TreeMask:
        """Of the ends of subtrees [B, L], each behind its own place.

        It takes L + (L / TILE)^2 numbers a row, and nothing waits for a GPU.
        """
        from torch.nn.attention.flex_attention import BlockMask

        rows, length = subtree_end.shape
        count = -(-length // TILE)
        filled = torch.nn.functional.pad(subtree_end, (0, count * TILE - length))
        ends = filled.view(rows, count, TILE)
        first = torch.arange(count, device=subtree_end.device) * TILE  # place of each tile
        before = first[:, None] > first  # [tile of queries, tile of keys]
        some = (before & (ends.amax(-1)[:, None] > first[:, None])) | (first[:, None] == first)
        whole = before & (ends.amin(-1)[:, None] >= first[:, None] + TILE)
        end = subtree_end

        def sees(
            row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            return (key <= query) & (query < end[row, key])

        tiles = BlockMask.from_kv_blocks(
            *_listed(some & ~whole),
            *_listed(whole),
            BLOCK_SIZE=TILE,
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

        Raises:
            UserError: attention weights are to be dropped out, which FlexAttention cannot do.
        """
        if dropout:
            raise refused(
                "trainer.attention=flex",
                "an LLM without attention dropout",
                f"attention_dropout={dropout} in its config",
                "take trainer.attention=blocks",
            )
        grouped = query.shape[1] != key.shape[1]
        output: torch.Tensor = _flex_attention(query.is_cuda)(
            query, key, value, block_mask=self.tiles, scale=scaling, enable_gqa=grouped
        )
        return output.transpose(1, 2)


def _listed(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, q, k] -> how many tiles of keys are chosen [B, 1, q], and these ahead of the others."""
    order = chosen.int().argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None].contiguous()


@cache
def _flex_attention(compiled: bool) -> Callable[..., Any]:
    """FlexAttention; what is not compiled computes all scores, and is for comparisons alone."""
    from torch.nn.attention.flex_attention import flex_attention

    function: Any = flex_attention
    return torch.compile(function) if compiled else function
