"""The Lightning logger that a training has beside ``metrics.csv``."""

from __future__ import annotations

import importlib.util
import netrc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from spinevl.config.options import LoggerKind, LoggerOptions
from spinevl.schema.errors import UserError

_PACKAGES = {LoggerKind.tensorboard: "tensorboard", LoggerKind.wandb: "wandb"}
_NOT_ONLINE = ("offline", "disabled", "dryrun")


def check_logger(options: LoggerOptions) -> None:
    """Refuse a logger that could not start, before anything is read.

    Raises:
        UserError: its package is not installed, or W&B is to be online and there is no key.
    """
    package = _PACKAGES.get(options.kind)
    if package is None:
        return
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"logger={options.kind} needs a package that is not installed: "
            f"pip install 'spinevl[{package}]'"
        )
    if options.kind == LoggerKind.wandb and not _is_offline(options) and not _has_wandb_key():
        raise UserError(
            "logger=wandb: there is no W&B API key; run 'wandb login', set WANDB_API_KEY, or add "
            "logger.offline=true"
        )


def make_logger(options: LoggerOptions, *, out: Path, hyperparameters: Mapping[str, Any]) -> Any:
    """The Lightning logger, told the job's config; False (Lightning's "none") for ``csv``.

    Args:
        options: which one.
        out: the job's folder, where its files go unless ``save_dir`` names another.
        hyperparameters: the job's config, as plain values.

    Raises:
        UserError: see check_logger.
    """
    check_logger(options)
    if options.kind == LoggerKind.csv:
        return False
    folder = Path(options.save_dir).expanduser() if options.save_dir else out
    logger: Any
    if options.kind == LoggerKind.tensorboard:
        from pytorch_lightning.loggers import TensorBoardLogger

        logger = TensorBoardLogger(folder, name=options.name or "tensorboard", version="")
    else:
        from pytorch_lightning.loggers import WandbLogger

        folder.mkdir(parents=True, exist_ok=True)
        logger = WandbLogger(
            name=options.name,
            save_dir=folder,
            project=options.project,
            offline=options.offline,
            group=options.group,
            tags=list(options.tags),
        )
    logger.log_hyperparams(dict(hyperparameters))
    return logger


def close_loggers() -> None:
    """End a W&B run with its job: the next job of a sweep would go on in it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def _is_offline(options: LoggerOptions) -> bool:
    return options.offline or os.environ.get("WANDB_MODE", "").lower() in _NOT_ONLINE


def _has_wandb_key() -> bool:
    """Whether W&B finds a key where it looks for one, without a question on the terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in (Path(one).expanduser() for one in files if one):
        try:
            if netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
