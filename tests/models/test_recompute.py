"""Gradient checkpointing against the same training without it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, CLIPImageProcessorPil, CLIPVisionConfig

from spinevl.config.options import LoraOptions, Mode, TuningOptions
from spinevl.data.packing.attention_blocks import attention_blocks
from spinevl.data.packing.prefix_tree import pack
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.hf import HFVisionEncoder
from spinevl.models.encoder.medmclip import VisionTransformer3D
from spinevl.models.llm import CausalLM, TinyLLM
from spinevl.models.prefix_attention import BlockMasks
from spinevl.models.recompute import _recomputed, recompute_layers
from spinevl.models.splice import splice
from spinevl.models.tuning import apply_tuning
from spinevl.models.vlm import VLM, learns, visual_rows
from spinevl.schema.batch import AttentionBlocks


def encoder(folder: Any) -> HFVisionEncoder:
    CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        attention_dropout=0.2,
    ).save_pretrained(folder)
    CLIPImageProcessorPil(size=32, crop_size=32).save_pretrained(folder)
    return HFVisionEncoder(path=str(folder), kind="clip", pretrained=False)


def model_of(folder: Any, kind: str, options: TuningOptions) -> VLM:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4 if kind == "phi" else 2,
        attention_dropout=0.2,
        pad_token_id=0,
    )
    llm = CausalLM(AutoModelForCausalLM.from_config(config), None, conversation="medmvl")
    vision = encoder(folder)
    connector = MLPConnector(
        in_dim=vision.dim, out_dim=llm.dim, in_tokens=vision.tokens, in_grid=vision.grid
    )
    vlm = VLM(vision, connector, llm)
    apply_tuning(vlm, options)
    for name, parameter in vlm.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    vlm.train()
    for part in (vlm.encoder, vlm.llm):
        if not learns(part):
            part.eval()
    return vlm


def loss_of(model: VLM) -> torch.Tensor:
    """A loss over two sequences with a common prefix, in which an image stands."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 64, (30,), generator=generator).tolist()
    sequences = [ids[:20], ids[:12] + ids[20:]]
    row = pack(sequences, [[(1, len(one))] for one in sequences])
    blocks, order = attention_blocks([row], length=len(row.symbols))
    tokens, depth = torch.from_numpy(row.symbols)[None], torch.from_numpy(row.depth)[None]
    pixels = torch.randn(2, 3, 32, 32, generator=generator)
    rows = visual_rows([model.visual_tokens(pixels)])
    visual_index = torch.full_like(tokens, -1)
    visual_index[0, 2 : 2 + len(rows)] = torch.arange(len(rows))
    embeddings = splice(model.llm.embed(tokens), rows, visual_index)
    masks = BlockMasks.of(blocks, order, dtype=embeddings.dtype)
    hidden = model.llm.hidden(embeddings, masks, depth)
    return torch.log_softmax(model.llm.logits(hidden[0]), -1).square().mean()


def gradients(model: VLM) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(1)  # of the dropout
    loss = loss_of(model)
    loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), found


def calls_of(layers: Any, run: Callable[[], Any]) -> int:
    """How often the layers' feed-forwards are computed."""
    calls: list[int] = []
    hooks = [one.mlp.register_forward_pre_hook(lambda *_: calls.append(1)) for one in layers]
    run()
    for hook in hooks:
        hook.remove()
    return len(calls)


CASES = {
    "lora with dropout": TuningOptions(
        encoder=Mode.lora, connector=Mode.full, llm=Mode.lora, lora=LoraOptions(r=2, dropout=0.3)
    ),
    "full": TuningOptions(encoder=Mode.full, connector=Mode.full, llm=Mode.full),
    "frozen embeddings": TuningOptions(
        encoder=Mode.frozen, connector=Mode.frozen, llm=Mode.lora, lora=LoraOptions(r=2)
    ),
    "a frozen decoder": TuningOptions(
        encoder=Mode.frozen, connector=Mode.full, llm=Mode.frozen, lora=LoraOptions()
    ),
}


@pytest.mark.parametrize("kind", ["qwen2", "phi", "gemma3_text"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_kept_activations(tmp_path: Any, case: str, kind: str) -> None:
    options = CASES[case]
    loss, expected = gradients(model_of(tmp_path, kind, options))
    model = model_of(tmp_path, kind, options)
    recompute_layers(model)
    recompute_layers(model)  # once is enough
    found: list[Any] = []
    layers = model.llm.model.model.layers
    assert calls_of(layers, lambda: found.extend(gradients(model))) == 2 * len(layers)
    assert found[0] == loss
    assert expected.keys() == found[1].keys()
    assert expected
    for name, gradient in found[1].items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=0)


def test_a_trained_encoder_computes_its_layers_again_and_a_frozen_one_does_not(
    tmp_path: Any,
) -> None:
    for case, times in (("full", 2), ("a frozen decoder", 1)):
        model = model_of(tmp_path, "qwen2", CASES[case])
        recompute_layers(model)
        layers = model.encoder.vision.encoder.layers[: model.encoder.depth]
        assert calls_of(layers, lambda: gradients(model)) == times * len(layers)  # noqa: B023


def test_nothing_is_computed_again_where_nothing_is_learned(tmp_path: Any) -> None:
    model = model_of(tmp_path, "qwen2", CASES["full"])
    recompute_layers(model)
    layers = model.llm.model.model.layers
    with torch.no_grad():
        assert calls_of(layers, lambda: loss_of(model)) == len(layers)


def test_weights_keep_their_names(tmp_path: Any) -> None:
    model = model_of(tmp_path, "qwen2", CASES["full"])
    names = list(model.state_dict())
    recompute_layers(model)
    assert list(model.state_dict()) == names


def test_layers_of_a_3d_tower_are_found() -> None:
    from spinevl.models.recompute import _layers

    tower = VisionTransformer3D(
        size=(4, 8, 8), patch=(2, 4, 4), dim=16, layers=3, heads=2, mlp_dim=24, dropout=0.0
    )
    assert list(_layers(tower)) == list(tower.transformer_layers)


def test_layers_that_are_compiled_may_be_computed_again() -> None:
    llm = TinyLLM(width=16, layers=1, heads=2)
    layer = llm.model.base_model.layers[0]
    layer.forward = partial(_recomputed, layer.forward)
    llm.compile(backend="aot_eager")
    places = torch.arange(4)[None]
    block = AttentionBlocks(places, places, torch.ones(1, 4, 4, dtype=torch.bool).tril())
    masks = BlockMasks.of([block], places[0], dtype=torch.float32)
    gradients = []
    for compiled in (True, False):
        if not compiled:
            llm.model.base_model._compiled_call_impl = None
        llm.zero_grad()
        llm.hidden(llm.embed(places), masks, places).square().sum().backward()
        gradients.append(layer.mlp.up_proj.weight.grad)
    torch.testing.assert_close(*gradients)
