"""Train a model on a study and keep the checkpoint that scores best on dev."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.training.loggers import logged


@logged()
def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> float | None:
    """Train, and return the best dev score."""
    from spinevl.training.fit import fit
    from spinevl.training.spec import TrainSpec

    config: Any = plain(cfg)
    return fit(TrainSpec.from_config(config), out, trust=trust)
