"""How many processes answer, and the device of each."""

from __future__ import annotations

import torch

from spinevl.distributed.launch import check_processes
from spinevl.schema.errors import refused


def predict_device() -> str:
    """Where a checkpoint answers, if nothing else is said: on the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_count(asked: int | str | None, device: str) -> int:
    """How many processes answer, each on a device of its own.

    Args:
        asked: ``predict.devices``; ``auto`` is every GPU that is there, None is 1.
        device: ``cpu``, where processes share the cores, ``cuda`` or ``mps``.

    Raises:
        UserError: more GPUs than there are, or more processes than the CPU has room for.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device)
    if asked in (None, "auto"):
        return there or 1 if asked else 1
    count = int(asked)
    if device == "cpu":
        check_processes("predict.devices", count)
    if there is not None and count > there:
        found = f"{there}" if there else "none"
        fix = "write predict.devices=auto, or make the others visible (CUDA_VISIBLE_DEVICES)"
        raise refused(f"predict.devices={count}", f"{count} GPUs", found, fix)
    return count
