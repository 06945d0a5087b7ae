"""Bytes of living tensors, with data and without."""

from __future__ import annotations

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from spinevl.training.memory.attention import cuda_attention
from spinevl.training.memory.live_bytes import LiveBytes


def step(x: torch.Tensor, w: torch.Tensor) -> None:
    functional.gelu(x @ w).sum().backward()


def test_tensors_without_data_are_counted_like_those_with() -> None:
    counted = []
    for fake in (False, True):
        live = LiveBytes()
        mode = FakeTensorMode() if fake else torch.enable_grad()
        with mode:
            x, w = torch.ones(64, 32), torch.ones(32, 16, requires_grad=True)
            before = live.count([x, w])
            with live:
                step(x, w)
                counted.append((live.now - before, live.peak - before))
    # what is left is the gradient [32, 16]; the product and its GELU [64, 16] lived before
    assert counted[0] == counted[1]
    now, peak = counted[0]
    assert now == 4 * 32 * 16
    assert peak >= 2 * 4 * 64 * 16


def test_what_is_freed_is_counted_no_more_and_a_view_not_twice() -> None:
    live = LiveBytes()
    with live:
        x = torch.ones(1000)
        view = x.view(10, 100)[2:]
        assert live.now == 4000
        assert live.count([x, view]) == 0
        del x, view
        gc.collect()
        assert (live.now, live.peak) == (0, 4000)
        live.restart_peak()
        assert live.peak == 0


@pytest.mark.parametrize(("half", "size"), [(None, 4), (torch.bfloat16, 2)])
def test_attention_of_a_gpu_holds_repeated_heads_and_a_padded_mask(
    half: torch.dtype | None, size: int
) -> None:
    n, heads, q, k, d = 3, 4, 5, 9, 8
    with FakeTensorMode():
        query = torch.ones(n, heads, q, d, requires_grad=True)
        key, value = (torch.ones(n, 2, k, d, requires_grad=True) for _ in range(2))
        mask = torch.zeros(n, 1, q, k)
        live = LiveBytes()
        before = live.count([query, key, value, mask])
        context = torch.autocast("cpu", half, enabled=half is not None)
        with live, cuda_attention(), context:
            output = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, enable_gqa=True
            )
            assert output.shape == query.shape
            kept = n * heads * (q + 2 * k) * d * size  # query, key and value
            kept += n * q * 16 * size  # 9 keys are padded to 16
            kept += n * heads * q * (d * size + 4)  # output and log-sum-exp
            own = 0 if half else n * heads * q * d * 4  # the query itself was there before
            assert live.now - before == kept - own
            output.sum().backward()
            assert key.grad is not None
            assert key.grad.shape == key.shape
