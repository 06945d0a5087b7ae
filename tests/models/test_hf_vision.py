"""2D towers of transformers: the selected hidden state, the tokens dropped, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from spinevl.models.encoder.hf import HFVisionEncoder
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


@pytest.mark.parametrize("kind", ["dinov2", "registers"])
@torch.inference_mode()
def test_layers_of_dinov2_above_the_selected_one_are_not_computed(
    tmp_path: Path, kind: str
) -> None:
    path, model = saved(tmp_path, kind)
    encoder = HFVisionEncoder(path=str(path), kind="dinov2", select_feature="cls_patch").eval()
    encoder.vision.encoder.layer[2].forward = None  # called, it would fail
    pixels = torch.randn(1, 3, 32, 32)
    wanted = model(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(encoder(pixels), wanted)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.inference_mode()
def test_the_tower_of_a_whole_model_is_read_alone(tmp_path: Path, kind: str) -> None:
    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    text = {k: v for k, v in TOWER.items() if k not in ("image_size", "patch_size")}
    config = getattr(transformers, f"{name}Config")(
        vision_config=TOWER, text_config={**text, "vocab_size": 64}
    )
    torch.manual_seed(0)
    whole = getattr(transformers, f"{name}Model")(config).eval()
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    encoder = HFVisionEncoder(
        path=str(tmp_path), kind=kind, select_layer=-1, select_feature="cls_patch"
    ).eval()
    pixels = torch.randn(2, 3, 32, 32)
    wanted = whole.vision_model(pixels, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(encoder(pixels), wanted)
    parameters = sum(p.numel() for p in whole.vision_model.parameters())
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize("prefix", ["", "vision_model."])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_weights_are_found_with_the_published_prefix_and_without(
    tmp_path: Path, kind: str, prefix: str
) -> None:
    path, model = saved(tmp_path, kind)
    renamed = {
        prefix + name.removeprefix("vision_model."): tensor.contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(renamed, path / "model.safetensors")
    encoder = HFVisionEncoder(path=str(path), kind=kind, select_feature="cls_patch")
    for name, tensor in model.state_dict().items():
        assert torch.equal(encoder.vision.state_dict()[name], tensor), name


def test_weights_stored_in_half_precision_become_float32(tmp_path: Path) -> None:
    path, model = saved(tmp_path, "clip")
    model.half().save_pretrained(path)
    encoder = HFVisionEncoder(path=str(path), kind="clip")
    for name, tensor in model.state_dict().items():
        own = encoder.vision.state_dict()[name]
        assert own.dtype == torch.float32
        assert torch.equal(own, tensor.float())


def test_a_model_without_a_fixed_resolution_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(UserError, match=r"NaFlex .* such as google/siglip2-base-patch16-256"):
        HFVisionEncoder(path=str(tmp_path), kind="siglip2", select_feature="cls_patch")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "clip")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"encoder\.path=.* only pytorch_model\.bin, a pickle"):
        HFVisionEncoder(path=str(path), kind="clip")


@pytest.mark.parametrize(
    ("held", "asked", "fix"),
    [
        ("siglip", "clip", "set encoder.kind=siglip"),
        ("clip", "siglip2", "set encoder.kind=clip"),
        ("clip", "dinov2", "set encoder.kind=clip"),
        ("registers", "clip", "set encoder.kind=dinov2"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    tmp_path: Path, held: str, asked: Any, fix: str
) -> None:
    path, _ = saved(tmp_path, held)
    message = f"found {KINDS[held][0]}; {fix}"
    with pytest.raises(UserError, match=re.escape(message)):
        HFVisionEncoder(path=str(path), kind=asked, select_feature="cls_patch")


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "clip")
    (path / "config.json").unlink()
    with pytest.raises(UserError, match="model_type clip or clip_vision_model, found none"):
        HFVisionEncoder(path=str(path), kind="clip")


@pytest.mark.parametrize("cut", [None, 5])
def test_weights_that_are_missing_or_do_not_fit_are_named(tmp_path: Path, cut: int | None) -> None:
    path, _ = saved(tmp_path, "clip")
    tensors = load_file(path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.layer_norm1.bias"))
    whole = tensors.pop(name)
    if cut:
        tensors[name] = whole[:cut].clone()
    save_file(tensors, path / "model.safetensors")
    message = r"1 missing or of another shape, first .*layers\.1\.layer_norm1\.bias"
    with pytest.raises(UserError, match=message):
        HFVisionEncoder(path=str(path), kind="clip")


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "clip")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"encoder\.path=.*not a whole safetensors file"):
        HFVisionEncoder(path=str(path), kind="clip")


def test_a_processor_of_another_size_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "clip", image_size=64)
    encoder = HFVisionEncoder(path=str(path), kind="clip")
    with pytest.raises(UserError, match=r"makes 64 x 64 pixels, found 32 x 32; mend size"):
        encoder.transform(np.zeros((50, 40), np.uint8))


def test_a_processor_of_no_fixed_size_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "dinov2")
    loose = PROCESSOR | {"do_center_crop": False, "size": {"shortest_edge": 32}}
    (path / "preprocessor_config.json").write_text(json.dumps(loose))
    with pytest.raises(UserError, match=r"squares of one size, found .*set do_center_crop"):
        HFVisionEncoder(path=str(path), kind="dinov2")


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.kind=vit: expected clip, siglip"):
        HFVisionEncoder(path=str(tmp_path), kind="vit")  # type: ignore[arg-type]
