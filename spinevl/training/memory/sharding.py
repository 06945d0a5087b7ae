"""How devices share weights, gradients and optimizer: DDP and the stages of ZeRO.

Source: Rajbhandari et al. 2020 (arXiv 1910.02054) for what each stage divides. They are formulas
on paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from spinevl.config.options import TrainerOptions
from spinevl.training.launching import processes_of

BUCKET = 50_000_000
"""Numbers that ZeRO exchanges at once; DeepSpeed's default costs gigabytes on every device."""

_GATHERED = 1_000_000_000  # numbers of weights that ZeRO-3 keeps whole at a time


@dataclass(frozen=True)
class Weights:
    """The weights of a part, or of all.

    Attributes:
        frozen: bytes that do not learn, buffers included.
        trained: bytes that learn.
        numbers: how many numbers learn.
    """

    frozen: int
    trained: int
    numbers: int


@dataclass(frozen=True)
class Sharding:
    """What one of several devices holds.

    Attributes:
        strategy: ``auto``, ``ddp``, ``deepspeed_zero1``, ``deepspeed_zero2``, ``deepspeed_zero3``
            or ``deepspeed_zero3_offload``.
        world: the number of devices.
    """

    strategy: str = "auto"
    world: int = 1

    @property
    def stage(self) -> int:
        """The stage of ZeRO; 0 without it."""
        return next((int(one) for one in self.strategy if one.isdigit()), 0)

    @property
    def offloads(self) -> bool:
        """Whether weights and optimizer live in the machine's memory."""
        return self.strategy.endswith("offload")

    def weights(self, own: Weights) -> float:
        """Bytes of the weights, but for those that a layer brings back while it computes."""
        if self.offloads:
            return 0.0
        return (own.frozen + own.trained) / (self.world if self.stage == 3 else 1)

    def gradients(self, own: Weights) -> float:
        """Bytes of the gradients."""
        return own.trained / (self.world if self.stage >= 2 else 1)

    def optimizer(self, own: Weights) -> float:
        """Bytes of AdamW's two moments; under ZeRO in float32, with a float32 copy of weights."""
        if self.offloads:
            return 0.0
        return 12 * own.numbers / self.world if self.stage else 2 * own.trained

    def update(self, all_weights: Weights) -> float:
        """Bytes that live for the length of an update of all weights at once."""
        if self.offloads:
            return 0.0
        return 4 * all_weights.numbers / self.world if self.stage else all_weights.trained

    def communication(self, all_weights: Weights) -> float:
        """Bytes of the buffers between devices."""
        if not self.stage:
            return all_weights.trained if self.world > 1 else 0.0  # DDP copies gradients to buckets
        size = all_weights.trained / max(all_weights.numbers, 1)
        if self.stage < 3:
            return 2 * BUCKET * size  # one is filled while the other is reduced
        whole = all_weights.frozen + all_weights.trained
        return BUCKET * size + min(_GATHERED * size, whole - self.weights(all_weights))


def sharding_of(options: TrainerOptions) -> Sharding:
    """How a training is divided among its devices."""
    return Sharding(options.strategy, processes_of(options) * options.num_nodes)
