"""A training stops at the first number that is not finite; the message names step and part."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from spinevl.distributed.ranks import gathered
from spinevl.io.finite import is_finite
from spinevl.schema.errors import UserError
from spinevl.training.zero import share_of


def require_finite(
    values: Mapping[str, float], *, step: int, parts: Mapping[str, nn.Module]
) -> None:
    """Raise the error of a training that diverged for the first of ``values`` that is not finite.

    Args:
        values: of the step, by what they are called in the message.
        step: the optimizer step, counted from 1.
        parts: part name -> module; those whose weights or gradients are not finite are named.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise diverged(f"{name} is {value}", step=step, parts=parts)


def require_finite_parts(parts: Mapping[str, nn.Module], *, step: int) -> None:
    """Raise the error of a training that diverged where a weight of any process is not finite."""
    if any(gathered(bool(_not_finite(parts, gradients=False)))):
        raise diverged("the weights cannot be kept", step=step, parts=parts)


def diverged(found: str, *, step: int, parts: Mapping[str, nn.Module]) -> UserError:
    """The error of a training whose numbers are no longer finite."""
    weights = _not_finite(parts, gradients=False)
    gradients = [] if weights else _not_finite(parts, gradients=True)
    where = [
        f" ({what} of {', '.join(names)} not finite)"
        for what, names in (("weights", weights), ("gradients", gradients))
        if names
    ]
    return UserError(
        f"training stopped at step {step}: {found}{''.join(where)}; lower optim.lr or "
        "optim.weight_decay, or train with trainer.precision=32-true"
    )


def _not_finite(parts: Mapping[str, nn.Module], *, gradients: bool) -> list[str]:
    """The parts with a weight, or a gradient, that is not finite."""

    def tensors(part: nn.Module) -> list[torch.Tensor]:
        held = list(part.parameters())
        return (
            [one.grad for one in held if one.grad is not None]
            if gradients
            else [*map(share_of, held)]
        )

    return [name for name, part in parts.items() if not all(map(is_finite, tensors(part)))]
