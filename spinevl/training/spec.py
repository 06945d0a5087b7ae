"""A training as data: everything about it in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spinevl.build.allowlist import target_of
from spinevl.config.check import from_plain
from spinevl.config.keys import key
from spinevl.config.options import (
    AugmentOptions,
    DebugOptions,
    FeatureCacheOptions,
    ImbalanceOptions,
    LoggerOptions,
    Mode,
    OptimOptions,
    Resume,
    Scoring,
    TrainerOptions,
    TuningOptions,
    WarmupOptions,
)
from spinevl.data.study_spec import StudySpec
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import UserError, refused

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
        tuning, warmup, augment, imbalance, optim, trainer, feature_cache, logger: how to train.
        config: the job's whole config, as the loggers are told it.
        seed: of the training.
        debug: what of it is only tried.
        resume: whether it goes on from a state.
        scoring: how dev's options are scored: in ``run`` as its predictions are.
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
    logger: LoggerOptions
    config: dict[str, Any]
    seed: int = key(help="of the training", min=0, max=2**32 - 1)
    debug: DebugOptions = key(factory=DebugOptions, help="what of it is only tried")
    resume: Resume = key(Resume.auto, help="whether it goes on from a state")
    scoring: Scoring = key(Scoring.trie, help="how dev's options are scored")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainSpec:
        """The training that a job's resolved config describes."""
        whole = {
            **config,
            "study": asdict(StudySpec.from_config(config)),
            "parts": {name: config[name] for name in PARTS if config.get(name)},
            "config": config,
            "scoring": (config.get("predict") or {}).get("scoring", Scoring.trie),
        }
        return from_plain(cls, {one.name: whole[one.name] for one in fields(cls)})

    @staticmethod
    def contradictions(values: Mapping[str, Any]) -> Mapping[str, str]:
        """Parts of which a model cannot be made; a checkpoint brings its own but for questions."""
        needed = ("llm",) if values["checkpoint"] else ("encoder", "connector", "llm")
        if all(values["parts"].get(name) for name in needed):
            return {}
        return {"parts": f"nodes of {', '.join(needed)}"}

    @property
    def left_random(self) -> list[str]:
        """A line for each of our parts that starts at random and whose weights never learn."""
        if self.checkpoint:
            return []
        return [
            f"tuning.{mode_of}={mode}: {part} starts from random weights, which do not learn; "
            f"use tuning.{mode_of}=full, or pretrained weights"
            for part in PARTS
            if (mode_of := part.removesuffix("3d")) != "connector"
            and (mode := getattr(self.tuning, mode_of)) != Mode.full
            and target_of(node := self.parts.get(part) or {}).startswith("spinevl.")
            and (node.get("pretrained") is False or "path" not in node)
        ]

    @property
    def epochs(self) -> int:
        """Passes over the training patients."""
        return 1 if self.debug.fast_dev_run else self.trainer.max_epochs

    @property
    def batch_patients(self) -> int:
        """Patients, or conversations, a step.

        Raises:
            UserError: it is still to be found out, see spinevl.training.memory.settle.
        """
        number = self.trainer.batch_patients
        if isinstance(number, int):
            return number
        raise refused(
            f"trainer.batch_patients={number}",
            "a number, which train and run find out and write into the spec",
            "none yet",
            "start the training with spinevl train, or give a number",
        )

    @property
    def keeps_features(self) -> bool:
        """Whether the features of a frozen encoder are kept in ``cache_dir``."""
        return self.feature_cache.enabled and self.tuning.encoder == Mode.frozen

    def decisive(self) -> dict[str, Any]:
        """What the weights depend on: dotted key -> value, as the command line names them."""
        study, trainer = asdict(self.study), asdict(self.trainer)
        for name in ("progress_bar", "num_workers", "save_every", "keep", "keep_best"):
            del trainer[name]
        del study["cache_dir"], study["stored"]
        names = ("checkpoint", "tuning", "warmup", "augment", "imbalance", "optim", "seed", "debug")
        whole = asdict(self)
        kept = {name: whole[name] for name in names}
        kept |= {"trainer": trainer, "predict": {"scoring": self.scoring}}
        return json.loads(json.dumps({**study, **self.parts, **kept}))

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_text_atomic(path, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> TrainSpec:
        """What ``write`` wrote. Raises UserError for a file that is no such spec."""
        content = read_json_object(path)
        try:
            return from_plain(cls, content)
        except UserError as error:
            raise UserError([f"{path}: {problem}" for problem in error.problems]) from error
