"""What a step's loss is divided by, the same on every rank."""

from __future__ import annotations

import torch
from torch import distributed


def mean_over_ranks(value: float, *, like: torch.Tensor) -> torch.Tensor | float:
    """The mean of every rank's ``value``; where there are several, on the device of ``like``.

    Data-parallel training averages gradients over ranks. A loss summed over a rank's own tokens
    and divided by this mean of their number is then the mean over the tokens of all ranks.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = torch.tensor(value, dtype=torch.float32, device=like.device)
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
