"""Weights held in bfloat16: loaded so, computed with, trained beside, stored and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_llm import write_small_llm
from torch.utils._python_dispatch import TorchDispatchMode

from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.models.assemble import assemble
from spinevl.models.encoder.base import Encoder, encode
from spinevl.models.encoder.hf import HFVisionEncoder
from spinevl.models.encoder.m3dclip import M3DClipEncoder
from spinevl.models.encoder.medmclip import MedMClipEncoder
from spinevl.models.held import FLOAT32, Held, auto_dtype, half_of
from spinevl.models.llm import HFCausalLM
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError

BF16 = Held(auto="bfloat16")
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None}


def nodes(folder: Path, *, mode: str = "lora", **llm: Any) -> dict[str, Any]:
    return {
        "encoder": {"_target_": "spinevl.models.encoder.tiny.TinyEncoder"},
        "connector": {"_target_": "spinevl.models.connector.mlp.MLPConnector"},
        "llm": {
            "_target_": "spinevl.models.llm.HFCausalLM",
            "path": write_small_llm(folder),
            "conversation": "medmvl",
            "dtype": "auto",
            **llm,
        },
        "tuning": {"encoder": "frozen", "connector": "full", "llm": mode, "lora": LORA},
    }


def logits(model: VLM) -> torch.Tensor:
    """The logits of an image and four tokens behind it."""
    pixels = torch.linspace(-1, 1, 224 * 224).view(1, 1, 224, 224)
    visual = model.visual_tokens(pixels)
    text = model.llm.embed(torch.tensor([[5, 6, 7, 8]]))
    with model.llm.autocast():
        together = torch.cat([visual.to(text.dtype), text], dim=1)
        hidden = model.llm.model.base_model(inputs_embeds=together).last_hidden_state
    return model.llm.logits(hidden[0]).float()


def types(module: Any, *, lora: bool = False) -> set[torch.dtype]:
    return {p.dtype for name, p in module.named_parameters() if ("lora_" in name) is lora}


@pytest.mark.parametrize(
    ("mode", "told", "auto", "expected"),
    [
        ("lora", "auto", "bfloat16", "bfloat16"),
        ("frozen", "auto", "float32", "float32"),
        ("frozen", "bfloat16", "float32", "bfloat16"),
        ("lora", "float32", "bfloat16", "float32"),
        ("full", "bfloat16", "bfloat16", "float32"),
    ],
)
def test_what_learns_is_float32_and_the_rest_is_as_asked(
    mode: str, told: Any, auto: Any, expected: str
) -> None:
    node, tuning = {"dtype": told}, {"llm": mode, "encoder": mode}
    assert Held(auto).dtype("llm", node, tuning) == expected
    assert Held(auto).dtype("encoder3d", node, tuning) == expected
    assert Held(auto, modes=tuning).dtype("llm", node, {"llm": "frozen"}) == expected
    assert FLOAT32.dtype("llm", node, tuning) == "float32"
    assert Held(auto).dtype("llm", {}, tuning) is None


def test_a_cpu_holds_float32_and_stores_that_it_did() -> None:
    assert auto_dtype("cpu") == "float32"
    parts = {"llm": {"dtype": "auto"}, "encoder": {"dtype": "bfloat16"}, "connector": {}}
    assert Held().settled(parts) == {**parts, "llm": {"dtype": "float32"}}
    assert BF16.settled(parts) == parts
    asked = Held(asked={"llm": "bfloat16"})
    assert asked.settled(parts) == {**parts, "llm": {"dtype": "bfloat16"}}


def test_a_type_that_is_not_offered_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"llm.dtype=float8.*float32, bfloat16"):
        assemble(nodes(tmp_path, dtype="float8"))


class _Largest(TorchDispatchMode):
    """The largest float32 tensor that anything makes within it."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float32 and not made.is_meta:
            self.largest = max(self.largest, made.numel())
        return made


def test_files_are_read_without_a_float32_copy(tmp_path: Path) -> None:
    path = write_small_llm(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file, {"format": "pt"})
    with _Largest() as made:
        HFCausalLM(path=path)
    assert made.largest >= 32 * 48
    with _Largest() as made:
        llm = HFCausalLM(path=path, dtype="bfloat16")
    assert types(llm) == {torch.bfloat16}
    # small copies and rotary frequencies
    assert made.largest < llm.model.get_input_embeddings().weight.numel()


@pytest.mark.parametrize("kind", ["qwen2", "phi", "gemma3_text", "gpt_neox"])
def test_a_held_decoder_computes_what_float32_does_within_rounding(
    tmp_path: Path, kind: str
) -> None:
    write_small_llm(tmp_path, kind)
    parts = nodes(tmp_path / "unused")
    parts["llm"]["path"] = str(tmp_path)
    torch.manual_seed(0)
    plain = assemble(parts).eval()
    torch.manual_seed(0)
    half = assemble(parts, held=BF16).eval()
    assert types(half.llm) == {torch.bfloat16}
    assert types(half.llm, lora=True) == {torch.float32}
    assert (half_of(plain), half_of(half.llm)) == (None, torch.bfloat16)
    expected, found = logits(plain), logits(half)
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()


