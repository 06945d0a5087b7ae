"""Hold a training against the memory of its device before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.options import AUTO
from spinevl.data.study import Study
from spinevl.schema.errors import UserError, refused
from spinevl.training.launching import processes_of
from spinevl.training.memory.estimate import GB
from spinevl.training.memory.estimator import Estimator
from spinevl.training.memory.room import Room, room_on
from spinevl.training.memory.what_fits import what_fits
from spinevl.training.spec import SPEC_FILE, TrainSpec

log = logging.getLogger(__name__)

MOST_PATIENTS = 64
"""The largest batch that ``trainer.batch_patients=auto`` takes."""

SAFE = 0.9
"""The share of a device's memory that an estimate may fill without a warning."""


def settle(
    spec: TrainSpec,
    study: Study,
    *,
    trust: Trust = NOTHING,
    tell: Callable[[str], None] = log.info,
    out: Path | None = None,
) -> TrainSpec:
    """Tell what memory a training needs, and find out ``trainer.batch_patients=auto``.

    Args:
        spec: the training.
        study: its study.
        trust: what the command line trusts.
        tell: takes the lines of the estimate.
        out: the job's folder; where an earlier start of the training found a number out, it is
            taken again.

    Returns:
        The training, its batch a number.

    Raises:
        UserError: the device has not enough memory, or ``auto`` for a model of which no estimate
            can be made.
    """
    spec = _as_before(spec, out)
    auto = spec.trainer.batch_patients == AUTO
    try:
        estimator = Estimator(spec, study, trust=trust)
        estimator(1 if auto else spec.batch_patients)
    except Exception as error:  # an estimate that fails is no reason not to train
        tell(_not_estimated(spec, error))
        return spec
    room = room_on(estimator.device, processes=processes_of(spec.trainer))
    if auto:
        spec = _with_batch(spec, _largest(estimator, room))
    for line in estimator(spec.batch_patients).lines():
        tell(line)
    tell(_held_against(room, spec, study, estimator, trust=trust))
    return spec


def _not_estimated(spec: TrainSpec, error: Exception) -> str:
    """The line of a training without an estimate; ``auto`` is refused."""
    reason = (str(error).strip().splitlines() or [""])[0]
    said = f"{type(error).__name__}: {reason}"
    if spec.trainer.batch_patients != AUTO:
        return f"memory: not estimated ({said})"
    raise refused(
        f"trainer.batch_patients={AUTO}",
        "a model whose memory can be estimated without its weights",
        said,
        "give a number",
    ) from error


def _held_against(
    room: Room | None, spec: TrainSpec, study: Study, estimator: Estimator, *, trust: Trust
) -> str:
    """The line of how much of the memory is needed; more than there is is refused."""
    if room is None:
        return "memory: how much this device has is not known"
    estimate = estimator(spec.batch_patients)
    needed = f"{estimate.total / GB:.1f} of the {room.size / GB:.1f} GB of {room.what}"
    if estimate.tensors > room.size:
        fix = what_fits(spec, study, estimator, room, trust=trust)
        raise UserError(f"memory: this training needs {needed}; {fix}")
    near = "; it may not fit" if estimate.total > SAFE * room.size else ""
    return f"memory: {needed}{near}"


def _as_before(spec: TrainSpec, out: Path | None) -> TrainSpec:
    """The training with the batch that an earlier start found out, where there was one."""
    if spec.trainer.batch_patients != AUTO or out is None or not (out / SPEC_FILE).is_file():
        return spec
    return _with_batch(spec, TrainSpec.read(out / SPEC_FILE).batch_patients)


def _with_batch(spec: TrainSpec, number: int) -> TrainSpec:
    return replace(spec, trainer=replace(spec.trainer, batch_patients=number))


def _largest(estimator: Estimator, room: Room | None) -> int:
    """The batch that ``auto`` takes: 1 where none fits, which is then refused."""
    if room is None:
        raise refused(
            f"trainer.batch_patients={AUTO}",
            "a device whose memory is known",
            estimator.device,
            "give a number",
        )
    return max(1, estimator.largest_batch(SAFE * room.size, most=MOST_PATIENTS))
