"""The number type in which a checkpoint answers: told, or found out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

import torch

from spinevl.checkpoints.load import format_of
from spinevl.config.options import Precision, PredictOptions
from spinevl.io.json_file import read_json_object
from spinevl.models.half_speed import WORTH, bfloat16_speedup, computes_in_bfloat16
from spinevl.models.held import Held, auto_dtype
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

_SMALLEST = 2**18
"""Weights of a matrix of the MLP; a smaller LLM does not spend its time in matrix products."""


def settled(
    options: PredictOptions,
    *,
    checkpoint: Path,
    device: str | torch.device,
    cache_folder: Callable[[], Path],
) -> PredictOptions:
    """The options with ``precision: auto`` decided.

    It is bfloat16 where the device has instructions for it and is at least ``WORTH`` times as fast
    with an MLP of the size of the checkpoint's LLM. Small LLMs and MedM-VL's checkpoints answer in
    float32, the latter as they do in MedM-VL.

    Args:
        options: how answers are read off the model.
        checkpoint: the folder of the model.
        device: where it is to run.
        cache_folder: gives the folder that keeps what was measured.
    """
    if options.precision != Precision.auto:
        return options
    found = Precision.float32
    config = checkpoint / "llm" / "config.json"
    native = format_of(checkpoint).name == "native" and config.is_file()
    if native and computes_in_bfloat16(device):
        sizes = read_json_object(config)
        width, inner = sizes.get("hidden_size"), sizes.get("intermediate_size")
        if _is_size(width) and _is_size(inner) and width * inner >= _SMALLEST:
            try:
                folder = cache_folder()
            except UserError:  # told where a job needs it
                folder = None
            times = bfloat16_speedup(device, width=width, inner=inner, folder=folder)
            if times >= WORTH:
                found = Precision.bfloat16
                log.info(
                    "answers in bfloat16, %.1f times as fast as float32 here; "
                    "predict.precision=float32 computes as the training did",
                    times,
                )
    return replace(options, precision=found)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= 2**16


def held_in(precision: Precision, device: str | torch.device) -> Held:
    """How the weights are held that a checkpoint answers with."""
    if precision == Precision.bfloat16:
        return Held(every="bfloat16")
    return Held("float32" if precision == Precision.float32 else auto_dtype(device))


def ready(model: VLM, precision: Precision) -> VLM:
    """A loaded model as it answers, in place: adapters merged, weights in their type."""
    merge_adapters(model)
    if precision == Precision.bfloat16:
        for weight in model.parameters():
            weight.data = weight.data.to(torch.bfloat16)  # buffers, as of positions, stay as exact
    return model
