"""Matrix products of linear layers in float32, by the faster library on the processor.

torch multiplies float32 matrices with MKL, which has AVX-512 kernels for Intel's processors alone;
on others it falls back to AVX2. oneDNN, which torch uses for bfloat16, has them for all: on two
cores of an AMD EPYC (Zen 4) its products take 1.5 to 1.9 times less for 18 to 72 rows, and 1.1 to
1.2 times less for 1,000 and more.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from spinevl.models.fewer_passes import asked_for_on_a_cpu
from spinevl.models.sharded import is_whole


@functools.cache
def onednn_is_faster() -> bool:
    """Whether MKL lacks this processor's vector instructions; the same each time it is asked."""
    able = torch.cpu.get_capabilities()
    amd = str(able.get("cpu_name", "")).startswith("AMD")
    return amd and bool(able.get("avx512_f")) and has_operators("_linear_pointwise")


def has_operators(*names: str) -> bool:
    """Whether torch has oneDNN and these operators of it, which are of one version of torch."""
    known = all(hasattr(torch.ops.mkldnn, name) for name in names)
    return known and torch.backends.mkldnn.is_available()


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """rows [..., I] weight^T [I, O] + bias [O] -> [..., O]."""
    if not _is_for_onednn(rows, weight):
        return functional.linear(rows, weight, bias)
    if not torch.is_grad_enabled():
        return product(rows, weight, bias)
    if not is_whole(weight) or any(one is not None and one.requires_grad for one in (weight, bias)):
        return functional.linear(rows, weight, bias)
    result: torch.Tensor = _FrozenLinear.apply(rows, weight, bias)
    return result


def product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The same by oneDNN, without gradients; the weight may lie in a layout of its own."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return result


class _FrozenLinear(torch.autograd.Function):
    """A layer that does not learn, between others that do."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return linear(gradient, weight.T, None), None, None


def _is_for_onednn(rows: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        onednn_is_faster()
        and rows.device.type == "cpu"
        and rows.dtype == weight.dtype == torch.float32
        and type(rows) is torch.Tensor  # no rehearsal
        and rows.ndim > 1
        and rows.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def install(model: nn.Module) -> None:
    """Let the linear layers of a decoder or an encoder take ``linear`` within ``computed``."""
    if not onednn_is_faster():
        return
    for module in model.modules():
        if type(module) is nn.Linear and "forward" not in vars(module):
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]


def _forward(layer: Any, input: torch.Tensor) -> torch.Tensor:  # named as in nn.Linear
    multiply = linear if asked_for_on_a_cpu(input) else functional.linear
    return multiply(input, layer.weight, layer.bias)
