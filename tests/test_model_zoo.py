"""Every encoder behind every connector before every LLM family, tiny, two steps on the CPU.

docs/model_zoo.md is held against what is run here.
"""

from __future__ import annotations

import itertools
import json
import re
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spinevl.build.build import build
from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.medmvl import MedMVLFormat
from spinevl.checkpoints.native import save_checkpoint
from spinevl.cli.help import options
from spinevl.config.conf_dir import CONF_DIR
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.models.assemble import Build, assemble, check_compatible, tuned
from spinevl.models.llm import CausalLM
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM, learns
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef, Modality

DOC = Path(__file__).resolve().parents[1] / "docs" / "model_zoo.md"
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
NORMALISE = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"height": 32, "width": 32},
}
VOLUME = {
    "frame_size": 8,
    "frame_patch_size": 2,
    "image_size": 32,
    "image_patch_size": 8,
    "hidden_size": 32,
    "image_num_heads": 4,
    "image_num_layers": 2,
    "image_mlp_dim": 64,
    "dropout_rate": 0.0,
}
M3D = {
    "model_type": "m3d_clip",
    "img_size": [8, 32, 32],
    "patch_size": [2, 8, 8],
    "hidden_size": 32,
    "mlp_dim": 64,
    "num_layers": 2,
    "num_heads": 4,
}
# name -> (module.Class, its config.json, its arguments)
ENCODERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        "tiny.TinyEncoder",
        {},
        {"image_size": 64, "widths": [8, 8, 8], "tokens_per_side": 4, "dim": 32},
    ),
    "clip": ("hf.HFVisionEncoder", {"model_type": "clip_vision_model", **TOWER}, {"kind": "clip"}),
    "siglip": (
        "hf.HFVisionEncoder",
        {"model_type": "siglip_vision_model", **TOWER},
        {"kind": "siglip", "select_feature": "cls_patch"},
    ),
    "siglip2": (
        "hf.HFVisionEncoder",
        {"model_type": "siglip_vision_model", **TOWER},
        {"kind": "siglip2", "select_feature": "cls_patch"},
    ),
    "dinov2": ("hf.HFVisionEncoder", {"model_type": "dinov2", **TOWER}, {"kind": "dinov2"}),
    "siglip_slices": (
        "slices.SliceEncoder",
        {"model_type": "siglip_vision_model", **TOWER},
        {"kind": "siglip", "select_feature": "cls_patch", "slices": 4},
    ),
    "medmclip": ("medmclip.MedMClipEncoder", {"model_type": "medm-pretrain", **VOLUME}, {}),
    "m3dclip": ("m3dclip.M3DClipEncoder", M3D, {}),
}
CONNECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp.MLPConnector", {"layers": 2}),
    "spatial_pooling": ("spatial_pooling.SpatialPoolingConnector", {"layers": 2}),
    "attn_pooling": ("attn_pooling.AttnPoolingConnector", {"tokens": 4}),
    "pixel_shuffle": ("pixel_shuffle.PixelShuffleConnector", {}),
    "resampler": ("resampler.ResamplerConnector", {"tokens": 4}),
}
DECODER = {
    "vocab_size": 0,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
LLMS: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2"},
    "llama": {"model_type": "llama"},
    "phi": {"model_type": "phi", "num_key_value_heads": 4},
    "phi3": {"model_type": "phi3", "pad_token_id": 0},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "smollm3": {"model_type": "smollm3", "pad_token_id": 0},
    "gemma3": {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 4096},
}
VOLUMES = ("siglip_slices", "medmclip", "m3dclip")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories with a config, and a tokenizer or image processor, but no weights."""
    from transformers import AutoConfig, AutoTokenizer

    folder = tmp_path_factory.mktemp("bases")
    for name, (_, config, _) in ENCODERS.items():
        (folder / name).mkdir()
        if config:
            (folder / name / "config.json").write_text(json.dumps(config))
            (folder / name / "preprocessor_config.json").write_text(json.dumps(NORMALISE))
    tiny = str(resources.files("spinevl.models") / "tiny_tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    for name, own in LLMS.items():
        settings = {**DECODER, **own, "vocab_size": len(tokenizer)}
        AutoConfig.for_model(**settings).save_pretrained(folder / f"llm_{name}")
        tokenizer.save_pretrained(folder / f"llm_{name}")
    return folder


def nodes(bases: Path, encoder: str, connector: str, llm: str) -> dict[str, Any]:
    where, config, arguments = ENCODERS[encoder]
    path = {"path": str(bases / encoder), "pretrained": False} if config else {}
    bridge, sizes = CONNECTORS[connector]
    return {
        "encoder": {"_target_": f"spinevl.models.encoder.{where}", **path, **arguments},
        "connector": {
            "_target_": f"spinevl.models.connector.{bridge}",
            "_partial_": True,
            **sizes,
        },
        "llm": {
            "_target_": "spinevl.models.llm.HFCausalLM",
            "path": str(bases / f"llm_{llm}"),
            "pretrained": False,
        },
        "tuning": {
            "encoder": "full",
            "connector": "full",
            "llm": "full",
            "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None},
        },
    }


def noise(image: ImageRef) -> np.ndarray:
    """Grey values that the image's name decides."""
    rng = np.random.default_rng(len(image.path))
    if image.modality == "image3d":
        return rng.integers(0, 255, (8, 32, 32)).astype(np.float32)
    return rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)


