"""A checkpoint, and the study that a command asks it about."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from spinevl.build.trust import NOTHING, Trust
from spinevl.checkpoints.format import read_config
from spinevl.config.check import from_plain
from spinevl.config.options import FeatureCacheOptions, PredictOptions
from spinevl.data.study import ConversationStudy, Study, open_study
from spinevl.data.study_spec import StudySpec
from spinevl.inference.devices import predict_device
from spinevl.inference.spec import PredictSpec
from spinevl.inference.vllm import version_for
from spinevl.models.source import checkpoint_folder
from spinevl.schema.errors import UserError


def open_checkpoint(
    config: Mapping[str, Any], subsets: Collection[str] | None, *, trust: Trust = NOTHING
) -> tuple[PredictSpec, Study]:
    """What the checkpoint is to be asked, and the study, opened.

    Args:
        config: of ``predict`` or ``report``; what is None there is as the checkpoint was trained.
        subsets: which of ``train``, ``dev``, ``test`` will be used; None is all that are named.
        trust: what the command line trusts.

    Raises:
        UserError: no checkpoint, devices that are not there, or data that it cannot be asked
            about.
    """
    if not config["checkpoint"]:
        raise UserError("checkpoint is not set: give the checkpoint/ folder of a training")
    folder = checkpoint_folder(config["checkpoint"])
    stored = read_config(folder).get("study") or {}
    options = from_plain(PredictOptions, config["predict"], at="predict")
    spec = PredictSpec(
        checkpoint=str(folder),
        study=StudySpec.from_config(config).filled(stored),
        subsets=None if subsets is None else sorted(subsets),
        options=options,
        feature_cache=from_plain(FeatureCacheOptions, config["feature_cache"], at="feature_cache"),
        device=predict_device(),
        vllm=version_for(options, trust),
    )
    study = open_study(spec.study, spec.subsets, trust=trust)
    if isinstance(study, ConversationStudy):
        study.require_window(stored)
    else:
        study.require_sides(stored)
    return spec.settled(), study
