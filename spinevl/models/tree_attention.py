"""Attention over packed prefix trees, as an attention function of transformers.

Every layer of a decoder works on single tokens except attention. So the packed rows go through
the decoder as they are, and here each block of queries meets only the keys it may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from spinevl.schema.batch import AttentionBlocks

NAME = "spinevl_tree"


@dataclass(frozen=True)
class Tree:
    """A batch's attention, ready for every layer.

    Attributes:
        blocks: (query [n, q], key [n, k], additive mask [n, 1, q, k]) of each group.
        order: [B * L] where a token's output stands in the groups' concatenated outputs.
    """

    blocks: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]
    order: torch.Tensor

    @classmethod
    def of(
        cls, blocks: Sequence[AttentionBlocks], order: torch.Tensor, *, dtype: torch.dtype
    ) -> Tree:
        """The masks of ``blocks`` as numbers of ``dtype``."""
        lowest = torch.finfo(dtype).min
        ready = []
        for one in blocks:
            mask = torch.zeros(one.sees.shape, dtype=dtype, device=one.sees.device)
            ready.append((one.query, one.key, mask.masked_fill_(~one.sees, lowest).unsqueeze(1)))
        return cls(tuple(ready), order)


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Tree | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [B, H, L, d], key and value [B, H_kv, L, d] -> [B, L, H, d].

    Without a ``tree`` (generation) this is transformers' own scaled dot-product attention.
    """
    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    batch, heads, length, _ = query.shape
    flat_query, flat_key, flat_value = (
        one.transpose(1, 2).flatten(0, 1) for one in (query, key, value)
    )  # [B * L, heads, d]
    outputs = []
    for places, seen, mask in tree.blocks:
        output = functional.scaled_dot_product_attention(
            _gathered(flat_query, places),
            _gathered(flat_key, seen),
            _gathered(flat_value, seen),
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=key.shape[1] != heads,
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    joined = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return joined.index_select(0, tree.order).unflatten(0, (batch, length)), None


def _gathered(flat: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[B * L, heads, d] at places [n, k] -> [n, heads, k, d]."""
    chosen = flat.index_select(0, places.flatten())
    return chosen.unflatten(0, places.shape).transpose(1, 2)


def register() -> None:
    """Tell transformers of the function; may be called again."""
    AttentionInterface.register(NAME, tree_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
