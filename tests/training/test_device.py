"""A device that is not there is refused before any data are read, by doctor and train alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spinevl.config.compose import compose
from spinevl.config.options import TrainerOptions
from spinevl.schema.errors import UserError
from spinevl.stages import doctor, train
from spinevl.training.trainer import check_device


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_an_accelerator_that_is_not_there_is_named(
    accelerator: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    cfg = compose("doctor", ["data=cervai", f"trainer.accelerator={accelerator}"])
    said = []
    for stage in (doctor, train):
        with pytest.raises(UserError) as caught:
            stage.main(cfg, out=tmp_path)
        said.append(caught.value.problems)
    assert said[0] == said[1]
    assert said[0][0].startswith(f"trainer.accelerator={accelerator}: ")


def test_what_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for accelerator in ("auto", "cpu", "gpu", "cuda"):
        check_device(TrainerOptions(accelerator=accelerator))
