"""LoRA adapters merged into the weights that they adapt, or removed."""

from __future__ import annotations

from typing import Any

from torch import nn


def merge_adapters(model: nn.Module) -> int:
    """Replace every adapted layer by its base layer with the adapter added, in place.

    They are added in float32, and the sum is held in the type that the layer had.

    Returns:
        How many layers were adapted.

    Raises:
        ValueError: an adapter holds numbers that are not finite.
    """
    adapted = _adapted(model)
    for _, layer in adapted:
        base = layer.get_base_layer()
        held = base.weight.dtype
        base.float()
        layer.merge(safe_merge=True)
        base.to(held)
    _unwrap(model, adapted)
    return len(adapted)


def drop_adapters(model: nn.Module) -> None:
    """Replace every adapted layer by its base layer as it was before, in place."""
    _unwrap(model, _adapted(model))


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    if not any(name.endswith(".base_layer") for name, _ in model.named_modules()):
        return []  # peft takes seconds to import
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)
    ]


def _unwrap(model: nn.Module, adapted: list[tuple[str, Any]]) -> None:
    for module in model.modules():  # peft's record of the adapters
        vars(module).pop("peft_config", None)
    for name, layer in adapted:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer.get_base_layer())
