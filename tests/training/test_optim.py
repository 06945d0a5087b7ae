"""Learning rates a part, and what is not decayed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from spinevl.schema.errors import UserError
from spinevl.training.augment import augment, draws_of
from spinevl.training.optim import adamw, parameter_groups


def test_norms_biases_and_embeddings_are_not_decayed() -> None:
    part = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    groups = parameter_groups({"llm": part, "encoder": frozen}, lr={"llm": 0.1}, weight_decay=0.5)
    decayed = [p for g in groups if g["weight_decay"] for p in g["params"]]  # type: ignore[attr-defined]
    assert decayed == [part[2].weight]
    assert sum(len(g["params"]) for g in groups) == 5  # type: ignore[arg-type]
    assert all(group["lr"] == 0.1 for group in groups)


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(UserError, match="nothing learns"):
        parameter_groups({"llm": nn.Linear(1, 1).requires_grad_(False)}, lr={}, weight_decay=0)


def test_warm_up_rises_and_cosine_falls_to_zero() -> None:
    groups = parameter_groups({"llm": nn.Linear(1, 1)}, lr={"llm": 1.0}, weight_decay=0)
    optimizer, schedule = adamw(
        groups, betas=(0.9, 0.9), total_steps=10, warmup_ratio=0.2, schedule="cosine"
    )
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.5)
    assert rates[1] == pytest.approx(1.0)
    assert rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0.0)


def test_a_second_stage_goes_on_with_the_schedule_after_a_rise_of_its_own() -> None:
    def rates(first: int, steps: int) -> list[float]:
        groups = parameter_groups({"llm": nn.Linear(1, 1)}, lr={"llm": 1.0}, weight_decay=0)
        how: Any = {"total_steps": 20, "warmup_ratio": 0.2, "schedule": "cosine"}
        optimizer, schedule = adamw(groups, betas=(0.9, 0.9), first_step=first, **how)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    whole, second = rates(0, 20), rates(8, 12)
    assert second[4:] == pytest.approx(whole[12:])
    assert second[:4] == pytest.approx([whole[8 + k] * (k + 1) / 4 for k in range(4)])


def test_augmentation_moves_only_what_may_move() -> None:
    pixels = torch.arange(2 * 8 * 8.0).reshape(2, 1, 8, 8)
    moved = augment(
        pixels,
        shiftable=torch.tensor([True, False]),
        shift_px=3,
        gain=0.0,
        draws=draws_of([0, 1], batch=0, seed=1),
    )
    assert moved.shape == pixels.shape
    assert torch.equal(moved[1], pixels[1])
    assert not torch.equal(moved[0], pixels[0])
    # a shift: every row and column of the result is one of the original
    assert set(moved[0].flatten().tolist()) <= set(pixels[0].flatten().tolist())


def test_weights_that_ranks_have_divided_decay_as_whole_ones_do() -> None:
    """ZeRO-3 leaves a flat share in the place of each."""
    parts: dict[str, Any] = {"llm": nn.Linear(3, 2)}
    for one in parts["llm"].parameters():
        one.ds_id, one.ds_shape = 0, one.shape
        one.data = torch.empty(0)
    decayed, plain = parameter_groups(parts, lr={"llm": 0.1}, weight_decay=0.5)
    assert (decayed["params"], decayed["weight_decay"]) == ([parts["llm"].weight], 0.5)
    assert (plain["params"], plain["weight_decay"]) == ([parts["llm"].bias], 0.0)
