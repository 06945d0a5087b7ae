"""Attention of chains of tokens without masks, as FlashAttention computes it on GPUs.

A chain is a part of a prefix tree without a branch: each of its tokens attends to all that stands
above the chain, to the tokens of the chain before it, and to itself. That is causal attention of
the last q of k tokens, for which FlashAttention (Dao 2023, arXiv 2307.08691) needs no mask, no
padding, and no copies of keys that heads share.
"""

from __future__ import annotations

import torch

from spinevl.models.fewer_passes import rehearses_gpus
from spinevl.schema.batch import Chains

_HALF = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 192  # larger ones have no gradients on some GPUs
_HEAD_MULTIPLE = 8


def computes_chains(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether FlashAttention computes heads of ``head_dim`` numbers of a type on a device.

    Where a step of a GPU is rehearsed, that is the GPU which is there, or else one of today's.
    """
    if dtype not in _HALF or head_dim > _LARGEST_HEAD or head_dim % _HEAD_MULTIPLE:
        return False
    if not rehearses_gpus() and (device.type != "cuda" or torch.version.hip):
        return False
    if not torch.cuda.is_available():
        return True
    built = torch.backends.cuda.is_flash_attention_available()
    card = device if device.type == "cuda" else None
    return built and torch.cuda.get_device_capability(card) >= (8, 0)


def chain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    chains: Chains,
    *,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """query [Tq, H, d], key and value [Tk, H_kv, d], one chain behind the other -> [Tq, H, d]."""
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        half = torch.get_autocast_dtype(kind)
        query, key, value = (one.to(half) for one in (query, key, value))
    return _flash(query, key, value, chains, scaling, dropout)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    chains: Chains,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    # causal attention of fewer queries than keys: the last query attends to the last key
    output: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        chains.query_start,
        chains.key_start,
        chains.most_queries,
        chains.most_keys,
        dropout,
        True,  # causal
        False,  # no mask for debugging
        scale=scaling,
    )[0]
    return output
