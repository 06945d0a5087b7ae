"""The processes that work on one job: which of them this one is, and what they tell each other.

Without a process group there is one of them, and every function is a plain value. ``torch`` is
imported only where there are several.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

AGENT = "SPINEVL_AGENT"
"""The environment variable with the number of the process that started this one as a rank."""


def rank() -> int:
    """The number of this process, from 0; before the group is made, as its launcher says."""
    group = _group()
    return group.get_rank() if group else _told("RANK", 0)


def world_size() -> int:
    """How many processes there are; before the group is made, as the launcher says."""
    group = _group()
    return group.get_world_size() if group else _told("WORLD_SIZE", 1)


def is_first() -> bool:
    """Whether this process is the one that writes files and tells the user."""
    return rank() == 0


def gathered(value: Any) -> list[Any]:
    """Every process's ``value``, in the order of their ranks; each must call this."""
    group = _group()
    if group is None:
        return [value]
    values: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(values, value)
    return values


def of_first(do: Callable[[], T], kind: type[E]) -> tuple[T | None, E | None]:
    """What the first process gets from ``do``, or the error of a kind; each must call this."""
    result: T | None = None
    error: E | None = None
    if is_first():
        try:
            result = do()
        except kind as found:
            error = found
    return gathered((result, error))[0]


def barrier() -> None:
    """Wait until every process is here."""
    if group := _group():
        group.barrier()


def mean_over_ranks(value: float, *, like: torch.Tensor) -> torch.Tensor | float:
    """The mean of every process's ``value``; where there are several, on the device of ``like``.

    Data-parallel training averages gradients over processes. A loss summed over the tokens of one
    and divided by this mean of their number is then the mean over the tokens of all.
    """
    group = _group()
    if group is None:
        return value
    import torch

    total = torch.tensor(value, dtype=torch.float32, device=like.device)
    group.all_reduce(total)
    return total / group.get_world_size()


def averaged(values: torch.Tensor) -> torch.Tensor:
    """The mean of every process's ``values``."""
    group = _group()
    if group is not None:
        group.all_reduce(values)
        values /= group.get_world_size()
    return values


def largest_over_ranks(values: Sequence[int], *, device: torch.device) -> list[int]:
    """The largest of every process's values, place by place."""
    group = _group()
    if group is None:
        return list(values)
    import torch

    found = torch.tensor(list(values), dtype=torch.int64, device=device)
    group.all_reduce(found, op=group.ReduceOp.MAX)
    return found.tolist()


def _told(name: str, alone: int) -> int:
    # clusters set such variables too; where we started no others, a share would be lost data
    return int(os.environ[name]) if AGENT in os.environ else alone


def _group() -> Any:
    """torch.distributed where this process belongs to a group, and None without one."""
    if "torch" not in sys.modules:
        return None
    from torch import distributed

    there = distributed.is_available() and distributed.is_initialized()
    return distributed if there else None
