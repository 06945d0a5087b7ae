"""What each strategy leaves on a device, in bytes a number that learns."""

from __future__ import annotations

import pytest

from spinevl.training.memory.sharding import BUCKET, Sharding, Weights

# 100 numbers learn in float32, 1000 bytes do not
OWN = Weights(frozen=1000, trained=400, numbers=100)
HALF = Weights(frozen=500, trained=200, numbers=100)


@pytest.mark.parametrize(
    ("strategy", "own", "weights", "gradients", "optimizer"),
    [
        ("auto", OWN, 1400, 400, 800),
        ("ddp", OWN, 1400, 400, 800),
        ("deepspeed_zero1", HALF, 700, 200, 12 * 100 / 4),
        ("deepspeed_zero2", HALF, 700, 50, 300),
        ("deepspeed_zero3", HALF, 175, 50, 300),
        ("deepspeed_zero3", OWN, 350, 100, 300),
        ("deepspeed_zero3_offload", HALF, 0, 50, 0),
    ],
)
def test_shares_of_four_devices(
    strategy: str, own: Weights, weights: float, gradients: float, optimizer: float
) -> None:
    shared = Sharding(strategy, 4)
    found = shared.weights(own), shared.gradients(own), shared.optimizer(own)
    assert found == (weights, gradients, optimizer)


def test_buckets() -> None:
    assert Sharding("auto", 1).communication(OWN) == 0
    assert Sharding("ddp", 2).communication(OWN) == 400
    assert Sharding("deepspeed_zero2", 2).communication(HALF) == 2 * 2 * BUCKET
    # half of the weights come from the other device
    assert Sharding("deepspeed_zero3", 2).communication(HALF) == 2 * BUCKET + 350
    assert Sharding("deepspeed_zero3_offload", 2).communication(HALF) == 2 * BUCKET + 700
