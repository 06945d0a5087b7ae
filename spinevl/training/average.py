"""An exponential moving average of the trained weights, which is scored and kept in their place.

Source: Polyak and Juditsky 1992; the rise of the decay over the first steps is TensorFlow's
``ExponentialMovingAverage(num_updates)``.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch


class AverageWeights(pl.Callback):
    """Averages the weights that learn, and lends the average to the model while dev is scored.

    After n steps a step counts for 1 - min(decay, (1 + n) / (10 + n)), so that a short training
    does not keep its first weights. It stands before the callback that keeps the best weights.

    Args:
        decay: of the average, near 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, torch.Tensor] = {}
        self._trained: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights that are there, or with those of the state."""
        for name, weight in _learned(pl_module).items():
            start = self.average.get(name, weight).detach()
            self.average[name] = start.to(weight, copy=True)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Take in the weights after an optimizer step."""
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, weight in _learned(pl_module).items():
            self.average[name].lerp_(weight, share)

    @torch.no_grad()
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lend the average to the model."""
        for name, weight in _learned(pl_module).items():
            self._trained[name] = weight.clone()
            weight.copy_(self.average[name])

    @torch.no_grad()
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train on with the trained weights."""
        for name, weight in _learned(pl_module).items():
            weight.copy_(self._trained.pop(name))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the model, which is kept where dev was not scored."""
        self.on_validation_start(trainer, pl_module)
        self._trained = {}

    def state_dict(self) -> dict[str, Any]:
        """See Lightning."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See Lightning."""
        self.steps, self.average = state_dict["steps"], dict(state_dict["average"])


def _learned(module: pl.LightningModule) -> dict[str, torch.Tensor]:
    return {name: one for name, one in module.named_parameters() if one.requires_grad}
