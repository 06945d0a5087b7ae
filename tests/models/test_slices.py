"""A 2D encoder over slices: against MedM-VL's volumes, and slice by slice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from spinevl.io.volume_file import load_volume
from spinevl.models.encoder.slices import SliceEncoder


def saved(tmp_path: Path) -> transformers.SiglipVisionModel:
    """A tower of 32 x 32 pixels and 4 x 4 patches, saved as published."""
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    model = transformers.SiglipVisionModel(config).eval()
    model.save_pretrained(tmp_path)
    side = {"height": 32, "width": 32}
    transformers.SiglipImageProcessorPil(size=side).save_pretrained(tmp_path)
    return model


def slice_encoder(path: Path, slices: int) -> SliceEncoder:
    return SliceEncoder(
        path=str(path), kind="siglip", slices=slices, select_layer=-1, select_feature="cls_patch"
    ).eval()


@torch.inference_mode()
def test_pixels_and_features_are_upstreams(shared: Path) -> None:
    goldens = shared / "goldens"
    folder = goldens / "siglip_slices_attn_qwen2"
    encoder = slice_encoder(goldens / "models/enc_siglip", 32)
    prefix = "encoder_image.encoder.vision_model."
    trained = load_file(folder / "checkpoint/model.safetensors")
    own = {k.removeprefix(prefix): v for k, v in trained.items() if k.startswith(prefix)}
    encoder.vision.load_state_dict(own)
    golden = json.loads((folder / "golden.json").read_text())
    tensors = load_file(folder / "golden.safetensors")
    assert encoder.grid == (32, 3, 3)
    for number, one in enumerate(golden["conversations"]):
        made = [encoder.transform(load_volume(goldens / "data" / name)) for name in one["files"]]
        for place, (pixels, wanted) in enumerate(zip(made, one["pixels"], strict=True)):
            assert list(pixels.shape) == wanted["shape"]
            own_bytes = pixels.contiguous().numpy().tobytes()
            assert hashlib.sha256(own_bytes).hexdigest() == wanted["sha256"]
            kept = tensors[f"c{number}.pixels{place}_strided"]  # one channel, every fourth slice
            assert torch.equal(pixels[:1, ::4], kept)
        features = encoder(torch.stack(made))
        wanted = one["encoder_features"]
        assert list(features.shape) == wanted["shape"]
        np.testing.assert_allclose(features.flatten()[:5], wanted["first5"], atol=1e-5)
        assert float(features.mean()) == pytest.approx(wanted["mean"], abs=1e-6)
        # 1e-6 a value or so, all added
        assert float(features.double().abs().sum()) == pytest.approx(wanted["sum_abs"], rel=1e-6)


@torch.inference_mode()
def test_slices_are_read_one_by_one(tmp_path: Path) -> None:
    model = saved(tmp_path)
    encoder = slice_encoder(tmp_path, 4)
    volume = np.random.default_rng(0).uniform(0, 255, (4, 32, 32)).astype(np.float32)
    pixels = encoder.transform(volume)
    assert pixels.shape == (3, 4, 32, 32)
    features = encoder(torch.stack([pixels, pixels.flip(1)]))
    assert features.shape == (2, 64, 32)
    assert (encoder.tokens, encoder.grid, encoder.modality) == (64, (4, 4, 4), "image3d")
    for number, one in enumerate(volume.astype(np.uint8)):
        alone = encoder.processor(images=Image.fromarray(one).convert("RGB"), return_tensors="pt")
        wanted = model(**alone, output_hidden_states=True).hidden_states[-1][0]
        own = features[0, 16 * number : 16 * number + 16]
        torch.testing.assert_close(own, wanted, atol=1e-6, rtol=0)
        mirrored = features[1, 16 * (3 - number) : 16 * (4 - number)]
        torch.testing.assert_close(mirrored, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("depth", [1, 3, 11])
def test_any_number_of_slices_is_interpolated_to_the_encoders(tmp_path: Path, depth: int) -> None:
    saved(tmp_path)
    encoder = slice_encoder(tmp_path, 5)
    # whole slices of one value each: what a pixel becomes is their interpolation alone
    values = np.random.default_rng(depth).uniform(1, 255, depth)
    volume = np.broadcast_to(values[:, None, None], (depth, 6, 9)).astype(np.float32)
    pixels = encoder.transform(volume)
    for number in range(5):
        # centres of slices laid over one another; beyond the outermost centre its own value
        place = np.clip((number + 0.5) * depth / 5 - 0.5, 0, depth - 1)
        low = int(place)
        high = min(low + 1, depth - 1)
        grey = int(values[low] + (place - low) * (values[high] - values[low]))
        wanted = (grey / 255 - 0.5) / 0.5
        np.testing.assert_allclose(pixels[:, number].numpy(), wanted, atol=1e-6)


def test_no_slices_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"encoder\.slices=0: expected 1 or more"):
        slice_encoder(tmp_path, 0)
