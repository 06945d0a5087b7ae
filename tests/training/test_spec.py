"""A training as one file: read back as it was written, and fitted from it alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinevl.config.compose import compose
from spinevl.config.options import Mode
from spinevl.config.plain import plain
from spinevl.schema.errors import UserError
from spinevl.training.fit import fit
from spinevl.training.prepare import open_for_training
from spinevl.training.spec import TrainSpec

TRAINED = [
    "trainer.max_epochs=1",
    "trainer.progress_bar=false",
    "augment.shift_px=1",
    *("encoder.widths=[8,8,16]", "encoder.dim=16", "llm.width=32"),
]
TINY = ["data.n_train=4", "data.n_dev=2", "data.n_test=1", *TRAINED]
WEIGHTS = "checkpoint/model.safetensors"


def spec(folder: Path, *overrides: str) -> TrainSpec:
    return TrainSpec.from_config(
        plain(compose("train", [*TINY, f"cache_dir={folder}/cache", *overrides]))
    )


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["tuning=lora", "logger=csv", "seed=3", "optim.lr.llm=1e-3"],
        ["data=conversations", "data.train=a.json", "data.ratios={report: 0.5}"],
        ["data=cervai", "data.labels=l.json", "records=built", "suffix=v2", "warmup=none"],
    ],
)
def test_a_spec_is_read_back_as_it_was_written(tmp_path: Path, overrides: list[str]) -> None:
    config = plain(compose("train", [*TRAINED, *overrides]))
    one = TrainSpec.from_config(config)
    one.write(tmp_path / "spec.json")
    again = TrainSpec.read(tmp_path / "spec.json")
    assert again == one
    assert isinstance(again.tuning.encoder, Mode)
    assert again.study.data == config["data"]
    assert again.seed == config["seed"]
    again.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "spec.json").read_bytes()


def test_what_the_config_says_of_the_images_goes_where_it_is_used(tmp_path: Path) -> None:
    one = spec(tmp_path, "augment.gain=0.25", "imbalance.class_weights=none")
    assert (one.augment.shift_px, one.augment.gain) == (1, 0.25)
    assert one.imbalance.class_weights.value == "none"
    assert one.trainer.max_epochs == 1


def test_every_mistake_of_a_spec_is_named(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    spec(tmp_path).write(file)
    content = json.loads(file.read_text())
    content["sede"] = 3
    content["tuning"]["encoder"] = "half"
    content["optim"]["lr"].pop("llm")
    del content["study"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        TrainSpec.read(file)
    problems = caught.value.problems
    assert all(str(one).startswith(f"{file}: ") for one in problems)
    for name in ("sede", "tuning.encoder", "study"):
        assert any(name in str(one) for one in problems), name


def test_a_fit_from_the_file_alone_gives_the_same_weights(tmp_path: Path) -> None:
    """test_worker.py has the same of another process."""
    one = spec(tmp_path)
    one.write(tmp_path / "spec.json")
    (tmp_path / "object").mkdir()
    (tmp_path / "file").mkdir()
    score = fit(one, tmp_path / "object")
    assert fit(TrainSpec.read(tmp_path / "spec.json"), tmp_path / "file") == score
    assert (tmp_path / "file" / WEIGHTS).read_bytes() == (
        tmp_path / "object" / WEIGHTS
    ).read_bytes()
    configs = [
        json.loads((tmp_path / one / "checkpoint/config.json").read_text())
        for one in ("object", "file")
    ]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tuning=lora"], ["tuning.encoder=frozen: encoder", "tuning.llm=lora: llm"]),
        (["tuning=connector", "encoder=clip"], ["tuning.llm=frozen: llm"]),
        (["tuning=lora", "encoder=clip", "encoder.pretrained=false", "llm=phi2"], ["encoder"]),
        (["tuning=lora", "encoder=clip", "llm=phi2"], []),
        (["tuning=full"], []),
        (["tuning=lora", "checkpoint=somewhere"], []),
    ],
)
def test_a_part_that_stays_random_is_named(
    tmp_path: Path, overrides: list[str], said: list[str]
) -> None:
    words = [f"cache_dir={tmp_path}", *overrides]
    lines = TrainSpec.from_config(plain(compose("train", words))).left_random
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))


def test_training_and_doctor_say_so(tmp_path: Path) -> None:
    told: list[str] = []
    cfg = compose("train", ["tuning=lora", "data=cervai", f"cache_dir={tmp_path}"])
    with pytest.raises(UserError):  # of the data, which are not there
        open_for_training(TrainSpec.from_config(plain(cfg)), None, tell=told.append)
    assert any(line.startswith("tuning.llm=lora") for line in told)
