"""Images to visual tokens, from the feature cache where the encoder is frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from spinevl.config.options import FeatureCacheOptions
from spinevl.data.packing.image_input import BatchImages, ImageInputs
from spinevl.distributed.ranks import gathered
from spinevl.features.store import FeatureCache, Features
from spinevl.models.vlm import VLM, visual_rows
from spinevl.schema.image_ref import MODALITIES, ImageRef, Modality


def feature_cache_in(folder: Path, options: FeatureCacheOptions) -> FeatureCache:
    """The cache of frozen encoders' features below a cache folder."""
    return FeatureCache(
        folder / "features",
        max_bytes=int(options.max_gb * 1e9),
        only_if_faster=options.only_if_faster,
        agreed=lambda pays: all(gathered(pays)),
    )


def keep_features(
    model: VLM,
    cache: FeatureCache,
    inputs: ImageInputs,
    images: Sequence[ImageRef],
    *,
    autocast: torch.dtype | None = None,
    keys: Mapping[Modality, str] | None = None,
    uses: int = 1,
) -> list[Features]:
    """Encode the images that the cache lacks, and let the inputs read the features of all.

    Args:
        model: its encoders in evaluation mode, on the device that they are to run on.
        cache: the features.
        inputs: changed in place.
        images: all that will be shown.
        autocast: see FeatureCache.features.
        keys: of the encoders, where they are known.
        uses: see FeatureCache.features.

    Returns:
        What was encoded and found. A modality has none where the cache cannot hold its features,
        or where encoding its images is faster than reading them.
    """
    kept = []
    for modality, branch in model.vision_branches().items():
        shown = [image for image in images if image.modality == modality]
        if modality not in inputs or not shown:
            continue
        load = inputs[modality].pixels
        key = (keys or {}).get(modality)
        features = cache.features(
            branch.encoder, shown, load=load, autocast=autocast, key=key, uses=uses
        )
        inputs[modality].features = features
        kept += [features] if features is not None else []
    return kept


def visual_rows_of(model: VLM, images: BatchImages) -> torch.Tensor:
    """The visual tokens [R, llm.dim] of a batch's images, in the order of ``BatchImages.rows``."""
    device = next(model.parameters()).device
    tokens = []
    for modality in MODALITIES:
        if shown := images.of(modality):
            pixels, features = images.inputs[modality](shown)
            tokens.append(
                model.visual_tokens(
                    pixels.to(device),
                    None if features is None else features.to(device),
                    modality=modality,
                )
            )
    return visual_rows(tokens)
