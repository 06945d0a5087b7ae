"""Hugging Face encoders and LLMs by directory: packing, LoRA and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.data.packing.attention_blocks import attention_blocks
from spinevl.data.packing.prefix_tree import pack
from spinevl.models.assemble import assemble
from spinevl.models.encoder.hf import HFVisionEncoder
from spinevl.models.llm import HFCausalLM
from spinevl.models.splice import splice
from spinevl.models.vlm import VLM
from spinevl.schema.batch import Batch
from spinevl.schema.errors import UserError

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None}


def parts(shared: Path, *, encoder: str = "clip", llm: str = "qwen2", mode: str = "lora") -> Any:
    models = shared / "goldens/models"
    return {
        "encoder": {
            "_target_": "spinevl.models.encoder.hf.HFVisionEncoder",
            "path": str(models / f"enc_{encoder}"),
            "kind": encoder,
            "select_layer": -2,
            "select_feature": "patch" if encoder == "clip" else "cls_patch",
        },
        "connector": {
            "_target_": "spinevl.models.connector.mlp.MLPConnector",
            "_partial_": True,
            "layers": 2,
        },
        "llm": {
            "_target_": "spinevl.models.llm.HFCausalLM",
            "path": str(models / f"llm_{llm}"),
            "conversation": "medmvl",
            "pretrained": llm.startswith("qwen2"),
        },
        "tuning": {"encoder": "frozen", "connector": "full", "llm": mode, "lora": LORA},
    }


def packed(model: VLM, *, share: bool) -> Batch:
    """Two sequences with a common image and beginning, packed or one a row."""
    n = model.connector.tokens
    visual = list(range(-1, -1 - n, -1))
    sequences = [(5, *visual, 6, 7, 8, 9), (5, *visual, 6, 7, 11, 12, 13)]
    learned = [[(n + 3, len(one))] for one in sequences]
    rows = (
        [pack(sequences, learned)]
        if share
        else [pack([one], [spans]) for one, spans in zip(sequences, learned, strict=True)]
    )
    length = max(len(row.symbols) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    visual_index = torch.full_like(ids, -1)
    depth = torch.zeros_like(ids)
    source, target, owner = [], [], []
    for number, row in enumerate(rows):
        size = len(row.symbols)
        symbols = torch.from_numpy(row.symbols)
        ids[number, :size] = symbols.clamp(min=0)
        visual_index[number, :size] = torch.where(symbols < 0, -1 - symbols, -1)
        depth[number, :size] = torch.from_numpy(row.depth)
        for targets in row.targets:
            owner += [len(set(owner))] * len(targets)
            source += [int(place) + number * length for place in targets[:, 0]]
            target += targets[:, 1].tolist()
    image = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    empty = torch.zeros(0)
    blocks, order = attention_blocks(rows, length=length)
    return Batch(
        input_ids=ids,
        visual_index=visual_index,
        position_ids=depth,
        attention=blocks,
        attention_order=order,
        pixel_values=model.encoder.transform(image)[None],
        features=None,
        volumes=empty,
        volume_features=None,
        shiftable=torch.ones(1, dtype=torch.bool),
        predicting=torch.tensor(source),
        target_row=torch.arange(len(source)),
        target_id=torch.tensor(target),
        target_sequence=torch.tensor(owner),
        target_weight=torch.ones(len(owner)),
        sequence_question=torch.arange(2),
        auxiliary_image=empty.long(),
        auxiliary_head=empty.long(),
        auxiliary_label=empty.long(),
        auxiliary_weight=empty,
        answer_divisor=1.0,
        auxiliary_divisor=1.0,
        questions=(0, 1),
        sequence_label=(0, 0),
        tokens=0,
        sequence_tokens=0,
    )


@pytest.mark.parametrize("llm", ["qwen2", "qwen2_tied", "llama3", "phi", "phi3", "llama"])
def test_packing_is_exact_for_every_family(shared: Path, llm: str) -> None:
    torch.manual_seed(0)
    model = assemble(parts(shared, llm=llm, mode="full")).eval()
    together, apart = packed(model, share=True), packed(model, share=False)
    with torch.inference_mode():
        ours = model(together)
        torch.testing.assert_close(ours, model(apart), atol=1e-5, rtol=0)
        # transformers' own attention over the same rows, one sequence a row
        model.llm.model.set_attn_implementation("sdpa")
        visual = model.visual_tokens(apart.pixel_values)
        embeddings = splice(model.llm.embed(apart.input_ids), visual[0], apart.visual_index)
        logits = model.llm.model(inputs_embeds=embeddings).logits.log_softmax(-1)
    plain = logits.flatten(0, 1)[apart.predicting, apart.target_id]
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)


def test_lora_starts_at_the_base_model_and_a_checkpoint_loads_equal(
    shared: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    nodes = parts(shared)
    model = assemble(nodes).eval()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("lora_A" in name for name in names)
    assert all("lora_" in name or name.startswith("connector.") for name in names)
    assert not any("lm_head" in name for name in names)
    batch = packed(model, share=True)
    torch.manual_seed(0)
    plain = assemble(parts(shared, mode="frozen")).eval()
    plain.connector.load_state_dict(model.connector.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(model(batch), plain(batch), atol=0, rtol=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_checkpoint(tmp_path / "checkpoint", Checkpoint(model, nodes))
    loaded = load_checkpoint(tmp_path / "checkpoint").model
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch), model(batch), atol=0, rtol=0)


def test_siglip_has_no_class_token_to_drop(shared: Path) -> None:
    nodes = parts(shared, encoder="siglip")
    nodes["encoder"]["select_feature"] = "patch"
    with pytest.raises(UserError, match="no class token"):
        assemble(nodes)


def test_a_damaged_checkpoint_is_one_line(shared: Path, tmp_path: Path) -> None:
    nodes = parts(shared, mode="frozen")
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, Checkpoint(assemble(nodes), nodes))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_checkpoint(folder)


def test_a_part_that_is_not_there_is_one_line(shared: Path, tmp_path: Path) -> None:
    nodes = parts(shared)
    nodes["llm"]["path"] = str(tmp_path / "nothing")
    with pytest.raises(UserError) as caught:
        assemble(nodes)
    assert len(caught.value.problems) == 1
    assert "llm.path" in caught.value.problems[0]


@pytest.mark.parametrize("select_layer", [0, 1, 3, -1, -2, -4])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_layers_above_the_selected_one_are_not_computed(
    tmp_path: Path, kind: str, select_layer: int
) -> None:
    import transformers

    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    config = getattr(transformers, f"{name}VisionConfig")(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
    )
    config.save_pretrained(tmp_path)
    getattr(transformers, f"{name}ImageProcessorPil")().save_pretrained(tmp_path)
    torch.manual_seed(0)
    encoder = HFVisionEncoder(
        path=str(tmp_path),
        kind=kind,  # type: ignore[arg-type]
        select_layer=select_layer,
        select_feature="cls_patch",
        pretrained=False,
    ).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        states = encoder.vision(pixels, output_hidden_states=True).hidden_states
        ours = encoder(pixels)
        assert torch.equal(ours, states[select_layer])
        for layer in encoder.vision.encoder.layers[encoder.depth :]:
            layer.forward = None  # called, it would fail
        assert torch.equal(encoder(pixels), ours)


def test_an_llm_that_lacks_a_weight_is_refused_not_left_random(
    shared: Path, tmp_path: Path
) -> None:
    source = shared / "goldens/models/llm_qwen2"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"llm\.path=.* 1 missing .* model\.layers\.1\.mlp\.up_pro"):
        HFCausalLM(path=str(tmp_path), conversation="medmvl")


def test_an_llm_without_a_tokenizer_is_refused_not_given_an_empty_one(
    shared: Path, tmp_path: Path
) -> None:
    source = shared / "goldens/models/llm_qwen2"
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(UserError, match=r"llm\.path=.*tokenizer"):
        HFCausalLM(path=str(tmp_path), conversation="medmvl")


def test_an_unknown_key_of_lora_is_named(shared: Path) -> None:
    nodes = parts(shared)
    nodes["tuning"] = {**nodes["tuning"], "lora": {**LORA, "foo": 1}}
    with pytest.raises(UserError, match=r"unknown key 'tuning\.lora\.foo'; valid: r, alpha"):
        assemble(nodes)
