"""Attention under additive masks, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.integrations.sdpa_attention import repeat_kv

from spinevl.models.fewer_passes import asked_for_on_a_cpu

_FEW_ROWS = 12
"""With so many rows of queries a head of keys, torch's kernel takes as long as two products in
float32; with 3 to 9, measured on two cores of an AMD EPYC (Zen 4), 1.2 to 1.6 times as long.
"""

_MOST_SCORES = 2**24
"""Scores of a step of the backward pass, unless keys of one head have more."""


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
    if not dropout and _learns_in_half_on_a_cpu(query, key, value):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output: torch.Tensor = _HalfAttention.apply(query, key, value, mask, scale)
        return output
    grouped = query.shape[1] != key.shape[1]
    answers = not dropout and not torch.is_grad_enabled() and asked_for_on_a_cpu(query)
    if answers and (grouped or _has_few_rows(query, key)):
        return _grouped_attention(query, key, value, mask, scaling=scaling)
    if grouped and key.is_cuda:  # CUDA kernels that take a mask do not take grouped heads
        times = query.shape[1] // key.shape[1]
        key, value, grouped = repeat_kv(key, times), repeat_kv(value, times), False
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling, enable_gqa=grouped
    )


def _grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    *,
    scaling: float | None,
) -> torch.Tensor:
    """See masked_attention; the query heads that share keys are rows of one head.

    So keys are read once for all of them; on CPUs torch reads them once for each. The rows have a
    mask of their own, which a backward pass would keep for every layer.
    """
    n, heads, q, dim = query.shape
    groups, k = key.shape[1:3]
    times = heads // groups
    rows = query.reshape(n, groups, times * q, dim)
    masks = mask[:, :, None].expand(n, 1, times, q, k).reshape(n, 1, times * q, k)
    if _has_few_rows(query, key):
        scale = dim**-0.5 if scaling is None else scaling
        scores = torch.matmul(rows * scale, key.transpose(2, 3)).add_(masks)
        output = torch.matmul(torch.softmax(scores, dim=-1), value)
    else:
        output = functional.scaled_dot_product_attention(
            rows, key, value, attn_mask=masks, scale=scaling
        )
    return output.reshape(n, heads, q, value.shape[-1])


def _has_few_rows(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether attention is to be two products, as the few queries of a decoding step are faster.

    In half precision the products would round the scores, which torch's kernel does not.
    """
    return (
        query.dtype == key.dtype == torch.float32
        and query.shape[1] // key.shape[1] * query.shape[2] <= _FEW_ROWS
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _learns_in_half_on_a_cpu(*tensors: torch.Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and all(one.dtype == torch.bfloat16 and one.requires_grad for one in tensors)
        and len({one.shape[-1] for one in tensors}) == 1
        and asked_for_on_a_cpu(tensors[0])
    )


class _HalfAttention(torch.autograd.Function):
    """torch's own forward pass in bfloat16, whose backward pass on CPUs takes 2.6 times as long.

    Weights and their gradients are float32 here, and rounded for the products with other tensors
    alone, so that gradients are more exact than torch's, too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        output = _grouped_attention(query, key, value, mask, scaling=scale)
        ctx.save_for_backward(query, key, value, mask, output)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask, output = ctx.saved_tensors
        n, heads, q, dim = query.shape
        groups, k = key.shape[1:3]
        # the heads that share keys, one below the other                 [n * H_kv, H / H_kv * q, d]
        rows = (n * groups, heads // groups * q, dim)
        own, above, under = (one.reshape(rows) for one in (query, gradient, output))
        key, value = (one.reshape(n * groups, k, dim) for one in (key, value))
        mask = mask.expand(n, groups, q, k).flatten(0, 1)
        results = [torch.empty_like(one) for one in (own, key, value)]
        step = max(1, _MOST_SCORES // (rows[1] * k))
        for first in range(0, n * groups, step):
            some = slice(first, first + step)
            given = (one[some] for one in (own, key, value, mask, above, under))
            for whole, part in zip(results, _gradients(*given, scale=ctx.scale), strict=True):
                whole[some] = part
        shapes = (query.shape, *2 * [(n, groups, k, dim)])
        return *(one.view(shape) for one, shape in zip(results, shapes, strict=True)), None, None


def _gradients(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    above: torch.Tensor,
    output: torch.Tensor,
    *,
    scale: float,
) -> tuple[torch.Tensor, ...]:
    """Of query [g, h * q, d], key and value [g, k, d].

    ``above`` is the gradient of ``output``, both [g, h * q, d]; mask [g, q, k].
    """
    scores = torch.bmm(query.float().mul_(scale), key.float().transpose(1, 2))
    scores.unflatten(1, (-1, mask.shape[1])).add_(mask[:, None])
    weights = torch.softmax(scores, dim=-1)
    del scores
    of_value = torch.bmm(weights.to(query.dtype).transpose(1, 2), above)
    # of softmax: weights * (their gradient - its mean over weights), which the output gives
    wide = above.float()  # a copy: gradients are bfloat16 here
    of_scores = torch.bmm(wide, value.float().transpose(1, 2))
    mean = wide.mul_(output).sum(-1, keepdim=True)
    of_scores = of_scores.sub_(mean).mul_(weights).to(query.dtype)
    of_query = _scaled_bmm(of_scores, key, scale)
    of_key = _scaled_bmm(of_scores.transpose(1, 2), query, scale)
    return of_query, of_key, of_value


def _scaled_bmm(one: torch.Tensor, other: torch.Tensor, scale: float) -> torch.Tensor:
    """one [n, a, b] @ other [n, b, c] * scale, rounded once."""
    zero = one.new_zeros(1, 1, 1)
    return torch.baddbmm(zero, one, other, beta=0, alpha=scale)
