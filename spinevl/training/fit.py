"""Fit a model: a training is data, which any process can run from its file."""

from __future__ import annotations

from pathlib import Path

from spinevl.build.trust import NOTHING, Trust
from spinevl.data.study import Study
from spinevl.report.metrics_file import read_dev_score
from spinevl.training.launching import is_launched, launch_training
from spinevl.training.memory.settle import settle
from spinevl.training.precision import settle_precision
from spinevl.training.prepare import open_for_training
from spinevl.training.spec import SPEC_FILE, TrainSpec
from spinevl.training.worker import train


def fit(
    spec: TrainSpec, out: Path, *, trust: Trust = NOTHING, study: Study | None = None
) -> float | None:
    """Write the spec into the job's folder once it fits the device, and train on what it says.

    One device without a strategy is this process's; others get processes of their own.

    Args:
        spec: the training.
        out: the job's folder.
        trust, study: see ``train``.

    Returns:
        The best dev score; None where nothing was scored.
    """
    if study is None:
        study = open_for_training(spec, ("train", "dev"), trust=trust)
    spec = settle_precision(spec, trust=trust)
    spec = settle(spec, study, trust=trust, out=out)
    spec.write(out / SPEC_FILE)
    if not is_launched(spec.trainer):
        return train(out, trust=trust, study=study)
    launch_training(spec.trainer, out, trust=trust)
    return read_dev_score(out)[0]
