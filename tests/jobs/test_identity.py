"""Which jobs are the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from spinevl.jobs.identity import identity

CONFIG: dict[str, Any] = {
    "seed": 0,
    "sag_image": [5, 6],
    "optim": {"lr": {"llm": 1e-3}},
    "trainer": {"max_epochs": 3, "num_workers": 0, "progress_bar": True},
    "cache_dir": "/a",
    "logger": {"kind": "csv"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split(".")
    node = config
    for name in parents:
        node = node[name]
    node[last] = value
    return config


def test_it_does_not_depend_on_the_order_of_keys() -> None:
    turned = dict(reversed(CONFIG.items()))
    assert identity(turned) == identity(CONFIG)
    assert len(identity(CONFIG)) == 16


@pytest.mark.parametrize(
    ("path", "value"),
    [("seed", 1), ("sag_image", [6, 5]), ("optim.lr.llm", 2e-3), ("trainer.max_epochs", 4)],
)
def test_what_changes_a_result_makes_another_job(path: str, value: Any) -> None:
    assert identity(changed(path, value)) != identity(CONFIG)


@pytest.mark.parametrize(
    ("path", "value"),
    [("cache_dir", "/b"), ("logger.kind", "wandb"), ("trainer.num_workers", 4)],
)
def test_where_and_how_fast_does_not(path: str, value: Any) -> None:
    assert identity(changed(path, value)) == identity(CONFIG)


def named(tmp_path: Path) -> dict[str, Any]:
    """A config that names a file, a folder of images and a checkpoint."""
    for name in ("labels.json", "images/p1/6.png", "checkpoint/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    data = {"labels": f"{tmp_path}/labels.json", "train_images": f"{tmp_path}/images"}
    return {**CONFIG, "data": data, "checkpoint": f"{tmp_path}/checkpoint"}


@pytest.mark.parametrize("name", ["labels.json", "images/p1/6.png", "checkpoint/model.safetensors"])
def test_what_the_named_files_hold_counts(tmp_path: Path, name: str) -> None:
    config = named(tmp_path)
    before = identity(config)
    assert identity(config) == before
    (tmp_path / name).write_text("other")
    assert identity(config) != before


def test_a_file_more_or_less_counts(tmp_path: Path) -> None:
    config = named(tmp_path)
    before = identity(config)
    (tmp_path / "images/p2").mkdir()
    (tmp_path / "images/p2/6.png").touch()
    assert identity(config) != before


def test_a_folder_that_contains_the_jobs_own_does_not(tmp_path: Path) -> None:
    config = {**CONFIG, "data": {"images": str(tmp_path)}}
    before = identity(config, out=tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/metrics.csv").touch()
    assert identity(config, out=tmp_path / "out") == before
    assert identity(config, out=tmp_path.parent / "elsewhere") != before


@pytest.mark.parametrize("text", ["[image]Grade [label]: [options]?/" * 200, "~nobody/x", "a\0/b"])
def test_texts_that_are_no_paths_are_just_texts(text: str) -> None:
    assert len(identity({"prompts": {"templates": {"qd": text}}})) == 16
