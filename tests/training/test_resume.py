"""A training that was cut goes on as if it had not been: weights, scores, rows, bit for bit."""

from __future__ import annotations

import csv
import errno
import functools
import io
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from spinevl.config.compose import compose
from spinevl.config.options import Resume
from spinevl.config.plain import plain
from spinevl.io.hashing import sha256
from spinevl.schema.errors import UserError
from spinevl.training import resume, worker
from spinevl.training import states as states_module
from spinevl.training.spec import SPEC_FILE, TrainSpec
from spinevl.training.stop_signal import StopSignal
from spinevl.training.worker import train

# five batches an epoch, so three optimizer steps; one epoch of warm-up and three of answers
SMALL = [
    *("data.n_train=5", "data.n_dev=2", "data.n_test=1", "task=[qd]", "trainer.batch_patients=1"),
    *("encoder.widths=[8,8,16]", "encoder.dim=16", "llm.width=32"),
    *("trainer.max_epochs=4", "trainer.accumulate=2", "trainer.dev_checks=2", "augment=shift"),
    *("trainer.save_every=1", "trainer.progress_bar=false", "tuning.llm=lora"),
    "tuning.lora.dropout=0.3",
]
STEPS = 12


VARIANTS = {
    "lora": [],
    "all": ["tuning.llm=full", "trainer.num_workers=1", "trainer.ema=0.8", "trainer.early_stop=1"],
    "no packing": ["trainer.packing=off", "warmup=none", "trainer.max_epochs=2"],
}


class Cut(Exception):
    """As if the process were killed."""


@functools.cache
def config(*words: str) -> dict[str, Any]:
    return plain(compose("train", words))


def spec(cache: Path, *overrides: str) -> TrainSpec:
    return TrainSpec.from_config(deepcopy(config(*SMALL, f"cache_dir={cache}", *overrides)))


def fit(one: TrainSpec, out: Path) -> float | None:
    """Train, without the estimate of its memory that comes before it."""
    one.write(out / SPEC_FILE)
    return train(out)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@contextmanager
def before(hook: str, do: Callable[[Any], None]) -> Iterator[None]:
    """Do something with the training module before a hook saves a state."""
    original = getattr(resume.SaveState, hook)

    def first(self: Any, trainer: pl.Trainer, module: Any, *rest: Any) -> None:
        do(module)
        original(self, trainer, module, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume.SaveState, hook, first)
        yield


def cut(one: TrainSpec, out: Path, *, step: int) -> None:
    """Train, and cut it when a step is done and not yet saved."""

    def at(module: Any) -> None:
        if module.step == step:
            raise Cut

    out.mkdir(exist_ok=True)
    with before("on_train_batch_end", at), pytest.raises(Cut):
        fit(one, out)


def states(out: Path) -> list[int]:
    """The steps after which there is a state."""
    return sorted(int(one.name[5:]) for one in (out / "resume").glob("step-*"))


