"""Score a submission, and optionally predictions with boxes, against labels."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.build import build
from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.config.tasks import build_tasks
from spinevl.evaluation.answer_files import read_answered
from spinevl.evaluation.baselines import BASELINES, Baseline
from spinevl.evaluation.evaluate import evaluate
from spinevl.report.metrics_file import write_metrics
from spinevl.schema.asked import compare
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.labels import read_boxes, read_labels

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
    truth = read_labels(labels, tasks=closed, required=list(closed))
    if boxes:
        layout = StudyLayout(tuple(config["slices"]), side_px=config["side_px"])
        found = read_boxes(boxes, layout=layout)
        absent, _ = compare((one.id for one in truth), found)
        if absent:
            log.warning(
                "%s: no boxes of %d of the %d patients, first %s; their boxes are not scored",
                *(boxes, len(absent), len(truth), absent[0]),
            )
        truth = tuple(replace(one, boxes=found.get(one.id)) for one in truth)
    predictions = read_answered(
        answers=answers,
        predictions=config["predictions"],
        ids=[one.id for one in truth],
        tasks=tasks,
        missing=config["missing"],
    )
    baselines: list[Baseline] = []
    if config["train_labels"]:
        train = read_labels(config["train_labels"], tasks=closed, required=list(closed))
        baselines = [make(train, tasks) for make in BASELINES]
    score = evaluate(truth, predictions, tasks=tasks, baselines=baselines)
    return write_metrics(score, tasks, out=out)
