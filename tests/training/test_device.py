"""The device and precision that trainer.* chooses, for training and for what follows it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spinevl.config.options import FeatureCacheOptions, TrainerOptions
from spinevl.data.study_spec import StudySpec
from spinevl.schema.errors import UserError
from spinevl.stages import run
from spinevl.training.launching import device_of
from spinevl.training.trainer import precision_of


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU that emulates bfloat16, as far as anyone asks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    return monkeypatch


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "device"),
    [
        ("auto", True, False, "cuda"),
        ("gpu", True, False, "cuda"),
        ("cuda", True, False, "cuda"),
        ("cpu", True, True, "cpu"),
        ("auto", False, True, "mps"),
        ("gpu", False, True, "mps"),
        ("mps", True, True, "mps"),
        ("auto", False, False, "cpu"),
    ],
)
def test_the_device_is_the_trainers(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, cuda: bool, mps: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert device_of(accelerator) == device


def test_auto_takes_bf16_only_where_the_gpu_computes_in_it(gpu: pytest.MonkeyPatch) -> None:
    assert precision_of("auto", "auto") == "32-true"
    assert precision_of("bf16", "auto") == "bf16-mixed"  # asked for by name
    gpu.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert precision_of("auto", "gpu") == "bf16-mixed"
    assert precision_of("auto", "cpu") == "32-true"


def test_a_run_predicts_where_it_trained(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "device_count", lambda: 4)

    def asked(accelerator: str, trained: int | str, **predict: Any) -> tuple[str, Any]:
        trainer = TrainerOptions(accelerator=accelerator, devices=trained)
        spec: Any = SimpleNamespace(
            trainer=trainer, feature_cache=FeatureCacheOptions(), study=StudySpec()
        )
        made = run._predict_spec(spec, Path(), predict)
        return made.device, made.options.devices

    assert asked("cpu", 2) == ("cpu", 2)
    assert asked("auto", "auto") == ("cuda", "auto")
    assert asked("gpu", 2, devices=1) == ("cuda", 1)
    with pytest.raises(UserError, match=r"predict\.devices=5"):
        asked("auto", 1, devices=5)
