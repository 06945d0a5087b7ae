"""Layers with packed weights against the layers that they replace."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_llm import SMALL_DECODER
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from spinevl.models import llm as llm_module
from spinevl.models import packed
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import CausalLM
from spinevl.models.packed import PackedLinear, pack, pays, tried
from spinevl.models.vlm import VLM

if not packed._is_there():
    pytest.skip("a torch without oneDNN", allow_module_level=True)

HALF = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no products in bfloat16"
    ),
)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders are tried anew, and float32 pays on any processor."""
    monkeypatch.setattr(llm_module, "_trials", {})
    monkeypatch.setattr(packed, "onednn_is_faster", lambda: True)


def decoder(*, kind: type[Qwen2ForCausalLM] | None = None, **config: Any) -> CausalLM:
    torch.manual_seed(0)
    settings = Qwen2Config(**{**SMALL_DECODER, **config})
    model = kind(settings) if kind else AutoModelForCausalLM.from_config(settings)
    return CausalLM(model.eval().requires_grad_(False), None, conversation="medmvl")


def linears(model: nn.Module, kind: type[nn.Module] = nn.Linear) -> list[str]:
    return [name for name, one in model.named_modules() if type(one) is kind]


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_those_of_the_layer(dtype: torch.dtype, biased: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(70, 100, bias=biased).to(dtype)
    found = PackedLinear(layer)
    close: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
    if dtype == torch.bfloat16:  # torch rounds some products before it adds the bias
        close = {"atol": 2e-3, "rtol": 0.016}
    for shape in ((70,), (0, 70), (1, 70), (3, 5, 70), (65, 70), (1000, 70)):
        rows = torch.randn(*shape).to(dtype)
        with torch.inference_mode():
            wanted = layer(rows)
            torch.testing.assert_close(found(rows), wanted, **close)
            turned = rows.transpose(0, -2) if len(shape) > 2 else rows
            torch.testing.assert_close(found(turned), layer(turned), **close)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert found(torch.randn(3, 70)).dtype == dtype  # float32 rows, as after a norm


def test_weights_that_are_shared_or_watched_stay_and_all_others_go() -> None:
    shared, watched, twice = nn.Linear(4, 8, bias=False), nn.Linear(4, 4), nn.Linear(4, 4)
    watched.register_forward_hook(lambda *_: None)
    embedding = nn.Embedding(8, 4)
    embedding.weight = shared.weight
    plain, inner = nn.Linear(4, 4), nn.ModuleDict({"twice": twice, "again": twice})
    model = nn.ModuleDict(
        {"embedding": embedding, "head": shared, "watched": watched, "plain": plain, "inner": inner}
    )
    rows = torch.randn(3, 4)
    wanted = {"plain": plain(rows).detach(), "twice": twice(rows).detach()}
    weight = weakref.ref(plain.weight)
    pack(model)
    gc.collect()
    assert weight() is None  # though the layer is still held here
    assert linears(model) == ["head", "watched"]
    assert linears(model, PackedLinear) == ["plain", "inner.twice"]
    assert inner["again"] is inner["twice"]
    torch.testing.assert_close(model["plain"](rows), wanted["plain"])
    torch.testing.assert_close(inner["again"](rows), wanted["twice"])


def test_nobody_mistakes_them_for_layers_that_are_stored_or_learn() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    pack(model)
    refused: dict[str, tuple[Callable[[], object], ...]] = {
        "cannot be stored": (model.state_dict,),
        "cannot be copied or stored": (
            lambda: copy.deepcopy(model),
            lambda: copy.copy(model[0]),
            lambda: pickle.dumps(model),
            lambda: torch.save(model, io.BytesIO()),
        ),
        "stay in their type and on the CPU": (
            model.half,
            model.double,
            lambda: model.to(torch.bfloat16),
            lambda: model.to("meta"),
        ),
    }
    for said, calls in refused.items():
        for call in calls:
            with pytest.raises(RuntimeError, match=f"{said}.*; this model only answers"):
                call()
    assert model.to("cpu").float().eval() is model
    rows = torch.randn(2, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"no gradient passes through packed weights"):
        model(rows)
    with torch.no_grad():
        assert model[0](input=rows).shape == (2, 4)


@pytest.mark.usefixtures("trials")
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("head", [False, True])
@torch.inference_mode()
def test_a_decoder_answers_as_before(dtype: torch.dtype, head: bool) -> None:
    one, other = decoder().to(dtype), decoder().to(dtype)
    other.pack_weights(head=head)
    assert linears(other.model) == ([] if head else ["lm_head"])
    assert len(linears(other.model, PackedLinear)) == len(linears(one.model)) - (not head)
    ids = torch.arange(3, 20)[None]
    hidden = []
    for model in (one, other):
        with model.autocast():
            hidden.append(model.model.base_model(ids).last_hidden_state[0])
    close: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
    if dtype == torch.bfloat16:
        close = {"atol": 0.1, "rtol": 0.05}
    torch.testing.assert_close(*hidden, **close)
    torch.testing.assert_close(one.logits(hidden[0]), other.logits(hidden[0]), **close)
    chosen = torch.tensor([[1, 5, 7]]).expand(17, 3)
    scored = [model.logits_of(hidden[0], chosen) for model in (one, other)]
    torch.testing.assert_close(*scored, **close)


@pytest.mark.usefixtures("trials")
def test_a_model_is_as_it_was_after_it_was_refused() -> None:
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = decoder()
    model = VLM(
        encoder, MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4, in_grid=(2, 2)), llm
    ).eval()
    llm.pack_weights(head=True)
    for change in (model.train, model.half, model.double, lambda: model.to("meta")):
        with pytest.raises(RuntimeError, match="this model only answers"):
            change()
        assert not any(one.training for one in model.modules())
        assert {(one.dtype, one.device.type) for one in model.parameters()} == {
            (torch.float32, "cpu")
        }
    assert model.eval().to("cpu") is model
    unpacked = VLM(encoder, model.connector, decoder())
    assert unpacked.train().half().training


