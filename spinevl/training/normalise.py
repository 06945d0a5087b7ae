"""What a step's loss is divided by, the same on every rank."""

from __future__ import annotations

import torch
from torch import distributed


def mean_over_ranks(value: float, *, like: torch.Tensor) -> torch.Tensor:
    """The mean of every rank's ``value``, a scalar on the device of ``like``.

    Data-parallel training averages gradients over ranks. A loss summed over a rank's own tokens
    and divided by this mean of their number is then the mean over the tokens of all ranks.
    """
    mean = torch.tensor(value, dtype=torch.float32, device=like.device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    return mean
