"""Attention under additive masks, on any device."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers.integrations.sdpa_attention import repeat_kv


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where a query attends to a key, the lowest number of ``dtype`` elsewhere; same shape."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    *,
    scaling: float | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """query [n, H, q, d], key and value [n, H_kv, k, d], mask [n, 1, q, k] -> [n, H, q, d]."""
    grouped = query.shape[1] != key.shape[1]
    if grouped and key.is_cuda:  # CUDA kernels that take a mask do not take grouped heads
        times = query.shape[1] // key.shape[1]
        key, value, grouped = repeat_kv(key, times), repeat_kv(value, times), False
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling, enable_gqa=grouped
    )