def conversation(
    name: str, images: list[tuple[Modality, str]], *rounds: tuple[str, str]
) -> Example:
    shown = tuple(ImageRef(path, modality=modality) for modality, path in images)
    return Example(Key(name, ""), shown, rounds, source=name)


def steps(model: VLM, count: int) -> tuple[list[float], Any]:
    """The losses before, between and after steps on the same two conversations."""
    (modality,) = model.vision_branches()
    collate = Collator(model.inputs(), ImageStore(noise), learn=True)
    sign = f"<{modality}>"
    examples = [
        conversation("a", [(modality, "x")], (f"{sign}\nCurve?", "A.normal")),
        conversation(
            "b",
            [(modality, "x"), (modality, "xy")],
            (f"{sign} or {sign}?", "The second."),
            ("Sure?", "Yes."),
        ),
    ]
    collate.check(examples)
    batch = collate([list(enumerate(examples))])
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3)
    losses = []
    for step in range(count + 1):
        loss = -model(batch).sum() / len(batch.target_id)
        losses.append(loss.item())
        if step < count:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses, batch


def without_gradient(model: VLM) -> list[str]:
    """What learns and was not reached, for which data-parallel training would wait for ever."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.fixture(scope="module")
def build_once() -> Build:
    """Builds an LLM of each family once; it is given its first weights again each time."""
    llms: dict[str, tuple[CausalLM, dict[str, torch.Tensor]]] = {}

    def made(node: Any, role: type[Any], **options: Any) -> Any:
        if role is not CausalLM:
            return build(node, role, **options)
        if node["path"] not in llms:
            llm = build(node, CausalLM, **options)
            llms[node["path"]] = llm, deepcopy(llm.state_dict())
        llm, first = llms[node["path"]]
        llm.load_state_dict(first)
        llm.zero_grad(set_to_none=True)
        return llm

    return made


def check(built: Build, bases: Path, encoder: str, connector: str, llm: str) -> None:
    torch.manual_seed(0)
    model = assemble(nodes(bases, encoder, connector, llm), build=built).train()
    losses, batch = steps(model, 2)
    assert losses[2] < losses[1] < losses[0], losses
    assert not without_gradient(model)
    for part in ("encoder", "connector", "llm"):
        gradients = [p.grad for p in getattr(model, part).parameters() if p.grad is not None]
        assert any(float(gradient.abs().sum()) > 0 for gradient in gradients), f"{part} learns not"
    assert int((batch.visual_index >= 0).sum()) >= 2 * model.connector.tokens
    pixels = batch.volumes if encoder in VOLUMES else batch.pixel_values
    assert pixels.ndim == (5 if encoder in VOLUMES else 4)


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_two_steps_of_every_combination(
    build_once: Build, bases: Path, encoder: str, connector: str, llm: str
) -> None:
    check(build_once, bases, encoder, connector, llm)


MODES = [
    modes
    for modes in itertools.product(
        ("frozen", "lora", "full"), ("frozen", "full"), ("frozen", "lora", "full")
    )
    if set(modes) != {"frozen"}
]


# connectors are all tried above
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_step_reaches_whatever_learns_in_every_mode_and_layer(bases: Path, encoder: str) -> None:
    for layer in [None] if encoder == "tiny" else [0, -1]:
        torch.manual_seed(0)
        parts = nodes(bases, encoder, "mlp", "qwen2")
        if layer is not None:
            parts["encoder"]["select_layer"] = layer
        model = assemble(parts).train()
        count = len(list(model.parameters()))
        for modes in MODES:
            if encoder in ("tiny", "medmclip") and modes[0] == "lora":
                continue  # refused
            options = dict(zip(("encoder", "connector", "llm"), modes, strict=True))
            tuned(model, {**options, "lora": parts["tuning"]["lora"]})
            model.zero_grad(set_to_none=True)
            if not learns(model):  # adapters above the embeddings, which are selected
                continue
            steps(model, 1)
            assert not without_gradient(model), (layer, modes)
        merge_adapters(model)
        assert len(list(model.parameters())) == count  # what does not learn is still there


@pytest.mark.parametrize("connector", ["spatial_pooling", "pixel_shuffle"])
def test_a_class_token_on_the_grid_is_refused(bases: Path, connector: str) -> None:
    parts = nodes(bases, "clip", connector, "qwen2")
    parts["encoder"]["select_feature"] = "cls_patch"
    with pytest.raises(UserError, match=r"connector: .*encoder\.select_feature=patch"):
        assemble(parts)


def test_two_encoders_see_images_and_volumes_of_one_batch(bases: Path) -> None:
    torch.manual_seed(0)
    parts = nodes(bases, "clip", "mlp", "qwen2")
    volumes = nodes(bases, "siglip_slices", "attn_pooling", "qwen2")
    parts |= {"encoder3d": volumes["encoder"], "connector3d": volumes["connector"]}
    model = assemble(parts).train()
    collate = Collator(model.inputs(), ImageStore(noise))
    examples = [
        conversation("v", [("image3d", "v")], ("<image3d>?", "A scan.")),
        conversation(
            "m",
            [("image3d", "w0"), ("image", "i"), ("image3d", "v")],
            ("<image3d> <image>?", "Both."),
            ("<image3d>?", "Again."),
        ),
        conversation("t", [], ("What?", "Text.")),
        conversation("i", [("image", "i"), ("image", "j0")], ("<image><image>?", "Two.")),
    ]
    together = collate([list(enumerate(examples))])
    assert (len(together.pixel_values), len(together.volumes)) == (2, 2)
    with torch.inference_mode():
        mixed = model.eval()(together)
        alone = torch.cat([model(collate([[(0, one)]])) for one in examples])
    torch.testing.assert_close(mixed, alone, atol=1e-5, rtol=0)


def test_the_page_names_every_part() -> None:
    text = DOC.read_text("utf-8")
    for group, known in (("encoder", ENCODERS), ("connector", CONNECTORS)):
        table = text.split(f"## {group.capitalize()}s", 1)[1].split("\n## ", 1)[0]
        for name in options(group):
            assert f"`{name}`" in table, f"{group}={name} is not in {DOC}"
        assert set(re.findall(r"tested as `(\w+)`", table)) <= set(known)
    for name in options("llm"):
        assert f"`{name}`" in text, f"llm={name} is not in {DOC}"
    assert (CONF_DIR / "encoder").is_dir()


def test_parts_that_do_not_fit_are_told_before_any_weight_or_image_is_read(bases: Path) -> None:
    parts = nodes(bases, "clip", "pixel_shuffle", "qwen2")
    check_compatible(parts, shows="image")
    parts["encoder"]["pretrained"] = True  # there are no weights, and none are read
    check_compatible(parts, shows="image")
    parts["connector"]["scale"] = 3
    with pytest.raises(UserError, match=r"connector: connector\.scale=3 does not divide .* 4 x 4"):
        check_compatible(parts)
    volumes = nodes(bases, "medmclip", "mlp", "qwen2")
    check_compatible(volumes, shows="image3d")
    with pytest.raises(UserError, match="it reads <image3d>, and the data show <image>"):
        check_compatible(volumes, shows="image")
    both = {**nodes(bases, "clip", "mlp", "qwen2"), "encoder3d": volumes["encoder"]}
    check_compatible(both, shows="image")


def test_a_model_with_two_encoders_is_saved_and_goes_to_medmvl_and_back(
    bases: Path, tmp_path: Path
) -> None:
    parts = nodes(bases, "clip", "mlp", "qwen2")
    volumes = nodes(bases, "medmclip", "spatial_pooling", "qwen2")
    parts |= {"encoder3d": volumes["encoder"], "connector3d": volumes["connector"]}
    end = "<|im_end|>"
    parts["llm"] |= {"conversation": "medmvl", "end_token": end}
    model = assemble(parts)
    model.llm.tokenizer.add_special_tokens({"eos_token": end})
    model.llm.model.resize_token_embeddings(len(model.llm.tokenizer) + 1)
    save_checkpoint(tmp_path / "ours", Checkpoint(model, parts))
    (tmp_path / "theirs").mkdir()
    MedMVLFormat().write(tmp_path / "theirs", Checkpoint(model, parts))
    for folder in ("ours", "theirs"):
        again = load_checkpoint(tmp_path / folder).model
        assert set(again.vision_branches()) == {"image", "image3d"}
        for (name, one), other in zip(
            model.state_dict().items(), again.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other), name
