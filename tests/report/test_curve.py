"""The training's charts, from whatever columns ``metrics.csv`` has."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.report.curve import BOTTOM, LEFT, RIGHT, TOP, Chart, charts
from spinevl.schema.errors import UserError


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    fields = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    return path


def by_title(path: Path) -> dict[str, Chart]:
    return {one.title: one for one in charts(path)}


ROWS: list[dict[str, Any]] = [
    {"step": 10, "loss": 2.0, "loss/auxiliary": 2.0, "lr": 0.1},
    {"step": 20, "loss": 1.5, "loss/auxiliary": 1.5, "lr": 0.1},
    {"step": 30, "loss": 5, "loss/answer": 4.0, "loss/auxiliary": 1.0, "lr": 0.05},
    {"step": 30, "loss": 5, "loss/answer": 4.0, "loss/auxiliary": 1.0, "dev/score": 0.5},
    {"step": 40, "loss": 3, "loss/answer": 2.0, "loss/auxiliary": 1.0, "dev/score": 0.25},
]


def test_a_training_with_a_warmup(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps({"warmup_steps": 20}))
    found = by_title(table(tmp_path / "metrics.csv", ROWS))
    assert list(found) == ["Dev score", "Training loss", "Learning rate"]
    width, height = RIGHT - LEFT, BOTTOM - TOP
    dev = found["Dev score"]
    assert dev.warmup == (LEFT + width / 2, 20)
    assert dev.lines == {
        "dev/score": [(LEFT + width * 0.75, BOTTOM - height / 2), (RIGHT, BOTTOM - height / 4)]
    }
    assert [(text, best) for _, _, text, best in dev.dots] == [("0.500", True), ("0.250", False)]
    assert [text for _, text in dev.y_ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert dev.x_ticks[0] == (LEFT, "0")
    assert dev.x_ticks[-1] == (RIGHT, "40")
    losses = found["Training loss"]
    assert set(losses.lines) == {"loss/answer", "loss/auxiliary"}
    assert losses.lines["loss/answer"][0] == (LEFT + width * 0.75, TOP)  # 4, the top of the scale
    assert losses.dots == []


@pytest.mark.parametrize("last", [1, 2, 3, 7, 24])
def test_steps_are_whole_numbers(tmp_path: Path, last: int) -> None:
    rows = [{"step": k, "loss": 1.0} for k in range(1, last + 1)]
    found = by_title(table(tmp_path / "metrics.csv", rows))["Training loss"]
    ticks = [text for _, text in found.x_ticks]
    assert len(ticks) > 1
    assert all(one.isdecimal() for one in ticks)


def test_other_columns(tmp_path: Path) -> None:
    rows = [
        {"step": k, "loss": 1 / k, "lr": 1, "lr/llm": 1, "lr/encoder": 2, "grad_norm": 3}
        for k in range(1, 1001)
    ]
    found = by_title(table(tmp_path / "metrics.csv", rows))
    assert list(found) == ["Training loss", "Learning rate", "Gradient norm"]
    assert list(found["Learning rate"].lines) == ["lr/llm", "lr/encoder"]
    assert all(one.warmup is None for one in found.values())
    assert len(found["Training loss"].lines["loss"]) == 250  # means of four steps


@pytest.mark.parametrize("value", ["nan", "inf", "", "text"])
def test_what_is_no_number_is_no_point(tmp_path: Path, value: str) -> None:
    rows = [{"step": 1, "loss": value}, {"step": value, "loss": 1}, {"step": 2, "loss": 1}]
    (only,) = charts(table(tmp_path / "metrics.csv", rows))
    assert only.lines == {"loss": [(RIGHT, TOP)]}


def test_a_file_without_rows_has_no_chart(tmp_path: Path) -> None:
    for text in ("", "step,loss\n", "a,b\n1,2\n"):
        (tmp_path / "metrics.csv").write_text(text)
        assert charts(tmp_path / "metrics.csv") == []


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\x00step")
    with pytest.raises(UserError, match=r"metrics\.csv"):
        charts(tmp_path / "metrics.csv")


@pytest.mark.parametrize(
    ("told", "kept", "warmup"),
    [
        (None, 40, None),  # of equal scores the latest, as in the training
        ({"dev_score_step": 40, "warmup_steps": 13}, 40, 13),
        ({"dev_score_step": 30, "warmup_steps": 0}, 30, None),  # higher by less than the digits
        ({"dev_score_step": [1], "warmup_steps": "x"}, 40, None),
        ([], 40, None),
    ],
)
def test_the_checkpoints_score_and_the_warmup_are_what_the_training_says(
    tmp_path: Path, told: Any, kept: int, warmup: int | None
) -> None:
    if told is not None:
        (tmp_path / "train.json").write_text(json.dumps(told))
    scores = {10: 0.25, 20: "", 30: 0.5, 40: 0.5}
    rows = [{"step": step, "dev/score": score} for step, score in scores.items()]
    (dev,) = charts(table(tmp_path / "metrics.csv", rows))
    width = RIGHT - LEFT
    marked = [x for x, _, _, best in dev.dots if best]
    assert marked == [LEFT + width * kept / 40]
    assert dev.warmup == (warmup and (round(LEFT + width * warmup / 40, 1), warmup))
