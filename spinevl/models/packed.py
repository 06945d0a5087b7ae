"""Linear layers whose weights lie as oneDNN multiplies them, for models that only answer.

oneDNN takes weights in blocks that fill the vector registers; a weight as torch holds it is put
into blocks anew in each product, which takes as long as a product with few rows. On two cores of an
AMD EPYC (Zen 4) one with 1 to 8 rows takes 0.5 to 0.6 times as long from packed weights in
bfloat16, with 18 to 100 rows 0.6 to 0.9 times, and with thousands 0.9 to 0.95 times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import nn

from spinevl.models.products import has_operators, onednn_is_faster, product

_ROWS = 64
"""For so many rows oneDNN chooses the blocks; measured, they are the best for 1 to 4,000."""

_AGAIN = "this model only answers, as it was loaded: read it with load_checkpoint for all else"


class PackedLinear(nn.Module):
    """A linear layer without gradients, in place of another; its bias is that layer's.

    Args:
        layer: of a type and on a device for which it ``pays``.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.training = False
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.dtype = layer.weight.dtype
        weight = layer.weight.detach()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)  # no parameter

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # named as in nn.Linear
        """input [..., in_features] -> [..., out_features] in the type of the weight.

        Raises:
            RuntimeError: a gradient is to pass through.
        """
        if torch.is_grad_enabled() and input.requires_grad:
            raise RuntimeError(f"no gradient passes through packed weights; {_AGAIN}")
        with torch.no_grad():
            return product(input.to(self.dtype), self._weight, self.bias)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        self.require_the_same(fn)
        return super()._apply(fn, recurse)

    def require_the_same(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Raise RuntimeError for what would change the type or the device of tensors."""
        found = fn(torch.empty(0, dtype=self.dtype))
        if (found.dtype, found.device.type) != (self.dtype, "cpu"):
            raise RuntimeError(f"packed weights stay in their type and on the CPU; {_AGAIN}")

    def _save_to_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"packed weights cannot be stored; {_AGAIN}")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise RuntimeError(f"packed weights cannot be copied or stored; {_AGAIN}")

    def extra_repr(self) -> str:
        """Its sizes, as those of nn.Linear are told."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def require_unpacked(model: nn.Module, what: str) -> None:
    """Raise RuntimeError for a model with packed weights, which cannot do ``what``."""
    if any(isinstance(one, PackedLinear) for one in model.modules()):
        raise RuntimeError(f"packed weights cannot {what}; {_AGAIN}")


def pays(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN is the faster library for products of a type on a device."""
    if device.type != "cpu" or not _is_there():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32 and onednn_is_faster()


def _is_there() -> bool:
    return has_operators("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")


def pack(model: nn.Module) -> None:
    """Put PackedLinear in the place of linear layers, in place; weights that are shared stay."""
    holders = Counter(
        id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
    )
    made: dict[nn.Module, PackedLinear] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is not nn.Linear or child._forward_hooks or child._forward_pre_hooks:
                continue
            if child not in made:
                if holders[id(child.weight)] > 1:
                    continue
                made[child] = PackedLinear(child)
                del child.weight  # now, for the next to lie there: something may hold the layer
            setattr(parent, name, made[child])


@torch.no_grad()
def tried(model: Any) -> bool:
    """Whether packing changes nothing of a decoder: code of its own may read weights.

    Args:
        model: a small decoder in evaluation mode, in float32 on the CPU; it is packed afterwards.
    """
    if not _is_there():
        return False
    ids = torch.arange(3)[None]
    before = model.base_model(ids).last_hidden_state
    try:
        pack(model)
        after = model.base_model(ids).last_hidden_state
    except Exception:  # whatever its code does without a weight, or oneDNN on another processor
        return False
    return bool((after - before).abs().max() <= 1e-4 * before.abs().max())
