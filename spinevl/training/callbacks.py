"""What happens around the steps: the dev score, the best checkpoint, the log and the clock."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from spinevl.schema.batch import Batch


class BestCheckpoint(pl.Callback):
    """Takes the score on dev and keeps the weights of the best one.

    Our own, for Lightning's ModelCheckpoint writes another format than a checkpoint of ours.

    Args:
        score: (batches, option log-probabilities [S] of each) -> the dev score.
        save: writes the checkpoint; called whenever the score is the best so far, so that a killed
            run still leaves its best.
    """

    def __init__(
        self,
        score: Callable[[list[Batch], list[torch.Tensor]], float],
        save: Callable[[], None],
    ) -> None:
        self.measure = score
        self.save = save
        self.score: float | None = None
        self.step = 0
        self.history: list[tuple[int, float]] = []
        self._batches: list[Batch] = []
        self._logprobs: list[torch.Tensor] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Gather what the model says of a dev batch."""
        self._batches.append(batch.without_inputs().to("cpu"))
        self._logprobs.append(outputs.detach().cpu())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score dev, and keep the weights where it is the best so far."""
        value = self.measure(self._batches, self._logprobs)
        self._batches, self._logprobs = [], []
        self.history.append((trainer.global_step, value))
        pl_module.log("dev/score", value, prog_bar=True)
        if self.score is None or value > self.score:
            self.score, self.step = value, trainer.global_step
            self.save()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without a closed question on dev nothing was scored: keep the last weights."""
        if self.score is None:
            self.step = trainer.global_step
            self.save()


class MetricsFile(pl.Callback):
    """Appends a row to ``metrics.csv`` every ``every`` steps and after each dev score.

    Our own, for Lightning's CSVLogger deletes an existing file, its LearningRateMonitor refuses two
    groups of one part, and its ThroughputMonitor does not know how many tokens a packed row shares.
    """

    FIELDS = (
        "step",
        "epoch",
        "loss",
        "loss/answer",
        "loss/auxiliary",
        "lr",
        "dev/score",
        "tokens_per_second",
        "padding_share",
        "seconds",
    )

    def __init__(self, path: Path, *, every: int = 10) -> None:
        self.path = path
        self.every = every
        self._start = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the header."""
        self._start = time.monotonic()
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(self.FIELDS)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """A row of losses now and then."""
        if trainer.global_step % self.every == 0:
            self._write(trainer, scores=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A row for the dev score."""
        self._write(trainer, scores=True)

    def _write(self, trainer: pl.Trainer, *, scores: bool) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not scores:
            metrics.pop("dev/score", None)
        row = {
            **{name: f"{value:.6g}" for name, value in metrics.items() if name in self.FIELDS},
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}",
            "seconds": f"{time.monotonic() - self._start:.1f}",
        }
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.FIELDS).writerow(row)


class Clock(pl.Callback):
    """Counts questions and tokens, and times the training steps alone."""

    def __init__(self) -> None:
        self.questions = self.tokens = self.places = self.sequence_tokens = 0
        self.seconds = 0.0
        self._begun = 0.0

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop it, and count."""
        self.seconds += time.perf_counter() - self._begun
        self.questions += len(batch.questions)
        self.tokens += batch.tokens
        self.places += batch.input_ids.numel()
        self.sequence_tokens += batch.sequence_tokens
        report = self.report()
        pl_module.log_dict({name: report[name] for name in ("tokens_per_second", "padding_share")})

    def report(self) -> dict[str, float]:
        """What ``train.json`` says of speed."""
        seconds = max(self.seconds, 1e-9)
        return {
            "samples_per_second": self.questions / seconds,
            "tokens_per_second": self.tokens / seconds,
            "padding_share": 1 - self.tokens / max(self.places, 1),
            "shared_share": 1 - self.tokens / max(self.sequence_tokens, 1),
            "step_seconds_total": self.seconds,
        }
