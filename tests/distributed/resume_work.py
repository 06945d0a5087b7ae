"""Trainings that are told to end several times, and go on; see test_resume_devices.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import parity_work
import pytest

from spinevl.distributed.group import joined
from spinevl.distributed.ranks import barrier, rank
from spinevl.schema.errors import UserError
from spinevl.training.resume import SaveState
from spinevl.training.worker import train


def work(words: Sequence[str]) -> None:
    """Train in each folder; one named ``cut`` in pieces that end after steps 1, 5 and 6."""
    parity_work.divide_all()
    with joined("cpu", processes=2):
        for folder in map(Path, words):
            for step in (1, 5, 6) if folder.name.startswith("cut") else ():
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(SaveState, "_is_due", _signal_at(step))
                    with pytest.raises(UserError, match=f"goes on after step {step}"):
                        train(folder)
                barrier()
            train(folder)
            barrier()


def _signal_at(last: int) -> Any:
    """A signal for one of the processes; a state of an earlier step is saved before it."""

    def is_due(self: SaveState, step: int) -> bool:
        if step == last and rank() == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step < last

    return is_due
