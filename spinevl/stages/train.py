"""Train a model on a study and keep the checkpoint that scores best on dev."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.config.plain import plain


def main(cfg: DictConfig, *, out: Path) -> float | None:
    """Train, and return the best dev score."""
    from spinevl.training.fit import fit
    from spinevl.training.spec import TrainSpec

    config: Any = plain(cfg)
    return fit(TrainSpec.from_config(config), out, trusted=config["trusted_targets"])
