"""The Lightning Trainer of a training: its device, its precision, how it starts and ends."""

from __future__ import annotations

import logging
import signal
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from spinevl.config.options import PRECISIONS, Profiler, TrainerOptions
from spinevl.data.datamodule import ExampleDataModule
from spinevl.models.held import auto_dtype
from spinevl.schema.errors import UserError
from spinevl.training.launching import device_of, processes_of
from spinevl.training.module import TrainingModule
from spinevl.training.spec import TrainSpec
from spinevl.training.stage import Stage
from spinevl.training.strategy import strategy_of


class EpochBar(TQDMProgressBar):
    """The progress bar, which counts the epochs of the whole training from 1.

    Args:
        first: the epochs before this stage.
        epochs: of the whole training.
    """

    def __init__(self, first: int, epochs: int) -> None:
        super().__init__()
        self.first, self.epochs = first, epochs

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Name the epoch."""
        super().on_train_epoch_start(trainer, *args)
        epoch = self.first + trainer.current_epoch + 1
        self.train_progress_bar.set_description(f"Epoch {epoch}/{self.epochs}")


def make_trainer(
    spec: TrainSpec,
    stage: Stage,
    callbacks: list[pl.Callback],
    *,
    out: Path,
    loggers: list[Any],
    batches: int,
) -> pl.Trainer:
    """The Trainer of a stage; what it refuses is the user's to mend.

    Args:
        spec: the training.
        stage: dev is scored in one that trains on answers.
        callbacks: what happens around its steps.
        out: the job's folder, which takes a profile.
        loggers: see make_loggers.
        batches: of an epoch.
    """
    options, debug = spec.trainer, spec.debug
    precision = precision_of(options.precision, options.accelerator)
    if options.progress_bar:
        callbacks = [*callbacks, EpochBar(stage.first_epoch, spec.epochs)]
    try:
        return pl.Trainer(
            accelerator=options.accelerator,
            devices=processes_of(options),
            num_nodes=options.num_nodes,
            strategy=strategy_of(options, precision=precision),
            precision=precision,
            max_epochs=stage.epochs,
            limit_val_batches=None if stage.answers else 0,
            limit_train_batches=batches if debug.on else None,
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip_norm,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            deterministic=True,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=options.progress_bar,
            logger=loggers,
            log_every_n_steps=min(10, batches),
            detect_anomaly=debug.detect_anomaly,
            profiler=_profiler(debug.profiler, out),
            callbacks=callbacks,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer: {error}") from error


def _profiler(kind: Profiler, out: Path) -> Any:
    kinds = {Profiler.simple: SimpleProfiler, Profiler.advanced: AdvancedProfiler}
    return kinds[kind](dirpath=out, filename="profile") if kind in kinds else None


def run(
    trainer: pl.Trainer,
    module: TrainingModule,
    data: ExampleDataModule,
    *,
    state: Path | None = None,
) -> None:
    """Train, perhaps on from a state; nothing stays in the process for the next training."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)
    except SystemExit as stop:  # how the trainer ends on Ctrl-C, with later ones ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from stop
    finally:
        torch.use_deterministic_algorithms(False)


def precision_of(name: str, accelerator: str) -> Any:
    """``32-true``, ``bf16-mixed`` or ``16-mixed``, as Lightning calls it."""
    if name == "auto":
        half = auto_dtype(device_of(accelerator)) == "bfloat16"
        return "bf16-mixed" if half else "32-true"
    return PRECISIONS.get(name, name)


def autocast_of(options: TrainerOptions) -> torch.dtype | None:
    """The type that matrix products are computed in; None for float32."""
    halves = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    return halves.get(precision_of(options.precision, options.accelerator))


def quiet() -> None:
    """Silence what Lightning says to its developers, not to ours."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*module.s. in eval mode.*")
    warnings.filterwarnings("ignore", message=".*Loader.* across ranks is zero.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
    warnings.filterwarnings("ignore", message=".*recommended to use .self.log.*sync_dist.*")
    warnings.filterwarnings("ignore", message=".*DeepSpeed handles gradient clipping internally.*")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated.*")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view.*")
    warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*optimizer.step.*")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
