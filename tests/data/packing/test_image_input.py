"""Images as the encoder takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spinevl.data.images import ImageStore
from spinevl.data.packing.image_input import ImageInput, check_images
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.model_inputs import VisionInputs

SIDES = {"a.png": (8, 8), "b.png": (8, 6), "c.png": (8, 8), "d.png": (4, 6), "e.png": (8, 6)}
IMAGES = [ImageRef(path) for path in SIDES]


def image_input() -> tuple[ImageInput, list[tuple[int, ...]]]:
    """An input whose encoder takes 8 x 8, and the shapes that its transform has seen."""
    seen = []

    def transform(pixels: np.ndarray) -> torch.Tensor:
        seen.append(pixels.shape)
        if pixels.shape != (8, 8):
            raise ValueError(f"8 x 8 wanted, not {pixels.shape}")
        return torch.from_numpy(pixels)[None].float()

    store = ImageStore(lambda image: np.full(SIDES[image.path], 7, dtype=np.uint8))
    return ImageInput(VisionInputs(4, transform), store), seen


def test_every_image_of_a_size_that_the_encoder_refuses_is_named() -> None:
    one, _ = image_input()
    with pytest.raises(UserError) as caught:
        check_images(IMAGES, {"image": one})
    told = sorted(caught.value.problems)
    assert [line.partition(":")[0] for line in told] == ["b.png", "d.png", "e.png"]
    assert "8 x 8 wanted, not (4, 6)" in told[1]


def test_a_shape_is_tried_once_and_a_refused_one_names_its_file() -> None:
    one, seen = image_input()
    good = [image for image in IMAGES if SIDES[image.path] == (8, 8)]
    check_images(good[:1], {"image": one})
    assert [one.pixels(image).shape for image in good] == [(8, 8), (8, 8)]
    assert len(seen) == 1
    pixels, features = one(good)
    assert pixels.shape == (2, 1, 8, 8)
    assert features is None
    with pytest.raises(UserError, match=r"d\.png: 8 x 8 wanted"):
        one([good[0], IMAGES[3]])
