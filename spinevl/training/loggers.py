"""The Lightning loggers that a training has beside ``metrics.csv``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spinevl.config.options import LoggerOptions, TensorBoardOptions
from spinevl.distributed.ranks import is_first
from spinevl.io.files import made_folder
from spinevl.schema.dotted import leaves
from spinevl.schema.errors import UserError
from spinevl.training.private import Names
from spinevl.training.wandb_run import end_run, offline_line, start_run

TENSORBOARD = "tensorboard"  # the folder of its files; a run with a name has its own in it


def check_loggers(options: LoggerOptions) -> str | None:
    """Whether the loggers can start, asked before anything is read.

    Returns:
        The line that says why, where W&B is to be online and cannot be: its run is logged offline.

    Raises:
        UserError: the package of one is not installed.
    """
    for name in options.chosen:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"logger={name} needs a package that is not installed: "
                f"pip install 'spinevl[{name}]'"
            )
    return offline_line(options.wandb) if options.wandb else None


def make_loggers(
    options: LoggerOptions,
    *,
    out: Path,
    hyperparameters: Mapping[str, Any],
    cache: Callable[[], Path],
    earlier: Mapping[str, Any] | None = None,
) -> list[Any]:
    """The Lightning loggers, told the job's config; none for ``csv`` alone, or on a later rank.

    Args:
        options: which.
        out: the job's folder, where their files go unless ``save_dir`` names another.
        hyperparameters: the job's config, as plain values.
        cache: see private_names.
        earlier: of the state that the training goes on from: its ``step``, and logger_run.

    Raises:
        UserError: see check_loggers, or a folder cannot be made.
    """
    loggers: list[Any] = []
    if not is_first():
        return loggers
    check_loggers(options)
    told, earlier = dict(hyperparameters), earlier or {}
    if options.tensorboard:
        loggers.append(_tensorboard(options.tensorboard, out, told, earlier))
    if options.wandb:
        from pytorch_lightning.loggers import WandbLogger

        names = private_names(options, cache)
        run = start_run(options.wandb, out=out, config=told, names=names, run=earlier.get("wandb"))
        loggers.append(WandbLogger(experiment=run, save_dir=out, project=options.wandb.project))
    return loggers


def private_names(options: LoggerOptions, cache: Callable[[], Path]) -> Names:
    """How W&B is told ids and paths.

    Args:
        options: of the loggers.
        cache: the folder where the key of the hashes is kept, made where it is needed.
    """
    return Names(None if options.wandb and options.wandb.patients else cache())


def _tensorboard(
    options: TensorBoardOptions, out: Path, told: dict[str, Any], earlier: Mapping[str, Any]
) -> Any:
    from pytorch_lightning.loggers import TensorBoardLogger
    from torch.utils.tensorboard.summary import hparams

    save_dir = options.save_dir
    folder = made_folder(save_dir, "logger.tensorboard.save_dir") if save_dir else out
    # what was written after the state from which the training goes on is written again
    purge = {"purge_step": earlier["step"] + 1} if earlier else {}
    logger = TensorBoardLogger(
        folder, name=TENSORBOARD, version=options.name or "", default_hp_metric=False, **purge
    )
    logger.log_hyperparams(told)  # hparams.yaml
    # names the metrics beside which the tab shows the values of the config; they come later
    metrics = dict.fromkeys(("dev/score", "test/score"), 0.0)
    for summary in hparams(_flat(told), metrics):
        logger.experiment._get_file_writer().add_summary(summary)
    return logger


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"optim": {"lr": 1}}`` -> ``{"optim/lr": 1}``, with texts for what is no number."""
    return {
        key: value if isinstance(value, (bool, int, float)) else str(value)
        for key, value in leaves(values, between="/")
        if not isinstance(value, Mapping)
    }


def logger_run(loggers: list[Any]) -> dict[str, Any]:
    """What a state keeps of the loggers' runs, with which a training goes on."""
    runs = [one.version for one in loggers if type(one).__name__ == "WandbLogger"]
    return {"wandb": runs[0]} if runs else {}


@contextmanager
def logged() -> Iterator[None]:
    """The runs of a job end with it: as finished, failed or, where it was stopped, as killed."""
    try:
        yield
    except BaseException as error:
        end_run(255 if isinstance(error, KeyboardInterrupt) else 1)
        raise
    end_run()
