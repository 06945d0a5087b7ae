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
# MONAI 1.6.1, ViT(proj_type="perceptron", classification=True) with the weights drawn below
FIRST_LAYER = [
    [-0.328937292098999, -0.4119822680950165, 0.4179409146308899, -0.5847116112709045],
    [-0.4947938024997711, 0.9037470817565918, 3.8566670417785645, -2.576566696166992],
    [3.551793336868286, -0.278234601020813, -3.2402236461639404, -1.0534651279449463],
    [1.7143217325210571, -0.34003347158432007, -1.617411732673645, -1.3906688690185547],
]
NORMED_LAST_LAYER = [
    [-0.004399686120450497, 0.1416875272989273, 0.040119513869285583, -0.08239097893238068],
    [-0.027458973228931427, 0.11929130554199219, 0.2039424479007721, -0.147988960146904],
    [-0.23910745978355408, 0.13538627326488495, -0.22486691176891327, -0.2635704278945923],
    [-0.16903284192085266, 0.13642334938049316, -0.18180149793624878, -0.17986859381198883],
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
        for depth, wanted in ((1, FIRST_LAYER), (2, NORMED_LAST_LAYER)):
            ours = vit.eval()(volume, depth=depth)[0, ::5, :4]
            torch.testing.assert_close(ours, torch.tensor(wanted), atol=1e-5, rtol=0)


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
    volume = np.random.default_rng(0).uniform(20, 220, (8, 16, 16)).astype(np.float32)
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
