"""Answers of a checkpoint for patients, or to conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.check import from_plain
from spinevl.config.options import FeatureCacheOptions, PredictOptions
from spinevl.config.plain import plain
from spinevl.data.study import ConversationStudy, open_study
from spinevl.data.study_spec import StudySpec
from spinevl.schema.errors import UserError


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> None:
    """Predict; writes ``predictions.jsonl`` and, with all graded tasks, ``answers.json``.

    Of conversations it writes ``answers.jsonl`` as they come, then ``conversations.json``.
    """
    config: Any = plain(cfg)
    if not config["checkpoint"]:
        raise UserError("checkpoint is not set: give the checkpoint/ folder of a training")
    from spinevl.checkpoints.format import read_config
    from spinevl.inference.outputs import answer_conversations, answer_patients, write_outputs
    from spinevl.inference.predictor import load_predictor
    from spinevl.models.source import checkpoint_folder

    subset = config["subset"]
    folder = checkpoint_folder(config["checkpoint"])
    stored = read_config(folder).get("study") or {}
    study = open_study(StudySpec.from_config(config).filled(stored), (subset,), trust=trust)
    if isinstance(study, ConversationStudy):
        study.require_window(stored)
    predictor = load_predictor(
        folder,
        study,
        options=from_plain(PredictOptions, config["predict"], at="predict"),
        feature_cache=from_plain(FeatureCacheOptions, config["feature_cache"], at="feature_cache"),
        allowed=trust.allowed,
    )
    if isinstance(study, ConversationStudy):
        answer_conversations(study, subset, predictor, checkpoint=folder, out=out)
    else:
        predictions = answer_patients(study, subset, predictor, checkpoint=folder, out=out)
        write_outputs(study, subset, predictions, out=out)
