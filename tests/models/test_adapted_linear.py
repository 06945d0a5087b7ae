"""Adapted layers in fewer passes: peft's outputs and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from spinevl.models import adapted_linear
from spinevl.models.adapted_linear import AdaptedLinear, install
from spinevl.models.fewer_passes import computed


class Net(nn.Module):
    """A layer to adapt behind another one."""

    def __init__(self, dtype: torch.dtype, *, bias: bool = True) -> None:
        super().__init__()
        self.before = nn.Linear(6, 8)
        self.adapted = nn.Linear(8, 5, bias=bias).to(dtype).requires_grad_(False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.adapted(self.before(states).tanh())


def net(*, dtype: torch.dtype = torch.float32, bias: bool = True, **lora: Any) -> Net:
    torch.manual_seed(0)
    model = Net(dtype, bias=bias)
    config = LoraConfig(target_modules=["adapted"], r=3, lora_alpha=7, **lora)
    inject_adapter_in_model(config, model)
    model.before.requires_grad_(True)
    nn.init.normal_(model.adapted.lora_B["default"].weight)
    for one in (model.adapted.lora_A, model.adapted.lora_B):
        one.float()
    install(model)
    return model


def step(model: Net, *, fewer: bool, autocast: bool = False) -> dict[str, torch.Tensor]:
    """The output of a net and the gradients of its weights, without and with fewer passes."""
    model.zero_grad()
    torch.manual_seed(1)
    states = torch.randn(2, 9, 6)
    with computed(fewer), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(states)
    output.float().square().sum().backward()
    grads = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {"output": output.detach(), **{name: one.clone() for name, one in grads.items()}}


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shape of what each layer in fewer passes reads."""
    seen: list[torch.Size] = []
    forward = AdaptedLinear.forward

    def noting(ctx: Any, states: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(states.shape)
        return forward(ctx, states, *rest)

    monkeypatch.setattr(AdaptedLinear, "forward", staticmethod(noting))
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rslora", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_step_is_that_of_peft(
    bias: bool, rslora: bool, dropout: float, used: list[torch.Size]
) -> None:
    model = net(bias=bias, use_rslora=rslora, lora_dropout=dropout)
    expected = step(model, fewer=False)
    assert used == []
    found = step(model, fewer=True)
    assert used == [torch.Size([18, 8])]
    learned = {"before.weight", "before.bias"}
    learned |= {f"adapted.lora_{one}.default.weight" for one in "AB"}
    assert set(found) == set(expected) == learned | {"output"}
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_under_autocast_it_is_as_near_to_the_exact_step(
    held: torch.dtype, used: list[torch.Size]
) -> None:
    model = net(dtype=held)
    exact = step(copy.deepcopy(model).double().float(), fewer=False)
    peft = step(model, fewer=False, autocast=True)
    found = step(model, fewer=True, autocast=True)
    assert len(used) == 1
    for name, one in exact.items():
        assert found[name].dtype == peft[name].dtype
        error, theirs = ((two[name].float() - one).norm() for two in (found, peft))
        assert error <= 2.5 * theirs + 1e-6
        assert error <= 0.01 * one.norm()


def test_a_layer_that_learns_nothing_below_has_gradients_of_its_adapter_alone() -> None:
    model = net()
    model.before.requires_grad_(False)
    expected, found = step(model, fewer=False), step(model, fewer=True)
    assert set(found) == {"output", *(f"adapted.lora_{one}.default.weight" for one in "AB")}
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-5, atol=1e-5)


def test_other_layers_are_left_to_peft(used: list[torch.Size]) -> None:
    dora = net(use_dora=True)
    learning = net()
    learning.adapted.base_layer.weight.requires_grad_(True)
    off = net()
    off.adapted.enable_adapters(False)
    shares = net()
    shares.adapted.base_layer.weight.ds_id = 3  # as ZeRO-3 marks what it divides
    biased = net()
    biased.adapted.base_layer.bias.requires_grad_(True)
    states = torch.zeros(1, 8)
    with computed(True):
        assert adapted_linear._is_plain(net().adapted, states)
        assert not adapted_linear._is_plain(shares.adapted, states)
        assert not adapted_linear._is_plain(biased.adapted, states)
    for model in (dora, learning, off):
        model(torch.zeros(2, 6))  # not within computed
        with computed(True):
            model(torch.zeros(2, 6))
    with torch.no_grad(), computed(True):
        net()(torch.zeros(2, 6))
    merged = net()
    merged.adapted.merge()
    with computed(True):
        merged(torch.zeros(2, 6))
    assert used == []


def test_a_copy_has_adapters_of_its_own() -> None:
    model = net()
    copied = copy.deepcopy(model)
    copied.adapted.lora_B["default"].weight.data.zero_()
    states = torch.ones(1, 6)
    with computed(True):
        torch.testing.assert_close(
            copied(states), copied.adapted.base_layer(copied.before(states).tanh())
        )
        assert not torch.allclose(model(states), copied(states))
