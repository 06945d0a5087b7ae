"""Batches of like length, and what a step's loss is divided by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from torch.utils.data import DataLoader

from spinevl.data.datamodule import Steps
from spinevl.data.sampling import LengthBatches


def test_batches_of_like_length_hold_everything_once_and_repeat() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.choice([40, 95, 100, 180], size=103).tolist()
    batches = list(LengthBatches(lengths, n_batches=11, seed=3))
    assert sorted(one for batch in batches for one in batch) == list(range(103))
    assert len(batches) == 11
    assert batches == list(LengthBatches(lengths, n_batches=11, seed=3))
    padding = sum(max(lengths[k] for k in b) - lengths[one] for b in batches for one in b)
    assert padding / sum(lengths) < 0.1
    later = LengthBatches(lengths, n_batches=11, seed=3)
    later.sampler.set_epoch(1)
    assert list(later) != batches


@dataclass(frozen=True)
class Counted:
    answer_divisor: float
    auxiliary_divisor: float


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_steps_losses_sum_to_the_mean_over_its_tokens(accumulate: int) -> None:
    tokens = [3.0, 5.0, 7.0, 11.0, 13.0]
    loader = DataLoader(
        [Counted(n, 2 * n) for n in tokens],  # type: ignore[arg-type]
        batch_size=None,
    )
    batches = list(Steps(loader, accumulate))
    assert len(batches) == len(tokens)
    for start in range(0, len(tokens), accumulate):
        step = slice(start, start + accumulate)
        # a batch's loss is its sum / answer_divisor, which the trainer divides by accumulate
        total = sum(
            n / batch.answer_divisor / accumulate
            for n, batch in zip(tokens[step], batches[step], strict=True)
        )
        assert total == pytest.approx(1.0)
        assert batches[start].auxiliary_divisor == pytest.approx(2 * batches[start].answer_divisor)


def test_a_step_counts_only_the_batches_that_are_trained() -> None:
    loader = DataLoader([Counted(n, 0.5) for n in (3.0, 5.0, 7.0)], batch_size=None)  # type: ignore[arg-type]
    steps = Steps(loader, 4, limit=1)
    (only,) = steps
    assert len(steps) == 1
    assert only.answer_divisor * 4 == 3.0


def test_few_auxiliary_targets_are_told_from_the_whole_step() -> None:
    for targets, expected in ((0.5, 1.5), (0.0, 1.0)):  # a step without any has a loss of 0
        loader = DataLoader([Counted(1.0, targets)] * 3, batch_size=None)  # type: ignore[arg-type]
        assert [one.auxiliary_divisor * 3 for one in Steps(loader, 3)] == [expected] * 3
