"""Lay out images and text as a model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.data.packing.conversation import Conversation
from spinevl.data.packing.image_input import BatchImages, ImageInput, Store
from spinevl.features.store import FeatureCache, Features
from spinevl.models.vlm import VLM, visual_rows
from spinevl.schema.dialogue import Picture
from spinevl.schema.image_ref import MODALITIES, Modality
from spinevl.schema.model_inputs import ModelInputs
from spinevl.schema.task import Task


def conversation_of(inputs: ModelInputs) -> Conversation:
    """Writes conversations as a model's LLM reads them."""
    return Conversation(inputs.tokenizer, template=inputs.conversation, end_token=inputs.end_token)


def image_inputs_of(
    inputs: ModelInputs, stores: Mapping[Modality, Store]
) -> dict[Modality, ImageInput]:
    """How a model gets its images from some stores of them."""
    return {
        modality: ImageInput(vision.tokens, vision.transform, stores[modality])
        for modality, vision in inputs.vision.items()
        if modality in stores
    }


def keep_features(
    model: VLM,
    cache: FeatureCache,
    image_inputs: Mapping[Modality, ImageInput],
    pictures: Sequence[Picture],
    *,
    autocast: torch.dtype | None = None,
) -> list[Features]:
    """Let image inputs read cached features of frozen encoders, encoded here where they lack.

    Args:
        model: its encoders in evaluation mode, on the device that they are to run on.
        cache: the features.
        image_inputs: of the images.
        pictures: all images that will be shown.
        autocast: see FeatureCache.features.

    Returns:
        What was encoded and found; a modality whose features the cache cannot hold has none.
    """
    kept = []
    for modality, branch in model.vision_branches().items():
        paths = [path for kind, path in pictures if kind == modality]
        if modality not in image_inputs or not paths:
            continue
        load = image_inputs[modality].images.__getitem__
        features = cache.features(branch.encoder, paths, load=load, autocast=autocast)
        image_inputs[modality].features = features
        kept += [features] if features is not None else []
    return kept


def visual_rows_of(model: VLM, images: BatchImages) -> torch.Tensor:
    """The visual tokens [R, llm.dim] of a batch's images, in the order of ``BatchImages.rows``."""
    device = next(model.parameters()).device
    tokens = []
    for modality in MODALITIES:
        if paths := images.paths(modality):
            pixels, features = images.image_inputs[modality](paths)
            features = None if features is None else features.to(device)
            tokens.append(model.visual_tokens(pixels.to(device), features, modality=modality))
    return visual_rows(tokens)


def collator_of(
    model: VLM,
    tasks: Mapping[str, Task],
    *,
    images: ImageStore,
    **options: Any,
) -> Collator:
    """A Collator that lays out batches of 2D images as ``model`` reads them.

    Args:
        model: the model.
        tasks: the tasks that the records name.
        images: decoded images.
        options: the Collator's others.
    """
    inputs = model.inputs()
    return Collator(
        tasks=tasks,
        conversation=conversation_of(inputs),
        image_inputs=image_inputs_of(inputs, {"image": images}),
        max_length=inputs.max_length,
        **options,
    )
