"""The stages of a training: the warm-up of the auxiliary heads, then the answers.

In the warm-up the LLM is frozen and not even run. Each stage is whole epochs with an optimizer of
its own, so that every parameter that learns in a stage gets a gradient in each step, which
data-parallel training needs. The learning rate rises at the start of each stage, and falls over the
whole training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Stage:
    """Some epochs of a training.

    Attributes:
        answers: whether answers are learned; otherwise the auxiliary heads alone.
        first_epoch: the epochs before it.
        epochs: its own, at least 1.
        epoch_steps: optimizer steps an epoch.
        total_epochs: of the whole training.
    """

    answers: bool
    first_epoch: int
    epochs: int
    epoch_steps: int
    total_epochs: int

    @property
    def first_step(self) -> int:
        """The optimizer steps before it."""
        return self.first_epoch * self.epoch_steps

    @property
    def steps(self) -> int:
        """Its own optimizer steps."""
        return self.epochs * self.epoch_steps

    @property
    def total_steps(self) -> int:
        """The optimizer steps of the whole training."""
        return self.total_epochs * self.epoch_steps


def stages_of(epochs: int, *, warmup: float, epoch_steps: int) -> list[Stage]:
    """The stages of a training, in order.

    Args:
        epochs: of the whole training.
        warmup: the share of them, rounded, that trains the auxiliary heads alone; the last epoch
            trains on answers, however short the training.
        epoch_steps: optimizer steps an epoch.
    """
    first = min(round(warmup * epochs), epochs - 1)
    main = Stage(True, first, epochs - first, epoch_steps, epochs)
    return [Stage(False, 0, first, epoch_steps, epochs), main] if first else [main]


@contextmanager
def frozen(part: nn.Module) -> Iterator[None]:
    """Let nothing of a part learn for as long as this lasts."""
    learned = [one for one in part.parameters() if one.requires_grad]
    for one in learned:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in learned:
            one.requires_grad_(True)
