"""The average of the trained weights: its value, and when the model holds it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spinevl.config.compose import compose
from spinevl.schema.errors import UserError
from spinevl.training.average import AverageWeights


def test_the_average_rises_to_its_decay_and_is_lent_while_dev_is_scored() -> None:
    module: Any = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    average = AverageWeights(0.5)
    trainer: Any = SimpleNamespace(global_step=0)
    with torch.no_grad():
        module.weight.fill_(0.0)
        average.on_train_start(trainer, module)
        expected = 0.0
        for step in range(1, 12):
            module.weight.fill_(float(step))
            trainer.global_step = step
            average.on_train_batch_end(trainer, module)
            average.on_train_batch_end(trainer, module)  # a batch that was only accumulated
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * step
    assert float(average.average["weight"]) == torch.tensor(expected).item()
    assert set(average.average) == {"weight"}
    average.on_validation_start(trainer, module)
    assert torch.equal(module.weight, average.average["weight"])
    average.on_validation_end(trainer, module)
    assert module.weight.item() == 11.0
    average.on_train_end(trainer, module)
    assert torch.equal(module.weight, average.average["weight"])


def test_it_goes_on_from_a_state_and_does_not_change_it() -> None:
    module: Any = nn.Linear(1, 1, bias=False)
    state = {"steps": 3, "average": {"weight": torch.tensor([[2.0]])}}
    average = AverageWeights(0.5)
    average.load_state_dict(state)
    trainer: Any = SimpleNamespace(global_step=4)
    with torch.no_grad():
        module.weight.fill_(10.0)
    average.on_train_start(trainer, module)
    average.on_train_batch_end(trainer, module)
    decay = 5 / 14
    assert float(average.average["weight"]) == torch.tensor(decay * 2 + (1 - decay) * 10).item()
    assert float(state["average"]["weight"]) == 2.0  # type: ignore[index]


def test_weights_that_deepspeed_keeps_in_its_own_form_are_not_averaged() -> None:
    with pytest.raises(UserError, match=r"trainer\.ema=0\.9: .*deepspeed_zero2"):
        compose("train", ["trainer.ema=0.9", "trainer=deepspeed_zero2"])
