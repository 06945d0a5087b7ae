"""The stages of a training."""

from __future__ import annotations

import itertools

import pytest
from torch import nn

from spinevl.training.stage import Stage, frozen, stages_of


@pytest.mark.parametrize(
    ("epochs", "warmup", "expected"),
    [
        (12, 0.3, [(False, 0, 4), (True, 4, 8)]),
        (12, 0.0, [(True, 0, 12)]),
        (1, 0.95, [(True, 0, 1)]),
        (2, 0.95, [(False, 0, 1), (True, 1, 1)]),
        (3, 0.1, [(True, 0, 3)]),
    ],
)
def test_the_warmup_is_a_share_of_the_epochs_and_the_last_learns_answers(
    epochs: int, warmup: float, expected: list[tuple[bool, int, int]]
) -> None:
    found = stages_of(epochs, warmup=warmup, epoch_steps=7)
    assert [(one.answers, one.first_epoch, one.epochs) for one in found] == expected


@pytest.mark.parametrize("epochs", range(1, 40))
def test_stages_follow_each_other_and_add_up(epochs: int) -> None:
    found = stages_of(epochs, warmup=0.3, epoch_steps=5)
    assert found[0].first_step == 0
    for before, after in itertools.pairwise(found):
        assert after.first_step == before.first_step + before.steps
    assert sum(one.steps for one in found) == 5 * epochs
    assert found[-1].answers


def test_what_was_frozen_stays_frozen_afterwards() -> None:
    part = nn.Linear(2, 2)
    part.bias.requires_grad_(False)
    with frozen(part):
        assert not any(one.requires_grad for one in part.parameters())
    assert (part.weight.requires_grad, part.bias.requires_grad) == (True, False)


def test_a_stage_counts_its_own_steps() -> None:
    one = Stage(answers=True, first_epoch=4, epochs=8, epoch_steps=3, total_epochs=12)
    assert (one.first_step, one.steps, one.total_steps) == (12, 24, 36)
