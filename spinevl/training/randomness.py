"""Every random generator of a process, as plain values that a state can hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators.

    The augmentation has none: what it draws depends on the number of the batch alone.
    """
    state: dict[str, Any] = np.random.get_state(legacy=False)
    states = {
        "python": random.getstate(),
        "numpy": {**state, "state": {**state["state"], "key": state["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set every generator as ``random_states`` found it."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    state = states["numpy"]
    key = np.array(state["state"]["key"], dtype=np.uint32)
    np.random.set_state({**state, "state": {**state["state"], "key": key}})
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "device" in states:
        torch.cuda.set_rng_state(states["device"].cpu(), device)
    elif device.type == "mps" and "device" in states:
        torch.mps.set_rng_state(states["device"].cpu())
