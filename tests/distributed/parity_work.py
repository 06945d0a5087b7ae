"""Trainings of one worker, one after the other in one group of processes; see test_parity.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from spinevl.distributed.group import joined
from spinevl.distributed.ranks import barrier
from spinevl.training import strategy
from spinevl.training.worker import train


def work(words: Sequence[str]) -> None:
    """Train in each of some folders."""
    divide_all()
    with joined("cpu", processes=2):
        for folder in map(Path, words):
            score = train(folder)
            print(json.dumps({"case": folder.name, "score": score}), flush=True)
            barrier()


def divide_all() -> None:
    """Have ZeRO-3 divide every weight: by default it leaves small ones whole."""
    original = strategy.zero_config

    def config(options: object) -> dict[str, object]:
        found = original(options)  # type: ignore[arg-type]
        found["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return found

    strategy.zero_config = config  # type: ignore[assignment]
