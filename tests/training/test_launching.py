"""Which devices and strategies are refused, and when a training gets processes of its own."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spinevl.build.trust import Trust
from spinevl.config.compose import compose
from spinevl.config.options import Attention, TrainerOptions
from spinevl.config.plain import plain
from spinevl.distributed import launch as distributed_launch
from spinevl.inference.devices import device_count
from spinevl.report.metrics_file import TRAIN_FILE
from spinevl.schema.errors import UserError
from spinevl.training import launching
from spinevl.training.fit import fit
from spinevl.training.launching import check_devices, is_launched, processes_of
from spinevl.training.spec import SPEC_FILE, TrainSpec
from spinevl.training.strategy import zero_config


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def options(**changed: Any) -> TrainerOptions:
    return TrainerOptions(**{"accelerator": "cpu", **changed})


@pytest.mark.parametrize(
    ("changed", "launched"),
    [
        ({}, False),
        ({"devices": "auto"}, False),
        ({"devices": 2}, True),
        ({"strategy": "ddp"}, True),
        ({"strategy": "deepspeed_zero1"}, True),
        ({"num_nodes": 2}, True),
    ],
)
def test_several_devices_and_strategies_are_launched(
    changed: dict[str, Any], launched: bool
) -> None:
    assert is_launched(options(**changed)) == launched


@pytest.mark.usefixtures("gpus")
def test_auto_is_every_gpu() -> None:
    assert processes_of(options(accelerator="auto", devices="auto")) == 2
    assert is_launched(options(accelerator="auto", devices="auto"))
    assert processes_of(options(accelerator="cpu", devices="auto")) == 1
    check_devices(options(accelerator="gpu", devices=2))
    with pytest.raises(UserError, match=r"trainer\.devices=3.*found 2.*trainer\.devices=2"):
        check_devices(options(accelerator="auto", devices=3))


def test_flex_attention_learns_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_devices(options(accelerator="auto", attention=Attention.flex))
    with pytest.raises(UserError, match=r"trainer\.attention=flex.*found cpu.*blocks"):
        check_devices(options(accelerator="cpu", attention=Attention.flex))


def test_processes_on_the_cpu_are_as_many_as_the_machine_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed_launch, "machine_cores", lambda: 3)
    check_devices(options(devices=6))
    assert device_count(6, "cpu") == 6
    with pytest.raises(UserError, match=r"trainer\.devices=7: .*6 processes.*found 3 cores"):
        check_devices(options(devices="7", strategy="ddp"))
    with pytest.raises(UserError, match=r"predict\.devices=1000: .*6 processes.*found 3 cores"):
        device_count(1000, "cpu")


def test_deepspeed_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    check_devices(options(strategy="deepspeed_zero2"))
    with pytest.raises(UserError, match=r"trainer\.precision=16-mixed.*deepspeed_zero2"):
        check_devices(options(strategy="deepspeed_zero2", precision="16-mixed"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"trainer\.strategy=deepspeed_zero3 .*spinevl\[deepspeed"):
        check_devices(options(strategy="deepspeed_zero3"))


@pytest.mark.parametrize(
    ("strategy", "stage", "offload"),
    [
        ("deepspeed_zero1", 1, False),
        ("deepspeed_zero2", 2, False),
        ("deepspeed_zero3", 3, False),
        ("deepspeed_zero3_offload", 3, True),
    ],
)
def test_the_stage_of_a_strategy(strategy: str, stage: int, offload: bool) -> None:
    zero = zero_config(options(strategy=strategy))["zero_optimization"]
    assert zero["stage"] == stage
    assert ("offload_optimizer" in zero) == ("offload_param" in zero) == offload


@pytest.mark.parametrize("group", ["ddp", "deepspeed_zero2", "deepspeed_zero3_offload"])
def test_a_launched_training_is_told_its_folder_and_what_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    spec = TrainSpec.from_config(
        plain(compose("train", [f"trainer={group}", "trainer.accelerator=cpu"]))
    )
    called: list[Any] = []

    def launch(module: str, words: list[str], **rest: Any) -> None:
        called.append((module, words, rest))
        (tmp_path / TRAIN_FILE).write_text(json.dumps({"dev_score": 0.25}))

    monkeypatch.setattr(launching, "launch", launch)
    assert fit(spec, tmp_path, trust=Trust(("mine",))) == 0.25
    assert TrainSpec.read(tmp_path / SPEC_FILE) == spec
    words = [str(tmp_path), "trusted_targets=[mine]"]
    rest = {"out": tmp_path, "processes": 1, "nodes": 1}
    assert called == [("spinevl.training.worker", words, rest)]
