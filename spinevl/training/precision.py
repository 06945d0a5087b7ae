"""Find out ``trainer.precision=auto`` on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from spinevl.build.trust import NOTHING, Trust
from spinevl.checkpoints.load import is_native
from spinevl.config.options import AUTO
from spinevl.models.half_speed import bfloat16_pays, computes_in_bfloat16
from spinevl.models.source import checkpoint_folder
from spinevl.training.launching import device_of
from spinevl.training.memory.blank_model import blank_llm
from spinevl.training.spec import TrainSpec
from spinevl.training.strategy import is_zero

log = logging.getLogger(__name__)


def settle_precision(
    spec: TrainSpec, *, trust: Trust = NOTHING, tell: Callable[[str], None] = log.info
) -> TrainSpec:
    """The training with ``bf16-mixed`` in place of ``auto`` where a CPU is faster with it.

    A GPU's ``auto`` is decided by what it is. DeepSpeed on a CPU, what starts from MedM-VL's
    checkpoints, and LLMs too small to gain stay in float32.

    Args:
        spec: the training.
        trust: what the command line trusts.
        tell: takes a line where it is bfloat16.
    """
    options = spec.trainer
    device = device_of(options.accelerator)
    if options.precision != AUTO or device != "cpu" or is_zero(options):
        return spec
    if not computes_in_bfloat16(device):  # before a model is built for its sizes
        return spec
    if spec.checkpoint and not is_native(checkpoint_folder(spec.checkpoint)):
        return spec
    try:
        config = blank_llm(spec, trust=trust).model.config
    except Exception:  # the training says what is wrong, or needs weights to be built at all
        return spec
    sizes = (getattr(config, name, None) for name in ("hidden_size", "intermediate_size"))
    if times := bfloat16_pays(device, *sizes, cache_folder=spec.study.cache_folder):
        tell(
            f"trains in bf16-mixed, {times:.1f} times as fast as float32 here; "
            "trainer.precision=32-true trains in float32"
        )
        return replace(spec, trainer=replace(options, precision="bf16-mixed"))
    return spec
