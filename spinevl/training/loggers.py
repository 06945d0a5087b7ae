"""Loggers beside ``metrics.csv``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from spinevl.build.build import build
from spinevl.schema.errors import UserError


def logger_of(
    node: Mapping[str, Any] | None, config: Mapping[str, Any], *, trusted: Sequence[str] = ()
) -> Any:
    """The logger of a node, told the job's config; False where none is asked for.

    Raises:
        UserError: a package that it needs is not installed.
    """
    if not node:
        return False
    try:
        logger = build(node, trusted=trusted)
        logger.log_hyperparams(dict(config))
        return logger
    except ModuleNotFoundError as error:
        kind = str(node["_target_"]).rpartition(".")[2]
        extra = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard"}.get(kind)
        fix = f"pip install 'spinevl[{extra}]'" if extra else "install what it needs"
        raise UserError(f"logger: {kind} lacks a package ({error}); {fix}") from error


def close_loggers(loggers: Sequence[Any]) -> None:
    """End a W&B run with its job: the next job of a sweep would go on in it."""
    if (wandb := sys.modules.get("wandb")) is not None and loggers and wandb.run is not None:
        wandb.finish()
