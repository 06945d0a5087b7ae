"""What a training is told before anything is loaded: its memory, a refusal, its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinevl.build.trust import NOTHING
from spinevl.data.study import Study
from spinevl.schema.errors import UserError
from spinevl.training import prepare
from spinevl.training.fit import fit
from spinevl.training.memory import estimate, what_fits
from spinevl.training.memory import settle as module
from spinevl.training.memory.changes import changed
from spinevl.training.memory.estimator import Estimator
from spinevl.training.memory.room import Room
from spinevl.training.memory.settle import SAFE, settle
from spinevl.training.spec import SPEC_FILE, TrainSpec

Make = Callable[..., TrainSpec]


@pytest.fixture(autouse=True)
def no_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's own memory would hide that of tiny models."""
    monkeypatch.setattr(estimate, "_OVERHEAD", {"cpu": (0.0, 1.0)})


_estimators: dict[str, Estimator] = {}


def once(spec: TrainSpec, study: Study, **options: Any) -> Estimator:
    """An Estimator, which is made once: what it has rehearsed need not be rehearsed again."""
    name = f"{spec} {options}"
    if name not in _estimators:
        _estimators[name] = Estimator(spec, study, **options)
    return _estimators[name]


@pytest.fixture(autouse=True)
def estimators_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (module, what_fits):
        monkeypatch.setattr(one, "Estimator", once)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[float | None], None]:
    """Give the device some bytes."""

    def give(size: float | None) -> None:
        found = None if size is None else Room(int(size), "a small card")
        monkeypatch.setattr(module, "room_on", lambda *_, **__: found)

    return give


def test_every_part_is_told_with_its_gigabytes(make_spec: Make, study: Study) -> None:
    lines: list[str] = []
    spec = make_spec("llm.width=256", "trainer.batch_patients=3")
    assert settle(spec, study, tell=lines.append) == spec
    told = "\n".join(lines)
    for word in ("3 patients", "encoder", "connector", "llm", "heads", "logits", "this machine"):
        assert word in told
    (llm,) = [line.split() for line in lines if line.split()[0] == "llm"]
    row = {one.name: one for one in once(spec, study, trust=NOTHING)(3).rows}["llm"]
    assert llm[1:3] == [f"{row.weights / 1e9:.2f}", f"{row.gradients / 1e9:.2f}"]


def test_what_cannot_fit_is_refused_with_keys_that_fit(
    make_spec: Make, study: Study, room: Callable[[float | None], None]
) -> None:
    spec = make_spec("trainer.batch_patients=6", "trainer.accumulate=2")
    needed = once(spec, study, trust=NOTHING)
    room(needed(2).total + 1)
    with pytest.raises(UserError) as refusal:
        settle(spec, study)
    (line,) = refusal.value.lines
    assert "a small card" in line
    assert "trainer.batch_patients=2 trainer.accumulate=6" in line


def test_several_keys_are_named_where_none_is_enough(
    make_spec: Make, study: Study, room: Callable[[float | None], None]
) -> None:
    words = ("llm.width=512", "llm.layers=2", "warmup=none")
    both = make_spec(*words, "tuning.llm=lora", "trainer.gradient_checkpointing=true")
    room(once(both, study, trust=NOTHING)(1).total + 1)
    with pytest.raises(UserError) as refusal:
        settle(make_spec(*words, "trainer.batch_patients=1"), study)
    (line,) = refusal.value.lines
    assert "tuning.llm=lora" in line
    room(1e6)
    with pytest.raises(UserError, match="smaller model"):
        settle(make_spec("trainer.batch_patients=1"), study)


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ([], "llm.dtype=bfloat16"),
        ([], "llm.quantize=nf4"),
        (["tuning.encoder=frozen"], "encoder.dtype=bfloat16"),
        (["tuning.llm=full"], "tuning.llm=lora"),
    ],
)
def test_fewer_bits_a_weight_are_offered_where_they_are_enough(
    make_spec: Make,
    study: Study,
    room: Callable[[float | None], None],
    of_transformers: list[str],
    asked: list[str],
    fits: str,
) -> None:
    if "nf4" in fits:
        pytest.importorskip("bitsandbytes")
    words = [*of_transformers, *asked, "trainer.batch_patients=1"]
    room(once(make_spec(*words, fits), study, trust=NOTHING)(1).total + 1)
    with pytest.raises(UserError) as refusal:
        settle(make_spec(*words), study)
    assert f" {fits} (" in str(refusal.value)


def test_what_cannot_be_is_not_offered(
    make_spec: Make, of_transformers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(*more: str, device: str = "cpu") -> list[str]:
        return [one for one, _ in changed(make_spec(*of_transformers, *more), device)]

    halves = {"llm.dtype=bfloat16", "encoder.dtype=bfloat16"}
    assert halves <= set(words())
    assert "llm.dtype=bfloat16" not in words("tuning.llm=full", "encoder.dtype=bfloat16")
    assert not halves & set(words("tuning.llm=full", "encoder.dtype=bfloat16"))
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "computes_in_bfloat16", lambda _: True)
        assert not halves & set(words("trainer.precision=bf16-mixed"))
        assert halves <= set(words("trainer.precision=32-true"))
    zero = words("trainer=deepspeed_zero2", "trainer.devices=2", device="cuda")
    assert zero == ["trainer.gradient_checkpointing=true"]
    for full in (["tuning.llm=full"], ["llm.quantize=nf4"]):
        assert "llm.quantize=nf4" not in words(*full)
    assert not [one for one in words("llm.quantize=nf4", device="cuda") if "deepspeed" in one]


def test_auto_takes_the_largest_batch_and_writes_it_down(
    make_spec: Make, study: Study, room: Callable[[float | None], None], out: Path
) -> None:
    spec = make_spec("trainer.batch_patients=auto")
    needed = once(spec, study, trust=NOTHING)
    room(needed(4).total / SAFE + 1)
    fit(spec, out, study=study)
    assert TrainSpec.read(out / SPEC_FILE).trainer.batch_patients == 4
    # started again on a larger card, the training keeps its batch
    room(1e12)
    assert settle(spec, study, out=out).trainer.batch_patients == 4
    assert settle(spec, study).trainer.batch_patients == 6


def test_what_is_unknown_is_not_refused(
    make_spec: Make,
    study: Study,
    room: Callable[[float | None], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    room(None)
    spec = make_spec("trainer.batch_patients=2")
    assert settle(spec, study, tell=lines.append) == spec
    assert "not known" in lines[-1]
    auto = make_spec("trainer.batch_patients=auto")
    with pytest.raises(UserError, match=r"trainer\.batch_patients=auto"):
        settle(auto, study)

    def fails(*_: object, **__: object) -> None:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(module, "Estimator", fails)
    room(1.0)
    assert settle(spec, study, tell=lines.append) == spec
    assert "not estimated" in lines[-1]
    assert "no meta kernel" in lines[-1]
    with pytest.raises(UserError, match=r"no meta kernel.*give a number"):
        settle(auto, study)


def test_auto_is_no_batch_of_a_training(make_spec: Make) -> None:
    spec = make_spec("trainer.batch_patients=auto")
    with pytest.raises(UserError, match=r"trainer\.batch_patients=auto"):
        _ = spec.batch_patients
    assert replace(spec, trainer=replace(spec.trainer, batch_patients=3)).batch_patients == 3
