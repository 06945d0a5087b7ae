"""Merge LoRA adapters into the weights that they adapt."""

from __future__ import annotations

from torch import nn


def merge_adapters(model: nn.Module) -> int:
    """Replace every adapted layer by its base layer with the adapter added, in place.

    Returns:
        How many layers were adapted.

    Raises:
        ValueError: an adapter holds numbers that are not finite.
    """
    if not any(name.endswith(".base_layer") for name, _ in model.named_modules()):
        return 0  # peft takes seconds to import
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)
    ]
    for name, layer in adapted:
        layer.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer.get_base_layer())
    return len(adapted)
