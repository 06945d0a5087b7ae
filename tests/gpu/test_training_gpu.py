"""Trainings on a CUDA device: precision, determinism, memory, and every strategy on one device."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llm import write_small_llm

from spinevl.checkpoints.load import load_checkpoint
from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.data.study import open_study
from spinevl.io.tensors import stored_tensors
from spinevl.schema.errors import UserError
from spinevl.training.fit import fit
from spinevl.training.memory.estimator import Estimator
from spinevl.training.spec import TrainSpec
from spinevl.training.trainer import precision_of

pytestmark = pytest.mark.gpu

SMALL = [
    *("data.n_train=8", "data.n_dev=4", "data.n_test=2", "trainer.max_epochs=2"),
    *("trainer.progress_bar=false", "trainer.batch_patients=4"),
]


def trained(folder: Path, *overrides: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights of a small training on the device, and its ``train.json``."""
    folder.mkdir(parents=True)
    words = [*SMALL, f"cache_dir={folder.parent}/cache", *overrides]
    fit(TrainSpec.from_config(plain(compose("train", words))), folder)
    assert load_checkpoint(folder / "checkpoint").model is not None
    return dict(stored_tensors(folder / "checkpoint")), json.loads(
        (folder / "train.json").read_text()
    )


def first_step(file: Path) -> dict[str, float]:
    """The values of the first step in a ``metrics.csv``."""
    with file.open() as rows:
        return {name: float(value) for name, value in next(csv.DictReader(rows)).items() if value}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_gpu_with_bfloat16_trains_in_it(tmp_path: Path) -> None:
    assert precision_of("auto", "auto") == "bf16-mixed"
    weights, told = trained(tmp_path / "out")
    assert told["device"].startswith("cuda")
    assert told["peak_memory_bytes"] < 2**31
    assert all(one.dtype == torch.float32 for one in weights.values())


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_same_training_gives_the_same_bits(tmp_path: Path, tuning: str) -> None:
    first, _ = trained(tmp_path / "first", f"tuning={tuning}")
    again, _ = trained(tmp_path / "again", f"tuning={tuning}")
    other, _ = trained(tmp_path / "other", f"tuning={tuning}", "seed=1")
    assert equal(first, again)
    assert not equal(first, other)


def test_the_device_and_the_cpu_train_alike(tmp_path: Path) -> None:
    exact = ["trainer.precision=32-true", "augment=none", "optim.lr.llm=1e-4"]
    trained(tmp_path / "there", *exact)
    _, told = trained(tmp_path / "here", *exact, "trainer.accelerator=cpu")
    assert told["device"] == "cpu"
    # the first loss and gradient; Adam then makes the sign of each rounding error a whole step
    there, here = (first_step(tmp_path / name / "metrics.csv") for name in ("there", "here"))
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-3)
    assert there["grad_norm"] == pytest.approx(here["grad_norm"], rel=1e-2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_flex_attention_learns_what_blocks_do(tmp_path: Path, tuning: str, precision: str) -> None:
    words = [f"trainer.precision={precision}", f"tuning={tuning}", "augment=none"]
    firsts = []
    for attention in ("blocks", "flex"):
        trained(tmp_path / attention, *words, f"trainer.attention={attention}")
        firsts.append(first_step(tmp_path / attention / "metrics.csv"))
    near = 1e-3 if precision == "32-true" else 2e-2
    assert firsts[1]["loss"] == pytest.approx(firsts[0]["loss"], rel=near)
    assert firsts[1]["grad_norm"] == pytest.approx(firsts[0]["grad_norm"], rel=5 * near)


@pytest.mark.parametrize("stage", ["ddp", "deepspeed_zero2", "deepspeed_zero3"])
def test_a_strategy_on_one_device_trains_what_no_strategy_does(tmp_path: Path, stage: str) -> None:
    exact = ["trainer.precision=32-true", "augment=none", "tuning.lora.dropout=0"]
    alone, told = trained(tmp_path / "alone", *exact)
    sharded, other = trained(tmp_path / "sharded", *exact, f"trainer={stage}", "trainer.devices=1")
    assert alone.keys() == sharded.keys()
    assert other["device"] == told["device"]
    assert other["steps"] == told["steps"]
    firsts = [first_step(tmp_path / name / "metrics.csv") for name in ("alone", "sharded")]
    assert firsts[1]["loss"] == pytest.approx(firsts[0]["loss"], rel=1e-4)
    assert firsts[1]["grad_norm"] == pytest.approx(firsts[0]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_pretrained_llm_that_is_read_as_shares_trains_as_whole_weights(
    tmp_path: Path, tuning: str, precision: str
) -> None:
    llm = write_small_llm(tmp_path / "llm", max_position_embeddings=1024)
    words = ["llm=hf", f"llm.path={llm}", f"tuning={tuning}", f"trainer.precision={precision}"]
    words += ["augment=none", "trainer.devices=1", "trainer.max_epochs=1"]
    firsts = []
    for stage in ("deepspeed_zero2", "deepspeed_zero3"):  # whole, and as shares
        weights, _ = trained(tmp_path / stage, *words, f"trainer={stage}")
        assert all(bool(one.isfinite().all()) for one in weights.values())
        firsts.append(first_step(tmp_path / stage / "metrics.csv"))
    assert firsts[1]["loss"] == pytest.approx(firsts[0]["loss"], rel=1e-4)
    assert firsts[1]["grad_norm"] == pytest.approx(firsts[0]["grad_norm"], rel=1e-2)


def test_half_precision_skips_what_overflows(tmp_path: Path) -> None:
    weights, _ = trained(tmp_path / "out", "trainer.precision=16-mixed")
    assert all(bool(one.isfinite().all()) for one in weights.values())


@pytest.mark.parametrize("words", [["tuning=full"], ["tuning=lora", "warmup=none"]])
def test_the_estimate_is_near_the_measured_peak(tmp_path: Path, words: list[str]) -> None:
    words = [*words, "llm.width=768", "llm.layers=8"]
    spec = TrainSpec.from_config(
        plain(compose("train", [*SMALL, f"cache_dir={tmp_path}/cache", *words]))
    )
    study = open_study(spec.study, ("train", "dev"))
    estimate = Estimator(spec, study)(spec.batch_patients)
    _, told = trained(tmp_path / "out", *words)
    assert told["peak_memory_bytes"] == pytest.approx(estimate.tensors, rel=0.2, abs=1e8)


def test_memory_that_runs_out_ends_in_one_line(tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)  # some megabytes
    try:
        with pytest.raises(UserError, match=r"CUDA out of memory") as told:
            trained(tmp_path / "out", "llm.width=1024")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    (line,) = told.value.lines
    assert "trainer.batch_patients=2 trainer.accumulate=2" in line
    assert "trainer.gradient_checkpointing=true" in line
