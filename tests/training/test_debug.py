"""``debug=``: less of a training, said to be so, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.cli.help import options
from spinevl.cli.main import main
from spinevl.config.compose import compose
from spinevl.config.options import DebugOptions
from spinevl.config.plain import plain
from spinevl.jobs.status import JobStatus, write_status
from spinevl.jobs.sweep import read_board
from spinevl.training.spec import TrainSpec

SMALL = [
    *("data.n_train=10", "data.n_dev=2", "data.n_test=2", "task=[qd]", "trainer.batch_patients=2"),
    *("trainer.max_epochs=2", "trainer.progress_bar=false"),
    *("encoder.widths=[8,8,8]", "encoder.dim=8", "llm.width=16", "llm.layers=1", "llm.heads=2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("debug")


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    out = folder / "-".join(overrides).replace("=", "_")
    words = ["train", *SMALL, *overrides, f"cache_dir={folder}/cache", f"hydra.run.dir={out}"]
    assert main(words) == 0
    report: dict[str, Any] = json.loads((out / "train.json").read_text())
    return {**report, "files": {one.name for one in out.iterdir()}}


def test_every_option_composes_and_the_default_is_off() -> None:
    found = options("debug")
    assert set(found) == {"none", "default", "fdr", "limit", "overfit", "profiler"}
    for option in found:
        spec = TrainSpec.from_config(plain(compose("train", [f"debug={option}"])))
        assert spec.debug.on == (option != "none")
    assert TrainSpec.from_config(plain(compose("run"))).debug == DebugOptions()


@pytest.mark.parametrize(
    ("overrides", "steps", "file"),
    [
        (["debug=none"], 10, None),
        (["debug=fdr"], 1, None),
        (["debug=limit", "debug.limit_train_batches=2"], 4, None),
        (["debug=overfit"], 2, None),
        (["debug=default", "debug.profiler=simple"], 10, "fit-profile.txt"),
    ],
)
def test_so_many_steps_are_trained(
    folder: Path,
    overrides: list[str],
    steps: int,
    file: str | None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    report = trained(folder, *overrides)
    assert report["steps"] == steps
    assert report["debug"] == (overrides != ["debug=none"])
    assert ("its scores mean nothing" in capfd.readouterr().err) == report["debug"]
    assert report["dev_score"] is not None
    assert "checkpoint" in report["files"]
    assert file is None or file in report["files"]


def test_such_a_job_is_not_ranked(tmp_path: Path) -> None:
    for number, tried in enumerate((False, True)):
        out = tmp_path / str(number)
        write_status(out, JobStatus(number, (), "done", seconds=1.0))
        (out / "train.json").write_text(json.dumps({"dev_score": 0.9, "debug": tried}))
    first, second = read_board(tmp_path).rows
    assert (first.number, first.value, first.error) == (0, 0.9, None)
    assert (second.number, second.value) == (1, None)
    assert "debug" in str(second.error)
