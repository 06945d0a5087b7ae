"""Save a training's state while it runs, and go on from one as if it had never been cut."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from spinevl.distributed.ranks import (
    gathered,
    is_first,
    largest_over_ranks,
    of_first,
    rank,
    world_size,
)
from spinevl.io.temporary import remove
from spinevl.training.randomness import random_states, restore_random_states
from spinevl.training.stage import Stage
from spinevl.training.state_file import STATE, StateFile
from spinevl.training.states import Place, State, States
from spinevl.training.stop_signal import StopSignal

if TYPE_CHECKING:
    from spinevl.training.module import TrainingModule

log = logging.getLogger(__name__)


class SaveState(pl.Callback):
    """Saves the state every so often, and before the training ends on a signal.

    A state is saved after an optimizer step or, of the last one of an epoch, after dev is scored.
    It stands last among the callbacks, whose states it takes.

    Args:
        states: where they lie.
        every: optimizer steps (``50``) or minutes (``10min``) from one to the next.
        start: the state that the training goes on from.
        begun: when this process began, by time.monotonic.
        stop: the signals that end the training.

    Attributes:
        logger: what continues the runs of the training's loggers.
    """

    def __init__(
        self,
        states: States,
        *,
        every: str,
        start: State | None,
        begun: float,
        stop: StopSignal,
    ) -> None:
        self.states = states
        self.every = every
        self.start = start
        self.stop = stop
        self.logger: Mapping[str, Any] = {}
        self._seconds = 0.0  # of the training before this process
        self._begun = begun
        self._tried_at = time.monotonic()
        self._tried_step = self._saved_step = start.place.step if start else 0
        self._random: dict[str, Any] | None = None
        self._file = StateFile()
        self._told = ""  # why the last state could not be written

    def is_behind(self, stage: Stage) -> bool:
        """Whether the training goes on after a stage."""
        return self.start is not None and self.start.place.answers and not stage.answers

    def path_in(self, stage: Stage) -> Path | None:
        """Where the trainer of a stage finds the state that it goes on from."""
        if self.start is None or self.start.place.answers != stage.answers:
            return None
        return self.start.folder / STATE

    @property
    def seconds(self) -> float:
        """How long the training has taken, in every process that has worked on it."""
        return self._seconds + time.monotonic() - self._begun

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have states written as they are made."""
        trainer.strategy.checkpoint_io = self._file

    def on_train_start(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Take over what the trainer does not restore, when nothing else draws random numbers."""
        self.stop.take()
        if self._random is None or self.start is None:
            return
        if self.start.place.batch == 0:
            trainer.fit_loop.restarting = False  # an epoch begins like any other
        restore_random_states(self._random, pl_module.device)
        self._random = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: TrainingModule, *_: Any) -> None:  # type: ignore[override]
        """Save after an optimizer step, where it is time."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch or progress.current.ready % trainer.accumulate_grad_batches:
            return
        self._save_if_due(trainer, pl_module, batch=progress.current.ready)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Save between two epochs of a stage, where it is time."""
        ended = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if not ended:
            self._save_if_due(trainer, pl_module, batch=0)

    def state_dict(self) -> dict[str, Any]:
        """See Lightning."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See Lightning."""
        self._seconds = state_dict["seconds"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add every process's random states; an epoch that has ended is a whole one."""
        checkpoint["random"] = gathered(random_states(pl_module.device))
        loops = checkpoint["loops"]["fit_loop"]
        epochs = loops["epoch_progress"]
        if epochs["current"]["processed"] == epochs["current"]["started"]:
            for part in epochs.values():  # the trainer counts it a little later
                part["completed"] = part["processed"]
            loops["state_dict"].pop("combined_loader", None)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the random states until the training starts."""
        self._random = checkpoint["random"][rank()]

    def _save_if_due(self, trainer: pl.Trainer, module: TrainingModule, *, batch: int) -> None:
        # every process saves in the same step, whichever of them got the signal
        asked = [int(self._is_due(module.step)), self.stop.number or 0]
        due, signal = largest_over_ranks(asked, device=module.device)
        if not due and not signal:
            return
        saved = self._save(trainer, module, batch=batch)
        if signal:
            step = module.step if saved else self._saved_step
            self.stop.number = signal
            self.stop.stop(
                f"the training was told to end after step {module.step}; the same command goes on "
                f"after step {step}"
            )

    def _is_due(self, step: int) -> bool:
        number, minutes = every_of(self.every)
        if minutes:
            return time.monotonic() - self._tried_at >= 60 * number
        return step - self._tried_step >= number

    def _save(self, trainer: pl.Trainer, module: TrainingModule, *, batch: int) -> bool:
        """Write a state. Where it cannot be written, those before it stay, and a line says why."""
        step = module.step
        place = Place(module.stage.answers, step, module.epoch + (batch == 0), batch)
        folder = self.states.path(step)
        state = State(folder, place, world_size(), self.logger)
        new, error = of_first(lambda: self.states.begin(step), OSError)
        if new:
            self._file.error = None
            trainer.save_checkpoint(new / STATE)
            error = next((one for one in gathered(self._file.error) if one), None)
        if new and error is None:
            _, error = of_first(partial(self.states.publish, new, state), OSError)
        if error and is_first():
            if new:
                remove(new)
            why = error.strerror or str(error)
            if why != self._told:
                then = "those before it stay, and each later one is tried"
                log.warning("%s: cannot be written (%s); %s", folder, why, then)
            self._told = why
        self._tried_at, self._tried_step = time.monotonic(), step
        if error is None:
            self._saved_step, self._told = step, ""
        return error is None


def every_of(text: str) -> tuple[int, bool]:
    """``50`` (optimizer steps) or ``10min`` -> the number, and whether it counts minutes."""
    number = text.removesuffix("min")
    return int(number), number != text
