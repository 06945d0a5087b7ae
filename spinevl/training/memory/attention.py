"""What attention needs on a GPU: a stand-in that holds the tensors of CUDA's kernels.

A step is rehearsed with fake tensors of the CPU, whose attention kernel takes grouped heads and any
mask. CUDA's memory-efficient kernel takes neither: heads are repeated, and a mask is padded. Its
FlashAttention takes grouped heads, and needs no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from spinevl.models import chain_attention
from spinevl.models.fewer_passes import as_on_gpus

_MASK_MULTIPLE = 8  # keys; the kernel pads a mask to it


@contextmanager
def cuda_attention() -> Iterator[None]:
    """Put the stand-in in the place of scaled_dot_product_attention and of chains' attention.

    The names are replaced, since a mode of torch's is left during the backward pass, in which
    gradient checkpointing computes a layer again.
    """
    original = functional.scaled_dot_product_attention
    original_of_chains = chain_attention._flash
    functional.scaled_dot_product_attention = _attention  # type: ignore[assignment]
    chain_attention._flash = _of_chains  # type: ignore[assignment]
    try:
        with as_on_gpus():
            yield
    finally:
        functional.scaled_dot_product_attention = original
        chain_attention._flash = original_of_chains


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu")
        query, key, value = (one.to(half) for one in (query, key, value))
        attn_mask = None if attn_mask is None else attn_mask.to(half)
    if (heads := query.shape[1]) != key.shape[1]:
        key, value = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
    if attn_mask is not None and (beyond := -attn_mask.shape[-1] % _MASK_MULTIPLE):
        attn_mask = functional.pad(attn_mask, (0, beyond))
    return _Kernel.apply(query, key, value, attn_mask)


def _of_chains(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any
) -> torch.Tensor:
    return _FlashKernel.apply(query, key, value, None)


class _Kernel(torch.autograd.Function):
    """Allocates and keeps what the kernel does; its numbers mean nothing."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        query, _, value, _ = inputs
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        logsumexp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(*inputs, output, logsumexp)
        return output

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return (*(torch.empty_like(one) for one in ctx.saved_tensors[:3]), None)


class _FlashKernel(_Kernel):
    """The same of FlashAttention, whose backward pass needs memory of its own."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        query, key, value, _, _, _ = ctx.saved_tensors
        each_head = (len(key), query.shape[1], key.shape[2])  # added up where heads share keys
        workspace = [
            torch.empty_like(query, dtype=torch.float32),
            *(key.new_empty(each_head) for _ in range(2 * (key.shape[1] != query.shape[1]))),
        ]
        gradients = (*(torch.empty_like(one) for one in (query, key, value)), None)
        del workspace
        return gradients
