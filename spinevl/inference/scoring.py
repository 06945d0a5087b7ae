"""Score a model's answers to a study, beside what no image and other images would score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from spinevl.data.study import PatientStudy
from spinevl.evaluation.baselines import BASELINES, Baseline, Given
from spinevl.evaluation.evaluate import evaluate
from spinevl.inference.spec import Request
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import Score

SELECTION = {
    "test": "test patients, never used to choose anything",
    "dev": "selected on dev: the same patients chose the checkpoint",
}


def to_score(study: PatientStudy, subset: str) -> list[Request]:
    """What a model is asked so that its answers can be scored.

    The patients, and where there are several, the same questions with another patient's images.
    """
    several = len(study.patients(subset)) > 1
    return [Request(subset), *([Request(subset, swapped=True)] if several else [])]


def score_patients(
    study: PatientStudy,
    subset: str,
    found: Mapping[Request, Sequence[Prediction]],
    *,
    selection: str | None = None,
) -> Score:
    """The score of the predictions beside the baselines'.

    Args:
        study: whose train patients are known too; the baselines are made of them.
        subset: the patients, ``dev`` or ``test``, whose truth is known.
        found: the model's predictions for what ``to_score`` asks.
        selection: how these patients had to do with the training; by default as those of ``run``.
    """
    train, patients = study.patients("train"), study.patients(subset)
    baselines: list[Baseline] = [make(train, study.tasks) for make in BASELINES]
    if others := found.get(Request(subset, swapped=True)):
        note = "the same checkpoint shown another patient's images"
        baselines.append(Given("swapped_images", note, others))
    if study.cohort.latents is not None:
        from spinevl.sources.phantom.ceiling import Ceiling

        baselines.append(Ceiling(study.cohort.latents, train, study.tasks))
    score = evaluate(patients, found[Request(subset)], tasks=study.tasks, baselines=baselines)
    return replace(
        score,
        subset=subset,
        selection=selection or SELECTION[subset],
        synthetic=study.cohort.synthetic,
    )
