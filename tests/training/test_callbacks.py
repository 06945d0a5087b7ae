"""When dev is scored, which weights are kept, and the rows of metrics.csv."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn

from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.training.callbacks import BestCheckpoint, MetricsFile, dev_epochs
from spinevl.training.clock import Clock
from spinevl.training.fit import fit
from spinevl.training.spec import TrainSpec
from spinevl.training.trainer import EpochBar


@pytest.mark.parametrize(
    ("epochs", "checks", "expected"),
    [
        (20, 6, {4, 7, 10, 14, 17, 20}),
        (7, 2, {4, 7}),
        (3, 6, {1, 2, 3}),
        (1, 6, {1}),
        (12, 1, {12}),
    ],
)
def test_dev_checks_are_spread_over_the_epochs_and_the_last_has_one(
    epochs: int, checks: int, expected: set[int]
) -> None:
    assert dev_epochs(epochs, checks=checks) == expected


@pytest.mark.parametrize("epochs", range(1, 30))
@pytest.mark.parametrize("checks", [1, 2, 5, 6, 29])
def test_there_are_as_many_dev_checks_as_asked_and_their_distances_are_alike(
    epochs: int, checks: int
) -> None:
    found = sorted(dev_epochs(epochs, checks=checks))
    assert len(found) == min(checks, epochs)
    assert found[-1] == epochs
    gaps = {b - a for a, b in zip([0, *found], found, strict=False)}
    assert max(gaps) - min(gaps) <= 1


def test_of_equal_scores_the_latest_weights_are_kept() -> None:
    scores = iter([0.4, 0.5, 0.5, 0.4])
    saved = []
    best = BestCheckpoint(lambda *_: next(scores), lambda step, _: saved.append(step))
    said: Any = {"log": lambda *_, **__: None, "log_place": lambda *_, **__: None}
    module: Any = SimpleNamespace(parts=lambda: {"llm": nn.Linear(1, 1)}, **said)
    trainer: Any = SimpleNamespace()
    for module.step in (10, 20, 30, 40):
        best.on_validation_epoch_end(trainer, module)
    assert saved == [10, 20, 30]
    assert (best.step, best.score) == (30, 0.5)


def test_the_best_few_are_kept_with_the_best_first() -> None:
    scores = iter([0.4, 0.7, 0.5, 0.1, 0.7])
    saved = []
    best = BestCheckpoint(
        lambda *_: next(scores), lambda step, kept: saved.append((step, kept)), keep=2
    )
    said: Any = {"log": lambda *_, **__: None, "log_place": lambda *_, **__: None}
    module: Any = SimpleNamespace(parts=lambda: {"llm": nn.Linear(1, 1)}, **said)
    trainer: Any = SimpleNamespace()
    for module.step in (1, 2, 3, 4, 5):
        best.on_validation_epoch_end(trainer, module)
        if module.step == 3:  # a training that goes on knows them
            state = best.state_dict()
            best.history = []
            best.load_state_dict(state)
    assert saved == [(1, [1]), (2, [2, 1]), (3, [2, 3]), (5, [5, 2])]
    assert (best.step, best.score) == (5, 0.7)


@pytest.mark.parametrize("stop", ["end", "exception", "both"])
def test_the_last_step_has_one_row_however_the_training_stops(tmp_path: Path, stop: str) -> None:
    trainer: Any = SimpleNamespace()
    module: Any = SimpleNamespace(step_values={"loss": 1.0}, step=0, epoch=0)
    file = MetricsFile(tmp_path / "metrics.csv", Clock(), parts=["llm"], every=3)
    file.on_train_start(trainer, module)
    for step in (1, 2, 3, 4, 5):
        module.step = step
        file.on_train_batch_end(trainer, module)
    if stop != "exception":
        file.on_train_end(trainer, module)
    if stop != "end":
        file.on_exception(trainer, module, RuntimeError("a disk that is full"))
    with (tmp_path / "metrics.csv").open() as rows:
        assert [row["step"] for row in csv.DictReader(rows)] == ["1", "3", "5"]


def trained(folder: Path, *overrides: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    config = compose(
        "train",
        [
            *("data.n_train=5", "data.n_dev=2", "data.n_test=1", "task=[qd]"),
            *("trainer.progress_bar=false", "trainer.batch_patients=1"),
            *("encoder.dim=16", "llm.width=32", f"cache_dir={folder}/cache", *overrides),
        ],
    )
    (folder / "out").mkdir()
    fit(TrainSpec.from_config(plain(config)), folder / "out")
    with (folder / "out/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((folder / "out/train.json").read_text())


def test_a_row_is_an_optimizer_step_and_the_first_and_last_have_one(tmp_path: Path) -> None:
    overrides = ["trainer.max_epochs=4", "trainer.accumulate=2", "trainer.dev_checks=2"]
    rows, told = trained(tmp_path, *overrides, "optim.lr.llm=2e-4", "optim.warmup_ratio=0")
    # three an epoch: two, two and one batch; the warm-up is one epoch of four
    assert (told["steps"], told["warmup_steps"]) == (12, 3)
    assert [int(row["step"]) for row in rows] == [1, 3, 9, 10, 12]
    assert [int(row["epoch"]) for row in rows] == [0, 0, 2, 3, 3]
    # the warm-up trains on the auxiliary loss alone
    assert [bool(row["loss/answer"]) for row in rows] == [False, False, True, True, True]
    assert [bool(row["dev/score"]) for row in rows] == [False, False, True, False, True]
    assert [step for step, _ in told["dev_history"]] == [9, 12]
    assert all(float(row["grad_norm"]) > 0 for row in rows)
    assert (float(rows[0]["lr/encoder"]), rows[0]["lr/llm"]) == (1e-3, "")
    assert 0 < float(rows[2]["lr/llm"]) <= 2e-4
    for row in rows[2:]:
        total = float(row["loss/answer"]) + float(row["loss/auxiliary"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-4)


def test_a_short_training_has_rows_and_a_frozen_part_no_rate(tmp_path: Path) -> None:
    overrides = ["trainer.max_epochs=1", "trainer.batch_patients=4", "tuning=connector"]
    rows, told = trained(tmp_path, *overrides, "warmup=none", "trainer.num_workers=0")
    assert [int(row["step"]) for row in rows] == [1, 2]
    assert [name for name in rows[0] if name.startswith("lr/")] == ["lr/connector"]
    assert rows[-1]["dev/score"]
    assert told["dev_score_step"] == 2


def test_the_llm_is_trained_however_short_the_training(tmp_path: Path) -> None:
    overrides = ["trainer.max_epochs=1", "trainer.batch_patients=8", "warmup.fraction=0.95"]
    rows, told = trained(tmp_path, *overrides)
    assert [bool(row["loss/answer"]) for row in rows] == [True]
    assert len(told["dev_history"]) == 1


def test_the_progress_bar_counts_the_epochs_of_the_whole_training_from_1() -> None:
    bar = EpochBar(first=3, epochs=20)
    bar.train_progress_bar = bar.init_predict_tqdm()
    sizes = {"max_epochs": 9, "max_steps": -1, "num_training_batches": 2}
    bar._trainer = trainer = cast("Any", SimpleNamespace(current_epoch=1, **sizes))
    bar.on_train_epoch_start(trainer)
    assert bar.train_progress_bar.desc.startswith("Epoch 5/20")
    bar.train_progress_bar.close()
