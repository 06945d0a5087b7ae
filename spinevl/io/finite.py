"""Whether a model's numbers are finite: weights, losses, log-probabilities and features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from spinevl.schema.errors import UserError, refused

if TYPE_CHECKING:
    import torch


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether every number is finite, and remains so in float32; one pass without a copy."""
    import torch

    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    if tensor.element_size() == 1:  # aminmax takes no float8
        tensor = tensor.float()
    low, high = tensor.detach().aminmax()
    return math.isfinite(low) and max(-low, high).item() <= torch.finfo(torch.float32).max


def require_finite_weights(tensors: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Raise UserError where weights are not finite, and name the first of them.

    Args:
        tensors: by name.
        where: the file, or the config key with the model's name.
    """
    if wrong := [name for name, tensor in tensors.items() if not is_finite(tensor)]:
        raise not_finite(wrong, of=len(tensors), where=where)


def not_finite(wrong: Sequence[str], *, of: int, where: str) -> UserError:
    """The error for ``wrong`` ones of some tensors."""
    found = f"NaN or infinity in {len(wrong)} of {of} tensors, first {wrong[0]}"
    fix = "copy it again, or take a checkpoint of a training that did not diverge"
    return refused(where, "finite weights", found, fix)
