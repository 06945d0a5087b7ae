"""Tensors on their way to the CPU."""

from __future__ import annotations

import pytest
import torch

from spinevl.inference.arriving import Arriving


def test_a_tensor_of_the_cpu_is_there() -> None:
    values = torch.arange(3.0)
    assert torch.equal(Arriving(values).here(), values)


@pytest.mark.gpu
def test_what_a_gpu_is_told_afterwards_is_not_waited_for() -> None:
    values = torch.arange(3.0, device="cuda") * 2
    arriving = Arriving(values)
    values.add_(1)
    torch.cuda._sleep(2**31)  # about a second
    after = torch.cuda.Event()
    after.record()
    assert arriving.here().tolist() == [0.0, 2.0, 4.0]
    assert not after.query()