def left(out: Path) -> dict[str, Any]:
    """What a training leaves, without its times."""
    report = json.loads((out / "train.json").read_text())
    with (out / "metrics.csv").open() as file:
        rows = [
            {k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")}
            for row in csv.DictReader(file)
        ]
    names = ("steps", "dev_score", "dev_score_step", "dev_history", "padding_share", "shared_share")
    return {
        "weights": (out / "checkpoint/model.safetensors").read_bytes(),
        "rows": rows,
        **{name: report[name] for name in names},
    }


@pytest.fixture(scope="module")
def uncut(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each variant leaves that was never cut."""
    found = {}
    for name, overrides in VARIANTS.items():
        out = tmp_path_factory.mktemp("uncut")
        fit(spec(cache, *overrides), out)
        found[name] = left(out)
    return found


@pytest.mark.parametrize(
    ("variant", "step"),
    [
        # in the warm-up, at its end, in mid-epoch, after dev was scored, in the last step
        *(("lora", step) for step in (2, 3, 6, 8, 10, STEPS)),
        *(("all", step) for step in (2, 5, 10)),
        *(("no packing", step) for step in (2, 5)),
    ],
)
def test_a_training_cut_after_a_step_ends_with_the_same_weights(
    cache: Path,
    tmp_path: Path,
    uncut: dict[str, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    variant: str,
    step: int,
) -> None:
    one = spec(cache, *VARIANTS[variant])
    cut(one, tmp_path, step=step)
    assert not multiprocessing.active_children()  # those of a loader end with its training
    # none after the last step of the warm-up: the next stage begins with an optimizer of its own
    last = [s for s in range(1, step) if variant == "no packing" or s != 3][-2:]
    assert states(tmp_path) == last
    with caplog.at_level("INFO"):
        fit(one, tmp_path)
    assert f"after step {last[-1]}" in caplog.text
    assert not multiprocessing.active_children()
    assert left(tmp_path) == uncut[variant]
    assert [one.name for one in (tmp_path / "resume").iterdir()] == ["done.json"]


def test_a_training_cut_many_times_ends_with_the_same_weights(
    cache: Path, tmp_path: Path, uncut: dict[str, dict[str, Any]]
) -> None:
    for step in (2, 3, 5, 9):
        cut(spec(cache), tmp_path, step=step)
    fit(spec(cache), tmp_path)
    assert left(tmp_path) == uncut["lora"]
    seconds = [float(row["seconds"]) for row in csv.DictReader((tmp_path / "metrics.csv").open())]
    assert seconds == sorted(seconds)


def test_a_complete_training_is_not_done_again(
    cache: Path, tmp_path: Path, uncut: dict[str, dict[str, Any]]
) -> None:
    overrides = VARIANTS["no packing"]
    fit(spec(cache, *overrides), tmp_path)
    made = (tmp_path / "checkpoint/model.safetensors").stat().st_mtime_ns
    assert fit(spec(cache, *overrides), tmp_path) == uncut["no packing"]["dev_score"]
    assert (tmp_path / "checkpoint/model.safetensors").stat().st_mtime_ns == made
    assert fit(spec(cache, *overrides, "resume=never"), tmp_path) is not None
    assert (tmp_path / "checkpoint/model.safetensors").stat().st_mtime_ns > made


@pytest.fixture(scope="module")
def once_cut_after_9(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cut")
    cut(spec(cache), out, step=9)
    return out


@pytest.fixture
def cut_after_9(once_cut_after_9: Path, tmp_path: Path) -> Path:
    """A folder of a training that was cut after step 9."""
    return shutil.copytree(once_cut_after_9, tmp_path, dirs_exist_ok=True)


def damage_bytes(state: Path) -> None:
    content = bytearray((state / "state").read_bytes())
    content[len(content) // 2] ^= 1
    (state / "state").write_bytes(content)


def damage_end(state: Path) -> None:
    (state / "state").write_bytes((state / "state").read_bytes()[:-100])


def damage_manifest(state: Path) -> None:
    (state / "manifest.json").write_text((state / "manifest.json").read_text()[:-100])


def damage_place(state: Path) -> None:
    manifest = (state / "manifest.json").read_text()
    assert manifest.count('"epoch": ') == 1
    (state / "manifest.json").write_text(manifest.replace('"epoch": ', '"epoch": 1'))


def remove_file(state: Path) -> None:
    (state / "state").unlink()


DAMAGES = [damage_bytes, damage_end, damage_manifest, damage_place, remove_file]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_state_before_a_damaged_one_is_used(
    cache: Path,
    cut_after_9: Path,
    uncut: dict[str, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    damage(cut_after_9 / "resume/step-00000008")
    fit(spec(cache), cut_after_9)
    (said,) = [one.getMessage() for one in caplog.records if "00008" in one.getMessage()]
    assert "step-00000007" in said
    assert left(cut_after_9) == uncut["lora"]


def sign(state: Path) -> None:
    """Give a state's files the checksums that they have now."""
    content = json.loads((state / "manifest.json").read_text())
    del content["sha256"]
    content["files"] = {name: sha256(state / name) for name in content["files"]}
    signed = {**content, "sha256": states_module._digest(content)}
    (state / "manifest.json").write_text(json.dumps(signed))


@pytest.mark.parametrize("missing", [None, "loops"])
def test_a_signed_state_that_is_another_file_is_passed_over(
    cache: Path,
    cut_after_9: Path,
    uncut: dict[str, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    missing: str | None,
) -> None:
    state = cut_after_9 / "resume/step-00000008"
    content = torch.load(state / "state", weights_only=True)
    del content[missing or "state_dict"]
    torch.save(content if missing else content["loops"], state / "state")
    sign(state)
    fit(spec(cache), cut_after_9)
    (said,) = [one.getMessage() for one in caplog.records if "00008" in one.getMessage()]
    assert f"{state}/state: " in said
    assert (missing or "state_dict") in said
    assert "step-00000007" in said
    assert left(cut_after_9) == uncut["lora"]


def test_a_damaged_state_takes_the_place_of_no_whole_one(
    cache: Path, tmp_path: Path, uncut: dict[str, dict[str, Any]]
) -> None:
    cut(spec(cache, "trainer.save_every=4"), tmp_path, step=9)
    assert states(tmp_path) == [4, 8]
    damage_bytes(tmp_path / "resume/step-00000008")
    cut(spec(cache, "trainer.keep=1"), tmp_path, step=7)
    assert states(tmp_path) == [6]
    fit(spec(cache), tmp_path)
    assert left(tmp_path) == uncut["lora"]


def test_without_a_whole_state_the_training_starts_again(
    cache: Path,
    tmp_path: Path,
    uncut: dict[str, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cut(spec(cache), tmp_path, step=4)
    for state in (tmp_path / "resume").glob("step-*"):
        damage_bytes(state)
    fit(spec(cache), tmp_path)
    assert caplog.text.count("starts again") == 2
    assert left(tmp_path) == uncut["lora"]


def test_a_best_checkpoint_that_is_gone_is_trained_again(
    cache: Path, tmp_path: Path, uncut: dict[str, dict[str, Any]]
) -> None:
    cut(spec(cache), tmp_path, step=11)
    shutil.rmtree(tmp_path / "checkpoint")
    fit(spec(cache), tmp_path)
    assert left(tmp_path) == uncut["lora"]


def test_a_better_checkpoint_is_not_replaced_after_a_restart(cache: Path, tmp_path: Path) -> None:
    """The best score is known to the training that goes on."""
    one = spec(cache, "trainer.max_epochs=3", "trainer.dev_checks=2")
    cut(one, tmp_path, step=8)
    before_it = (tmp_path / "checkpoint/model.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "dev_score", lambda *_: (lambda *_: -1.0, "dev score"))
        fit(one, tmp_path)
    assert (tmp_path / "checkpoint/model.safetensors").read_bytes() == before_it
    assert json.loads((tmp_path / "train.json").read_text())["dev_score_step"] == 6


def test_the_best_few_checkpoints_are_those_of_a_training_that_was_not_cut(
    cache: Path, tmp_path: Path
) -> None:
    one = spec(cache, "trainer.keep_best=2", "trainer.dev_checks=3")
    files = []
    for name, steps in (("uncut", ()), ("cut", (8, 11))):
        (out := tmp_path / name).mkdir()
        for step in steps:
            cut(one, out, step=step)
        fit(one, out)
        history = json.loads((out / "train.json").read_text())["dev_history"]
        best = sorted(history, key=lambda pair: (pair[1], pair[0]))[-2:]
        weights = {file.parent.name: file.read_bytes() for file in out.rglob("model.safetensors")}
        assert set(weights) == {"checkpoint", *(f"step-{step:08d}" for step, _ in best)}
        assert weights["checkpoint"] == weights[f"step-{best[-1][0]:08d}"]
        files.append(weights)
    assert files[0] == files[1]


@pytest.mark.parametrize("written", ["nothing", "half"])
def test_a_full_disk_costs_no_state_and_no_training(
    cache: Path,
    tmp_path: Path,
    uncut: dict[str, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    written: str,
) -> None:
    save = torch.save

    class Full(io.RawIOBase):
        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 20_000 if written == "half" else 0

        def write(self, data: Any) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

    cut(spec(cache), tmp_path, step=5)
    kept = states(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", lambda one, file: save(one, Full(file)))
        cut(spec(cache), tmp_path, step=8)
    (line,) = [one.getMessage() for one in caplog.records if "No space left" in one.getMessage()]
    assert "step-00000005" in line  # the first of three
    assert states(tmp_path) == kept
    assert not [one for one in (tmp_path / "resume").iterdir() if one.name.startswith(".")]
    fit(spec(cache), tmp_path)
    assert left(tmp_path) == uncut["lora"]


def test_a_state_of_another_training_is_refused_with_every_difference(
    cache: Path, tmp_path: Path
) -> None:
    cut(spec(cache), tmp_path, step=3)
    other = spec(cache, "optim.lr.llm=5e-5", "seed=3", "data.n_dev=3", "trainer.num_workers=1")
    with pytest.raises(UserError) as refused:
        fit(other, tmp_path)
    text = "\n".join(refused.value.problems)
    assert all(f": {key} " in text for key in ("optim.lr.llm", "seed", "data.n_dev"))
    assert "found 5e-05" in text
    assert "num_workers" not in text
    assert "resume=never" in text
    assert states(tmp_path) == [1, 2]
    other = replace(other, resume=Resume.never)
    fit(other, tmp_path)


def test_a_state_of_more_processes_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(spec(cache), tmp_path, step=3)
    monkeypatch.setattr("spinevl.training.states.world_size", lambda: 2)
    with pytest.raises(UserError, match=r"devices .* expected 1, found 2") as error:
        fit(spec(cache), tmp_path)
    for possible in ("trainer.devices", "resume=never", f"checkpoint={tmp_path}/checkpoint"):
        assert possible in str(error.value)


def test_a_second_ctrl_c_ends_at_once() -> None:
    stop = StopSignal()
    stop(signal.SIGINT, None)
    assert stop.number == signal.SIGINT  # and the step goes on
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGINT, None)


@pytest.mark.parametrize(
    ("number", "step"),
    [(signal.SIGTERM, 1), (signal.SIGTERM, 6), (signal.SIGUSR1, 8), (signal.SIGINT, 7)],
)
def test_a_signal_saves_first(
    cache: Path,
    tmp_path: Path,
    uncut: dict[str, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
    step: int,
) -> None:
    one = spec(cache, "trainer.save_every=30min")

    def at(module: Any) -> None:
        if module.step == step:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)  # a launcher may send its own

    stopped = UserError if number == signal.SIGUSR1 else KeyboardInterrupt
    former = signal.getsignal(number)
    with before("on_train_batch_end", at), pytest.raises(stopped) as error:
        fit(one, tmp_path)
    said = str(error.value) if number == signal.SIGUSR1 else caplog.text
    assert f"after step {step}; the same command" in said
    assert signal.getsignal(number) is former
    assert states(tmp_path) == [step]
    fit(one, tmp_path)
    assert left(tmp_path) == uncut["lora"]


def test_a_state_runs_no_code(cache: Path, tmp_path: Path) -> None:
    cut(spec(cache), tmp_path, step=3)
    for state in (tmp_path / "resume").glob("step-*"):
        assert torch.serialization.get_unsafe_globals_in_checkpoint(state / "state") == []
        stored = torch.load(state / "state", weights_only=True)
        assert not [name for name in stored["state_dict"] if "base_layer" in name]  # frozen
        assert [name for name in stored["state_dict"] if "encoder" in name]


@pytest.mark.parametrize(("text", "parsed"), [("50", (50, False)), ("10min", (10, True))])
def test_every(text: str, parsed: tuple[int, bool]) -> None:
    assert resume.every_of(text) == parsed
