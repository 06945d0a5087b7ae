"""The keys that make a training fit its device, with values that do."""

from __future__ import annotations

from spinevl.build.trust import Trust
from spinevl.data.study import Study
from spinevl.training.memory.changes import CHANGES, changed, with_batch
from spinevl.training.memory.estimate import GB
from spinevl.training.memory.estimator import Estimator
from spinevl.training.memory.room import Room
from spinevl.training.spec import TrainSpec


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
        words, _ = with_batch(spec, fewer)
        found.append(_told(words, estimator(fewer).total))
    for words, other in changed(spec, estimator.device):
        needed = Estimator(other, study, trust=trust, device=estimator.device)(patients).total
        if needed <= room.size:
            found.append(_told(words, needed))
    return (
        f"it fits with {', or with '.join(found)}"
        if found
        else _together(spec, study, estimator, room, trust)
    )


def _together(spec: TrainSpec, study: Study, estimator: Estimator, room: Room, trust: Trust) -> str:
    """The first changes that are enough together, or what is needed with all of them."""
    said, needed = ["trainer.batch_patients=1"], estimator(1).total
    for change in CHANGES:
        if needed <= room.size:
            break
        if found := change(spec, estimator.device):
            words, spec = found
            said.append(words)
            needed = Estimator(spec, study, trust=trust, device=estimator.device)(1).total
    if needed <= room.size:
        return f"it fits with {_told(' '.join(said), needed)}"
    least = (
        f"even with {_told(' '.join(said), needed)} it does not fit" if said[1:] else "nothing fits"
    )
    return f"{least}; take a smaller model"


def _told(words: str, needed: float) -> str:
    return f"{words} ({needed / GB:.1f} GB)"
