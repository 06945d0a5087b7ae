"""A checkpoint, and the study that a command asks it about."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from spinevl.build.trust import NOTHING, Trust
from spinevl.checkpoints.format import read_config
from spinevl.config.check import from_plain
from spinevl.config.options import FeatureCacheOptions, PredictOptions
from spinevl.data.study import ConversationStudy, Study, open_study
from spinevl.data.study_spec import StudySpec
from spinevl.inference.predictor import Predictor, load_predictor
from spinevl.models.source import checkpoint_folder
from spinevl.schema.errors import UserError


def open_checkpoint(
    config: Mapping[str, Any], subsets: Collection[str] | None, *, trust: Trust = NOTHING
) -> tuple[Path, Study, Predictor]:
    """The checkpoint's folder, the study, and the model ready to answer it.

    Args:
        config: of ``predict`` or ``report``; what is None there is as the checkpoint was trained.
        subsets: which of ``train``, ``dev``, ``test`` will be used; None is all that are named.
        trust: what the command line trusts.

    Raises:
        UserError: no checkpoint, a damaged one, or data that it cannot be asked about.
    """
    if not config["checkpoint"]:
        raise UserError("checkpoint is not set: give the checkpoint/ folder of a training")
    folder = checkpoint_folder(config["checkpoint"])
    stored = read_config(folder).get("study") or {}
    study = open_study(StudySpec.from_config(config).filled(stored), subsets, trust=trust)
    if isinstance(study, ConversationStudy):
        study.require_window(stored)
    else:
        study.require_sides(stored)
    predictor = load_predictor(
        folder,
        study,
        options=from_plain(PredictOptions, config["predict"], at="predict"),
        feature_cache=from_plain(FeatureCacheOptions, config["feature_cache"], at="feature_cache"),
        allowed=trust.allowed,
    )
    return folder, study, predictor
