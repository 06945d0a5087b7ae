"""Predictions on a CUDA device: the choices of the CPU, by one process or shared by two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spinevl.build.worker_words import read_worker_words
from spinevl.config.compose import compose
from spinevl.inference import answering, checkpoint_study, worker
from spinevl.stages import predict, train

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict_gpu")
    (folder / "job").mkdir()
    small = [
        *("data.n_train=8", "data.n_dev=6", "data.n_test=2", "trainer.max_epochs=2"),
        *("trainer.progress_bar=false", f"cache_dir={folder}/cache"),
    ]
    train.main(compose("train", small), out=folder / "job")
    return folder


def answered(work: Path, name: str, *overrides: str) -> list[dict[str, Any]]:
    (work / name).mkdir()
    words = [f"checkpoint={work}/job/checkpoint", f"cache_dir={work}/cache", "subset=dev"]
    predict.main(compose("predict", [*words, *overrides]), out=work / name)
    return [json.loads(one) for one in (work / name / "predictions.jsonl").open()]


def test_the_device_chooses_as_the_cpu_and_two_processes_as_one(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = answered(work, "there")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_study, "predict_device", lambda: "cpu")
        here = answered(work, "here")
    assert len(here) == len(there) == 6 * 18
    for one, other in zip(here, there, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        first, second = sorted(one["probabilities"].values())[:-3:-1]
        if first - second > 2e-4:
            assert one["choice"] == other["choice"]

    for one, other in zip(there, answered(work, "flex", "predict.attention=flex"), strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)

    def launch(module: str, words: list[str], *, out: Path, processes: int) -> None:
        folder, trust = read_worker_words(words)
        monkeypatch.setenv("LOCAL_RANK", "0")  # both on the one device that is there
        for rank in range(processes):
            worker.answer_share(folder, rank=rank, of=processes, trust=trust)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(answering, "launch", launch)
    halves = answered(work, "halves", "predict.batch_size=3", "predict.devices=2")
    whole = answered(work, "whole", "predict.batch_size=3")
    for one, other in zip(halves, whole, strict=True):
        assert one.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-6)
        assert one == other
