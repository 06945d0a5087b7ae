"""Whether a training may keep the memory that it frees, which is faster, or has no room to."""

from __future__ import annotations

import logging

import torch

from spinevl.build.trust import Trust
from spinevl.data.study import Study
from spinevl.io.memory import give_back_large_blocks
from spinevl.training.launching import processes_of
from spinevl.training.memory.estimator import Estimator
from spinevl.training.memory.room import room_on
from spinevl.training.spec import TrainSpec

log = logging.getLogger(__name__)

LARGE_MODEL = 2**28
"""Bytes of weights from which the gaps are worth an estimate."""

TIMES = 1.25
"""How often the estimate must have room: tensors of many sizes leave gaps in kept memory."""


def keep_or_give_back(spec: TrainSpec, study: Study, *, trust: Trust) -> bool:
    """Have this process give back large blocks, unless there is room for gaps between them.

    Args:
        spec: the training, its batch a number.
        study: its study.
        trust: what the command line trusts.

    Returns:
        Whether freed memory is kept.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            needed = Estimator(spec, study, trust=trust)(spec.batch_patients).total
    except Exception as error:  # it was told when the training was settled
        log.debug("memory: not estimated (%s)", error)
        needed = float("inf")
    room = room_on("cpu", processes=processes_of(spec.trainer))
    kept = room is not None and TIMES * needed <= room.size
    if not kept:
        give_back_large_blocks()
    return kept
