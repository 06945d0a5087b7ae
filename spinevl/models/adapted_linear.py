"""A linear layer with its LoRA adapter in fewer passes over memory.

peft computes ``base(x) + B(A(x)) * scale`` one operation after the other: the product is written,
scaled, and added to a copy, and as often again in the backward pass; in half precision ``x`` goes
to float32 and back first. Here the adapter's product is added where the base's lies, in both
passes, and only ``x`` and ``A(x)`` are kept for the backward pass.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from spinevl.models.fewer_passes import asked_for
from spinevl.models.products import linear
from spinevl.models.sharded import is_whole


class AdaptedLinear(torch.autograd.Function):
    """states W^T + bias + scale * dropped A^T B^T, of a base that does not learn."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """states and dropped [T, I], weight [O, I], bias [O], down [r, I], up [O, r] -> [T, O].

        Without ``dropped``, which are the states behind a dropout, the adapter reads the states.
        """
        read = states if dropped is None else dropped
        ctx.scale, ctx.learned = scale, up.dtype
        down, up = down.to(states.dtype), up.to(states.dtype)
        inner = linear(read, down, None)  # [T, r]
        output = linear(states, weight, bias)
        output.addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(read, inner, weight, down, up)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the states, of those behind a dropout, and of both adapter weights."""
        read, inner, weight, down, up = ctx.saved_tensors
        of_inner = linear(gradient, (up * ctx.scale).T, None)  # [T, r]
        of_up = linear((inner * ctx.scale).T, gradient.T, None).T.to(ctx.learned)
        of_down = linear(of_inner.T, read.T, None).to(ctx.learned)
        of_states = linear(gradient, weight.T, None) if ctx.needs_input_grad[0] else None
        of_dropped = None
        if ctx.needs_input_grad[1]:
            of_dropped = of_inner @ down
        elif of_states is not None:
            of_states.addmm_(of_inner, down)
        return of_states, of_dropped, None, None, of_down, of_up, None


def install(model: nn.Module) -> None:
    """Let the adapted layers of a decoder take fewer passes while they learn, in place.

    They do so where ``fewer_passes.asked_for``, and only plain adapters of plain linear layers.
    """
    from peft.tuners.lora.layer import Linear

    for module in model.modules():
        if type(module) is Linear and "forward" not in vars(module):
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]


def _forward(layer: Any, states: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    if args or options or not _is_plain(layer, states):
        result: torch.Tensor = type(layer).forward(layer, states, *args, **options)
        return result
    (name,) = layer.active_adapters
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    base, dropout = layer.base_layer, layer.lora_dropout[name]
    rows = states.flatten(0, -2).to(dtype)
    bias = None if base.bias is None else base.bias.to(dtype)
    drops = layer.training and getattr(dropout, "p", 0) > 0
    output = AdaptedLinear.apply(
        rows,
        dropout(rows) if drops else None,
        base.weight.to(dtype),
        bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        float(layer.scaling[name]),
    )
    return output.unflatten(0, states.shape[:-1])


def _is_plain(layer: Any, states: torch.Tensor) -> bool:
    """Whether a layer is a whole frozen Linear with one adapter of the kind above, which learns."""
    if not (asked_for(states) and torch.is_grad_enabled() and states.ndim > 1):
        return False
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant or layer.fan_in_fan_out:
        return False
    parts = (layer.base_layer, layer.lora_A[name], layer.lora_B[name])
    autocast = torch.is_autocast_enabled(states.device.type)
    return (
        all(type(one) is nn.Linear and is_whole(one.weight) for one in parts)
        and not any(one.requires_grad for one in layer.base_layer.parameters())
        and all(one.bias is None for one in parts[1:])
        and (autocast or all(one.weight.dtype == states.dtype for one in parts))
    )
