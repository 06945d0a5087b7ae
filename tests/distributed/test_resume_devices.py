"""A training on two devices that is ended goes on, and ends as one that was never ended.

``make chaos`` does so with commands that are killed.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.distributed.launch import launch
from spinevl.training.spec import SPEC_FILE, TrainSpec

pytestmark = pytest.mark.distributed

WORDS = [
    *("data.n_train=5", "data.n_dev=2", "data.n_test=1", "task=[qd]"),
    *("encoder.widths=[8,8,16]", "encoder.dim=16"),
    *("llm.width=32", "trainer.progress_bar=false", "trainer.batch_patients=1", "augment=shift"),
    *("trainer.max_epochs=4", "trainer.accumulate=2", "trainer.dev_checks=2", "warmup=heads"),
    *("warmup.fraction=0.5", "trainer.accelerator=cpu", "trainer.devices=2", "tuning=lora"),
    *("tuning.lora.dropout=0.3", "tuning.encoder=full"),
]
STRATEGIES = ["ddp", "deepspeed_zero2", "deepspeed_zero3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each training."""
    out = tmp_path_factory.mktemp("resume")
    folders = []
    for strategy in STRATEGIES:
        cfg = compose("train", [*WORDS, f"cache_dir={out}/cache", f"trainer.strategy={strategy}"])
        for kind in ("uncut", "cut"):
            folders.append(out / f"{kind}-{strategy}")
            folders[-1].mkdir()
            TrainSpec.from_config(plain(cfg)).write(folders[-1] / SPEC_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        launch("resume_work", [str(one) for one in folders], out=out, processes=2)
    return out


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_ends_as_one_that_was_never_ended(trained: Path, strategy: str) -> None:
    folders = [trained / f"{kind}-{strategy}" for kind in ("uncut", "cut")]
    weights = [(one / "checkpoint/model.safetensors").read_bytes() for one in folders]
    assert weights[0] == weights[1]
    reports = [json.loads((one / "train.json").read_text()) for one in folders]
    assert reports[0]["dev_history"] == reports[1]["dev_history"]
    assert reports[0]["steps"] == reports[1]["steps"] == 8
    rows = []
    for one in folders:
        with (one / "metrics.csv").open() as file:
            rows.append([(row["step"], row["loss"]) for row in csv.DictReader(file)])
    assert rows[0] == rows[1]
    assert not list(folders[1].glob("resume/step-*"))
