"""The losses of a step by task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spinevl.schema.example import Example, Key
from spinevl.training.task_losses import TaskLosses


def example(task: str) -> Example:
    return Example(Key("p", task), (), ())


def batch(**told: Any) -> Any:
    return SimpleNamespace(**told)


def test_each_task_has_the_weighted_mean_of_its_answers_and_targets() -> None:
    losses = TaskLosses([example("qd"), example("sl")], ["sagittal/sl/C3", "axial/zyzg"])
    one = batch(
        questions=(1, 0),
        target_sequence=torch.tensor([0, 0, 1]),
        sequence_question=torch.tensor([0, 1]),
        target_weight=torch.tensor([1.0, 3.0, 2.0]),
        auxiliary_head=torch.tensor([1, 1]),
        auxiliary_weight=torch.tensor([1.0, 3.0]),
    )
    losses.add_answers(one, torch.tensor([-1.0, -2.0, -5.0]))
    losses.add_auxiliary(one, torch.tensor([4.0, 8.0]))
    assert losses.named(losses.take().tolist()) == pytest.approx(
        {"loss/answer/sl": 7 / 4, "loss/answer/qd": 5.0, "loss/auxiliary/zyzg": 7.0}
    )
    assert losses.named(losses.take().tolist()) == {}  # the next step begins anew


def test_where_no_task_is_known_nothing_is_added() -> None:
    losses = TaskLosses()
    one = batch(questions=(0,), auxiliary_head=torch.tensor([0]), auxiliary_weight=torch.ones(1))
    losses.add_answers(one, torch.tensor([-1.0]))
    losses.add_auxiliary(one, torch.tensor([1.0]))
    assert len(losses.take()) == 0
    assert losses.named([]) == {}