@pytest.mark.usefixtures("trials")
def test_a_head_that_shares_the_embedding_table_stays() -> None:
    model = decoder(tie_word_embeddings=True)
    model.pack_weights(head=True)
    assert linears(model.model) == ["lm_head"]
    assert model.logits(torch.randn(2, model.dim)).shape == (2, SMALL_DECODER["vocab_size"])


class ReadsWeights(Qwen2MLP):
    """Code that multiplies with a layer's weight itself, as some decoders do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act_fn(self.gate_proj(x)) * (x @ self.up_proj.weight.T)
        return self.down_proj(inner)


class ReadingDecoder(Qwen2ForCausalLM):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = ReadsWeights(config)


@pytest.mark.usefixtures("trials")
def test_a_decoder_that_reads_weights_keeps_them() -> None:
    model = decoder(kind=ReadingDecoder)
    before = linears(model.model)
    model.pack_weights(head=True)
    assert linears(model.model) == before
    assert not tried(ReadingDecoder(Qwen2Config(**SMALL_DECODER)).eval())
    assert tried(Qwen2ForCausalLM(Qwen2Config(**SMALL_DECODER)).eval())


@pytest.mark.usefixtures("trials")
def test_weights_of_several_types_stay() -> None:
    model = decoder()
    model.model.model.norm.bfloat16()
    model.pack_weights(head=True)
    assert linears(model.model, PackedLinear) == []


def test_it_pays_in_bfloat16_and_where_onednn_has_the_faster_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for fast in (True, False):
        monkeypatch.setattr(packed, "onednn_is_faster", lambda fast=fast: fast)
        assert pays(torch.float32, cpu) is fast
    assert pays(torch.bfloat16, cpu) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not pays(torch.float16, cpu)
    assert not pays(torch.bfloat16, torch.device("cuda"))
