"""2D towers of transformers: the selected hidden state, the tokens dropped, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from spinevl.models.encoder.hf import HFVisionEncoder
from spinevl.models.encoder.slices import SliceEncoder
from spinevl.schema.errors import UserError

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
PROCESSOR = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "crop_size": {"height": 32, "width": 32},
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
}
KINDS = {
    "clip": ("clip_vision_model", "CLIPVisionModel", 1),
    "siglip": ("siglip_vision_model", "SiglipVisionModel", 0),
    "siglip2": ("siglip_vision_model", "SiglipVisionModel", 0),
    "dinov2": ("dinov2", "Dinov2Model", 1),
    "registers": ("dinov2_with_registers", "Dinov2WithRegistersModel", 5),
}


def saved(tmp_path: Path, kind: str, **own: Any) -> tuple[Path, Any]:
    """A directory as published, and transformers' own model of it."""
    model_type, name, _ = KINDS[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**TOWER, **own})
    model = getattr(transformers, name)(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path, model


@pytest.mark.parametrize("layer", [0, 2, -1, -2])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_features_are_the_hidden_states_of_transformers(
    tmp_path: Path, kind: str, layer: int
) -> None:
    path, model = saved(tmp_path, kind)
    special = KINDS[kind][2]
    options: dict[str, Any] = {"kind": "dinov2" if kind == "registers" else kind}
    pixels = torch.randn(2, 3, 32, 32)
    states = model(pixels, output_hidden_states=True).hidden_states
    whole = HFVisionEncoder(
        path=str(path), select_layer=layer, select_feature="cls_patch", **options
    ).eval()
    assert torch.equal(whole(pixels), states[layer])
    assert (whole.tokens, whole.grid) == (16 + special, (4, 4))
    if special:
        patches = HFVisionEncoder(path=str(path), select_layer=layer, **options).eval()
        assert torch.equal(patches(pixels), states[layer][:, special:])
        assert patches.tokens == 16


@torch.inference_mode()
def test_dinov2_reads_the_size_that_its_processor_makes(tmp_path: Path) -> None:
    path, model = saved(tmp_path, "dinov2", image_size=64)  # positions for 8 x 8 patches
    encoder = HFVisionEncoder(path=str(path), kind="dinov2", select_layer=-1).eval()
    assert encoder.grid == (4, 4)
    pixels = encoder.transform(np.zeros((50, 40), np.uint8))[None]
    wanted = model(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    assert torch.equal(encoder(pixels), wanted)


def test_colour_is_seen_and_grey_is_the_same_as_its_rgb(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "siglip")
    encoder = HFVisionEncoder(path=str(path), kind="siglip", select_feature="cls_patch")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    wanted = (colour / 255 - [0.5, 0.4, 0.3]) / 0.5
    np.testing.assert_allclose(
        encoder.transform(colour).permute(1, 2, 0).numpy(), wanted, atol=1e-6
    )
    grey = colour[..., 0]
    assert torch.equal(encoder.transform(grey), encoder.transform(np.stack([grey] * 3, axis=-1)))


@torch.inference_mode()
def test_slices_are_read_one_by_one(tmp_path: Path) -> None:
    path, model = saved(tmp_path, "siglip")
    encoder = SliceEncoder(
        path=str(path), kind="siglip", slices=4, select_layer=-1, select_feature="cls_patch"
    ).eval()
    volume = np.random.default_rng(0).uniform(0, 255, (4, 32, 32)).astype(np.float32)
    pixels = encoder.transform(volume)
    assert pixels.shape == (3, 4, 32, 32)
    features = encoder(torch.stack([pixels, pixels.flip(1)]))
    assert features.shape == (2, 64, 32)
    assert (encoder.tokens, encoder.grid) == (64, (4, 4, 4))
    for number, one in enumerate(volume.astype(np.uint8)):
        alone = encoder.processor(images=Image.fromarray(one).convert("RGB"), return_tensors="pt")
        wanted = model(**alone, output_hidden_states=True).hidden_states[-1][0]
        own = features[0, 16 * number : 16 * number + 16]
        torch.testing.assert_close(own, wanted, atol=1e-6, rtol=0)
        mirrored = features[1, 16 * (3 - number) : 16 * (4 - number)]
        torch.testing.assert_close(mirrored, wanted, atol=1e-6, rtol=0)


def test_a_model_without_a_fixed_resolution_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(UserError, match=r"NaFlex .* such as google/siglip2-base-patch16-256"):
        HFVisionEncoder(path=str(tmp_path), kind="siglip2", select_feature="cls_patch")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "clip")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"encoder\.path=.*safetensors"):
        HFVisionEncoder(path=str(path), kind="clip")


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.kind=vit: expected clip, siglip"):
        HFVisionEncoder(path=str(tmp_path), kind="vit")  # type: ignore[arg-type]
