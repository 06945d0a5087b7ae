"""How many cores this process may use."""

from __future__ import annotations

import os

CORES = "SPINEVL_CORES"
"""An environment variable that bounds them; jobs of a sweep that run at once have their share."""


def available_cores() -> int:
    """The cores that the machine lets this process use, at most ``SPINEVL_CORES``; 1 or more."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    told = os.environ.get(CORES, "")
    return max(1, min(cores, int(told))) if told.isdecimal() else cores
