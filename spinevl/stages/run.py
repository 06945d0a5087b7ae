"""The main job: build, train, predict, evaluate and report."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spinevl.evaluation.baselines import AllMajority, Baseline, LevelMajority
from spinevl.evaluation.evaluate import evaluate
from spinevl.evaluation.join import with_truth
from spinevl.io.files import write_text_atomic
from spinevl.report.metrics_file import write_metrics
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.prediction import Prediction
from spinevl.schema.record import Record
from spinevl.schema.score import Score
from spinevl.stages.build import environment, fingerprint, write_records
from spinevl.stages.fit import check_parts
from spinevl.stages.predict import load_predictor, swapped, write_outputs
from spinevl.stages.prepare import Study, load_study, run_subsets
from spinevl.stages.train import train

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path) -> float | None:
    """Run everything; returns the score, so that sweepers can compare jobs."""
    subsets = run_subsets(cfg)
    check_parts(cfg, shows="image")
    study = load_study(cfg, subsets)
    log.info("%s", study.cohort.name)
    asked = str(cfg.type_dataset)
    if asked not in ("both", *subsets):
        raise UserError(f"type_dataset={asked}: the data name no test patients")
    write_records(cfg, study, subsets if asked == "both" else (asked,), out=out)
    if study.cohort.synthetic:
        write_text_atomic(out / "test_truth.json", _truth_text(study))
    train(cfg, study, out=out)
    predictor = load_predictor(cfg, out / "checkpoint", study)
    scored = "test" if study.cohort.test_has_truth else "dev"
    predictions = predictor.predict(study.records(scored))
    without_own_images = _swapped_predictions(study, predictor, scored)
    if (
        "test" in subsets and scored == "dev"
    ):  # a submission for the test list, and the score on dev
        write_outputs(study, "test", predictor.predict(study.records("test")), out=out)
    else:
        write_outputs(study, scored, predictions, out=out)
    score = replace(
        _evaluate(study, scored, predictions, without_own_images),
        subset=scored,
        selection="test patients, never used to choose anything"
        if scored == "test"
        else "selected on dev: the same patients chose the checkpoint",
        synthetic=study.cohort.synthetic,
    )
    value = write_metrics(score, study.tasks, out=out)
    _report(cfg, study, scored, predictions, score, out=out)
    return value


def _truth_text(study: Study) -> str:
    """The drawn labels of the rendered test patients, in the label format."""
    return json.dumps([{"id": one.id, **one.labels} for one in study.cohort.test], indent=4)


def _swapped_predictions(study: Study, predictor: Any, subset: str) -> list[Prediction]:
    """The same checkpoint shown other patients' images; empty with a single patient."""
    ids = [patient.id for patient in study.patients(subset)]
    return predictor.predict(swapped(study.records(subset), ids)) if len(ids) > 1 else []


def _evaluate(
    study: Study, subset: str, predictions: list[Prediction], without_own_images: list[Prediction]
) -> Score:
    train_patients = study.patients("train")
    computed: list[Baseline] = [
        LevelMajority(train_patients, study.tasks),
        AllMajority(train_patients, study.tasks),
    ]
    notes = {"swapped_images": "the same checkpoint shown another patient's images"}
    baselines = {one.name: one.predict(predictions) for one in computed}
    baselines["swapped_images"] = without_own_images
    if study.cohort.latents is not None:
        from spinevl.evaluation.ceiling import Ceiling

        computed.append(Ceiling(study.cohort.latents, train_patients, study.tasks))
        baselines["ceiling"] = computed[-1].predict(predictions)
    return evaluate(
        study.patients(subset),
        predictions,
        tasks=study.tasks,
        baselines=baselines,
        notes=notes | {one.name: one.note for one in computed},
    )


def _report(
    cfg: DictConfig,
    study: Study,
    subset: str,
    predictions: list[Prediction],
    score: Score,
    *,
    out: Path,
) -> None:
    from spinevl.report.page import write_report

    write_report(
        out,
        score=score,
        predictions=with_truth(predictions, study.patients(subset), study.tasks),
        tasks=study.tasks,
        pictures=_pictures(study.records(subset)),
        config=OmegaConf.to_yaml(cfg, resolve=True),
        fingerprint={**fingerprint(study), "versions": environment(cfg)["versions"]},
        cohort=study.cohort.name,
        curve=out / "metrics.csv",
    )
    log.info("report: %s", out / "report.html")


def _pictures(records: Sequence[Record]) -> dict[str, list[ImageRef]]:
    """Patient -> its images, each once, sagittal ones first."""
    found: dict[str, dict[ImageRef, None]] = {}
    for record in records:
        images = found.setdefault(record.id, {})
        for path, number in zip(record.images, record.slices, strict=False):
            images[ImageRef(path, patient=record.id, plane="sagittal", slice=number)] = None
        for path in record.images[len(record.slices) :]:
            images[ImageRef(path, patient=record.id, plane="axial", level=record.object)] = None
    return {
        key: sorted(images, key=lambda one: one.plane == "axial") for key, images in found.items()
    }
