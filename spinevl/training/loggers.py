"""The Lightning logger that a training has beside ``metrics.csv``."""

from __future__ import annotations

import functools
import http.client
import importlib.util
import logging
import netrc
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from spinevl.config.options import LoggerKind, LoggerOptions
from spinevl.io.files import made_folder
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"  # the folder of its files; a run with a name has its own in it

_PACKAGES = {LoggerKind.tensorboard: "tensorboard", LoggerKind.wandb: "wandb"}
_NOT_ONLINE = ("offline", "disabled", "dryrun")

# How long W&B's server may take: to answer at all, to start a run, and to take the rest at its end.
# What it has not got by then stays in the run's folder.
_ANSWER_SECONDS, _START_SECONDS, _END_SECONDS = 5, 60, 300


def check_logger(options: LoggerOptions) -> str | None:
    """Whether the logger can start, asked before anything is read.

    Returns:
        The line that says why, where W&B is to be online and cannot be: its run is logged offline.

    Raises:
        UserError: its package is not installed.
    """
    package = _PACKAGES.get(options.kind)
    if package is None:
        return None
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"logger={options.kind} needs a package that is not installed: "
            f"pip install 'spinevl[{package}]'"
        )
    reason = _why_offline(options) if options.kind == LoggerKind.wandb else None
    return _offline_line(reason) if reason else None


def make_logger(
    options: LoggerOptions,
    *,
    out: Path,
    hyperparameters: Mapping[str, Any],
    earlier: Mapping[str, Any] | None = None,
) -> Any:
    """The Lightning logger, told the job's config; False (Lightning's "none") for ``csv``.

    Args:
        options: which one.
        out: the job's folder, where its files go unless ``save_dir`` names another.
        hyperparameters: the job's config, as plain values.
        earlier: of the state that the training goes on from: its ``step``, and logger_run.

    Raises:
        UserError: see check_logger, or the folder cannot be made.
    """
    offline = check_logger(options) is not None or options.offline
    if options.kind == LoggerKind.csv:
        return False
    folder = made_folder(options.save_dir, "logger.save_dir") if options.save_dir else out
    told, earlier = dict(hyperparameters), earlier or {}
    if options.kind == LoggerKind.tensorboard:
        from pytorch_lightning.loggers import TensorBoardLogger

        # what was written after the state from which the training goes on is written again
        purge = {"purge_step": earlier["step"] + 1} if earlier else {}
        logger = TensorBoardLogger(folder, name=TENSORBOARD, version=options.name or "", **purge)
        logger.log_hyperparams(told)
        return logger
    from wandb.errors import Error

    try:
        return _wandb_logger(options, folder, told, earlier, offline=offline)
    except Error as error:  # such as a key that W&B does not know
        if offline:
            raise UserError(f"logger=wandb: {_one_line(error)}") from error
        log.warning("%s", _offline_line(_one_line(error)))
        return _wandb_logger(options, folder, told, earlier, offline=True)


def _wandb_logger(
    options: LoggerOptions,
    folder: Path,
    hyperparameters: dict[str, Any],
    earlier: Mapping[str, Any],
    *,
    offline: bool,
) -> Any:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    logger = WandbLogger(
        name=options.name,
        save_dir=folder,
        project=options.project,
        offline=offline,
        id=earlier.get("wandb"),
        group=options.group,
        tags=list(options.tags),
        settings=wandb.Settings(init_timeout=_START_SECONDS, finish_timeout=_END_SECONDS),
    )
    logger.log_hyperparams(hyperparameters)
    return logger


def logger_run(logger: Any) -> dict[str, Any]:
    """What a state keeps of a logger's run, with which a training goes on."""
    return {"wandb": logger.version} if type(logger).__name__ == "WandbLogger" else {}


def close_loggers() -> None:
    """End a W&B run with its job: the next job of a sweep would go on in it, and ask again whether
    the server answers."""
    _answers.cache_clear()
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def _why_offline(options: LoggerOptions) -> str | None:
    """Why a run that is to be online cannot be; None where it can, or is to be offline anyway."""
    if options.offline or os.environ.get("WANDB_MODE", "").lower() in _NOT_ONLINE:
        return None
    url = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    if not _has_wandb_key(urlparse(url).hostname or ""):
        return "there is no API key ('wandb login' or WANDB_API_KEY gives one)"
    return None if _answers(url) else f"{url} does not answer"


def _offline_line(reason: str) -> str:
    return (
        f"logger=wandb: {reason}; the run is logged offline, and 'wandb sync' with its folder "
        "wandb/offline-run-* sends it later"
    )


def _has_wandb_key(host: str) -> bool:
    """Whether W&B finds a key where it looks for one, without a question on the terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in filter(None, files):
        try:
            if netrc.netrc(Path(file).expanduser()).authenticators(host):
                return True
        except (OSError, RuntimeError, netrc.NetrcParseError):  # RuntimeError: no home directory
            continue
    return False


@functools.lru_cache(maxsize=8)
def _answers(url: str) -> bool:
    """Whether a server answers at all, through the proxy where one is set; asked once a job."""
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS):
            return True
    except (urllib.error.HTTPError, ssl.SSLError):  # W&B brings certificates of its own
        return True
    except (OSError, ValueError, http.client.HTTPException) as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
