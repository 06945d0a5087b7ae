"""What a training needs on one device, part by part: weights, gradients, optimizer, activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spinevl.training.memory.rehearsal import Rehearsal
from spinevl.training.memory.sharding import Sharding

GB = 1e9

# What a process needs besides its tensors, and how much more tensors take than they hold. Of the
# CPU fitted with `python -m benchmarks.memory` (docs/scaling.md). Of a GPU on paper: its context
# with the libraries' workspaces, and memory that is lost between blocks.
_OVERHEAD = {"cpu": (56e6, 1.006), "cuda": (0.7e9, 1.05), "mps": (0.7e9, 1.05)}


@dataclass(frozen=True)
class Row:
    """One part's bytes on a device."""

    name: str
    weights: float
    gradients: float
    optimizer: float
    activations: float


@dataclass(frozen=True)
class Estimate:
    """The bytes of a training on each of its devices, at the most.

    Attributes:
        rows: of the parts.
        logits: of the predicted tokens.
        communication: buckets that gradients and weights pass through between devices.
        working: what lives for the length of an operation, at the peak.
        process: of the process and its allocator besides tensors.
        batch_patients, tokens, images: the batch that it is made for.
    """

    rows: tuple[Row, ...]
    logits: float
    communication: float
    working: float
    process: float
    batch_patients: int
    tokens: int
    images: int

    @property
    def tensors(self) -> float:
        """All that tensors hold at the peak: less than this never fits."""
        parts = sum(r.weights + r.gradients + r.optimizer + r.activations for r in self.rows)
        return parts + self.logits + self.communication + self.working

    @property
    def total(self) -> float:
        """All of it."""
        return self.tensors + self.process

    def lines(self) -> Iterator[str]:
        """The estimate as a small table in GB."""
        yield (
            f"memory in GB for {self.batch_patients} patients a step "
            f"({self.tokens:,} tokens, {self.images} images):"
        )
        yield f"  {'':10}{'weights':>9}{'gradients':>11}{'optimizer':>11}{'activations':>13}"
        for row in self.rows:
            yield (
                f"  {row.name:10}{row.weights / GB:9.2f}{row.gradients / GB:11.2f}"
                f"{row.optimizer / GB:11.2f}{row.activations / GB:13.2f}"
            )
        between = f", communication {self.communication / GB:.2f}" if self.communication else ""
        yield (
            f"  logits {self.logits / GB:.2f}, working memory {self.working / GB:.2f}{between}, "
            f"process {self.process / GB:.2f}; in all {self.total / GB:.2f}"
        )


def estimated(
    step: Rehearsal,
    sharding: Sharding,
    *,
    batch_patients: int,
    device: str,
    averaged: bool = False,
) -> Estimate:
    """The estimate of a rehearsed step.

    Args:
        step: the step on one device alone.
        sharding: how devices share what they need.
        batch_patients: of the step.
        device: ``cpu`` or ``cuda``.
        averaged: whether an average of what learns is kept; dev is scored with a second copy.
    """
    rows = tuple(
        Row(
            name,
            weights=sharding.weights(own),
            gradients=sharding.gradients(own),
            optimizer=sharding.optimizer(own) + averaged * own.trained,
            activations=step.activations.get(name, 0),
        )
        for name, own in step.weights.items()
    )
    gradients = sum(row.gradients for row in rows)
    peak = _peak(step, sharding, gradients, on_gpu=device == "cuda", averaged=averaged)
    communication = sharding.communication(step.all_weights)
    tensors = sum(row.weights + row.optimizer for row in rows) + peak + communication
    fixed, factor = _OVERHEAD[device]
    kept = gradients + step.logits + sum(row.activations for row in rows)
    return Estimate(
        rows=rows,
        logits=step.logits,
        communication=communication,
        working=max(0.0, peak - kept),
        process=fixed + (factor - 1) * tensors,
        batch_patients=batch_patients,
        tokens=step.tokens,
        images=step.images,
    )


def _peak(
    step: Rehearsal, sharding: Sharding, gradients: float, *, on_gpu: bool, averaged: bool
) -> float:
    """The most that lives at once besides weights, optimizer and buffers of communication."""
    whole = step.all_weights
    # on a GPU all weights are updated at once, on the CPU one by one
    update = sharding.update(whole) if on_gpu else 2 * step.largest_weight
    return gradients + max(
        # gradients stay until the next step's backward pass, so through its forward pass
        step.forward_peak,
        step.backward_peak - whole.trained,
        step.dev_peak + averaged * whole.trained,
        update,
    )
