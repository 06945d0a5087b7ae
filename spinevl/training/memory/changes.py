"""The keys that make a training fit its device, with values that do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from spinevl.build.trust import Trust
from spinevl.config.options import Mode
from spinevl.data.study import Study
from spinevl.training.memory.estimate import GB
from spinevl.training.memory.estimator import Estimator
from spinevl.training.memory.room import Room
from spinevl.training.memory.sharding import sharding_of
from spinevl.training.spec import TrainSpec

Change = Callable[[TrainSpec], TrainSpec]


def what_fits(
    spec: TrainSpec, study: Study, estimator: Estimator, room: Room, *, trust: Trust
) -> str:
    """What to change, in words.

    Args:
        spec: a training that does not fit.
        study: its study.
        estimator: of the training.
        room: what the device has.
        trust: what the command line trusts.

    Returns:
        Each change that is enough, or the first ones that are enough together.
    """
    patients = spec.batch_patients
    found = []
    if patients > 1 and (fewer := estimator.largest_batch(room.size, most=patients - 1)):
        accumulate = -(-patients // fewer) * spec.trainer.accumulate
        words = f"trainer.batch_patients={fewer} trainer.accumulate={accumulate}"
        found.append(_told(words, estimator(fewer).total))
    for words, change in _changes(spec, estimator.device):
        needed = Estimator(change(spec), study, trust=trust)(patients).total
        if needed <= room.size:
            found.append(_told(words, needed))
    return (
        f"it fits with {', or with '.join(found)}"
        if found
        else _together(spec, study, estimator, room, trust)
    )


def _together(spec: TrainSpec, study: Study, estimator: Estimator, room: Room, trust: Trust) -> str:
    """The first changes that are enough together, or what is needed with all of them."""
    said = []
    needed = math.inf
    for words, change in [("trainer.batch_patients=1", _same), *_changes(spec, estimator.device)]:
        spec = change(spec)
        said.append(words)
        needed = Estimator(spec, study, trust=trust)(1).total
        if needed <= room.size:
            return f"it fits with {_told(' '.join(said), needed)}"
    least = (
        f"even with {_told(' '.join(said), needed)} it does not fit" if said[1:] else "nothing fits"
    )
    return f"{least}; take a smaller model"


def _same(spec: TrainSpec) -> TrainSpec:
    return spec


def _told(words: str, needed: float) -> str:
    return f"{words} ({needed / GB:.1f} GB)"


def _changes(spec: TrainSpec, device: str) -> list[tuple[str, Change]]:
    """Changes that take less memory, the least harmful first."""
    changes: list[tuple[str, Change]] = []
    if not spec.trainer.gradient_checkpointing:
        words = "trainer.gradient_checkpointing=true"
        changes.append((words, lambda one: _trained(one, gradient_checkpointing=True)))
    if spec.tuning.llm == Mode.full:
        changes.append(("tuning.llm=lora", lambda one: _tuned(one, llm=Mode.lora)))
    if device == "cuda" and not sharding_of(spec.trainer).stage:
        devices = max(2, torch.cuda.device_count())
        words = f"trainer=deepspeed_zero3 trainer.devices={devices}"
        zero = {"strategy": "deepspeed_zero3", "devices": devices}
        changes.append((words, lambda one: _trained(one, **zero)))
    return changes


def _trained(spec: TrainSpec, **options: Any) -> TrainSpec:
    return replace(spec, trainer=replace(spec.trainer, **options))


def _tuned(spec: TrainSpec, **modes: Mode) -> TrainSpec:
    return replace(spec, tuning=replace(spec.tuning, **modes))  # type: ignore[arg-type]
