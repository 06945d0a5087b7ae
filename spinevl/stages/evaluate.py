"""Score a submission, and optionally predictions with boxes, against labels."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.build import build
from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.config.tasks import build_tasks, official_tasks
from spinevl.evaluation.answer_files import read_answered
from spinevl.evaluation.baselines import BASELINES, Baseline
from spinevl.evaluation.evaluate import evaluate
from spinevl.io.json_file import read_json_list
from spinevl.report.metrics_file import write_metrics
from spinevl.schema.asked import compare
from spinevl.schema.errors import UserError, counted, escaped, listed, refused
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task
from spinevl.sources.labels import read_boxes, read_labels, warn_without_boxes

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> float | None:
    """Write ``metrics.json``, print a table, and return the score."""
    config: Any = plain(cfg)
    labels, answers, boxes = config["labels"], config["answers"], config["boxes"]
    if not labels or not (answers or config["predictions"]):
        raise UserError("evaluate needs labels=FILE and answers=FILE or predictions=FILE")
    tasks = build_tasks(config["task"], build=functools.partial(build, trust=trust))
    if any(not task.closed for task in tasks.values()) and not (boxes and config["predictions"]):
        raise UserError("task positioning needs boxes=FILE and predictions=FILE")
    closed = {name: task for name, task in tasks.items() if task.closed}
    truth = read_labels(labels, tasks=closed, required=list(closed), may_leave_out=True)
    if boxes:
        layout = StudyLayout(tuple(config["slices"]), side_px=config["side_px"])
        found = read_boxes(boxes, layout=layout)
        absent, _ = compare((one.id for one in truth), found)
        warn_without_boxes(boxes, absent, n_patients=len(truth))
        truth = tuple(replace(one, boxes=found.get(one.id)) for one in truth)
    predictions = read_answered(
        answers=answers,
        predictions=config["predictions"],
        ids=[one.id for one in truth],
        tasks=tasks,
        missing=config["missing"],
    )
    _tell_left_out(labels, tasks)
    unanswered, _ = compare((one.id for one in truth), {one.id for one in predictions})
    baselines, about = _baselines(config["train_labels"], tasks, {one.id for one in truth})
    score = evaluate(truth, predictions, tasks=tasks, baselines=baselines)
    if unanswered:  # they were refused, unless missing=upstream
        told = f"{counted(len(unanswered), 'patient')} of {labels} without answers"
        about["left out"] = f"{told}, as missing={config['missing']} asks"
        log.warning("%s: %s", about["left out"], listed([escaped(one) for one in unanswered]))
    return write_metrics(replace(score, notes={**score.notes, **about}), tasks, out=out)


def _baselines(
    file: str | None, tasks: Mapping[str, Task], scored: Collection[str]
) -> tuple[list[Baseline], dict[str, str]]:
    """The baselines of the patients of a label file who are not scored, and a note on who they are.

    Raises:
        UserError: it has no other patients.
    """
    if not file:
        return [], {}
    closed = {name: task for name, task in tasks.items() if task.closed}
    known = read_labels(file, tasks=closed, required=list(closed), may_leave_out=True)
    train = [one for one in known if one.id not in scored]
    if not train:
        found = f"{len(known)} who are"
        fix = "name the label file of the training patients, or leave it out"
        raise refused(f"train_labels={file}", "patients who are not scored", found, fix)
    about = f"made of {counted(len(train), 'patient')} of {Path(file).name}"
    if left_out := len(known) - len(train):
        about += f", without the {left_out} who are scored"
    log.info("baselines: %s", about)
    return [make(train, tasks) for make in BASELINES], {"baselines": about}


def _tell_left_out(labels: str, tasks: Mapping[str, Task]) -> None:
    """Name the challenge's tasks that the label file has and that are not scored."""
    records = read_json_list(labels, expected="a list of label objects")
    has = {key for one in records for key in one}
    if left_out := [name for name in official_tasks() if name in has and name not in tasks]:
        log.info("%s: not scored: %s; name them in task=", labels, ", ".join(left_out))
