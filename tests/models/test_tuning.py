"""What learns in each mode, and adapters against their formulas."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from spinevl.config.options import LoraOptions, Mode, TuningOptions
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.base import Encoder
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import CausalLM
from spinevl.models.merge import merge_adapters
from spinevl.models.tuning import apply_tuning, freeze_unshown, tuning_options
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import Modality

DECODER: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ATTENTION = {
    "qwen2": ["k_proj", "o_proj", "q_proj", "v_proj"],
    "phi": ["dense", "k_proj", "q_proj", "v_proj"],
    "phi3": ["o_proj", "qkv_proj"],
    "gpt_neox": ["dense", "query_key_value"],
}
MLP = {
    "qwen2": ["down_proj", "gate_proj", "up_proj"],
    "phi": ["fc1", "fc2"],
    "phi3": ["down_proj", "gate_up_proj"],
    "gpt_neox": ["dense_4h_to_h", "dense_h_to_4h"],
}


class Pooled(Encoder):
    """Attention of torch's own, as in SigLIP's pooling head, and a Linear."""

    def __init__(self, *, modality: Modality = "image", whole: bool = False) -> None:
        super().__init__()
        self.modality = modality
        self.dim, self.grid, self.tokens = 8, (1, 1), 1
        self.fc1 = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        if whole:
            self.layer = nn.TransformerEncoderLayer(8, 2, 8)

    def transform(self, image: Any) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.fc1(pixel_values)


def vlm(kind: str = "qwen2", *, encoder: Encoder | None = None, **more: Any) -> VLM:
    torch.manual_seed(0)
    decoder = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **DECODER)).eval()
    tokenizer = AutoTokenizer.from_pretrained(
        str(resources.files("spinevl.models") / "tiny_tokenizer")
    )
    encoder = encoder or TinyEncoder(image_size=64, widths=(8, 8, 8), dim=8)
    connector = MLPConnector(in_dim=8, out_dim=32, in_tokens=4, in_grid=(2, 2))
    return VLM(encoder, connector, CausalLM(decoder, tokenizer, conversation="chat"), **more)


FROZEN = dict.fromkeys(("encoder", "connector", "llm"), "frozen")


def tuning(lora: LoraOptions | None = None, **modes: str) -> TuningOptions:
    given = {part: Mode(mode) for part, mode in {**FROZEN, **modes}.items()}
    return TuningOptions(**given, lora=lora or LoraOptions())


def learned(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def adapted(model: nn.Module) -> set[str]:
    """The layers with an adapter."""
    return {name.split(".lora_")[0] for name in learned(model)}


def short(names: set[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


@pytest.mark.parametrize("kind", list(ATTENTION))
def test_groups_of_targets_are_right_for_fused_and_like_named_layers(kind: str) -> None:
    found = {}
    for targets in ("attention", "mlp", None):
        model = vlm(kind)
        apply_tuning(model, tuning(LoraOptions(r=2, targets=targets), llm="lora"))
        found[targets] = adapted(model)
        told = model.llm.model.peft_config["default"].target_modules
        assert sorted(told) == short(found[targets])  # what an exported adapter says of itself
    assert short(found["attention"]) == ATTENTION[kind]
    assert short(found["mlp"]) == MLP[kind]
    assert found[None] == found["attention"] | found["mlp"]
    assert len(found[None]) == 2 * len(ATTENTION[kind] + MLP[kind])


def test_listed_targets_are_whole_names() -> None:
    model = vlm()
    apply_tuning(model, tuning(LoraOptions(r=2, targets=["q_proj", "1.mlp.up_proj"]), llm="lora"))
    assert adapted(model) == {
        "llm.model.model.layers.0.self_attn.q_proj",
        "llm.model.model.layers.1.self_attn.q_proj",
        "llm.model.model.layers.1.mlp.up_proj",
    }
    for wrong in (["proj"], ["lm_head"], ["q_proj", "nothing"]):
        with pytest.raises(UserError, match="no such linear layers"):
            apply_tuning(vlm(), tuning(LoraOptions(targets=wrong), llm="lora"))
    with pytest.raises(UserError, match="expected attention, mlp, null or a list"):
        apply_tuning(vlm(), tuning(LoraOptions(targets="q_proj"), llm="lora"))


def settled(lora: LoraOptions) -> tuple[VLM, torch.Tensor]:
    """A model whose adapters say something, and the weights they were put on."""
    model = vlm()
    base = model.llm.model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    apply_tuning(model, tuning(lora, llm="lora"))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.1)
    return model.eval(), base


@pytest.mark.parametrize(
    ("lora", "scale"),
    [
        (LoraOptions(r=4, alpha=6, dropout=0.0), 6 / 4),
        (LoraOptions(r=4, alpha=2.5, dropout=0.0), 2.5 / 4),
        (LoraOptions(r=4, alpha=6, dropout=0.0, rslora=True), 6 / 2),
        (LoraOptions(r=4, alpha=6, dropout=0.0, dora=True), 6 / 4),
    ],
    ids=["lora", "alpha is no whole number", "rslora", "dora"],
)
def test_an_adapter_computes_its_formula_and_merges_into_it(
    lora: LoraOptions, scale: float
) -> None:
    model, base = settled(lora)
    layer = model.llm.model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    weight = base + scale * b @ a
    if lora.dora:  # arXiv 2402.09353, equation 5; a row of a Linear's weight is a column there
        magnitude = layer.lora_magnitude_vector["default"].weight
        weight = weight * (magnitude / weight.norm(dim=1))[:, None]
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = nn.functional.linear(x, weight, layer.base_layer.bias)
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        before = model.llm.model(ids).logits
        assert merge_adapters(model) == 14
        torch.testing.assert_close(model.llm.model(ids).logits, before, atol=1e-5, rtol=1e-5)
    merged = model.llm.model.model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, weight, atol=1e-6, rtol=1e-5)


def test_a_new_adapter_changes_nothing() -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    for lora in (LoraOptions(), LoraOptions(rslora=True), LoraOptions(dora=True)):
        model = vlm()
        with torch.no_grad():
            before = model.llm.model(ids).logits
            apply_tuning(model, tuning(lora, llm="lora"))
            after = model.eval().llm.model(ids).logits
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_layers_that_read_weights_past_an_adapter_get_none() -> None:
    model = vlm(encoder=Pooled())
    apply_tuning(model, tuning(LoraOptions(r=2), encoder="lora"))
    assert adapted(model) == {"encoder.fc1"}
    with pytest.raises(UserError, match="reads its weights past an adapter; use full or frozen"):
        apply_tuning(vlm(encoder=Pooled(whole=True)), tuning(LoraOptions(), encoder="lora"))


def test_a_branch_for_volumes_is_tuned_like_the_one_for_images() -> None:
    def both() -> VLM:
        volumes = MLPConnector(in_dim=8, out_dim=32, in_tokens=1, in_grid=(1, 1))
        return vlm(encoder=Pooled(), encoder3d=Pooled(modality="image3d"), connector3d=volumes)

    model = both()
    apply_tuning(model, tuning(LoraOptions(), connector="full"))
    assert {name.partition(".")[0] for name in learned(model)} == {"connector", "connector3d"}
    model = both()
    apply_tuning(model, tuning(LoraOptions(r=2), encoder="lora"))
    assert adapted(model) == {"encoder.fc1", "encoder3d.fc1"}
    assert not model.connector3d.connector[0].weight.requires_grad


def test_a_branch_that_no_example_shows_is_frozen() -> None:
    def both() -> VLM:
        volumes = MLPConnector(in_dim=8, out_dim=32, in_tokens=1, in_grid=(1, 1))
        return vlm(encoder=Pooled(), encoder3d=Pooled(modality="image3d"), connector3d=volumes)

    model = both()
    apply_tuning(model, tuning(encoder="full", connector="full"))
    freeze_unshown(model, {"image"})
    assert {name.partition(".")[0] for name in learned(model)} == {"encoder", "connector"}
    with pytest.raises(UserError, match=r"<image>.*tuning\.llm"):
        freeze_unshown(model, {"image3d"})  # the last that learned
    apply_tuning(model, tuning(connector="full", llm="full"))
    freeze_unshown(model, set())
    assert {name.partition(".")[0] for name in learned(model)} == {"llm"}


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_frozen_and_full_hold_for_every_weight(mode: str) -> None:
    model = vlm()
    apply_tuning(model, tuning(encoder=mode, connector=mode, llm=mode))
    every = {name for name, _ in model.named_parameters()}
    assert learned(model) == (every if mode == "full" else set())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, r"tuning\.lora\.r=0: expected a whole number"),
        ({"r": 8.5}, r"tuning\.lora\.r=8\.5"),
        ({"alpha": 0}, r"tuning\.lora\.alpha=0: expected a finite number, more than 0"),
        ({"dropout": 1.0}, r"tuning\.lora\.dropout=1\.0"),
        (
            {"rank": 4},
            r"unknown key 'tuning\.lora\.rank'; valid: r, alpha, dropout, targets, rslora, dora",
        ),
    ],
)
def test_settings_that_no_adapter_has_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        apply_tuning(vlm(), tuning_options({**FROZEN, "lora": settings}))


@pytest.mark.parametrize(
    "more", [{"rslora": True, "alpha": 2.5}, {"dora": True}], ids=["rslora", "dora"]
)
def test_an_adapter_goes_out_to_peft(tmp_path: Path, more: dict[str, Any]) -> None:
    """What peft itself makes of our adapter's weights and config."""
    from peft import LoraConfig, get_peft_model
    from peft.utils import set_peft_model_state_dict

    model, _ = settled(LoraOptions(r=4, dropout=0.0, targets="attention", **more))
    config = model.llm.model.peft_config["default"]
    config.task_type = "CAUSAL_LM"
    config.save_pretrained(tmp_path)
    theirs = get_peft_model(vlm().llm.model, LoraConfig.from_pretrained(tmp_path))
    state = {
        f"base_model.model.{name.replace('.default', '')}": tensor
        for name, tensor in model.llm.model.state_dict().items()
        if "lora_" in name
    }
    set_peft_model_state_dict(theirs, state)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model.llm.model(ids).logits)
