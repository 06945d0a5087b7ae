"""A pretrained LLM is read as ZeRO-3's shares, on two ranks, with every weight divided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_llm import write_small_llm
from torch import nn
from two_ranks import on_two_ranks

pytestmark = pytest.mark.distributed

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None}
MODES = {
    "lora": {"encoder": "frozen", "connector": "full", "llm": "lora", "lora": LORA},
    "full": {"encoder": "full", "connector": "full", "llm": "full", "lora": LORA},
    "connector": {"encoder": "frozen", "connector": "full", "llm": "frozen", "lora": LORA},
}
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 0.0,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


class Loss(nn.Module):
    """The loss of four tokens behind an image."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> torch.Tensor:
        llm = self.model.llm
        pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
        visual = self.model.visual_tokens(pixels).flatten(0, 1)[None]
        together = torch.cat([visual, llm.embed(torch.tensor([[5, 6, 7, 8]]))], dim=1)
        hidden = llm.model.base_model(inputs_embeds=together).last_hidden_state
        return -llm.logits(hidden[0]).log_softmax(-1)[:, 9].mean()


def parts(folder: Path, mode: str) -> dict[str, Any]:
    return {
        "encoder": {
            "_target_": "spinevl.models.encoder.hf.HFVisionEncoder",
            "path": str(folder / "encoder"),
            "kind": "clip",
        },
        "connector": {"_target_": "spinevl.models.connector.mlp.MLPConnector"},
        "llm": {"_target_": "spinevl.models.llm.HFCausalLM", "path": str(folder / "llm")},
        "tuning": MODES[mode],
    }


def write_parts(folder: Path) -> None:
    """A CLIP and a Qwen2 with a tied head."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    write_small_llm(folder / "llm", num_hidden_layers=3, tie_word_embeddings=True)
    clip = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=16,
    )
    CLIPVisionModel(clip).save_pretrained(folder / "encoder")
    CLIPImageProcessorPil(size=32, crop_size=32).save_pretrained(folder / "encoder")


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [one for one in module.parameters() if one.requires_grad]


def two_losses(folder: Path, mode: str) -> list[float]:
    """The losses before and after a step, in one process."""
    from spinevl.models.assemble import assemble

    torch.manual_seed(1)
    loss = Loss(assemble(parts(folder, mode)))
    optimizer = torch.optim.SGD(trained(loss), lr=0.1)
    first = loss()
    first.backward()
    optimizer.step()
    return [first.item(), loss().item()]


def _rank(rank: int, folder: Path, expected: dict[str, list[float]]) -> None:
    import deepspeed
    import deepspeed.ops
    from safetensors.torch import load_file

    from spinevl.models.assemble import assemble
    from spinevl.models.sharded import is_sharded, sharding, size_of

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    file = load_file(folder / "llm/model.safetensors")
    for mode in MODES:
        torch.manual_seed(1)
        with sharding(CONFIG):
            model = assemble(parts(folder, mode))
        weights = dict(model.llm.model.named_parameters())
        base = {n.replace(".base_layer", ""): p for n, p in weights.items() if "lora_" not in n}
        assert base.keys() == file.keys()
        for name, weight in base.items():
            assert is_sharded(weight)
            assert (weight.numel(), size_of(weight)) == (0, file[name].numel())
            with deepspeed.zero.GatheredParameters([weight]):
                assert torch.equal(weight.data, file[name]), name
        adapters = {n: p for n, p in weights.items() if "lora_" in n}
        assert bool(adapters) == (mode == "lora")
        assert not any(p.any() for n, p in adapters.items() if "lora_B" in n)
        assert all(p.any() for n, p in adapters.items() if "lora_A" in n)
        loss = Loss(model)
        optimizer = torch.optim.SGD(trained(loss), lr=0.1)
        engine, *_ = deepspeed.initialize(
            model=loss, optimizer=optimizer, model_parameters=trained(loss), config=dict(CONFIG)
        )
        first = engine()
        engine.backward(first)
        engine.step()
        second = engine()
        assert abs(first.item() - expected[mode][0]) < 1e-5, mode
        assert abs(second.item() - expected[mode][1]) < 1e-5, mode
        assert abs(second.item() - first.item()) > 1e-4, mode  # so that a step would be missed
        engine.destroy()


def test_weights_adapters_and_losses_are_those_of_one_process(tmp_path: Path) -> None:
    write_parts(tmp_path)
    expected = {mode: two_losses(tmp_path, mode) for mode in MODES}
    on_two_ranks(_rank, tmp_path, tmp_path, expected)
