"""metrics.json is read and written without loss, its keys in the same order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.evaluation.answer_files import read_submission
from spinevl.evaluation.baselines import AllMajority, LevelMajority
from spinevl.evaluation.evaluate import evaluate
from spinevl.schema.score import Score
from spinevl.sources.labels import read_labels

GRADED = {name: task for name, task in official_tasks().items() if task.closed}
DETAIL = [
    *("f1", "ci95", "accuracy", "balanced_accuracy", "quadratic_kappa", "classes", "levels"),
    *("confusion", "unparsed", "unparsed_by_class"),
]


def dumped(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def test_goldens_make_the_round_trip(shared: Path) -> None:
    people = read_labels(shared / "cervai/labels_train.json", tasks=GRADED, required=GRADED)
    files = sorted((shared / "goldens/evaluate").glob("p*.json"))
    assert len(files) >= 8
    for file in files:
        given = read_submission(file, ids=[p.id for p in people], tasks=GRADED, missing="upstream")
        baselines = [LevelMajority(people, GRADED), AllMajority(people, GRADED)]
        score = evaluate(
            people,
            given,
            tasks=GRADED,
            baselines=baselines,
            n_resamples=5,
        )
        text = dumped(score.to_json())
        assert Score.from_json(json.loads(text)) == score
        assert dumped(Score.from_json(json.loads(text)).to_json()) == text


def test_the_keys_stand_in_the_order_of_the_format() -> None:
    entry = {
        "f1": 0.5,
        "ci95": [0.25, 0.75],
        "accuracy": 0.5,
        "balanced_accuracy": None,
        "quadratic_kappa": None,
        "classes": [
            {"label": 9, "answer": None, "f1": 0.0, "precision": 0.0, "recall": None, "support": 0}
        ],
        "levels": {"C2": {"f1": 0.5, "accuracy": 0.5}},
        "confusion": [[1]],
        "unparsed": 0,
        "unparsed_by_class": [0],
        "calibration_error": 0.125,
        "log_loss": 0.5,
        "calibration_bins": [
            {"low": 0.5, "high": 0.6, "probability": 0.55, "frequency": 0.5, "count": 4}
        ],
        "findings": {
            "abnormal": {
                "labels": [1],
                "sensitivity": 0.5,
                "specificity": None,
                "positives": 4,
                "negatives": 0,
            }
        },
    }
    assert list(entry)[:10] == DETAIL
    boxes = {
        "mean_iou": 0.5,
        "ci95": [0.0, 1.0],
        "levels": {"C2": {"mean_iou": 0.5}},
        "unparsed": 1,
    }
    pair = {"delta": 0.25, "ci95": [0.0, 0.5]}
    content = {
        "score": None,
        "partial_score": 0.5,
        "ci95": [0.25, 0.75],
        "zyzg": entry,
        "positioning": boxes,
        "more_boxes": {"mean_iou": None},
        "n_patients": 4,
        "controls": {
            "level_majority": {
                "score": None,
                "partial_score": 0.25,
                "ci95": [0.0, 0.5],
                "zyzg": {"f1": 0.25, "ci95": [0.0, 0.5], "levels": {}},
                "positioning": boxes,
                "paired": {"zyzg": pair, "partial_score": pair},
            },
            "swapped_images": {"positioning": boxes, "paired": {}},
        },
        "notes": {"ci95": "Bayesian bootstrap over patients"},
        "below_baseline": {"zyzg": "level_majority"},
        "subset": "test",
        "selection": "test patients",
        "synthetic": False,
    }
    assert dumped(Score.from_json(content).to_json()) == dumped(content)
    old = {key: value for key, value in content.items() if key != "below_baseline"}
    assert dumped(Score.from_json(old).to_json()) == dumped(old)
    del content["controls"]
    with pytest.raises(KeyError):
        Score.from_json(content)
