"""How many cores this process may use."""

from __future__ import annotations

import os

CORES = "SPINEVL_CORES"
"""An environment variable that bounds them; jobs of a sweep that run at once have their share."""


def machine_cores() -> int:
    """The cores that the machine lets this process use; 1 or more."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_cores() -> int:
    """Those that this process may use of them, at most ``SPINEVL_CORES``; 1 or more."""
    cores = machine_cores()
    told = os.environ.get(CORES, "")
    return max(1, min(cores, int(told))) if told.isdecimal() else cores