def test_what_learns_has_float32_gradients_near_those_of_float32(tmp_path: Path) -> None:
    def gradients(held: Held) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = assemble(nodes(tmp_path), held=held)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        logits(model).log_softmax(-1)[:, 3].sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    expected, found = gradients(Held()), gradients(BF16)
    assert expected.keys() == found.keys()
    assert {one.dtype for one in found.values()} == {torch.float32}
    for name, gradient in found.items():
        similar = torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0)
        assert similar > 0.98, name


def test_a_checkpoint_keeps_held_weights_bit_for_bit(tmp_path: Path) -> None:
    parts = nodes(tmp_path / "llm")
    model = assemble(parts, held=BF16).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_checkpoint(tmp_path / "checkpoint", Checkpoint(model, BF16.settled(parts)))
    again = load_checkpoint(tmp_path / "checkpoint", held=BF16).model
    for name, weight in model.state_dict().items():
        assert again.state_dict()[name].dtype == weight.dtype, name
        assert torch.equal(again.state_dict()[name], weight), name
    with torch.inference_mode():
        assert torch.equal(logits(again), logits(model))
    # where bfloat16 is not at hand the same weights are held in float32
    wide = load_checkpoint(tmp_path / "checkpoint").model
    assert types(wide) == {torch.float32}
    assert all(torch.equal(w.float(), wide.state_dict()[n]) for n, w in model.state_dict().items())


def test_a_training_that_frees_the_decoder_reads_its_checkpoint_in_float32(tmp_path: Path) -> None:
    parts = nodes(tmp_path / "llm", dtype="bfloat16")
    model = assemble(parts)
    assert types(model.llm) == {torch.bfloat16}
    save_checkpoint(tmp_path / "checkpoint", Checkpoint(model, parts))
    free = Held(modes={"encoder": "full", "llm": "full"})
    assert types(load_checkpoint(tmp_path / "checkpoint", held=free).model) == {torch.float32}


def test_adapters_are_merged_in_float32(tmp_path: Path) -> None:
    model = assemble(nodes(tmp_path), held=BF16)
    layer: Any = model.llm.model.model.layers[0].mlp.up_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.01)
    base = layer.base_layer.weight.float()
    added = (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    )
    assert merge_adapters(model) == 14
    merged = model.llm.model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(merged, (base + added).bfloat16())


def encoders(folder: Path, kind: str, **options: Any) -> Encoder:
    if kind in ("m3dclip", "medmclip"):
        sizes: dict[str, Any] = {"hidden_size": 16}
        if kind == "m3dclip":
            sizes |= {"img_size": [4, 16, 16], "patch_size": [2, 8, 8], "mlp_dim": 32}
            sizes |= {"num_layers": 2, "num_heads": 4}
        else:
            sizes |= {"frame_size": 4, "frame_patch_size": 2, "image_size": 16}
            sizes |= {"image_patch_size": 8, "image_num_layers": 2}
            sizes |= {"image_num_heads": 4, "image_mlp_dim": 32}
        (folder / "config.json").write_text(json.dumps(sizes))
        cls = M3DClipEncoder if kind == "m3dclip" else MedMClipEncoder
        return cls(path=str(folder), pretrained=False, **options)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"image_size": 32, "patch_size": 16, "intermediate_size": 24}
    config, processor = {
        "clip": ("CLIPVisionConfig", "CLIPImageProcessorPil"),
        "siglip": ("SiglipVisionConfig", "SiglipImageProcessorPil"),
        "dinov2": ("Dinov2Config", "BitImageProcessorPil"),
    }[kind]
    getattr(transformers, config)(**sizes).save_pretrained(folder)
    getattr(transformers, processor)(crop_size=48).save_pretrained(folder)
    feature: Any = "cls_patch"
    return HFVisionEncoder(
        path=str(folder),
        kind=kind,  # type: ignore[arg-type]
        select_feature=feature,
        pretrained=False,
        **options,
    )


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "m3dclip", "medmclip"])
def test_a_held_encoder_computes_what_float32_does_within_rounding(
    tmp_path: Path, kind: str
) -> None:
    torch.manual_seed(0)
    plain = encoders(tmp_path, kind).eval()
    half = encoders(tmp_path, kind, dtype="bfloat16").eval()
    half.load_state_dict(plain.state_dict())
    assert types(half) == {torch.bfloat16}
    shape = (2, 1, 4, 16, 16) if plain.modality == "image3d" else (2, 3, plain.side, plain.side)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = encode(plain, pixels), encode(half, pixels).float()
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()
