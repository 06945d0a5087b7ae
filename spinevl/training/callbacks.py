"""What happens around the steps: the dev score, the best checkpoint, the log and the clock."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from spinevl.io.files import write_text_atomic
from spinevl.io.finite import is_finite
from spinevl.schema.batch import Batch
from spinevl.training.clock import Clock
from spinevl.training.dev_score import of_all_ranks
from spinevl.training.divergence import diverged, require_finite, require_finite_parts

if TYPE_CHECKING:
    from spinevl.training.module import TrainingModule

log = logging.getLogger(__name__)


def dev_epochs(epochs: int, *, checks: int) -> set[int]:
    """The epochs, counted from 1, at whose end dev is scored: evenly spread, the last among them.

    Args:
        epochs: of the stage that trains on answers.
        checks: how many of them; as many as there are where that is fewer.
    """
    count = min(checks, epochs)
    return {epochs - k * epochs // count for k in range(count)}


class DevEpochs(pl.Callback):
    """Has the trainer score dev at the end of some epochs; it knows every n-th alone.

    Args:
        epochs: counted from 1.
    """

    def __init__(self, epochs: Collection[int]) -> None:
        self.epochs = epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A training may go on in mid-epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say whether dev is scored after this epoch."""
        epoch = trainer.current_epoch + 1
        trainer.check_val_every_n_epoch = epoch if epoch in self.epochs else epoch + 1


class BestCheckpoint(pl.Callback):
    """Takes the scores on dev and keeps the weights of the best, of equal ones the latest.

    Our own, for Lightning's ModelCheckpoint writes another format than a checkpoint of ours.

    Args:
        score: (batches, option log-probabilities [S] of each) -> the dev score.
        save: (step, the steps that are kept, the best first) writes the weights of a step; called
            whenever its score is among the best so far, so that a killed run still leaves them.
        of_tasks: holds what the loggers are told of each task once ``score`` was called.
        keep: how many of the best are kept.
    """

    def __init__(
        self,
        score: Callable[[list[Batch], list[torch.Tensor]], float],
        save: Callable[[int, Sequence[int]], None],
        of_tasks: Mapping[str, float] | None = None,
        *,
        keep: int = 1,
    ) -> None:
        self.measure = score
        self.of_tasks = {} if of_tasks is None else of_tasks
        self.save = save
        self.keep = keep
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

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Score dev, alike on every rank, and keep the weights where it is the best so far.

        Raises:
            UserError: the score is not finite, which is never the best.
        """
        step, parts = pl_module.step, pl_module.parts()
        batches, logprobs = of_all_ranks(self._batches, self._logprobs)
        self._batches, self._logprobs = [], []
        if not all(map(is_finite, logprobs)):
            raise diverged("log-probabilities on dev are not finite", step=step, parts=parts)
        value = self.measure(batches, logprobs)
        require_finite({"dev/score": value}, step=step, parts=parts)
        self.history.append((step, value))
        pl_module.log("dev/score", value, prog_bar=True)
        for name, one in self.of_tasks.items():
            pl_module.log(name, one)
        pl_module.log_place(step=step)
        best = sorted(self.history, key=lambda one: (one[1], one[0]), reverse=True)
        kept = [one for one, _ in best[: self.keep]]
        if step in kept:
            self._keep(pl_module, step, kept)
        if step == kept[0]:
            self.step, self.score = step, value

    def on_train_end(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Without a closed question on dev nothing was scored: keep the last weights."""
        if self.score is None:
            self.step = pl_module.step
            self._keep(pl_module, self.step, [self.step])

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Say what a training that stopped has left."""
        if self.score is not None:
            told = "checkpoint/ holds the weights of step %d, %.3f on dev"
            log.info(told, self.step, self.score)

    def state_dict(self) -> dict[str, Any]:
        """See Lightning."""
        return {"score": self.score, "step": self.step, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See Lightning."""
        self.score, self.step = state_dict["score"], state_dict["step"]
        self.history = [(step, value) for step, value in state_dict["history"]]

    def _keep(self, module: TrainingModule, step: int, kept: Sequence[int]) -> None:
        require_finite_parts(module.parts(), step=step)
        self.save(step, kept)


class MetricsFile(pl.Callback):
    """Writes ``metrics.csv``: a row for the first, the last and every ``every``-th optimizer step.

    A step after which dev is scored has a row too, with the score in it, and so has the last one of
    the warm-up. A row is written when the next step is done. Our own, for Lightning's CSVLogger
    deletes an existing file, its LearningRateMonitor refuses two groups of one part, and its
    ThroughputMonitor does not know how many tokens a packed row shares.

    Args:
        path: the file.
        parts: what learns, each with a learning rate.
        clock: tells the speed; it stands before this callback.
        every: steps from row to row.
    """

    def __init__(
        self, path: Path, clock: Clock, *, parts: Collection[str], every: int = 10
    ) -> None:
        self.path = path
        self.clock = clock
        self.every = every
        self._fields = ["step", "epoch", "loss", "loss/answer", "loss/auxiliary", "grad_norm"]
        self._fields += [f"lr/{part}" for part in parts]
        self._fields += ["dev/score", "tokens_per_second", "padding_share", "seconds"]
        self._row: dict[str, Any] = {}
        self._due = False
        self._written = 0  # the step of the last row
        self._start = self._seconds = 0.0
        self._earlier = ""  # the file when the state was saved

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the header, once; a training that goes on writes the rows that it had."""
        if self._start:
            return
        self._start = time.monotonic() - self._seconds
        if self._earlier:
            write_text_atomic(self.path, self._earlier)
            return
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(self._fields)

    def state_dict(self) -> dict[str, Any]:
        """See Lightning."""
        names = ("_row", "_due", "_written")
        return {
            **{name: getattr(self, name) for name in names},
            "_earlier": self.path.read_bytes().decode() if self.path.exists() else "",
            "_seconds": time.monotonic() - self._start,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See Lightning."""
        vars(self).update(state_dict)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: TrainingModule, *_: Any) -> None:  # type: ignore[override]
        """Take down an optimizer step; a batch that was only accumulated is none."""
        step = pl_module.step
        if step == self._row.get("step", 0):
            return
        self._write()
        speed = self.clock.report()
        self._due = not self._row or step % self.every == 0
        self._row = {
            "step": step,
            "epoch": pl_module.epoch,
            **{name: f"{value:.6g}" for name, value in pl_module.step_values.items()},
            "tokens_per_second": f"{speed['tokens_per_second']:.6g}",
            "padding_share": f"{speed['padding_share']:.6g}",
            "seconds": f"{time.monotonic() - self._start:.1f}",
        }

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the dev score to its step."""
        self._row["dev/score"] = f"{float(trainer.callback_metrics['dev/score']):.6g}"
        self._due = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last step."""
        self._due = True
        self._write()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write the last step that was done."""
        self.on_train_end(trainer, pl_module)

    def _write(self) -> None:
        if self._due and self._row.get("step", 0) != self._written:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._fields).writerow(self._row)
            self._written = self._row["step"]
        self._due = False
