"""A training as data: everything about it in one JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spinevl.config.options import (
    AugmentOptions,
    FeatureCacheOptions,
    ImbalanceOptions,
    OptimOptions,
    TrainerOptions,
    TuningOptions,
    WarmupOptions,
)
from spinevl.data.study_spec import StudySpec
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json
from spinevl.io.typed import structured, to_json

SPEC_FILE = "train_spec.json"
PARTS = ("encoder", "connector", "encoder3d", "connector3d", "llm")


@dataclass(frozen=True)
class TrainSpec:
    """All that a training is made of. What the user trusts is not in it.

    Attributes:
        study: whom to ask what.
        parts: ``encoder``, ``connector``, ``llm`` and perhaps ``encoder3d`` and ``connector3d``:
            nodes of new parts.
        checkpoint: a checkpoint to start from in their place.
        tuning, warmup, augment, imbalance, optim, trainer, feature_cache, seed: how to train.
        logger: the logger's node; None logs to ``metrics.csv`` alone.
        config: the job's whole config, as the loggers are told it.
    """

    study: StudySpec
    parts: dict[str, Any]
    checkpoint: str | None
    tuning: TuningOptions
    warmup: WarmupOptions
    augment: AugmentOptions
    imbalance: ImbalanceOptions
    optim: OptimOptions
    trainer: TrainerOptions
    feature_cache: FeatureCacheOptions
    logger: dict[str, Any] | None
    seed: int
    config: dict[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainSpec:
        """The training that a job's resolved config describes."""
        trainer = dict(config["trainer"])
        moved = {
            "augment": {key: trainer.pop(key) for key in ("shift_px", "gain") if key in trainer},
            "imbalance": {key: trainer.pop(key) for key in ("class_weights",) if key in trainer},
        }
        whole = {
            **config,
            **moved,
            "trainer": trainer,
            "study": asdict(StudySpec.from_config(config)),
            "parts": {name: config[name] for name in PARTS if config.get(name)},
            "logger": config.get("logger") or None,
            "config": config,
        }
        return structured({one.name: whole[one.name] for one in fields(cls)}, cls)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_text_atomic(path, to_json(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> TrainSpec:
        """What ``write`` wrote. Raises UserError for a file that is no such spec."""
        return structured(read_json(path, expected="a training's spec"), cls, where=str(path))
