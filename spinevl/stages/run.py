"""The main job: build, train, predict, evaluate and report."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spinevl.evaluation.baselines import all_majority, level_majority, mean_boxes
from spinevl.evaluation.evaluate import evaluate
from spinevl.evaluation.join import Answers, answers_of
from spinevl.io.files import write_text_atomic
from spinevl.schema.errors import UserError
from spinevl.schema.prediction import Prediction
from spinevl.stages.build import environment, fingerprint, write_records
from spinevl.stages.evaluate import write_metrics
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
    metrics = _evaluate(study, scored, predictions, without_own_images)
    metrics["subset"] = scored
    metrics["selection"] = (
        "test patients, never used to choose anything"
        if scored == "test"
        else "selected on dev: the same patients chose the checkpoint"
    )
    metrics["synthetic"] = study.cohort.synthetic
    score = write_metrics(metrics, study.tasks, out=out)
    _report(cfg, study, scored, predictions, metrics, out=out)
    return score


def _truth_text(study: Study) -> str:
    """The drawn labels of the rendered test patients, in the label format."""
    return json.dumps([{"id": one.id, **one.labels} for one in study.cohort.test], indent=4)


def _swapped_predictions(study: Study, predictor: Any, subset: str) -> list[Prediction]:
    """The same checkpoint shown other patients' images; empty with a single patient."""
    ids = [patient.id for patient in study.patients(subset)]
    return predictor.predict(swapped(study.records(subset), ids)) if len(ids) > 1 else []


def _evaluate(
    study: Study, subset: str, predictions: list[Prediction], without_own_images: list[Prediction]
) -> dict[str, Any]:
    closed = {name: task for name, task in study.tasks.items() if task.closed}
    patients = study.patients(subset)
    ids = [patient.id for patient in patients]
    train_patients = study.patients("train")
    controls: dict[str, Answers] = {}
    if closed:
        controls["level_majority"] = level_majority(train_patients, ids, closed)
        controls["all_majority"] = all_majority(train_patients, ids, closed)
        if without_own_images:
            controls["swapped_images"] = answers_of(without_own_images, closed)
        if study.cohort.latents is not None:
            from spinevl.sources.phantom.ceiling import ceiling_predictions

            best = ceiling_predictions(
                study.cohort.latents, fit=train_patients, predict=patients, tasks=closed
            )
            controls["ceiling"] = answers_of(best, closed)
    return evaluate(
        patients,
        answers_of(predictions, closed),
        tasks=study.tasks,
        controls=controls,
        predictions=predictions,
        control_boxes=_control_boxes(study, predictions, without_own_images),
    )


def _control_boxes(
    study: Study, predictions: list[Prediction], without_own_images: list[Prediction]
) -> dict[str, list[Prediction]]:
    boxed = [task for task in study.tasks.values() if not task.closed]
    if not boxed:
        return {}
    train = study.patients("train")
    return {
        "level_majority": [one for task in boxed for one in mean_boxes(train, predictions, task)],
        "swapped_images": [one for one in without_own_images if not study.tasks[one.task].closed],
    }


def _report(
    cfg: DictConfig,
    study: Study,
    subset: str,
    predictions: list[Prediction],
    metrics: dict[str, Any],
    *,
    out: Path,
) -> None:
    from spinevl.report.html import write_report

    root = study.cohort.test_images if subset == "test" else study.cohort.train_images
    write_report(
        out,
        metrics=metrics,
        predictions=predictions,
        truth=study.patients(subset),
        tasks=study.tasks,
        images_root=root,
        shown_slice=study.sag_image[len(study.sag_image) // 2],
        config=OmegaConf.to_yaml(cfg, resolve=True),
        fingerprint={**fingerprint(study), "versions": environment(cfg)["versions"]},
        cohort=study.cohort.name,
        synthetic=study.cohort.synthetic,
        curve=out / "metrics.csv",
    )
    log.info("report: %s", out / "report.html")
