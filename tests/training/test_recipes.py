"""MedM-VL's three recipes: what is trained, and the losses of its first steps.

Losses agree to 2e-6 on one machine; the tolerance is the recipe's own statement of 1e-4.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spinevl.checkpoints.load import load_checkpoint
from spinevl.config.options import LossMean
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.models.assemble import tuned
from spinevl.models.encoder.base import Encoder
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM
from spinevl.schema.batch import Batch
from spinevl.sources.conversations import ConversationSource
from spinevl.training.module import next_token_loss

LORA = {"r": 8, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
CASES = {
    "llm_frozen_enc_frozen_conn_full": ("frozen", "full", "frozen"),
    "llm_lora8_enc_frozen_conn_full": ("frozen", "full", "lora"),
    "all_full": ("full", "full", "full"),
}


def ours(name: str) -> str:
    """A parameter of theirs under our name."""
    for old, new in (
        ("encoder_image.encoder.vision_model.", "encoder.vision."),
        ("connector_image.", "connector."),
        ("llm.base_model.model.", "llm.model."),
    ):
        if name.startswith(old):
            return new + name[len(old) :]
    return name.replace("llm.", "llm.model.", 1)


def prepared(shared: Path, case: str) -> tuple[VLM, Batch]:
    goldens = shared / "goldens"
    model = load_checkpoint(goldens / "clip_mlp_qwen2/checkpoint").model
    encoder, connector, llm = CASES[case]
    tuned(model, {"encoder": encoder, "connector": connector, "llm": llm, "lora": LORA})
    initial = goldens / "recipe" / f"{case}.safetensors"
    if initial.is_file():  # only LoRA's A is drawn
        given = {
            ours(name.removeprefix("init/")): tensor
            for name, tensor in load_file(initial).items()
            if name.startswith("init/")
        }
        assert not model.load_state_dict(given, strict=False).unexpected_keys
    source = ConversationSource(
        train=str(goldens / "data/conv2d.json"), images=str(goldens / "data"), window=None
    )
    examples = [one for _, one in source.read("train", answered=True)]
    collate = Collator(model.inputs(), ImageStore(source.decode), learn=True, loss=LossMean.token)
    collate.check(examples)
    return model.train(), collate([list(enumerate(examples))])


def unreached(encoder: Encoder) -> set[str]:
    """The names of the weights that a forward pass leaves out."""
    parts = encoder.unreached()
    found = {id(p) for one in parts if isinstance(one, nn.Module) for p in one.parameters()}
    found |= {id(one) for one in parts}
    return {name for name, p in encoder.named_parameters() if id(p) in found}


@pytest.mark.parametrize("case", list(CASES))
def test_a_recipe_trains_what_upstream_trains_to_the_same_losses(shared: Path, case: str) -> None:
    golden = json.loads((shared / "goldens/recipe/recipe.json").read_text())["cases"][case]
    model, batch = prepared(shared, case)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # upstream lists what its tower's forward pass never reaches too
    held = {f"encoder.{name}" for name in unreached(model.encoder)} if case == "all_full" else set()
    assert set(trained) == {ours(name) for name, _, _ in golden["params"]} - held
    assert len(held) == (18 if held else 0)
    every = dict(model.named_parameters())
    assert sum(every[name].numel() for name in {*trained, *held}) == golden["n_params"]
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(len(golden["adamw"]["losses"])):
        optimizer.zero_grad()
        loss = next_token_loss(model(batch), batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(golden["adamw"]["losses"], abs=1e-4)


def test_a_merged_adapter_says_what_the_adapter_said(shared: Path) -> None:
    model, batch = prepared(shared, "llm_lora8_enc_frozen_conn_full")
    final = {
        ours(name.removeprefix("final/")): tensor
        for name, tensor in load_file(
            shared / "goldens/recipe/llm_lora8_enc_frozen_conn_full.safetensors"
        ).items()
        if name.startswith("final/")
    }
    model.load_state_dict(final, strict=False)
    model.eval()
    golden = json.loads((shared / "goldens/recipe/recipe.json").read_text())
    merged = golden["cases"]["llm_lora8_enc_frozen_conn_full"]["merge"]
    before = dict(load_checkpoint(shared / "goldens/clip_mlp_qwen2/checkpoint").model.state_dict())
    with torch.inference_mode():
        apart = model(batch)
        assert merge_adapters(model) == 6
        together = model(batch)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    assert float(next_token_loss(together, batch)) == pytest.approx(merged["loss_merged"], abs=1e-5)
    after = model.state_dict()
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {ours(name) for name in merged["changed"]}
