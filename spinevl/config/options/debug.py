"""Options of a training that is only tried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from spinevl.config.keys import key


class Profiler(StrEnum):
    """What is measured: nothing, the seconds of each step's parts, or of each function."""

    none = "none"
    simple = "simple"
    advanced = "advanced"


@dataclass
class DebugOptions:
    """Less of a training, to see whether it works; its scores mean nothing."""

    fast_dev_run: int = key(
        0, help="train this many batches, score dev once and end; 0 trains in full", min=0
    )
    overfit_batches: int = key(
        0, help="train on the patients of so many batches alone; 0 is all of them", min=0
    )
    limit_train_batches: int | None = key(
        None, help="batches of an epoch that are trained; null is all of them", min=1
    )
    profiler: Profiler = key(
        Profiler.none, help="none, simple or advanced: where the time goes, in OUT/fit-profile.txt"
    )
    detect_anomaly: bool = key(False, help="name the operation that makes a gradient NaN; slow")

    @property
    def on(self) -> bool:
        """Whether the training is only tried."""
        return self != DebugOptions()

    def batches(self, available: int) -> int:
        """How many of an epoch's batches are trained."""
        return min(available, self.fast_dev_run or self.limit_train_batches or available)
