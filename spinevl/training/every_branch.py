"""Every rank runs each vision branch as often as the others, whatever images its batch shows.

Ranks that train together wait for one another: for the gradients of every weight that learns, and
under ZeRO-3 for the weights of every module that runs. So a batch without an image of a kind is
given a stand-in. No token refers to it, and so it adds exact zeros to the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spinevl.distributed.ranks import largest_over_ranks, world_size
from spinevl.models.encoder.base import FIXED_BATCH
from spinevl.models.vlm import VLM, learns
from spinevl.schema.batch import Batch
from spinevl.schema.errors import refused
from spinevl.schema.image_ref import Modality
from spinevl.schema.model_inputs import ImageTensors


class EveryBranch:
    """Gives a batch the images that its rank lacks beside the others.

    One process alone needs a stand-in only where nothing that learns would be reached, as by text
    where vision branches alone learn.

    Args:
        model: the model.
        stand_ins: an image of each kind that the data show, as a batch would hold it.
    """

    def __init__(self, model: VLM, stand_ins: Mapping[Modality, ImageTensors]) -> None:
        self.model = model
        self.stand_ins = stand_ins

    def __call__(self, batch: Batch) -> Batch:
        """The batch with stand-ins behind its images; every rank must call this."""
        counts = {kind: _count(batch, kind) for kind in self.stand_ins}
        if world_size() == 1 and self._reached(counts):
            return batch
        for kind, count in self._wanted(counts, batch.input_ids.device).items():
            if count > counts[kind]:
                tokens = self.model.vision_branches()[kind].connector.tokens
                more = count - counts[kind]
                batch = _appended(batch, kind, self.stand_ins[kind], more=more, tokens=tokens)
        return batch

    def _reached(self, counts: Mapping[Modality, int]) -> bool:
        branches = self.model.vision_branches()
        shown = [branches[kind] for kind, count in counts.items() if count]
        parts = [self.model.llm, *(p for one in shown for p in (one.encoder, one.connector))]
        return any(map(learns, parts))

    def _wanted(self, counts: Mapping[Modality, int], device: torch.device) -> dict[Modality, int]:
        """How many images there must be of each kind, so that all ranks call as often."""
        wanted = {kind: max(count, 1) for kind, count in counts.items()}
        branches = self.model.vision_branches()
        # a frozen encoder is called for each so many images, any other part once
        together = {
            kind: FIXED_BATCH[kind]
            for kind in wanted
            if self.stand_ins[kind][1] is None and not learns(branches[kind].encoder)
        }
        calls = [-(-wanted[kind] // size) for kind, size in together.items()]
        agreed = largest_over_ranks(calls, device=device) if calls else []
        for (kind, size), most in zip(together.items(), agreed, strict=True):
            wanted[kind] = max(wanted[kind], (most - 1) * size + 1)
        return wanted


def require_reached(module: nn.Module) -> None:
    """Refuse weights that learn and got no gradient: every later step would wait for them.

    Raises:
        UserError: naming the first.
    """
    left = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    if left:
        raise refused(
            "training on several devices",
            "a gradient for every weight that learns",
            f"none for {len(left)}, first {left[0]}",
            "name what the forward pass leaves out in unreached() of its class, or freeze the part",
        )


def _count(batch: Batch, kind: Modality) -> int:
    features = batch.features if kind == "image" else batch.volume_features
    pixels = batch.pixel_values if kind == "image" else batch.volumes
    return len(pixels if features is None else features)


def _appended(
    batch: Batch, kind: Modality, stand_in: ImageTensors, *, more: int, tokens: int
) -> Batch:
    """The batch with ``more`` copies of an image of ``tokens`` visual tokens behind its own."""
    pixels, features = (_copies(one, more, batch.input_ids.device) for one in stand_in)
    if kind == "image3d":  # their rows are the last
        return replace(
            batch,
            volumes=_joined(batch.volumes, pixels),
            volume_features=_joined(batch.volume_features, features),
        )
    index, rows = batch.visual_index, _count(batch, kind) * tokens
    still = batch.shiftable.new_zeros(more, dtype=torch.bool)
    return replace(
        batch,
        visual_index=torch.where(index >= rows, index + more * tokens, index),
        pixel_values=_joined(batch.pixel_values, pixels),
        features=_joined(batch.features, features),
        shiftable=torch.cat([batch.shiftable.bool(), still]),
        image_numbers=(*batch.image_numbers, *[0] * more),
    )


def _copies(one: torch.Tensor | None, more: int, device: torch.device) -> torch.Tensor | None:
    """[1, ...] -> [more, ...]; None where an image is held in another way."""
    return one.to(device).expand(more, *one.shape[1:]) if one is not None and len(one) else None


def _joined(own: Any, copies: torch.Tensor | None) -> Any:
    if copies is None:
        return own
    return torch.cat([own, copies.to(own)]) if own is not None and len(own) else copies
