"""DINOv2's positions at other sizes: the numbers and gradients of transformers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from spinevl.models.encoder.positions import interpolate_by_matrices

SIZES = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (28, 28), (44, 20), (4, 8), (148, 64)])
def test_values_and_gradients_are_those_of_transformers(
    registers: bool, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    theirs: Any
    if registers:
        theirs = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(image_size=28, **SIZES))
    else:
        theirs = Dinov2Model(Dinov2Config(image_size=28, **SIZES))
    torch.nn.init.normal_(theirs.embeddings.position_embeddings)
    ours = copy.deepcopy(theirs)
    interpolate_by_matrices(ours.embeddings, antialias=registers)
    for again in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        found = []
        for model in (again, theirs):
            model.zero_grad()
            pixels = torch.ones(1, 3, *size)
            positions = model.embeddings.interpolate_pos_encoding(
                model.embeddings.patch_embeddings(pixels).new_zeros(
                    1, 1 + size[0] * size[1] // 16, 12
                ),
                *size,
            )
            (
                positions * torch.linspace(-1, 1, positions.numel()).view_as(positions)
            ).sum().backward()
            found.append((positions, model.embeddings.position_embeddings.grad))
        for mine, other in zip(*found, strict=True):
            torch.testing.assert_close(mine, other, atol=2e-6, rtol=1e-6)
