"""3D encoders: against numbers of MONAI, and their weights' way in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spinevl.models.encoder.m3dclip import M3DClipEncoder, MonaiViT
from spinevl.models.encoder.medmclip import MedMClipEncoder
from spinevl.models.encoder.resize import foreground
from spinevl.schema.errors import UserError

M3D = {
    "img_size": [8, 16, 16],
    "patch_size": [2, 8, 8],
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_layers": 2,
    "num_heads": 4,
}
MEDM = {
    "frame_size": 8,
    "frame_patch_size": 2,
    "image_size": 16,
    "image_patch_size": 8,
    "hidden_size": 16,
    "image_num_layers": 2,
    "image_num_heads": 4,
    "image_mlp_dim": 32,
}
# MONAI 1.3.2, ViT(proj_type="perceptron", classification=True) with the weights drawn below, each
# layer's output before the last norm
FIRST_LAYER = [
    [-0.328937292098999, -0.4119822680950165, 0.4179409146308899, -0.5847116112709045],
    [-0.4947938024997711, 0.9037470817565918, 3.8566670417785645, -2.576566696166992],
    [3.551793336868286, -0.278234601020813, -3.2402236461639404, -1.0534651279449463],
    [1.7143217325210571, -0.34003347158432007, -1.617411732673645, -1.3906688690185547],
]
LAST_LAYER = [
    [-0.24669599533081055, -0.20450016856193542, 0.15368393063545227, -0.9755315780639648],
    [-0.42089977860450745, 1.0454347133636475, 3.5366227626800537, -3.0696330070495605],
    [3.5985493659973145, -0.20499813556671143, -3.4017691612243652, -1.4443576335906982],
    [1.714905858039856, -0.1370725929737091, -1.914562702178955, -1.6890742778778076],
]
# MONAI 1.3.2, CropForeground() and Resize((8, 16, 16), mode="bilinear") of head() as each scales it
MEDM_PIXELS = [
    [
        [1.0535535, 1.1640235, 0.7391383],
        [2.0458078, 0.6775005, 1.8268740],
        [1.9040614, 1.2898368, 0.3849493],
    ],
    [
        [1.1285574, 1.2927874, 0.6201115],
        [1.0897683, 0.9549077, 0.8620673],
        [1.5671887, 0.5783237, 2.1285608],
    ],
]
M3D_PIXELS = [
    [
        [0.5270483, 0.5577731, 0.4396009],
        [0.8030217, 0.4224577, 0.7421301],
        [0.7635981, 0.5927653, 0.3241285],
    ],
    [
        [0.5479090, 0.5935859, 0.3089221],
        [0.5371206, 0.4996122, 0.4737908],
        [0.6677041, 0.3948739, 0.8234987],
    ],
]


def test_m3dclip_is_monais_vit() -> None:
    vit = MonaiViT(size=(8, 16, 16), patch=(2, 8, 8), dim=16, layers=2, heads=4, mlp_dim=32)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * 0.2
        for name, tensor in sorted(vit.state_dict().items())
    }
    vit.load_state_dict(state)
    volume = torch.randn(1, 1, 8, 16, 16, generator=generator)
    with torch.inference_mode():
        for depth, wanted in ((1, FIRST_LAYER), (2, LAST_LAYER)):
            ours = vit.eval()(volume, depth=depth)[0, ::5, :4]
            torch.testing.assert_close(ours, torch.tensor(wanted), atol=1e-5, rtol=0)


def head() -> np.ndarray:
    """Something bright in dim noise, [10, 20, 24] in [0, 255]."""
    volume = np.random.default_rng(0).integers(0, 50, (10, 20, 24)).astype(np.float32)
    volume[2:8, 3:17, 5:22] += np.random.default_rng(1).integers(20, 190, (6, 14, 17))
    return volume


def test_each_cuts_off_what_it_takes_for_air(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    medm = MedMClipEncoder(path=str(folder(tmp_path / "a", MEDM)), pretrained=False)
    m3d = M3DClipEncoder(path=str(folder(tmp_path / "b", M3D)), pretrained=False)
    dark = np.where(head() < 60, 0, head()).astype(np.float32)
    for pixels, wanted in (
        (medm.transform(head()), MEDM_PIXELS),  # cuts below its training mean, 55.7
        (m3d.transform(dark), M3D_PIXELS),  # cuts at the volume's own lowest value
    ):
        ours = pixels[0, ::5, ::7, ::7]
        torch.testing.assert_close(ours, torch.tensor(wanted), atol=1e-5, rtol=0)


def test_all_air_stays_as_it_is() -> None:
    assert foreground(np.zeros((2, 3, 4))).shape == (2, 3, 4)
    body = np.zeros((6, 7, 8))
    body[2, 1, 3] = body[4, 5, 6] = 1
    assert foreground(body).shape == (3, 5, 4)


def folder(tmp_path: Path, config: dict[str, Any]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(("kind", "config"), [(M3DClipEncoder, M3D), (MedMClipEncoder, MEDM)])
def test_published_weights_are_read_by_name(tmp_path: Path, kind: Any, config: Any) -> None:
    path = folder(tmp_path, config)
    source = kind(path=str(path), pretrained=False)
    tensors = {f"vision_encoder.{k}": v for k, v in source.vision_encoder.state_dict().items()}
    text = {"text_encoder.embeddings.weight": torch.ones(2), "logit_scale": torch.ones(1)}
    save_file({**tensors, **text}, path / "model.safetensors")
    read = kind(path=str(path))
    pixels = torch.randn(2, 1, 8, 16, 16)
    with torch.inference_mode():
        assert torch.equal(read.eval()(pixels), source.eval()(pixels))
    assert (read.tokens, read.grid, read.modality) == (16, (4, 2, 2), "image3d")
    assert kind(path=str(path), select_feature="cls_patch").tokens == 17
    read.save_description(tmp_path / "again")
    again = kind(path=str(tmp_path / "again"), pretrained=False)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in read.state_dict().items()
    }
    tensors.pop("vision_encoder.cls_token")
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(UserError, match="1 missing or of another shape, first cls_token"):
        kind(path=str(path))


@pytest.mark.parametrize(("kind", "config"), [(M3DClipEncoder, M3D), (MedMClipEncoder, MEDM)])
def test_layers_above_the_selected_one_do_nothing(tmp_path: Path, kind: Any, config: Any) -> None:
    first = kind(path=str(folder(tmp_path, config)), pretrained=False, select_layer=0).eval()
    pixels = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        before = first(pixels)
        for name, parameter in first.named_parameters():
            if ".1." in name and ("layers" in name or "blocks" in name):
                parameter.zero_()
        assert torch.equal(first(pixels), before)
    with pytest.raises(UserError, match="select_layer=2: expected -2 to 1"):
        kind(path=str(tmp_path), pretrained=False, select_layer=2)


def test_inputs_are_scaled_as_each_was_trained(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).uniform(60, 220, (8, 16, 16)).astype(np.float32)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    m3d = M3DClipEncoder(path=str(folder(tmp_path / "a", M3D)), pretrained=False)
    medm = MedMClipEncoder(path=str(folder(tmp_path / "b", MEDM)), pretrained=False)
    scaled = (volume - volume.min()) / (volume.max() - volume.min())
    np.testing.assert_allclose(m3d.transform(volume)[0].numpy(), scaled, atol=1e-6)
    scored = (volume - 55.698219) / 66.194348
    np.testing.assert_allclose(medm.transform(volume)[0].numpy(), scored, atol=1e-5)
    flat = np.full((4, 4, 4), 7.0, np.float32)
    assert torch.isfinite(m3d.transform(flat)).all()


def test_a_config_without_a_size_is_one_line(tmp_path: Path) -> None:
    config = {key: value for key, value in M3D.items() if key != "mlp_dim"}
    with pytest.raises(UserError, match="found no mlp_dim"):
        M3DClipEncoder(path=str(folder(tmp_path, config)), pretrained=False)
