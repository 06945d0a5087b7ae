"""The group of the processes that work on one job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from spinevl.distributed.ranks import world_size

LIMIT = timedelta(hours=2)
"""How long a process waits for another, which may be encoding images or scoring dev."""


@contextmanager
def joined(device: str, *, processes: int) -> Iterator[None]:
    """Join the group of the processes that ``launch`` has started, as long as this lasts.

    A process that belongs to one already stays in it.

    Args:
        device: ``cuda`` or ``cpu``; each process of a machine has a GPU of its own.
        processes: how many there should be in all.

    Raises:
        RuntimeError: there are more or fewer.
    """
    import torch
    from torch import distributed

    there = distributed.is_initialized()
    if not there:
        backend = "gloo"
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, timeout=LIMIT)
    if world_size() != processes:
        raise RuntimeError(f"{processes} processes were asked for, and {world_size()} are there")
    yield
    if not there:
        distributed.destroy_process_group()
