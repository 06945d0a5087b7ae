"""Operations are counted alike, however weights lie."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import flops
from spinevl.models import packed


def test_packed_layers_count_as_what_they_were() -> None:
    if not packed._is_there():
        pytest.skip("a torch without oneDNN")
    layers = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2, bias=False))
    expected = 2 * (3 * 5 + 5 * 2)
    assert flops.linear(layers) == expected
    packed.pack(layers)
    assert flops.linear(layers) == expected
    with torch.no_grad():
        assert layers(torch.zeros(1, 3)).shape == (1, 2)
