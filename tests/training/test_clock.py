"""What the steps of a training spend their time on, by a clock that the parts themselves move."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spinevl.training import clock as module
from spinevl.training.clock import PARTS, Clock


class Takes(nn.Module):
    """A part whose forward pass takes so many seconds."""

    def __init__(self, spend: Callable[[float], None], seconds: float) -> None:
        super().__init__()
        self.spend, self.seconds = spend, seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.spend(self.seconds)
        return x


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass; nothing else does."""
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def passing(seconds: float) -> None:
        now[0] += seconds

    return passing


def test_each_part_has_its_own_time_and_dev_has_none(spend: Callable[[float], None]) -> None:
    encoder, connector = Takes(spend, 2.0), Takes(spend, 1.0)
    decoder, head = Takes(spend, 8.0), Takes(spend, 0.5)
    branch = SimpleNamespace(encoder=encoder, connector=connector)
    llm = SimpleNamespace(
        model=SimpleNamespace(base_model=decoder, get_output_embeddings=lambda: head)
    )
    model = SimpleNamespace(vision_branches=lambda: {"image": branch}, llm=llm)
    logged: dict[str, Any] = {}
    trained: Any = SimpleNamespace(model=model, device=torch.device("cpu"), log_dict=logged.update)
    batch = SimpleNamespace(
        questions=(1, 2), tokens=30, input_ids=torch.zeros(1, 40), sequence_tokens=90
    )
    clock = Clock()
    clock.on_train_start(None, trained)
    clock.on_train_epoch_start(None, trained)
    for step in range(2):
        spend(0.25)  # a batch is made
        clock.on_train_batch_start(None, trained, batch, step)
        for part in (encoder, connector, decoder, head):
            part(torch.zeros(1))
        spend(0.1)  # the loss
        clock.on_before_backward(None, trained, None)
        spend(15.0)
        head(torch.zeros(1))  # run again for its gradients
        spend(0.5)
        clock.on_after_backward(None, trained)
        if step:  # the first only accumulates
            clock.on_before_optimizer_step(None, trained, None)
            spend(4.0)
        clock.on_train_batch_end(None, trained, None, batch, step)
        decoder(torch.zeros(1))  # dev
        clock.on_validation_end(None, trained)
    clock.on_train_end(None, trained)
    decoder(torch.zeros(1))
    told = clock.report()
    assert told["step_seconds"] == {
        "data": 0.5,
        "encoder": 6.0,
        "decoder": 16.0,
        "head": 1.0,
        "backward": 32.0,
        "optimizer": 4.0,
    }
    assert tuple(told["step_seconds"]) == PARTS
    assert told["step_seconds_total"] == pytest.approx(59.2)
    assert told["token_reuse_ratio"] == 3
    assert told["padding_share"] == 0.25
    assert told["samples_per_second"] == pytest.approx(4 / 59.2)
    assert logged["tokens_per_second"] == pytest.approx(60 / 59.2)
    again = Clock()
    again.load_state_dict(clock.state_dict())
    assert again.report() == told
