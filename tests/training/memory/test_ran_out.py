"""A training whose memory runs out: one line with keys that help, and no state is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spinevl.cli.main import main
from spinevl.config.options import Resume
from spinevl.data.study import Study
from spinevl.schema.errors import UserError
from spinevl.training.fit import fit
from spinevl.training.memory import ran_out
from spinevl.training.memory.ran_out import memory_told
from spinevl.training.module import TrainingModule
from spinevl.training.spec import TrainSpec

Make = Callable[..., TrainSpec]
CPU = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 8000000000 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 3 MiB free."),
    RuntimeError(CPU),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Error out of memory at line 380 in file /src/csrc/ops.cu"),  # bitsandbytes
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: str(one)[:20])
def test_the_keys_of_the_training_are_named(
    make_spec: Make, of_transformers: list[str], tmp_path: Path, error: Exception
) -> None:
    spec = make_spec(*of_transformers, "trainer.batch_patients=5", "trainer.accumulate=2")
    with pytest.raises(UserError) as told, memory_told(spec, tmp_path):
        raise error
    (line,) = told.value.lines
    assert str(error).split(". ")[0] in line
    for words in (
        *("trainer.batch_patients=5", "trainer.batch_patients=2 trainer.accumulate=6"),
        *("trainer.gradient_checkpointing=true", "llm.dtype=bfloat16", "encoder.dtype=bfloat16"),
    ):
        assert words in line
    assert "resume" not in line


def test_a_gpu_is_told_of_strategies_and_auto_of_a_number(
    make_spec: Make, of_transformers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ran_out, "device_of", lambda _: "cuda")
    auto = make_spec(*of_transformers, "trainer.batch_patients=auto")
    found = replace(auto, trainer=replace(auto.trainer, batch_patients=6))
    with pytest.raises(UserError) as told, memory_told(found, tmp_path):
        raise ERRORS[0]
    line = str(told.value)
    assert "trainer=deepspeed_zero3 trainer.devices=2" in line
    assert "trainer.batch_patients=6, which auto found" in line
    assert "trainer.batch_patients=3 trainer.accumulate=2" in line


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes"),
        UserError("memory: this is not enough memory"),
        Warning(),
    ],
)
def test_other_errors_stay_what_they_are(make_spec: Make, tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, memory_told(make_spec(), tmp_path):
        raise error
    assert raised.value is error


def test_states_stay_and_the_same_command_goes_on(
    make_spec: Make, study: Study, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("trainer.batch_patients=1", "trainer.save_every=1", "warmup=none")
    spec = make_spec(*words)
    step = TrainingModule.training_step

    def runs_out(self: TrainingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 4:
            torch.empty(2**50, dtype=torch.uint8)  # more than there is anywhere
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", runs_out)
        with pytest.raises(UserError, match=r"memory: .*trainer\.gradient_checkpointing") as told:
            fit(spec, out, study=study)
    assert f"{out}/resume" in str(told.value)
    kept = sorted(one.name for one in (out / "resume").iterdir())
    assert kept == ["step-00000003", "step-00000004"]
    fit(spec, out, study=study)
    weights = (out / "checkpoint/model.safetensors").read_bytes()
    fit(replace(spec, resume=Resume.never), out, study=study)
    assert (out / "checkpoint/model.safetensors").read_bytes() == weights


def test_a_command_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs_out(*_: Any) -> None:
        torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrainingModule, "on_after_backward", runs_out)
    words = [
        *("data.n_train=2", "data.n_dev=2", "data.n_test=1", "task=[qd]", "encoder.dim=16"),
        *("llm.width=32", "trainer=cpu", "trainer.progress_bar=false", "warmup=none"),
        *("trainer.max_epochs=1", "trainer.batch_patients=auto", "cache_dir=cache"),
    ]
    assert main(["train", *words, "hydra.run.dir=out"]) == 1
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "spinevl: memory: it" in one]
    assert "trainer.batch_patients=2, which auto found" in line
    assert "trainer.batch_patients=1 trainer.accumulate=2" in line
    assert "can't allocate memory" in line
