"""Training with a frozen encoder: its features are kept, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import spinevl

WEIGHTS = "checkpoint/model.safetensors"
TINY = [
    *("encoder.widths=[8,8,16]", "encoder.dim=16"),
    *("llm.width=32", "llm.layers=1", "llm.heads=2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def train(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    small = ("data.n_train=8", "data.n_dev=4", "data.n_test=2", "trainer.max_epochs=1", *TINY)
    command = ("trainer.progress_bar=false", f"cache_dir={folder}/cache", f"hydra.run.dir={name}")
    done = spinevl("train", *small, *command, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((folder / name / "train.json").read_text())
    return result


def test_kept_features_change_no_bit_and_later_jobs_encode_what_is_new(folder: Path) -> None:
    frozen = "tuning.encoder=frozen"
    first = train(folder, "first", frozen)
    assert (first["images_encoded"], first["images_cached"]) == (12 * 12, 0)
    plain = train(folder, "plain", frozen, "feature_cache.enabled=false")
    assert plain["images_encoded"] is None
    assert (folder / "first" / WEIGHTS).read_bytes() == (folder / "plain" / WEIGHTS).read_bytes()
    more = train(folder, "more", frozen, "sag_image=[5,6]")
    assert (more["images_encoded"], more["images_cached"]) == (12, 12 * 12)
    assert train(folder, "again", frozen, "sag_image=[5]")["images_encoded"] == 0


def test_an_encoder_that_learns_keeps_nothing(folder: Path) -> None:
    before = sorted((folder / "cache").rglob("*.npy"))
    assert train(folder, "learns")["images_encoded"] is None
    assert sorted((folder / "cache").rglob("*.npy")) == before


@pytest.mark.parametrize(
    ("option", "steps"),
    [("trainer.packing=plain", 2), ("trainer.packing=off", 2), ("trainer.accumulate=3", 1)],
)
def test_other_layouts_run_by_name(folder: Path, option: str, steps: int) -> None:
    result = train(folder, option.replace("=", "-"), option)
    assert result["steps"] == steps
    assert (result["padding_share"] > 0) == (option == "trainer.packing=off")
    assert (result["token_reuse_ratio"] > 1.2) == (option == "trainer.accumulate=3")
    spent = result["step_seconds"]
    assert 0 < sum(spent.values()) - spent["data"] <= result["step_seconds_total"]
    assert all(spent[part] > 0 for part in ("decoder", "head", "backward", "optimizer"))


@pytest.mark.slow
def test_a_compiled_decoder_trains(folder: Path) -> None:
    assert train(folder, "compiled", "trainer.compile=true")["steps"] == 2
