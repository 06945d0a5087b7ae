"""A training ends after so many dev scores that are not better."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from spinevl.training.early_stop import EarlyStop


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([0.5], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.5], 1, True),  # as good is not better
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.4, 0.6, 0.1, 0.6], 2, True),
        ([-3.0, -2.0, -1.0], 1, False),
    ],
)
def test_when_it_stops(scores: list[float], patience: int, stops: bool) -> None:
    best: Any = SimpleNamespace(history=list(enumerate(scores)))
    trainer: Any = SimpleNamespace(should_stop=False)
    module: Any = None
    EarlyStop(best, patience=patience).on_validation_end(trainer, module)
    assert trainer.should_stop is stops
