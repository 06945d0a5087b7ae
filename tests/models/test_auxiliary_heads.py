"""Means of groups of tokens, held against torch's pooling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from spinevl.models.auxiliary_heads import mean_in_groups


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 16, 196, 257])
@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_means_and_gradients_are_those_of_adaptive_pooling(tokens: int, groups: int) -> None:
    torch.manual_seed(tokens)
    ours = torch.randn(3, tokens, 6, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    mine = mean_in_groups(ours, groups)
    pooled = functional.adaptive_avg_pool1d(theirs.transpose(1, 2), groups).transpose(1, 2)
    torch.testing.assert_close(mine, pooled, atol=1e-6, rtol=0)
    weights = torch.randn_like(mine)
    (mine * weights).sum().backward()
    (pooled * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)
