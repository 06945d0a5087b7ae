"""The Lightning Trainer of a training: its device, its precision, how it starts and ends."""

from __future__ import annotations

import logging
import signal
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from spinevl.config.options import PRECISIONS, Profiler, TrainerOptions
from spinevl.data.datamodule import ExampleDataModule
from spinevl.schema.errors import UserError, refused
from spinevl.training.callbacks import EpochBar
from spinevl.training.module import TrainingModule
from spinevl.training.spec import TrainSpec
from spinevl.training.stage import Stage


def make_trainer(
    spec: TrainSpec,
    stage: Stage,
    callbacks: list[pl.Callback],
    *,
    out: Path,
    logger: Any,
    batches: int,
) -> pl.Trainer:
    """The Trainer of a stage; what it refuses is the user's to mend.

    Args:
        spec: the training.
        stage: dev is scored in one that trains on answers.
        callbacks: what happens around its steps.
        out: the job's folder, which takes a profile.
        logger: see make_logger.
        batches: of an epoch.
    """
    options, debug = spec.trainer, spec.debug
    if options.progress_bar:
        callbacks = [*callbacks, EpochBar(stage.first_epoch, spec.epochs)]
    try:
        return pl.Trainer(
            accelerator=options.accelerator,
            devices=1,
            precision=precision_of(options.precision, options.accelerator),
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
            logger=logger,
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


def check_device(options: TrainerOptions) -> None:
    """Refuse an accelerator that this machine does not have, before anything is read.

    Raises:
        UserError: there is none that torch can use.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = any(there.values())
    if not there.get(options.accelerator, True):
        raise refused(
            f"trainer.accelerator={options.accelerator}",
            "a device that torch can use on this machine",
            "none",
            "write trainer.accelerator=auto or cpu",
        )


def precision_of(name: str, accelerator: str) -> Any:
    """``32-true``, ``bf16-mixed`` or ``16-mixed``: weights stay in float32."""
    if name == "auto":
        # a GPU that only emulates bfloat16 is slower with it
        half = device_of(accelerator) == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return "bf16-mixed" if half else "32-true"
    return PRECISIONS.get(name, name)


def autocast_of(options: TrainerOptions) -> torch.dtype | None:
    """The type that matrix products are computed in; None for float32."""
    halves = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    return halves.get(precision_of(options.precision, options.accelerator))


def device_of(accelerator: str) -> str:
    """Where a training with this ``trainer.accelerator`` runs: ``cuda``, ``mps`` or ``cpu``."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def processes_of(options: TrainerOptions) -> int:
    """The processes of a training on each machine, one for each device."""
    if options.devices != "auto":
        return int(options.devices)
    return torch.cuda.device_count() if device_of(options.accelerator) == "cuda" else 1


def quiet() -> None:
    """Silence what Lightning says to its developers, not to ours."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*module.s. in eval mode.*")
    warnings.filterwarnings("ignore", message=".*Loader.* across ranks is zero.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*optimizer.step.*")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
