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
    """Train in each of some folders; no weight is small enough to stay whole under ZeRO-3."""
    original = strategy.zero_config

    def sharded(options: object) -> dict[str, object]:
        config = original(options)  # type: ignore[arg-type]
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    strategy.zero_config = sharded  # type: ignore[assignment]
    with joined("cpu", processes=2):
        for folder in map(Path, words):
            score = train(folder)
            print(json.dumps({"case": folder.name, "score": score}), flush=True)
            barrier()
