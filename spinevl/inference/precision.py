"""The number type in which a checkpoint answers: told, or found out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from spinevl.checkpoints.load import is_native
from spinevl.config.options import Compile, Precision, PredictOptions
from spinevl.io.json_file import read_json_object
from spinevl.models.half_speed import bfloat16_pays
from spinevl.models.held import Held
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM

log = logging.getLogger(__name__)


def settled(
    options: PredictOptions,
    *,
    checkpoint: Path,
    device: str | torch.device,
    cache_folder: Callable[[], Path],
) -> PredictOptions:
    """The options with ``precision: auto`` decided.

    It is bfloat16 where it is faster with an LLM of the checkpoint's size, see ``bfloat16_pays``.
    MedM-VL's checkpoints answer in float32, as they do in MedM-VL.

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
    if is_native(checkpoint) and config.is_file():
        told = read_json_object(config)
        sizes = (told.get("hidden_size"), told.get("intermediate_size"))
        if times := bfloat16_pays(device, *sizes, cache_folder=cache_folder):
            found = Precision.bfloat16
            log.info(
                "answers in bfloat16, %.1f times as fast as float32 here; "
                "predict.precision=float32 computes in float32",
                times,
            )
    return replace(options, precision=found)


def held_in(precision: Precision) -> Held:
    """How the weights are held that a checkpoint answers with, by its settled precision."""
    return Held(every="bfloat16") if precision == Precision.bfloat16 else Held("float32")


def pack_weights(model: VLM, options: PredictOptions, *, writes: bool) -> None:
    """Pack a ready model's weights as its device multiplies them fastest, in place.

    Args:
        model: on its device, for nothing but answering.
        options: how answers are read off it; plain or compiled layers stay as they are.
        writes: whether all answers are generated.
    """
    if options.compile == Compile.none and not options.plain_layers:
        model.llm.pack_weights(head=writes)


def ready(model: VLM, precision: Precision) -> VLM:
    """A loaded model as it answers, in place: adapters merged, weights in their type."""
    merge_adapters(model)
    if precision == Precision.bfloat16:
        for weight in model.parameters():
            weight.data = weight.data.to(torch.bfloat16)  # buffers, as of positions, stay as exact
    return model
