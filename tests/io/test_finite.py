"""Weights that are not finite are found, whatever their type and place, and refused on reading."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spinevl.io.finite import is_finite
from spinevl.io.tensors import stored_tensors
from spinevl.models.source import pretrained_model
from spinevl.schema.errors import UserError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_one_number_is_enough_wherever_it_stands(dtype: torch.dtype, size: int) -> None:
    fine = torch.linspace(-3, 3, size)
    assert is_finite(fine.to(dtype))
    bad = [math.nan] if dtype is torch.float8_e4m3fn else [math.nan, math.inf, -math.inf]
    for value in bad:
        for place in {0, size // 2, size - 1}:
            tensor = fine.clone()
            tensor[place] = value
            assert not is_finite(tensor.to(dtype))


def test_what_float32_cannot_hold_is_not_finite() -> None:
    assert not is_finite(torch.tensor([1e300], dtype=torch.float64))
    assert not is_finite(torch.tensor([-1e300], dtype=torch.float64))
    assert is_finite(torch.tensor([torch.finfo(torch.float32).max]))


@pytest.mark.parametrize("tensor", [torch.zeros(0), torch.tensor([7]), torch.tensor([True])])
def test_nothing_and_integers_are_finite(tensor: torch.Tensor) -> None:
    assert is_finite(tensor)


def test_the_file_and_the_first_tensor_are_named(tmp_path: Path) -> None:
    weights = {"a": torch.ones(3), "b.c": torch.tensor([1.0, -math.inf]), "d": torch.ones(1)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        dict(stored_tensors(tmp_path))
    (problem,) = caught.value.problems
    assert str(tmp_path / "model.safetensors") in problem
    assert "b.c" in problem
    assert "1 of 3" in problem


def test_a_published_models_weights_are_checked(shared: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(shared / "goldens/models/llm_qwen2")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3] = math.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        pretrained_model(AutoModelForCausalLM, str(tmp_path), what="llm.path")
    (problem,) = caught.value.problems
    assert f"llm.path={tmp_path}" in problem
    assert "layers.1.mlp.up_proj.weight" in problem
