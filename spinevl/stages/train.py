"""Train a model on a study and keep the checkpoint that scores best on dev."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from spinevl.config.plain import plain
from spinevl.jobs.folder import read_config, write_config


def main(cfg: DictConfig, *, out: Path) -> float | None:
    """Train, and return the best dev score."""
    from spinevl.training.fit import fit
    from spinevl.training.spec import TrainSpec

    write_config(out, plain(cfg))
    config = read_config(out)
    return fit(TrainSpec.from_config(config), out, trusted=config["trusted_targets"])
