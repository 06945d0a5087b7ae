"""End a training whose dev score no longer rises."""

from __future__ import annotations

import logging

import pytorch_lightning as pl

from spinevl.training.callbacks import BestCheckpoint

log = logging.getLogger(__name__)


class EarlyStop(pl.Callback):
    """Ends the training after ``patience`` dev scores that are not better than the best before.

    Args:
        best: knows the dev scores, those before a restart too; it stands before this callback.
        patience: how many.
    """

    def __init__(self, best: BestCheckpoint, *, patience: int) -> None:
        self.best = best
        self.patience = patience

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the training where it is time."""
        scores = [score for _, score in self.best.history]
        since = len(scores) - 1 - scores.index(max(scores))
        if since >= self.patience:
            trainer.should_stop = True
            log.info("trainer.early_stop: %d dev scores without a better one", since)
